"""Which candidates go to the generator."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.retriever.deduplicate import distinct, fitting
from shared.contracts.generate import MAX_BODY, Candidate, GenerateAnswer
from shared.contracts.request import ReplyTo, Request
from shared.errors import Reason, Unprocessable

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
REQUEST = Request(
    request_id="r1",
    tenant="larkfield",
    caller="app",
    groups=("employees",),
    use_case="onboarding",
    question="?",
    accepted_at=NOON,
    answer_by=NOON + timedelta(seconds=60),
    correlation_id="c1",
    reply_to=ReplyTo(queue="answers", session="s1"),
)


def candidate(text: str) -> Candidate:
    return Candidate(
        passage_id="p", path="d", version=1, title="t", start=0, end=1, text=text, tokens=1, score=0.123456789
    )


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["a", "b"], ["a", "b"]),
        (["Leave is 30 days.", "leave  is\n30 days"], ["Leave is 30 days."]),
        (["30 days", "31 days", "30 Days!"], ["30 days", "31 days"]),
        ([], []),
    ],
)
def test_a_duplicate_of_a_better_candidate_is_dropped(texts: list[str], kept: list[str]) -> None:
    assert [each.text for each in distinct(map(candidate, texts))] == kept


@given(st.lists(st.text(max_size=200), max_size=12), st.integers(700, 5000), st.none() | st.integers(0, 2**40))
def test_the_body_never_exceeds_the_limit_and_the_best_stay(texts: list[str], limit: int, epoch: int | None) -> None:
    found = tuple(candidate(text).model_copy(update={"passage_id": f"{n:03}"}) for n, text in enumerate(texts))
    task = GenerateAnswer(request=REQUEST, candidates=found, index_epoch=epoch)
    try:
        kept = fitting(task, limit)
    except Unprocessable:
        assert texts
        return
    assert len(kept.encode()) <= limit
    assert (kept.request, kept.index_epoch) == (REQUEST, epoch)
    assert kept.candidates == tuple(each for each in found if each in kept.candidates)
    for dropped in set(found) - set(kept.candidates):
        # With those that are better than it, it was too much.
        better = tuple(each for each in kept.candidates if each.passage_id < dropped.passage_id)
        assert len(task.model_copy(update={"candidates": (*better, dropped)}).encode()) > limit - 40


def test_a_passage_that_is_too_large_is_dropped_alone() -> None:
    huge = candidate("x").model_copy(update={"title": "x" * MAX_BODY})
    kept = fitting(GenerateAnswer(request=REQUEST, candidates=(huge, candidate("a"))))
    assert [each.text for each in kept.candidates] == ["a"]


def test_candidates_that_fit_are_all_kept() -> None:
    task = GenerateAnswer(request=REQUEST, candidates=tuple(candidate("x" * 1000) for _ in range(100)))
    assert fitting(task) is not None
    assert len(fitting(task).candidates) == 100
    assert len(task.encode()) < MAX_BODY


def test_a_conversation_that_leaves_no_room_is_refused_with_a_sentence() -> None:
    long = REQUEST.model_copy(update={"question": "x" * MAX_BODY})
    with pytest.raises(Unprocessable, match="shorten the conversation") as raised:
        fitting(GenerateAnswer(request=long, candidates=(candidate("a"),)))
    assert raised.value.reason is Reason.PAYLOAD_TOO_LARGE
