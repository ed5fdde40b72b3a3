"""What a question asks: its words and their weights, and the kind of answer it wants."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from local.llm import quantities, words
from local.llm.quantities import Range

FOLLOW_UP = 0.5  # what a word from the turn before counts
ASIDE = 0.4  # what a word outside the clause that asks counts
SITUATION = 0.35  # a number says whom the question is about more often than what
SHORT = 2  # content words; a question with no more leans on the turn before

_CLAUSE_END = re.compile(r"(?<=[.;:!?])\s+")
_ASKS = re.compile(
    r"\b(?:what|which|who|whom|whose|when|where|why|how|can|may|do|does|is|are|must|should|will)\b", re.IGNORECASE
)
_WANTS_NUMBER = re.compile(
    r"\bhow (?!do\b|does\b|did\b|can\b|could\b|should\b|would\b|is\b|are\b|may\b|must\b|to\b)\w+"
    r"|\b(?:from|up to|above|below|over|under|within|after|at|for|by|in|on) (?:what|which|how)\b"
    r"|\b(?:amount|limit|maximum|minimum|rate|price|cost|costs|percentage|number|value|extension)\b",
    re.IGNORECASE,
)
_WANTS_DATE = re.compile(
    r"\bwhen\b|\b(?:what|which) (?:date|day|time|week|month|year)\b|\bdeadline\b|\bby when\b", re.IGNORECASE
)
_COMPARES = re.compile(r"\b(?:compar\w+|differ\w*|versus|vs|between|respectively)\b", re.IGNORECASE)
_HOW_MANY = re.compile(r"\bhow many ((?:\w+ ){1,3})", re.IGNORECASE)
_DEFINES = re.compile(
    r"(?:what|who) (?:is|are|does) (?:an? |the )?[\"“]?(.+?)[\"”]?(?: mean| stand for)?\??", re.IGNORECASE
)
_LONGEST_TERM = 2
_NEGATIVE = re.compile(
    r"\b(?:not|never|no|forbidden|prohibited|without)\b|(?:^|[.;,] )(?:may|can|do|does|is|are|must|should|am)\b",
    re.IGNORECASE,
)
_FRAMES = frozenset(
    map(words.stem, "differ different differs difference compare compared comparison versus vs".split())
)
_OPENS_ON_BEFORE = re.compile(r"\W*(?:and|or|but|so|what about|how about|same)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A question, ready to be matched."""

    text: str
    weights: dict[str, float]  # stem → how much it matters
    names: frozenset[str]  # stems of names, codes, years
    pairs: frozenset[tuple[str, str]]  # neighbouring stems
    amounts: dict[str, Range]  # stem → amount, for "three years", "EUR 1,800", "grade G5"
    units: frozenset[str]  # of "how many working days": the stems that may follow the number
    defines: str  # X in "What is X?"
    wants_number: bool
    wants_date: bool
    compares: bool
    negative: bool  # or one that yes or no answers, so that a prohibition may be the answer

    @property
    def years(self) -> frozenset[str]:
        """The years it names."""
        return words.years(self.text)

    def topic(self) -> dict[str, float]:
        """The words that say what it is about: neither a name nor a number nor one that any handbook uses."""
        return {stem: weight for stem, weight in self.weights.items() if weight == 1.0 and not stem.isdigit()}

    def without(self, stems: Iterable[str]) -> "Question":
        """The same question, not asking about these."""
        dropped = frozenset(stems)
        return replace(
            self,
            weights={stem: weight for stem, weight in self.weights.items() if stem not in dropped},
            pairs=frozenset(pair for pair in self.pairs if not dropped & set(pair)),
        )


def read(text: str, before: str = "") -> Question:
    """Read a question; an elliptic one borrows the words of the one before."""
    weights = _weights(text)
    if before and is_elliptic(text):
        for stem, weight in _weights(before).items():
            weights.setdefault(stem, FOLLOW_UP * weight)
    return Question(
        text=text,
        weights=weights,
        names=frozenset(stem for stem, weight in weights.items() if weight > 1),
        pairs=words.pairs(text),
        amounts={found.stem: found for found in quantities.ranges(text) if found.single},
        units=frozenset(words.stem(word.lower()) for found in _HOW_MANY.findall(text) for word in found.split()),
        defines=_defined(text),
        wants_number=bool(_WANTS_NUMBER.search(text)),
        wants_date=bool(_WANTS_DATE.search(text)),
        compares=bool(_COMPARES.search(text)),
        negative=bool(_NEGATIVE.search(text)),
    )


def is_elliptic(text: str) -> bool:
    """Does the question lean on the turn before?"""
    telling = [word for word in words.content_words(text) if word.weight >= 1]
    pronoun = any(word in words.PRONOUNS for word in words.spoken_words(text))
    return pronoun or bool(_OPENS_ON_BEFORE.match(text)) or len(telling) <= SHORT


def _defined(text: str) -> str:
    asked = _DEFINES.fullmatch(text.strip())
    return asked[1].lower() if asked and len(words.content_words(asked[1])) <= _LONGEST_TERM else ""


def _weights(text: str) -> dict[str, float]:
    clauses = _CLAUSE_END.split(text.strip())
    asking = _asking(clauses)
    weights: dict[str, float] = {}
    for clause in clauses:
        for word in words.content_words(clause):
            weight = word.weight * (1.0 if clause is asking else ASIDE)
            weight = min(weight, SITUATION) if word.stem.isdigit() and word.weight <= 1 else weight
            weights[word.stem] = max(weight, weights.get(word.stem, 0.0))
    if sum(weight == words.A_NAME for weight in weights.values()) > len(weights) / 2 > 1:  # Written In Title Case
        weights = {stem: min(weight, 1.0) for stem, weight in weights.items()}
    return {stem: weight for stem, weight in weights.items() if stem not in _FRAMES} or weights


def _asking(clauses: list[str]) -> str:
    """The clause that asks: the last one with a question mark, else the last with a question word, else the last."""
    marked = [clause for clause in clauses if clause.endswith("?")]
    worded = [clause for clause in clauses if _ASKS.search(clause)]
    return (marked or worded or clauses)[-1]
