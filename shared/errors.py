"""Failures, named for what the worker does next.

Exception
├── TryLater        another attempt may succeed              -> a scheduled copy
│   ├── DependencyDown  a dependency of the queue is down        -> and the breaker counts it
│   └── OverQuota       a quota is used up                       -> the same; only an attempt that paid counts
├── Unprocessable   no redelivery can help                   -> the dead-letter queue
└── anything else   a bug                                    -> the dead-letter queue, as `Crashed`
"""

from datetime import timedelta
from enum import StrEnum


class Reason(StrEnum):
    """Why a message was dead-lettered. The list is closed: people and alerts filter by it."""

    SCHEMA_INVALID = "SchemaInvalid"
    SCHEMA_UNSUPPORTED = "SchemaUnsupported"
    UNAUTHORIZED = "Unauthorized"
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    POISON_CONTENT = "PoisonContent"
    MISCONFIGURED = "Misconfigured"
    CRASHED = "Crashed"
    # Set by the broker.
    TTL_EXPIRED = "TTLExpiredException"
    MAX_DELIVERY_COUNT = "MaxDeliveryCountExceeded"


class TryLater(Exception):
    """Another attempt may succeed; `after`: the minimum wait that the other side asked for."""

    def __init__(self, why: str, *, after: timedelta = timedelta(0)) -> None:
        super().__init__(why)
        self.after = after


class DependencyDown(TryLater):
    """A dependency of this queue's work (vectors, models) failed: unreachable, a time-out, a 5xx; not a throttle.

    The message is not at fault, and the next one would fail as well; so the queue's circuit breaker counts it.
    """


class OverQuota(TryLater):
    """A deployment's quota is used up; after `after` it is this work's turn.

    `fits`: it has a place in the line. If not, it would end too late, and `after` only says when there is room.
    `counts`: the attempt made calls before, which the next one must know of.
    """

    def __init__(self, why: str, *, after: timedelta, fits: bool = True, counts: bool = False) -> None:
        super().__init__(why, after=after)
        self.fits = fits
        self.counts = counts


class Unprocessable(Exception):
    """No redelivery can help. `detail` is a sentence for the person who opens the dead letter."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class DeadlineMissed(Unprocessable):
    """The deadline has passed."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.DEADLINE_EXCEEDED, detail)


class SettingsError(Exception):
    """A setting or a configuration file is wrong; the text names it and says what to do."""
