"""What to do after a failure. Pure: facts in, decision out."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.errors import OverQuota, Reason, SettingsError, TryLater, Unprocessable

# Seconds for a settlement and a hop to the next stage; a later retry cannot be answered in time.
MARGIN = timedelta(seconds=1)
LONGEST_WAIT = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential waits with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter")."""

    attempts: int = 8
    base: timedelta = timedelta(seconds=1)
    longest: timedelta = LONGEST_WAIT

    def wait(self, attempt: int, chance: float) -> timedelta:
        """How long to wait after `attempt` (from 1) failed; `chance` is uniform in 0..1."""
        # Twenty doublings of a second are twelve days; more would overflow before `longest` caps them.
        ceiling = min(self.longest, self.base * (1 << min(attempt - 1, 20)))
        return ceiling * chance


@dataclass(frozen=True, slots=True)
class Retry:
    """Send a copy that becomes visible at `at`."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Reschedule:
    """Send a copy of the same attempt that becomes visible at `at`: there is a quota, and it is used up until then."""

    at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Move it aside, with a reason from the closed list and a sentence."""

    reason: Reason
    detail: str


def after_failure(
    failure: BaseException,
    *,
    attempt: int,
    now: datetime,
    deadline: datetime | None,
    policy: RetryPolicy,
    chance: float,
) -> Retry | Reschedule | DeadLetter:
    """Choose between another attempt, a later one without counting this, and the dead-letter queue."""
    match failure:
        case Unprocessable(reason=reason, detail=detail):
            return DeadLetter(reason, detail)
        case SettingsError():
            return DeadLetter(Reason.MISCONFIGURED, str(failure))
        case OverQuota(after=asked, counts=counts):
            # Without jitter: everything that waits for the quota has a time of its own.
            if deadline is None or now + asked < deadline - MARGIN:
                return (Retry if counts else Reschedule)(now + asked, str(failure))
            return DeadLetter(Reason.DEADLINE_EXCEEDED, f"its turn would come after the deadline: {failure}")
        case TryLater(after=asked):
            return _later(failure, asked, attempt, now, deadline, policy, chance)
        case TimeoutError() if deadline is not None and now >= deadline:
            return DeadLetter(Reason.DEADLINE_EXCEEDED, "the deadline passed while the message was being worked on")
        case bug:
            return DeadLetter(Reason.CRASHED, f"{type(bug).__name__}: {bug}"[:2000])


def _later(
    failure: TryLater,
    asked: timedelta,
    attempt: int,
    now: datetime,
    deadline: datetime | None,
    policy: RetryPolicy,
    chance: float,
) -> Retry | DeadLetter:
    # Jitter is added to the wait that the other side asked for, so that workers with the same wait do not come back
    # together.
    soonest, wait = now + asked, policy.wait(attempt, chance)
    if deadline is None:
        if attempt >= policy.attempts:
            return DeadLetter(
                Reason.RETRIES_EXHAUSTED, f"gave up after {attempt} attempts; the last failure: {failure}"
            )
        return Retry(soonest + wait, str(failure))
    # With a deadline, time is the bound and not the number: an outage that ends before it costs no request.
    left = deadline - MARGIN - soonest
    if left < policy.base:
        return DeadLetter(
            Reason.DEADLINE_EXCEEDED,
            f"attempt {attempt} failed and the next, at least {(asked + policy.base).total_seconds():.1f} s later, "
            f"would miss the deadline: {failure}",
        )
    # A wait that would outlast the deadline is drawn again from the time that is left; never a short one, or all who
    # have the same deadline would come again and again in its last second.
    return Retry(soonest + (wait if wait < left else max(left * chance, policy.base)), str(failure))
