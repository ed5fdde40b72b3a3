"""A folder of questions."""

from pathlib import Path

import pytest

from evals.questions import read

EXAMPLE = Path(__file__).parents[3] / "examples/onboarding"


def folder(path: Path, questions: str) -> Path:
    """A folder with one document."""
    (path / "documents").mkdir()
    (path / "questions.yaml").write_text(questions)
    return path


def test_a_question_expects_each_string_in_one_of_its_forms(tmp_path: Path) -> None:
    written = "questions:\n- {question: When?, expect: ['10:00', ['15:30', '3.30 PM']], document: a.md, also: [b.md]}"
    [question] = read(folder(tmp_path, written)).questions
    assert question.holds("From 10:00\nto 3.30  pm.")
    assert not question.holds("From 10:00 to 4 pm.")
    assert (question.id, sorted(question.documents)) == ("1", ["a.md", "b.md"])


def test_a_question_whose_document_the_caller_may_not_read_has_no_answer(tmp_path: Path) -> None:
    written = "questions:\n- {question: How much?, expect: ['5'], document: a.md, kind: secret}"
    path = folder(tmp_path, written)
    assert read(path).questions[0].answerable
    assert not read(path, unreadable=frozenset({"secret"})).questions[0].answerable


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ("[]", "needs a list called 'questions'"),
        ("questions: []", "needs a list called 'questions'"),
        ("questions:\n- {text: When?}", "question 1 needs a text called 'question'"),
        ("questions:\n- {question: When?, expect: ['5']}", "question 1 expects an answer, but names no 'document'"),
        ("documents: files\nquestions:\n- {question: When?}", "there is no folder"),
    ],
)
def test_a_wrong_folder_is_explained(tmp_path: Path, written: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read(folder(tmp_path, written))


def test_the_example_is_such_a_folder() -> None:
    found = read(EXAMPLE, unreadable=frozenset({"managers_only"}))
    named = {name for question in found.questions for name in question.documents}
    assert named <= {path.relative_to(found.documents).as_posix() for path in found.documents.rglob("*")}
    assert {True, False} == {question.answerable for question in found.questions}
