"""Amounts and ranges: `2 to 5 years` concerns whoever has served three, `G1 to G5` an engineer of grade G4.

Only what is plainly written is read: a number with its currency before it, its letter before it (`G4`), or its unit
after it.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from local.llm.words import STOPWORDS, YEAR, stem

_NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
_AMOUNT = re.compile(
    r"(?:\b(?P<currency>EUR|DKK|NOK|SEK|USD|GBP|CHF)\s?|(?P<sign>[€$£])\s?|\b(?P<letter>[A-Z])(?=\d))?"
    rf"(?P<value>(?<![\d.,])\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{'|'.join(_NUMBER_WORDS)})\b)"
    r"(?:\s?(?P<unit>%|[a-z]{2,}))?"
)
_TO = re.compile(r"\s*(?:to|and up to|up to|[-–])\s*", re.IGNORECASE)
_AT_MOST = re.compile(r"\b(?:up to|at most|less than|fewer than|under|below|within)\s*$", re.IGNORECASE)
_AT_LEAST = re.compile(r"\b(?:more than|over|above|at least|from|longer than|older than)\s*$", re.IGNORECASE)
_OR_MORE = re.compile(r"\s*(?:and|or)\s+(?:more|over|above)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, of `unit`; a single amount has both alike."""

    low: float
    high: float
    unit: str

    @property
    def stem(self) -> str:
        """The stem under which its number appears among the words: `3`, `g5`."""
        return f"{self.unit.lower() if len(self.unit) == 1 else ''}{self.low:g}"

    @property
    def single(self) -> bool:
        """Is it one amount?"""
        return self.low == self.high

    def holds(self, other: "Range") -> bool:
        """Does the other lie inside, in the same unit?"""
        return self.unit == other.unit and self.low <= other.low and other.high <= self.high


@dataclass(frozen=True)
class _Amount:
    value: float
    unit: str
    start: int
    end: int


def ranges(text: str) -> tuple[Range, ...]:
    """Every amount or range with a unit, in order."""
    return tuple(found for found in _ranges(text, list(_amounts(text))) if found.unit)


def _ranges(text: str, amounts: Sequence[_Amount]) -> Iterator[Range]:
    position = 0
    while position < len(amounts):
        this = amounts[position]
        following = amounts[position + 1] if position + 1 < len(amounts) else None
        if following and _TO.fullmatch(text[this.end : following.start]) and this.value < following.value:
            yield Range(this.value, following.value, following.unit or this.unit)
            position += 2
        else:
            yield _bounded(text, this)
            position += 1


def _bounded(text: str, amount: _Amount) -> Range:
    before = text[max(0, amount.start - 20) : amount.start]
    if _AT_MOST.search(before):
        return Range(-math.inf, amount.value, amount.unit)
    if _AT_LEAST.search(before) or _OR_MORE.match(text, amount.end):
        return Range(amount.value, math.inf, amount.unit)
    return Range(amount.value, amount.value, amount.unit)


def _amounts(text: str) -> Iterator[_Amount]:
    for match in _AMOUNT.finditer(text):
        unit, end = _unit(match)
        yield _Amount(_value(match["value"]), unit, match.start(), end)


def _unit(match: re.Match[str]) -> tuple[str, int]:
    before = match["currency"] or match["sign"] or match["letter"]
    after = match["unit"]
    if before:
        return before, match.end("value")
    if after is None or after in STOPWORDS or YEAR.fullmatch(match["value"]):
        return "", match.end("value")
    return stem(after), match.end("unit")


def _value(written: str) -> float:
    if written in _NUMBER_WORDS:
        return float(_NUMBER_WORDS.index(written) + 1)
    return float(written.replace(",", ""))
