"""Messages as rows of the SQLite store, and back; the columns are those of `sqlite_file`."""

from collections.abc import Hashable
from typing import Any, Final

from local.broker.amqp.types import Ulong, decode, encode, skip
from local.broker.bus.message import Message, State

_USUAL: Final = Message(b"").persistence
_AS_SENT: Final = b""
_LONG_MAX: Final = 2**63 - 1


def row_of(key: int, message: Message) -> tuple[Any, ...]:
    """Write a message as the columns have it; what most messages do not have is NULL."""
    return (
        key,
        message.deferred,
        message.state is State.SCHEDULED,
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
        None if message.persistence == _USUAL else message.persistence,
        b"".join(message.annotations) or None,
        message.bare,
    )


def message_of(base: int, row: tuple[Any, ...]) -> Message:
    """Read a message; `base` is the key before the first of its entity."""
    message = Message(row[-1])
    (
        key,
        message.deferred,
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
        persistence,
        annotations,
        _,
    ) = row
    message.sequence = key - base
    if scheduled:
        message.state = State.SCHEDULED
    if persistence is not None:
        message.persistence = persistence
    if annotations is not None:
        message.annotations = _split(annotations)
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
