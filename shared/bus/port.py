"""What the workers need from a message bus, and what it promises them.

Outbox.send          returns when the broker has taken the message, never before
Outbox.schedule      the same, and returns the number under which it can be cancelled until it is due
Outbox.cancel        removes scheduled messages; those that are due or gone are left as they are
Inbox.receive        hands out one locked delivery, or none within the wait
Delivery.complete    returns when the broker has confirmed it; LockLost when the lock had passed on
Browser.peek         shows messages without locking them or raising their delivery count
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

Property = str | int | float | bool

# Application properties of ours. Everything else that a message carries is passed on untouched.
ATTEMPT = "ragbus-attempt"
ANSWER_BY = "ragbus-answer-by"
ORIGIN = "ragbus-origin"
ENQUEUED_AT = "ragbus-first-enqueued-at"
FIRST_NUMBER = "ragbus-first-sequence-number"
RUN = "ragbus-run"
RERUN = "ragbus-rerun"
TENANT = "ragbus-tenant"
CALLER = "ragbus-caller"
ASK = "ragbus-ask"
ADMISSION = "ragbus-admission"
REPLAY_OF = "ragbus-replay-of"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
DIAGNOSTIC_ID = "Diagnostic-Id"

# Sequence numbers travel as text: the SDK writes integers of 32 bits only.
_NUMBER = re.compile(r"[0-9]{1,19}")
# A greater number was not counted by us; it would fit neither into a trace nor, one larger, into a message.
MOST_ATTEMPTS = 1_000_000


class BusUnavailable(Exception):
    """The broker cannot be reached or is too busy; nothing was decided."""


class LockLost(Exception):
    """The delivery is no longer ours: its lock expired, or it was settled before."""


class MessageTooLarge(Exception):
    """The broker refuses a message of this size (256 KiB on Standard and on the emulator)."""


class QueueFull(Exception):
    """The queue accepts no message until some are received from it."""


class UnknownQueue(Exception):
    """The queue does not exist, or we have no right to use it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send. `time_to_live` counts from `enqueue_at`, or from now."""

    queue: str
    body: bytes
    subject: str
    message_id: str | None = None
    correlation_id: str | None = None
    session_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    time_to_live: timedelta | None = None
    enqueue_at: datetime | None = None
    content_type: str | None = "application/json"
    properties: Mapping[str, Property] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A message as the broker shows it: body, native properties, and what the broker says of it."""

    queue: str
    body: bytes
    subject: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    session_id: str | None = None
    reply_to: str | None = None
    reply_to_session_id: str | None = None
    content_type: str | None = None
    time_to_live: timedelta | None = None
    enqueued_at: datetime | None = None
    scheduled_for: datetime | None = None
    sequence_number: int = 0
    enqueued_sequence_number: int = 0
    """The number on the queue that it was sent to, of a message that was forwarded since; else 0 or the same."""
    delivery_count: int = 0
    dead_letter_reason: str | None = None
    dead_letter_description: str | None = None
    dead_letter_source: str | None = None
    state: str = "active"
    section: str = "data"
    """The AMQP section that its body came in; `value` and `sequence` only if they cannot be read as bytes."""
    properties: Mapping[str, Property] = field(default_factory=dict)

    @property
    def first_number(self) -> int:
        """The sequence number of the first copy on the queue that it was sent to: retries and dead letters keep it."""
        carried = self.properties.get(FIRST_NUMBER)
        known = int(carried) if isinstance(carried, str) and _NUMBER.fullmatch(carried) else 0
        return known or self.enqueued_sequence_number or self.sequence_number

    @property
    def attempt(self) -> int:
        """Which try this is, from 1; scheduled retries carry it, so that it outlives the delivery count."""
        attempt = self.properties.get(ATTEMPT, 1)
        return attempt if isinstance(attempt, int) and 1 <= attempt <= MOST_ATTEMPTS else 1


class Delivery(Protocol):
    """One locked message. Exactly one of the settling calls is made."""

    @property
    def message(self) -> Received: ...

    @property
    def locked_until(self) -> datetime: ...

    async def complete(self) -> None:
        """Remove it from its queue. Raises `LockLost`, `BusUnavailable`."""

    async def dead_letter(self, reason: str, description: str) -> None:
        """Move it to the dead-letter queue. Raises `LockLost`, `BusUnavailable`."""

    def forget(self) -> None:
        """Leave it unsettled: when its lock ends, another worker receives it."""

    async def renew(self) -> datetime:
        """Renew the lock; returns when it ends. Raises `LockLost`, `BusUnavailable`."""


class Inbox(Protocol):
    """The deliveries of one queue."""

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> Delivery | None:
        """The next delivery, or None when `wait` has passed. Raises `BusUnavailable`, `UnknownQueue`.

        Up to `prefetch` messages behind it may be locked and on their way before they are asked for. They cost another
        worker's time, so it is for work that is quick; `close` gives them back. Changing it takes about a second.
        """

    async def close(self) -> None:
        """Stop receiving, until `receive` is called again; what was prefetched goes back as it was.

        Deliveries handed out before can still be settled and renewed, until the bus closes.
        """


class Outbox(Protocol):
    """Where messages leave."""

    async def send(self, message: Outgoing) -> None:
        """Send one; safe from many tasks. Raises `BusUnavailable`, `MessageTooLarge`, `UnknownQueue`."""

    async def schedule(self, message: Outgoing) -> int:
        """Send one that has an `enqueue_at`, not before the start of that second, and up to a second later.

        Returns its sequence number; raises as `send` does. A duplicate of a scheduled message may get any number.
        """

    async def cancel(self, queue: str, numbers: Sequence[int]) -> None:
        """Remove scheduled messages that are not due yet, by their sequence numbers; ignore other numbers.

        Raises `BusUnavailable`, `UnknownQueue`.
        """


class Browser(Protocol):
    """Reads queues without changing their messages."""

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        """Up to `limit` messages with a sequence number above `after`; `dead`: of its dead-letter queue."""


class Bus(Outbox, Browser, Protocol):
    """A connection to a broker."""

    def inbox(self, queue: str) -> Inbox:
        """The inbox of `queue`. It is opened by the first `receive`."""

    async def prewarm(self, queue: str) -> None:
        """Open the way to `queue` ahead of the first message. Never fails."""

    async def close(self) -> None:
        """Close every connection."""
