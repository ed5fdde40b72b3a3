"""Checks what the model cited against what it was given. Pure.

A statement is the sentence before its marks `[n]`. A mark is kept when passage n was in the prompt, holds every
number of the statement, and shares enough of its words; any other mark is taken out of the text. What is left is
numbered anew, in order of appearance.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.contracts.answer import Citation
from shared.contracts.generate import Candidate

# Below this share of common words a passage does not carry a statement, however it was cited.
ENOUGH = 0.3
_MARK = re.compile(r"\s?\[(\d{1,3}(?:\s*,\s*\d{1,3})*)\]")
# After a full stop or a mark, before anything that is not another mark: `A. [1] B [2] C.` is three statements.
_SENTENCE_END = re.compile(r"(?<=[.!?\]])\s+(?=[^\s\[])|\n+")
_WORD = re.compile(r"[^\W_]+(?:[.,:][0-9]+)*", re.UNICODE)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Verified:
    """The answer with only the marks that hold, and what they stand for, in order of appearance."""

    text: str
    citations: tuple[Citation, ...]


def verify(text: str, passages: Sequence[Candidate]) -> Verified:
    """Keep the citations of `text` that `passages` bear out; passage n is `passages[n - 1]`."""
    found: dict[int, Citation] = {}
    kept: list[str] = []
    for sentence, gap in _sentences(text):
        statement = _MARK.sub("", sentence)
        numbers = [n for n in _marked(sentence) if n <= len(passages) and supports(_all_of(passages[n - 1]), statement)]
        for number in numbers:
            if number not in found:
                found[number] = _citation(len(found) + 1, passages[number - 1], statement)
        kept.append(_with_marks(statement, sorted(found[number].marker for number in numbers)) + gap)
    return Verified("".join(kept).strip(), tuple(found.values()))


def supports(passage: str, statement: str) -> bool:
    """Whether `passage` may carry `statement`: all of its numbers and enough of its words."""
    said, there = _words(statement), _words(passage)
    if not said:
        return False
    numbers = {word for word in said if _DIGIT.search(word)}
    return numbers <= there and len(said & there) / len(said) >= ENOUGH


def _all_of(passage: Candidate) -> str:
    """What the model was shown of a passage: its label belongs to it, and may hold the year that counts."""
    return f"{passage.title}\n{passage.section}\n{passage.text}"


def best_quote(passage: str, statement: str) -> tuple[int, int]:
    """Where in `passage` the sentence stands that shares most words with `statement`."""
    said = _words(statement)
    best, most = (0, len(passage)), 0
    for start, end in _spans(passage):
        common = len(said & _words(passage[start:end]))
        if common > most:
            best, most = (start, end), common
    return best


def _citation(marker: int, passage: Candidate, statement: str) -> Citation:
    start, end = best_quote(passage.text, statement)
    return Citation(
        marker=marker,
        document=passage.document,
        version=passage.generation,
        title=passage.title,
        section=passage.section,
        page=passage.page,
        start=passage.start + start,
        end=passage.start + end,
        quote=passage.text[start:end].strip(),
        score=passage.score,
    )


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence with its marks, and the white space after it."""
    start = 0
    for gap in _SENTENCE_END.finditer(text):
        yield text[start : gap.start()], gap.group()
        start = gap.end()
    yield text[start:], ""


def _spans(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in _SENTENCE_END.finditer(text):
        yield start, gap.start()
        start = gap.end()
    yield start, len(text)


def _marked(sentence: str) -> list[int]:
    numbers = [int(n) for mark in _MARK.findall(sentence) for n in mark.split(",")]
    return list(dict.fromkeys(n for n in numbers if n >= 1))


def _with_marks(statement: str, numbers: Sequence[int]) -> str:
    return statement.rstrip() + "".join(f" [{number}]" for number in numbers) if numbers else statement


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
