"""From what was asked, found and answered to figures. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from evals.questions import Question

K = (1, 3, 5, 12)


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that was found: its document and its text."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one question; `outcome` and `code` as in `RequestOutcome`, `found`: best first."""

    question: Question
    found: tuple[Passage, ...]
    outcome: str
    code: str
    text: str
    cited: frozenset[str]

    @property
    def right(self) -> bool:
        """Answered with what is expected, or refused where there is no answer."""
        if self.question.answerable:
            return self.outcome == "answered" and self.question.holds(self.text)
        return self.outcome == "no_answer"


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `of`."""

    hits: int
    of: int

    def __str__(self) -> str:
        return f"{self.hits / self.of:6.1%}  {self.hits} of {self.of}" if self.of else "     –  0 of 0"


def figures(results: Sequence[Result]) -> dict[str, Share]:
    """Every figure by its name, in the order in which they are read.

    `document@k`: a passage of an expected document is among the first k found. `answer@k`: one of these holds every
    expected string. `refusals right`: of the questions that were refused, those without an answer (precision);
    `unanswerable refused`: recall. `citations right`: of the answers to answerable questions, those that cite an
    expected document.
    """
    answerable = [result for result in results if result.question.answerable]
    others = [result for result in results if not result.question.answerable]
    refused = [result for result in results if result.outcome == "no_answer"]
    answered = [result for result in answerable if result.outcome == "answered"]
    found = {f"document@{k}": _share(answerable, partial(_document, k)) for k in K}
    found |= {f"answer@{k}": _share(answerable, partial(_answer, k)) for k in K}
    return found | {
        "answers right": _share(answerable, lambda each: each.right),
        "answers given": _share(answerable, lambda each: each.outcome == "answered"),
        "answers given that are right": _share(answered, lambda each: each.right),
        "citations right": _share(answered, lambda each: bool(each.cited & each.question.documents)),
        "refusals right": _share(refused, lambda each: not each.question.answerable),
        "unanswerable refused": _share(others, lambda each: each.right),
        "ended otherwise": _share(results, lambda each: each.outcome not in ("answered", "no_answer")),
    }


def by_kind(results: Sequence[Result]) -> dict[str, Share]:
    """Right ends by kind of question."""
    kinds = dict.fromkeys(result.question.kind for result in results)
    return {kind: _share([each for each in results if each.question.kind == kind], _right) for kind in kinds}


def _share(results: Sequence[Result], hit: Callable[[Result], bool]) -> Share:
    return Share(sum(map(hit, results)), len(results))


def _right(result: Result) -> bool:
    return result.right


def _document(k: int, result: Result) -> bool:
    return any(passage.path in result.question.documents for passage in result.found[:k])


def _answer(k: int, result: Result) -> bool:
    return any(result.question.holds(passage.text) for passage in result.found[:k])
