"""What to do after a failure."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Reason, SettingsError, TryLater, Unprocessable
from shared.worker.retry import MARGIN, DeadLetter, Retry, RetryPolicy, after_failure
from tests.support.builders import NOW

POLICY = RetryPolicy(attempts=4)


def decide(
    failure: BaseException, attempt: int = 1, left: float | None = 60, chance: float = 1.0
) -> Retry | DeadLetter:
    deadline = None if left is None else NOW + timedelta(seconds=left)
    return after_failure(failure, attempt=attempt, now=NOW, deadline=deadline, policy=POLICY, chance=chance)


def test_unprocessable_work_is_dead_lettered_at_once_with_its_reason() -> None:
    assert decide(Unprocessable(Reason.SCHEMA_INVALID, "no question")) == DeadLetter(
        Reason.SCHEMA_INVALID, "no question"
    )


def test_a_bug_is_dead_lettered_as_crashed() -> None:
    decision = decide(KeyError("x"))
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.CRASHED
    assert "KeyError" in decision.detail


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4)])
def test_waits_double(attempt: int, seconds: int) -> None:
    assert decide(TryLater("busy"), attempt=attempt) == Retry(NOW + timedelta(seconds=seconds), "busy")


def test_what_the_other_side_asked_for_is_the_least_wait() -> None:
    assert decide(TryLater("429", after=timedelta(seconds=7)), chance=0) == Retry(NOW + timedelta(seconds=7), "429")


def test_the_last_attempt_is_the_last() -> None:
    decision = decide(TryLater("busy"), attempt=4, left=None)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.RETRIES_EXHAUSTED


def test_work_with_a_deadline_is_tried_until_then_however_often() -> None:
    assert decide(TryLater("busy"), attempt=400, left=600, chance=0.5) == Retry(NOW + timedelta(seconds=30), "busy")


def test_a_wait_that_would_outlast_the_deadline_is_shortened() -> None:
    decision = decide(TryLater("busy"), attempt=9, left=21, chance=0.5)
    assert decision == Retry(NOW + timedelta(seconds=10), "busy")


def test_a_shortened_wait_is_not_a_short_one() -> None:
    assert decide(TryLater("busy"), attempt=5, left=13, chance=1.0) == Retry(NOW + timedelta(seconds=12), "busy")
    assert decide(TryLater("busy"), attempt=5, left=3, chance=0.9) == Retry(NOW + timedelta(seconds=1.8), "busy")
    assert decide(TryLater("busy"), attempt=5, left=2.1, chance=0.1) == decide(TryLater("busy"), left=2.1, chance=1.0)
    assert isinstance(decide(TryLater("busy"), attempt=5, left=1.9, chance=0.5), DeadLetter)


def test_a_retry_that_would_miss_the_deadline_is_not_scheduled() -> None:
    decision = decide(TryLater("429", after=timedelta(seconds=59)), left=60, chance=0)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.DEADLINE_EXCEEDED
    assert "miss the deadline" in decision.detail


def test_a_configuration_that_does_not_fit_is_not_called_a_bug() -> None:
    decision = decide(SettingsError("the vectors have 3 dimensions"))
    assert decision == DeadLetter(Reason.MISCONFIGURED, "the vectors have 3 dimensions")


def test_work_that_ran_into_its_deadline_has_expired() -> None:
    decision = decide(TimeoutError(), left=0)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.DEADLINE_EXCEEDED


@given(
    attempt=st.integers(1, 10_000),
    asked=st.floats(0, 1e6),
    left=st.none() | st.floats(-10, 1e6),
    chance=st.floats(0, 1),
)
def test_a_retry_is_never_early_and_never_after_the_deadline(
    attempt: int, asked: float, left: float | None, chance: float
) -> None:
    decision = decide(TryLater("busy", after=timedelta(seconds=asked)), attempt=attempt, left=left, chance=chance)
    if isinstance(decision, Retry):
        assert left is not None or attempt < POLICY.attempts
        assert decision.at >= NOW + timedelta(seconds=asked)
        assert left is None or decision.at <= NOW + timedelta(seconds=left) - MARGIN
