"""How many tokens a text is, without a vocabulary (those are downloaded, and a laptop may be offline).

An estimate that errs upwards: what we plan with must not overflow a window. What was spent is settled
with the provider's own count.
"""

import re

# One piece per word, number, run of blanks, or other character. Byte-pair vocabularies of the GPT family
# split digits into threes and join one blank to the word after it, but none to a number (cl100k and o200k
# pre-tokenizers). Compared with o200k on the handbook the estimate is 1.2 to 1.5 times the true count.
_PIECE = re.compile(
    r"(?P<capitals>[A-Z]{2,})|(?P<word>[A-Za-z]+)|(?P<number> ?\d+)|(?P<blank>\s+)|(?P<other>.)", re.DOTALL
)
# English words average 1.1-1.3 tokens; a token per started six letters, plus one for the rare long ones.
_LETTERS = 6
# Codes and abbreviations: DKK is two tokens, NOK as well.
_CAPITALS = 2
_DIGITS = 3
# Chat templates add a few tokens around every message (3 in OpenAI's cookbook; 4 leaves one spare).
PER_MESSAGE = 4


def count_tokens(text: str) -> int:
    """An upper-leaning estimate of the tokens in `text`."""
    return sum(_size(piece) for piece in _PIECE.finditer(text))


def _size(piece: "re.Match[str]") -> int:
    text = piece.group()
    match piece.lastgroup:
        case "word":
            return 1 + (len(text) - 1) // _LETTERS
        case "capitals":
            return 1 + (len(text) - 1) // _CAPITALS
        case "number":
            blank = text.startswith(" ")
            return blank + 1 + (len(text) - blank - 1) // _DIGITS
        case "blank":
            return text.count("\n") + (len(text) > 1)
        case _:
            # Outside ASCII a character costs at most as many tokens as its UTF-8 bytes, mostly fewer.
            return 1 if text.isascii() else max(1, len(text.encode("utf-8", "replace")) - 1)
