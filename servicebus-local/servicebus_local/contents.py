"""What an entity holds, to look at without receiving."""

from dataclasses import dataclass
from typing import Any, Literal

from servicebus_local.amqp.types import DecodeError
from servicebus_local.bus.message import Message, State, read_body
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.properties import Properties

_STATES: dict[State, Literal["active", "locked", "deferred", "scheduled"]] = {
    State.ACTIVE: "active",
    State.LOCKED: "locked",
    State.DEFERRED: "deferred",
    State.SCHEDULED: "scheduled",
}


@dataclass(frozen=True)
class StoredMessage:
    """A message as it lies in an entity; times are seconds since the Unix epoch, `inf` for never."""

    sequence: int
    state: Literal["active", "locked", "deferred", "scheduled"]
    message_id: Any
    session_id: str | None
    delivery_count: int
    enqueued_at: float
    expires_at: float
    scheduled_for: float | None
    dead_letter_source: str | None
    application_properties: dict[str, Any]
    body: Any  # bytes, or the value of a message that has one


def contents(entity: MessagingEntity) -> list[StoredMessage]:
    """Return the messages of an entity in sequence order."""
    return [_stored(message) for _, message in sorted(entity.messages.items())]


def _stored(message: Message) -> StoredMessage:
    """Decode one message; a body that cannot be read is shown as its bytes."""
    try:
        properties, body = dict(Properties.of(message.bare).user), read_body(message.bare)[2]
    except DecodeError:  # only the receiver has to understand it
        properties, body = {}, message.bare
    return StoredMessage(
        message.sequence,
        _STATES[message.state],
        message.message_id,
        message.session_id,
        message.delivery_count,
        message.enqueued_at,
        message.expires_at,
        message.scheduled_for,
        message.dead_letter_source,
        properties,
        body,
    )
