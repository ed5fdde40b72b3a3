"""What to do after a failure."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import OverQuota, Reason, SettingsError, TryLater, Unprocessable
from shared.worker.retry import MARGIN, DeadLetter, Reschedule, Retry, RetryPolicy, after_failure
from tests.support.builders import NOW

POLICY = RetryPolicy(attempts=4)


def decide(
    failure: BaseException, attempt: int = 1, left: float | None = 60, chance: float = 1.0
) -> Retry | Reschedule | DeadLetter:
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


@pytest.mark.parametrize("attempt", [1, 100])
@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_work_over_a_quota_comes_back_at_its_turn_whatever_the_attempt(attempt: int, chance: float) -> None:
    over = OverQuota("full", after=timedelta(seconds=7))
    for left in (60, None):
        assert decide(over, attempt, left, chance) == Reschedule(NOW + timedelta(seconds=7), "full")


def test_an_attempt_that_made_calls_before_its_quota_was_used_up_counts() -> None:
    over = OverQuota("full", after=timedelta(seconds=7), counts=True)
    assert decide(over, chance=1.0) == Retry(NOW + timedelta(seconds=7), "full")


def test_work_whose_turn_is_after_its_deadline_has_missed_it() -> None:
    decision = decide(OverQuota("full", after=timedelta(seconds=7)), left=7.5)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1), (2, 2), (3, 4)])
def test_waits_double(attempt: int, seconds: int) -> None:
    assert decide(TryLater("busy"), attempt=attempt) == Retry(NOW + timedelta(seconds=seconds), "busy")


def test_what_the_other_side_asked_for_is_the_least_wait() -> None:
    assert decide(TryLater("429", after=timedelta(seconds=7)), chance=0) == Retry(NOW + timedelta(seconds=7), "429")


def test_those_who_failed_together_do_not_come_back_together() -> None:
    """Also when the other side asked all of them for the same wait."""
    asked = TryLater("429", after=timedelta(seconds=7))
    assert decide(asked, attempt=3, chance=0.25) == Retry(NOW + timedelta(seconds=8), "429")
    assert decide(asked, attempt=3, chance=0.75) == Retry(NOW + timedelta(seconds=10), "429")


def test_the_last_attempt_is_the_last() -> None:
    decision = decide(TryLater("busy"), attempt=4, left=None)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.RETRIES_EXHAUSTED


def test_the_last_but_one_is_not() -> None:
    assert decide(TryLater("busy"), attempt=3, left=None) == Retry(NOW + timedelta(seconds=4), "busy")


@pytest.mark.parametrize("attempt", [7, 8, 21, 22, 10_000])
def test_a_wait_grows_up_to_the_longest(attempt: int) -> None:
    policy = RetryPolicy(attempts=100_000, longest=timedelta(seconds=60))
    assert policy.wait(attempt, chance=1.0) == timedelta(seconds=60)
    assert policy.wait(attempt, chance=0.25) == timedelta(seconds=15)


def test_a_wait_doubles_twenty_times_if_it_may() -> None:
    policy = RetryPolicy(longest=timedelta.max)
    assert [policy.wait(attempt, chance=1.0).total_seconds() for attempt in (20, 21, 22)] == [2**19, 2**20, 2**20]


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


def test_a_retry_that_just_makes_the_deadline_is_scheduled() -> None:
    assert decide(TryLater("busy"), left=2, chance=0.5) == Retry(NOW + timedelta(seconds=0.5), "busy")
    assert decide(TryLater("busy"), attempt=5, left=2, chance=0.5) == Retry(NOW + timedelta(seconds=1), "busy")
    assert isinstance(decide(TryLater("busy"), left=1.999, chance=0.5), DeadLetter)


def test_a_configuration_that_does_not_fit_is_not_called_a_bug() -> None:
    decision = decide(SettingsError("the vectors have 3 dimensions"))
    assert decision == DeadLetter(Reason.MISCONFIGURED, "the vectors have 3 dimensions")


def test_work_that_ran_into_its_deadline_has_expired() -> None:
    decision = decide(TimeoutError(), left=0)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.DEADLINE_EXCEEDED
    assert "deadline" in decision.detail


@pytest.mark.parametrize("left", [None, 0.001], ids=["no deadline", "before its deadline"])
def test_a_time_out_of_ours_before_the_deadline_is_a_bug(left: float | None) -> None:
    decision = decide(TimeoutError(), left=left)
    assert isinstance(decision, DeadLetter)
    assert decision.reason is Reason.CRASHED


def test_a_dead_letter_says_what_was_tried_and_what_went_wrong() -> None:
    given_up, late = decide(TryLater("busy"), attempt=4, left=None), decide(TryLater("busy"), attempt=7, left=1)
    crashed = decide(ValueError("x" * 10_000))
    assert isinstance(given_up, DeadLetter)
    assert isinstance(late, DeadLetter)
    assert isinstance(crashed, DeadLetter)
    assert ("4 attempts" in given_up.detail, "busy" in given_up.detail) == (True, True)
    assert ("attempt 7" in late.detail, "at least 1.0 s" in late.detail, "busy" in late.detail) == (True, True, True)
    assert crashed.detail.startswith("ValueError: xx")
    assert len(crashed.detail) == 2_000


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
