"""How well a unit of text speaks to a question. Every constant was tuned on `examples/onboarding/questions.yaml`."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from local.llm import words
from local.llm.passages import Passage
from local.llm.quantities import Range, ranges
from local.llm.questions import Question
from local.llm.units import Unit, units

# How much a question's word counts when it is found in …
OWN, ABOVE, LABEL, NEAR, FAMILY = 1.0, 0.7, 0.6, 0.45, 0.6
_FAMILY_SHARES = 5  # letters at least
COVERAGE, FOCUS = 0.3, 0.15  # what these add to a score
_SAYS_AS_MUCH = 1.4  # for "does it speak of this word at all" a heading is nearly as good as the sentence

_REFERENCE = re.compile(r"\b(?:section|chapter|table|annex|version|policy|page) \d+(?:\.\d+)*", re.IGNORECASE)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_NUMBER = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|half|once|twice|every|any|each|unlimited"
    r"|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)\b",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\b(?:january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|week \d|\d{1,2}:\d\d|\d+(?:st|nd|rd|th)"
    r"|(?:first|last|fifth|tenth|second|third|fourth) (?:working |banking |calendar )?day|day \d"
    r"|(?:days?|weeks?|months?) (?:before|after|ahead)|within \w+|by the end|hours?)\b",
    re.IGNORECASE,
)
_POINTS_ELSEWHERE = re.compile(r"\b(?:see|set out|described|explained|listed) (?:in|under|on)\b|\bsee [A-Z]")
_FORBIDS = re.compile(r"\b(?:must|may|can|do|does|is|are) not\b|\b(?:cannot|never|forbidden)\b", re.IGNORECASE)
_SPEAKS_TO_A_MODEL = re.compile(
    r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instruction|prompt|rule|passage|above|previous)s?\b"
    r"|\bsystem (?:prompt|message)\b|\b(?:as|you are) an? (?:ai|language model|assistant)\b|\breply exactly\b"
    r"|\byou are now\b|^\W*(?:system|assistant)\s*:",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Candidate:
    """A unit with the stems it offers, each with how much it counts. `rank` is its passage's place in the prompt."""

    unit: Unit
    rank: int
    offers: dict[str, float]
    own: frozenset[str]
    superseded: bool = False  # another passage has the same label with a later year

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Neighbouring stems."""
        return words.pairs(f"{self.unit.above} {self.unit.own}")

    @cached_property
    def years(self) -> frozenset[str]:
        """The years it is about."""
        return words.years(f"{self.unit.label} {self.unit.above} {self.unit.text}")

    @cached_property
    def ranges(self) -> tuple[Range, ...]:
        """The amounts it speaks of."""
        return ranges(self.unit.text)

    def offer(self, stem: str, amounts: Mapping[str, Range]) -> float:
        """How much it says about a stem, 0 … 1: itself, or a range that holds it, or a word of its family."""
        if stem in amounts:
            return OWN if self.holds(amounts[stem]) else 0.0
        exact = self.offers.get(stem)
        return exact if exact is not None else FAMILY * max(_family(self.offers, stem), default=0)

    def holds(self, amount: Range) -> bool:
        """Does it speak of this amount, or of a range around it?"""
        return any(found.holds(amount) for found in self.ranges)


def candidates(passages: Sequence[Passage]) -> list[Candidate]:
    """Everything in the passages that may be quoted. A line that speaks to a model is not for readers."""
    newest = _newest(passages)
    return [
        _candidate(unit, rank, superseded=_year_of(passage.label) < newest[_YEAR.sub("", passage.label)])
        for rank, passage in enumerate(passages)
        for unit in units(passage)
        if not _SPEAKS_TO_A_MODEL.search(unit.text)
    ]


class Rarity:
    """Inverse document frequency of a stem over the candidates, 0 … 1; a stem that none has counts as rarest."""

    def __init__(self, among: Sequence[Candidate]) -> None:
        self._seen = Counter(stem for candidate in among for stem in candidate.offers)
        self._units = len(among)
        self._most = math.log(1 + 2 * self._units)
        self._known: dict[str, float] = {}

    def __call__(self, stem: str) -> float:
        """0 … 1."""
        known = self._known.get(stem)
        if known is None:
            known = self._known[stem] = math.log(1 + self._units / max(self._seen[stem], 0.5)) / self._most
        return known

    def worth(self, weights: dict[str, float]) -> dict[str, float]:
        """Weights scaled by rarity."""
        return {stem: weight * self(stem) for stem, weight in weights.items()}


def score(question: Question, candidate: Candidate, rarity: Rarity) -> float:
    """Which of several units answers best; only comparable within one question."""
    worth = rarity.worth(question.weights)
    overlap = sum(value * candidate.offer(stem, question.amounts) for stem, value in worth.items()) / (
        sum(worth.values()) or 1
    )
    covered, focus = coverage(question, candidate, rarity), _focus(question, candidate, rarity)
    return overlap + COVERAGE * covered + FOCUS * focus + _hints(question, candidate)


def coverage(question: Question, candidate: Candidate, rarity: Rarity) -> float:
    """The share of the question that a unit speaks of. Rarity matters less here: a missing word is always rare."""
    worth = {stem: weight * (0.6 + 0.4 * rarity(stem)) for stem, weight in question.weights.items()}
    return _share(question, worth, candidate)


def topic_coverage(question: Question, candidate: Candidate) -> float:
    """The same for the words that say what the question is about."""
    return _share(question, question.topic(), candidate)


def _share(question: Question, worth: dict[str, float], candidate: Candidate) -> float:
    whole = sum(worth.values())
    offers = {stem: candidate.offer(stem, question.amounts) for stem in worth}
    found = sum(value * min(1.0, _SAYS_AS_MUCH * offers[stem]) for stem, value in worth.items())
    return found / whole if whole else 1.0


def _focus(question: Question, candidate: Candidate, rarity: Rarity) -> float:
    """How much of what the unit says was asked for."""
    said = sum(rarity(stem) for stem in candidate.own)
    return sum(rarity(stem) for stem in candidate.own & question.weights.keys()) / (said or 1)


def _hints(question: Question, candidate: Candidate) -> float:
    """What tells apart units that share the same words with the question."""
    hints = 0.05 * min(len(question.pairs & candidate.pairs), 3) - 0.01 * min(candidate.rank, 10)
    hints += _right_kind(question, candidate.unit) + _right_amount(question, candidate)
    hints += _right_heading(question, candidate.unit)
    if not question.years and candidate.superseded:
        hints -= 0.15
    if question.years and candidate.years and not question.years & candidate.years:
        hints -= 0.3
    return hints


def _right_heading(question: Question, unit: Unit) -> float:
    """A heading that asks the same, as in a list of questions and answers; a term that opens its own definition."""
    if question.defines and _defines(question.defines, unit.own):
        return 0.3
    asked = question.weights.keys()
    heading = words.stems(unit.heading)
    return 0.25 * len(asked & heading) / (len(asked | heading) or 1) + (0.0 if unit.near else 0.03)


def _defines(term: str, text: str) -> bool:
    return bool(re.match(rf"{re.escape(term)}\W*(?::|\b(?:is|are|means)\b)", text, re.IGNORECASE))


def _right_kind(question: Question, unit: Unit) -> float:
    """A number for "how many", a date for "when"; rather what holds the answer than what says where it stands."""
    if question.wants_date or question.wants_number:
        return 0.12 if has_wanted_kind(question, unit) else -0.15 * (2 if _POINTS_ELSEWHERE.search(unit.text) else 1)
    forbids = 0.1 if not question.negative and _FORBIDS.search(unit.own) else 0.0
    return -forbids - (0.15 if _POINTS_ELSEWHERE.search(unit.text) else 0.0)


def has_wanted_kind(question: Question, unit: Unit) -> bool:
    """Does it hold a date when one is wanted, else a number when one is wanted?"""
    said = _REFERENCE.sub("", unit.own)
    if question.wants_date:
        return bool(_DATE.search(said))
    return not question.wants_number or bool(_NUMBER.search(_YEAR.sub("", said)))


def _right_amount(question: Question, candidate: Candidate) -> float:
    """A range that holds the amount asked about speaks for a unit, one that does not speaks against it."""
    hint = 0.08 if any(found.unit in question.units for found in candidate.ranges) else 0.0
    for amount in question.amounts.values():
        if candidate.holds(amount):
            hint += 0.2
        elif any(found.unit == amount.unit and not found.single for found in candidate.ranges):
            hint -= 0.2
    return hint


def _newest(passages: Sequence[Passage]) -> dict[str, str]:
    """The latest year per label, labels being alike but for the year."""
    newest: dict[str, str] = {}
    for passage in passages:
        alike = _YEAR.sub("", passage.label)
        newest[alike] = max(_year_of(passage.label), newest.get(alike, ""))
    return newest


def _year_of(label: str) -> str:
    return max(words.years(label), default="")


def _candidate(unit: Unit, rank: int, *, superseded: bool) -> Candidate:
    offers: dict[str, float] = {}
    for text, counts in ((unit.near, NEAR), (unit.label, LABEL), (unit.above, ABOVE), (unit.own, OWN)):
        offers.update(dict.fromkeys(words.stems(text), counts))
    return Candidate(unit, rank, offers, words.stems(unit.own), superseded)


def _family(offers: dict[str, float], stem: str) -> Iterable[float]:
    """Words of one family that the stemmer keeps apart: apply and application, submit and submission."""
    if len(stem) < _FAMILY_SHARES or stem.isdigit():
        return
    for other, counts in offers.items():
        if other.startswith(stem[:_FAMILY_SHARES]):
            shared = math.ceil(0.7 * max(len(stem), len(other)))
            if stem[:shared] == other[:shared]:
                yield counts
