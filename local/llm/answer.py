"""Answer a question by quoting the passages, or not at all.

Every quotable unit is scored by the words it shares with the question, rare words counting more. The best one is quoted
with its passage number, and up to two more when they cover words it does not; a comparison quotes the best for each of
the things compared. When even the best leaves too much of the question uncovered there is no answer. Nothing in a
passage is ever acted upon, it is only quoted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from local.llm import questions
from local.llm.match import NEAR, Candidate, Rarity, candidates, coverage, has_wanted_kind, score, topic_coverage
from local.llm.passages import Passage
from local.llm.questions import Question

COVERED_ENOUGH = 0.57  # of the question's words, by weight
TOPIC_ENOUGH = 0.5  # of the words that say what it is about
WORTH_ADDING = 0.14  # what a further unit must newly cover
ALMOST_AS_GOOD = 0.55  # of the first unit's score
NEARLY_AS_GOOD = 0.75
MOST_UNITS = 3


@dataclass(frozen=True)
class _Material:
    """The candidates, and how rare each stem is among them."""

    candidates: Sequence[Candidate]
    rarity: Rarity

    def ranked(self, question: Question) -> list[tuple[float, Candidate]]:
        """Best first; between equals the newest year, then the retriever's order."""
        scored = [(score(question, candidate, self.rarity), candidate) for candidate in self.candidates]
        return sorted(
            scored, key=lambda one: (round(one[0], 2), max(one[1].years, default=""), -one[1].rank), reverse=True
        )


def answer(text: str, passages: Sequence[Passage], *, before: str = "") -> str | None:
    """Quote what answers the question, each quotation followed by `[n]`; None when the passages do not hold it.

    `before` is the user's previous question: an elliptic question ("and in Spain?") borrows its words.
    """
    question = questions.read(text, before)
    found = candidates(passages)
    if not question.weights or not found:
        return None
    if _about_something_else(question, found):
        return None
    material = _Material(found, Rarity(found))
    chosen = _compare(question, material) or _choose(question, material)
    return " ".join(f"{candidate.unit.text} [{candidate.unit.passage}]" for candidate in chosen) or None


def _choose(question: Question, material: _Material) -> list[Candidate]:
    """The best unit, and those after it that say something about words still open."""
    ranked = material.ranked(question)
    best_score, best = ranked[0]
    if not _answers(question, best, material.rarity):
        return []
    chosen = [best, *_in_kind(question, best, ranked)]
    worth = material.rarity.worth(question.weights)
    still_open = {stem for stem in worth if max(one.offer(stem, question.amounts) for one in chosen) < NEAR}
    for scored, candidate in ranked[1:]:
        if len(chosen) == MOST_UNITS or scored < ALMOST_AS_GOOD * best_score:
            break
        new = still_open & candidate.own
        adds = sum(worth[stem] for stem in new) >= WORTH_ADDING * sum(worth.values())
        if adds and not _repeats(candidate, chosen):
            chosen.append(candidate)
            still_open -= new
    return chosen


def _in_kind(question: Question, best: Candidate, ranked: Sequence[tuple[float, Candidate]]) -> list[Candidate]:
    """The number or date that was asked for, when the best unit only says where to find it."""
    if has_wanted_kind(question, best.unit):
        return []
    good = ranked[0][0] * NEARLY_AS_GOOD
    return [one for scored, one in ranked if scored >= good and has_wanted_kind(question, one.unit)][:1]


def _compare(question: Question, material: _Material) -> list[Candidate]:
    """For "Spain compared with Italy": the best unit about each, if each has one."""
    compared = [stem for stem in question.weights if stem in question.names]
    if not question.compares or not 1 < len(compared) <= MOST_UNITS:
        return []
    chosen: list[Candidate] = []
    for name in compared:
        about_one = question.without(other for other in compared if other != name)
        best = material.ranked(about_one)[0][1]
        if not _answers(about_one, best, material.rarity):
            return []
        chosen += [] if best in chosen else [best]
    return chosen


def _answers(question: Question, candidate: Candidate, rarity: Rarity) -> bool:
    covered = coverage(question, candidate, rarity)
    return covered >= COVERED_ENOUGH and topic_coverage(question, candidate) >= TOPIC_ENOUGH


def _about_something_else(question: Question, found: Sequence[Candidate]) -> bool:
    """It names a place, a person or a code that no passage mentions."""
    return any(not any(one.offer(name, question.amounts) for one in found) for name in question.names - question.years)


def _repeats(candidate: Candidate, chosen: Sequence[Candidate]) -> bool:
    own = candidate.own
    return any(len(own & other.own) > 0.7 * len(own | other.own) for other in chosen)
