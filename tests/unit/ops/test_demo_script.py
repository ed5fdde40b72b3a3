from pathlib import Path
from typing import Any

import pytest

from ops.demo_script import Edit, Question, edited, faults, read

HANDBOOK = Path(__file__).parents[3] / "examples/onboarding"
QUESTION = Question("q", "How many days?", ("24 days",), frozenset({"leave.pdf"}))
UNANSWERABLE = Question("u", "How many stock options?", (), frozenset())


def answer(**more: Any) -> dict[str, Any]:
    good = {
        "outcome": "answered",
        "text": "It is 24 DAYS. [1]",
        "citations": [{"path": "leave.pdf"}],
        "cache": "miss",
    }
    return {**good, **more}


def test_the_demonstration_has_what_it_needs() -> None:
    questions = read(HANDBOOK / "questions.yaml")
    assert any(question.edit for question in questions)
    assert any(not question.answerable for question in questions)
    assert questions[0].answerable
    for question in questions:
        assert all((HANDBOOK / "handbook" / path).is_file() for path in question.paths)


def test_every_edit_changes_its_document() -> None:
    for question in read(HANDBOOK / "questions.yaml"):
        if question.edit:
            text = (HANDBOOK / "handbook" / question.edit.path).read_text("utf-8")
            assert all(word in edited(text, question.edit) for word in question.edit.expect_after)


def test_an_edit_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="does not contain"):
        edited("nothing", Edit("a.md", "something", "else", ()))


@pytest.mark.parametrize(
    ("question", "given", "cache", "wrong"),
    [
        (QUESTION, answer(), None, ""),
        (QUESTION, answer(), "miss", ""),
        (QUESTION, answer(), "!hit", ""),
        (QUESTION, answer(), "hit", "the cache state is miss, expected hit"),
        (QUESTION, answer(cache="hit"), "!hit", "the cache state is hit, expected anything but hit"),
        (QUESTION, answer(text="It is 25 days."), None, "does not say “24 days”"),
        (QUESTION, answer(citations=[]), None, "it cites nothing"),
        (QUESTION, answer(citations=[{"path": "old.pdf"}]), None, "it cites ['old.pdf']"),
        (QUESTION, answer(outcome="expired", code="DeadlineExceeded"), None, "the outcome is expired"),
        (UNANSWERABLE, {"outcome": "no_answer", "citations": []}, None, ""),
        (UNANSWERABLE, answer(), None, "the handbook does not answer this"),
        (UNANSWERABLE, answer(outcome="no_answer"), None, "no answer, but citations"),
    ],
)
def test_an_answer_is_judged(question: Question, given: dict[str, Any], cache: str | None, wrong: str) -> None:
    found = faults(question, given, cache=cache)
    assert bool(found) is bool(wrong)
    assert wrong in " ".join(found)
