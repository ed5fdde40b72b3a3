"""How many tokens a text has, without a vocabulary (those are downloaded, and a laptop may be offline).

An estimate that errs upwards: what we plan with must not overflow a window. Budgets are corrected to the provider's own
count.
"""

import re

# One piece per word, number, run of blanks, or other character. Byte-pair vocabularies of the GPT family
# split digits into threes and join one blank to the word after it, but none to a number (cl100k and o200k
# pre-tokenizers). Compared with o200k on the handbook the estimate is 1.2 to 1.5 times the true count.
_PIECE = re.compile(
    r" ?(?P<capitals>[A-Z]{2,})| ?(?P<word>[A-Za-z]+)|(?P<number> ?\d+)|(?P<blank>\s+)|(?P<other>.)", re.DOTALL
)
# English words average 1.1-1.3 tokens; a token per started six letters, plus one for the rare long ones.
_LETTERS = 6
# Codes and abbreviations: DKK is two tokens, NOK as well.
_CAPITALS = 2
_DIGITS = 3
# Chat templates add a few tokens around every message (3 in OpenAI's cookbook; 4 leaves one spare).
PER_MESSAGE = 4


def count_tokens(text: str) -> int:
    """An estimate of the tokens in `text` that errs upwards; the sum over parts may be lower than that of the whole."""
    tokens = 0
    # One loop, because it runs over every word of the lake several times.
    for capitals, word, number, blank, other in _PIECE.findall(text):
        if word:
            tokens += 1 + (len(word) - 1) // _LETTERS
        elif capitals:
            tokens += 1 + (len(capitals) - 1) // _CAPITALS
        elif number:
            tokens += number.startswith(" ") + 1 + (len(number.lstrip(" ")) - 1) // _DIGITS
        elif blank:
            tokens += blank.count("\n") + (len(blank) > 1)
        else:
            # Outside ASCII a character costs at most as many tokens as its UTF-8 bytes, mostly fewer.
            tokens += 1 if other.isascii() else max(1, len(other.encode("utf-8", "replace")) - 1)
    return tokens
