"""Recognises an answer that repeats the system prompt (OWASP LLM07). Pure.

Two things give it away: a long run of the prompt's letters, and a word of the prompt that looks like a secret
(`KESTREL-4471`). Both are looked for as they are written, backwards, in ROT13, with digits for letters, with other
characters between the letters, and in what Base64, hexadecimal and decimal codes, percent and HTML escapes and Morse
code of the answer say. What a passage, the question or the conversation says, too, is no leak. A translation or a
summary of the prompt is not recognised: keep secrets out of prompts.
"""

import base64
import codecs
import functools
import html
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote

# Letters and digits that an answer and the prompt may share: names and phrases of ten words.
LONG = 48
_STRIDE = 8
_WORD = re.compile(r"[^\W_]+")
# Digits and signs that stand for letters ("1337"), in the prompt and in the answer.
_FOLD = str.maketrans("013457@$!|", "oieastasii")
_TOKEN = re.compile(r"[^\W_]+(?:[-_:.][^\W_]+)*")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:(?:0x|\\x|\\u00)?[0-9a-fA-F]{2}[\s,:;-]{0,2}){8,}")
_DECIMAL = re.compile(r"(?:\b\d{2,3}\b[\s,;]{1,2}){8,}")
_BINARY = re.compile(r"(?:\b[01]{8}\b\s?){8,}")
_MORSE = re.compile(r"(?:[.·•\-−–—_]{1,6}[\s/|]{1,3}){8,}")
_LETTERS = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
_MORSE_LETTERS = dict(zip(_LETTERS.split(), "abcdefghijklmnopqrstuvwxyz0123456789", strict=True))


def leaks(answer: str, system: str, known: Callable[[], str]) -> bool:
    """Whether `answer` repeats `system`; `known`: gives the texts that it may repeat, when they are needed."""
    runs, secrets = _signs(system)
    found: set[str] = set()
    for said in _readings(answer):
        letters = _folded(said)
        found |= {secret for secret in secrets if secret in letters}
        found |= {run for at in range(0, len(letters) - LONG + 1, _STRIDE) if (run := letters[at : at + LONG]) in runs}
    if not found:
        return False
    allowed = [letters for spelling in _spellings(known()) for letters in (_folded(spelling), _folded(spelling)[::-1])]
    return any(not any(sign in letters for letters in allowed) for sign in found)


@functools.lru_cache(maxsize=64)
def _signs(system: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Every run of `LONG` letters of the prompt, and its words that look like secrets; as they are written in it,
    backwards and in ROT13.
    """
    tokens = [token for token in _TOKEN.findall(system) if _looks_secret(token)]
    runs: set[str] = set()
    secrets: set[str] = set()
    for letters in map(_folded, _spellings(system)):
        runs |= {letters[at : at + LONG] for at in range(len(letters) - LONG + 1)}
    for token in tokens:
        secrets |= set(map(_folded, _spellings(token)))
    return frozenset(each[::step] for each in runs for step in (1, -1)), tuple(
        sorted({each[::step] for each in secrets for step in (1, -1)})
    )


def _spellings(text: str) -> tuple[str, str]:
    return text, codecs.encode(text, "rot13")


def _looks_secret(token: str) -> bool:
    letters = _WORD.findall(token)
    mixed = any(each.isdigit() for each in token) and any(each.isalpha() for each in token)
    size = sum(map(len, letters))
    if len(letters) > 1:
        return (mixed and size >= 6) or (token.isupper() and size >= 8 and token != "NO_ANSWER")  # noqa: S105
    return mixed and size >= 10


def _folded(text: str) -> str:
    return "".join(_WORD.findall(text.casefold().translate(_FOLD)))


def _readings(answer: str) -> Iterator[str]:
    """`answer`, and what its encoded parts say."""
    yield answer
    if "%" in answer:
        yield unquote(answer, errors="ignore")
    if "&" in answer:
        yield html.unescape(answer)
    blocks = _BASE64.findall(answer)
    for block in (*blocks, "".join(blocks)) if blocks else ():
        yield _base64(block)
    for coded in _HEX.findall(answer):
        digits = "".join(re.findall(r"[0-9a-fA-F]{2}", re.sub(r"0x|\\x|\\u00", "", coded)))
        yield bytes.fromhex(digits).decode("utf-8", "ignore")
    for coded in _DECIMAL.findall(answer):
        yield "".join(map(chr, map(int, re.findall(r"\d+", coded))))
    for coded in _BINARY.findall(answer):
        yield "".join(chr(int(each, 2)) for each in coded.split())
    for coded in _MORSE.findall(answer):
        signs = re.sub(r"[−–—_]", "-", re.sub(r"[·•]", ".", coded))
        yield "".join(_MORSE_LETTERS.get(sign, "") for sign in re.split(r"[\s/|]+", signs))


def _base64(block: str) -> str:
    coded = block.rstrip("=").replace("-", "+").replace("_", "/")
    coded = coded[: len(coded) - (len(coded) % 4 == 1)]
    return base64.b64decode(coded + "=" * (-len(coded) % 4)).decode("utf-8", "ignore")
