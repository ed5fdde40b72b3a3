"""From results to figures."""

from evals.questions import Question
from evals.score import Passage, Result, Share, by_kind, figures


def result(
    *, expect: str = "", found: tuple[str, ...] = (), outcome: str = "answered", text: str = "", cited: str = ""
) -> Result:
    """One result; passages are of `a.md` when they begin with a, and so on."""
    question = Question("q", "When?", ((expect,),) if expect else (), frozenset({"a.md"}), kind=expect and "known")
    passages = tuple(Passage(f"{each[0]}.md", each) for each in found)
    return Result(question, passages, outcome, "Ok", text, frozenset(filter(None, [cited])))


RESULTS = [
    result(expect="5", found=("b 1", "a 5"), text="It is 5. [1]", cited="a.md"),
    result(expect="5", found=("a 1", "b 5"), text="It is 6. [1]", cited="b.md"),
    result(expect="5", found=("b 1",), outcome="no_answer"),
    result(outcome="no_answer"),
    result(text="It is 7. [1]", cited="a.md"),
    result(expect="5", outcome="failed"),
]


def test_each_figure_is_of_its_own_questions() -> None:
    found = figures(RESULTS)
    assert found["document@1"] == Share(1, 4)
    assert found["document@3"] == Share(2, 4)
    assert found["answer@1"] == Share(0, 4)
    assert found["answer@12"] == Share(2, 4)
    assert found["answers right"] == Share(1, 4)
    assert found["answers given that are right"] == Share(1, 2)
    assert found["citations right"] == Share(1, 2)
    assert found["refusals right"] == Share(1, 2)
    assert found["unanswerable refused"] == Share(1, 2)
    assert found["ended otherwise"] == Share(1, 6)


def test_right_ends_are_counted_by_kind() -> None:
    assert by_kind(RESULTS) == {"known": Share(1, 4), "": Share(1, 2)}


def test_a_share_of_nothing_is_no_number() -> None:
    assert "–" in str(Share(0, 0))
    assert "50.0%" in str(Share(1, 2))
