"""Messages as rows of the SQLite store, and back; the columns are those of `sqlite_file`."""

from collections.abc import Hashable
from typing import Any, Final

from servicebus_local.amqp.types import Ulong, decode, encode, skip
from servicebus_local.bus.message import Message, State

_USUAL: Final = Message(b"").persistence + Message(b"").first_acquirer
_AS_SENT: Final = b""
_LONG_MAX: Final = 2**63 - 1


def row_of(key: int, message: Message) -> tuple[Any, ...]:
    """Write a message as the columns have it; what most messages do not have is NULL.

    Booleans are stored as numbers: the sqlite3 module is slow to adapt anything but a number, text or bytes.
    """
    header = message.persistence + message.first_acquirer
    return (
        key,
        1 if message.deferred else 0,
        1 if message.state is State.SCHEDULED else 0,
        message.delivery_count,
        message.hops,
        message.enqueued_at,
        message.expires_at,
        message.time_to_live,
        message.enqueued_sequence,
        message.scheduled_for,
        _text(message.message_id),
        _text(message.session_id),
        message.dead_letter_source,
        None if header == _USUAL else header,
        b"".join(message.annotations) or None,
        b"".join(message.delivery_annotations) or None,
        message.bare,
    )


def message_of(base: int, row: tuple[Any, ...]) -> Message:
    """Read a message; `base` is the key before the first of its entity."""
    message = Message(row[-1])
    (
        key,
        deferred,
        scheduled,
        message.delivery_count,
        message.hops,
        message.enqueued_at,
        message.expires_at,
        message.time_to_live,
        message.enqueued_sequence,
        message.scheduled_for,
        message.message_id,
        message.session_id,
        message.dead_letter_source,
        header,
        annotations,
        delivery_annotations,
        _,
    ) = row
    message.sequence = key - base
    message.deferred = deferred == 1
    if scheduled:
        message.state = State.SCHEDULED
    if header is not None:
        durable, priority, message.first_acquirer = _split(header)
        message.persistence = durable + priority
    if annotations is not None:
        message.annotations = _split(annotations)
    if delivery_annotations is not None:
        message.delivery_annotations = _split(delivery_annotations)
    if message.message_id == _AS_SENT or message.session_id == _AS_SENT:
        message.rewrite(message.bare)
    return message


def _text(value: Any) -> str | bytes | None:
    """Return an id as a column has it: text is text, of anything else only the message itself knows what it is."""
    return value if value is None or isinstance(value, str) else _AS_SENT


def _split(encoded: bytes) -> tuple[bytes, ...]:
    """Split encoded values that follow one another."""
    at, parts = 0, []
    while at < len(encoded):
        after = skip(encoded, at)
        parts.append(encoded[at:after])
        at = after
    return tuple(parts)


def packed(message_id: Hashable) -> str | bytes:
    """Return a message id as a column has it when there is no message: text, or the bytes of any other type."""
    if isinstance(message_id, str):
        return message_id
    if type(message_id) is int and message_id > _LONG_MAX:
        return encode(Ulong(message_id))
    return encode(message_id)


def unpacked(stored: str | bytes) -> Hashable:
    """Return what was packed."""
    return stored if isinstance(stored, str) else decode(stored)[0]
