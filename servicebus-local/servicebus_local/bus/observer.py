"""Watching what happens to messages: a port for records and checkers.

    arrivals    sent · scheduled · dead-letter-arrived (into dead letters)             duplicate: dropped at once
    between     delivered · lock-renewed · abandoned · released · lock-lost · deferred
    ends        completed · dead-lettered · forwarded · expired · purged · cancelled · activated · published

An entity tells of each change after it was decided and before anything follows from it, so what
is told is in order. A scheduled message ends as `activated` and arrives as `sent` under its new
number; a topic's messages end as `published`, and each copy is `sent` to its subscription.
Without an observer, an event costs one look at an attribute.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from servicebus_local.bus.message import Message
from servicebus_local.bus.ready_queue import Consumer


class Kind(StrEnum):
    """What can happen."""

    SENT = "sent"
    DUPLICATE = "duplicate"
    SCHEDULED = "scheduled"
    ACTIVATED = "activated"
    CANCELLED = "cancelled"
    PUBLISHED = "published"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    ABANDONED = "abandoned"
    RELEASED = "released"
    DEFERRED = "deferred"
    DEAD_LETTERED = "dead-lettered"
    DEAD_LETTER_ARRIVED = "dead-letter-arrived"
    FORWARDED = "forwarded"
    EXPIRED = "expired"
    PURGED = "purged"
    LOCK_LOST = "lock-lost"
    LOCK_RENEWED = "lock-renewed"
    SESSION_ACCEPTED = "session-accepted"
    SESSION_RELEASED = "session-released"
    SESSION_LOST = "session-lost"


class MessageEvent(NamedTuple):
    """One thing that happened, with what is known about it."""

    kind: Kind
    entity: str  # its path
    message: Message | None = None
    token: bytes | None = None  # of the lock
    consumer: Consumer | None = None  # who got the message, or the session
    session_id: str | None = None  # of what happens to a session, not to a message
    reason: str | None = None  # of a dead letter
    target: str | None = None  # where a message goes from here


Observer = Callable[[MessageEvent], None]
