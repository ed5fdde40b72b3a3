"""A message as the bus keeps it: what the broker must know, and the sender's bytes untouched.

    on the wire    header · delivery annotations · message annotations · [ properties ·
                   application properties · body · footer ]     the part in brackets is `bare`

Only the header, the annotations and two properties are read on the way in. On the way out
a header and annotations are put in front of the bare message, which passes through verbatim;
dead-lettering is the one thing that rewrites it, to add its reason to the application properties.
"""

from collections.abc import Iterator
from enum import Enum
from math import inf
from os import urandom
from struct import Struct
from typing import Any, Final

from servicebus_local.amqp.types import (
    DecodeError,
    compound_list,
    compound_map,
    decode,
    decode_list,
    encode,
    encode_boolean,
    encode_string,
    encode_symbol,
    encode_uint,
    skip,
)

BATCH_FORMAT: Final = 0x80013700

_HEADER, _DELIVERY_ANNOTATIONS, _ANNOTATIONS, _PROPERTIES = 0x70, 0x71, 0x72, 0x73
_APPLICATION_PROPERTIES, _DATA, _FOOTER = 0x74, 0x75, 0x78
_MESSAGE_ID, _GROUP_ID = 0, 10
_TTL_MAX: Final = 0xFFFFFFFF / 1000


class State(Enum):
    """Where a message is; it is in exactly one of these places."""

    ACTIVE = 0
    DEFERRED = 1
    SCHEDULED = 2
    LOCKED = 3


class Message:
    """One message in one queue."""

    __slots__ = (
        "annotations",
        "bare",
        "dead_letter_source",
        "deferred",
        "delivery_annotations",
        "delivery_count",
        "enqueued_at",
        "enqueued_sequence",
        "expires_at",
        "first_acquirer",
        "hops",
        "message_id",
        "persistence",
        "scheduled_for",
        "sequence",
        "session_id",
        "state",
        "time_to_live",
    )

    def __init__(self, bare: bytes) -> None:
        self.bare = bare
        self.message_id: Any = None
        self.session_id: str | None = None
        self.time_to_live = inf
        self.persistence = b"\x40\x40"  # durable and priority, as the sender wrote them
        self.first_acquirer = b"\x40"  # the same
        self.annotations: tuple[bytes, ...] = ()  # the sender's own, keys and values encoded
        self.delivery_annotations: tuple[bytes, ...] = ()  # those too: Azure passes them on
        self.scheduled_for: float | None = None
        self.dead_letter_source: str | None = None
        self.sequence = 0
        self.enqueued_sequence = 0
        self.enqueued_at = 0.0
        self.expires_at = inf
        self.delivery_count = 0
        self.hops = 0
        self.state = State.ACTIVE
        self.deferred = False  # a deferred message that is locked returns to being deferred

    @property
    def size(self) -> int:
        """The bytes this message counts for."""
        return len(self.bare) + sum(map(len, self.annotations))

    def name(self) -> None:
        """Give a message without an id one, as Service Bus does: 32 hexadecimal digits."""
        self.message_id = urandom(16).hex()
        self.bare = with_message_id(self.bare, self.message_id)

    def rewrite(self, bare: bytes) -> None:
        """Become what these bytes say, with the same annotations."""
        self.bare = bare
        same = read(bare)
        self.message_id, self.session_id = same.message_id, same.session_id

    def copy(self) -> "Message":
        """Return a message with the same content, for another entity; it knows the first number this one had."""
        other = Message(self.bare)
        other.message_id, other.session_id = self.message_id, self.session_id
        other.time_to_live, other.persistence = self.time_to_live, self.persistence
        other.first_acquirer, other.delivery_annotations = self.first_acquirer, self.delivery_annotations
        other.annotations, other.dead_letter_source = self.annotations, self.dead_letter_source
        other.enqueued_sequence, other.hops = self.enqueued_sequence or self.sequence, self.hops
        other.scheduled_for = self.scheduled_for
        return other


# --------------------------------------------------------------------------- reading


def read(payload: bytes) -> Message:
    """Read one encoded message (part 3, 3.2); raises `DecodeError`."""
    try:
        return _read(payload)
    except (TypeError, AttributeError) as error:
        raise DecodeError(f"a section has a field of the wrong type: {error}") from error


def _read(payload: bytes) -> Message:
    at, bare_from, sections = 0, None, {}
    while at < len(payload):
        code, value_at = _section(payload, at)
        if code >= _PROPERTIES:
            bare_from = at if bare_from is None else bare_from
        if code > _PROPERTIES:
            break  # neither application properties nor body are the broker's business
        sections[code] = value_at
        at = skip(payload, value_at)
    message = Message(payload[len(payload) if bare_from is None else bare_from :])
    for code, value_at in sections.items():
        _READERS[code](message, payload, value_at)
    return message


def read_batch(payload: bytes) -> list[Message]:
    """Read the messages of a batch: each data section holds one; raises `DecodeError`."""
    messages, at = [], 0
    while at < len(payload):
        code, value_at = _section(payload, at)
        at = skip(payload, value_at)
        if code == _DATA:
            data, _ = decode(payload, value_at)
            if not isinstance(data, bytes):
                raise DecodeError("a data section must be binary")
            messages.append(read(data))
    return messages


def read_body(payload: bytes) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Decode a request: properties by name, application properties, and the value in the body.

    Raises `DecodeError` when a section cannot be read.
    """
    properties: dict[str, Any] = {}
    application: dict[str, Any] = {}
    value, at = None, 0
    while at < len(payload):
        code, value_at = _section(payload, at)
        at = skip(payload, value_at)
        if code == _PROPERTIES:
            fields, _ = decode_list(payload, value_at)
            reply_to = fields[4] if len(fields) > 4 else None
            # The message id as it is encoded, so that an answer can repeat it exactly.
            properties = {"message-id": (list_items(payload, value_at) or [b"\x40"])[0], "reply-to": reply_to}
        elif code == _APPLICATION_PROPERTIES:
            application, _ = decode(payload, value_at)
            if not isinstance(application, dict):
                raise DecodeError("expected a map")
        elif code > _APPLICATION_PROPERTIES:
            value = decode(payload, value_at)[0]
    return properties, application, value


def _section(payload: bytes, at: int) -> tuple[int, int]:
    """Return the code of the section at `at` (part 3, 3.2), and where its value starts; raises `DecodeError`."""
    if payload[at : at + 2] == b"\x00\x53" and at + 3 < len(payload):
        code, value_at = payload[at + 2], at + 3
    else:
        if payload[at] != 0x00:
            raise DecodeError(f"no message section starts at byte {at}")
        descriptor, value_at = decode(payload, at + 1)
        known = _SECTION_NAMES.get(descriptor) if isinstance(descriptor, str) else descriptor
        if not isinstance(known, int) or value_at >= len(payload):
            raise DecodeError(f"no message section has the descriptor {descriptor!r:.40}")
        code = known
    if not _HEADER <= code <= _FOOTER:
        raise DecodeError(f"no message section has the descriptor {code}")
    return code, value_at


_SECTION_NAMES: dict[Any, int] = {
    "amqp:header:list": _HEADER,
    "amqp:delivery-annotations:map": _DELIVERY_ANNOTATIONS,
    "amqp:message-annotations:map": _ANNOTATIONS,
    "amqp:properties:list": _PROPERTIES,
    "amqp:application-properties:map": _APPLICATION_PROPERTIES,
    "amqp:data:binary": _DATA,
    "amqp:amqp-sequence:list": 0x76,
    "amqp:amqp-value:*": 0x77,
    "amqp:footer:map": _FOOTER,
}


def _read_header(message: Message, payload: bytes, at: int) -> None:
    durable, priority, ttl, first_acquirer = (decode_list(payload, at)[0] + [None] * 4)[:4]
    if durable is not None or priority is not None:
        message.persistence = (b"\x40" if durable is None else encode_boolean(bool(durable))) + (
            b"\x40" if priority is None else b"\x50%c" % (int(priority) & 0xFF)
        )
    if first_acquirer is not None:
        message.first_acquirer = encode_boolean(bool(first_acquirer))
    if ttl:
        message.time_to_live = ttl / 1000


def _read_properties(message: Message, payload: bytes, at: int) -> None:
    fields, _ = decode_list(payload, at)
    if fields:
        message.message_id = fields[_MESSAGE_ID]
        hash(message.message_id)  # duplicates are found by it
    if len(fields) > _GROUP_ID:
        message.session_id = fields[_GROUP_ID]


def _read_annotations(message: Message, payload: bytes, at: int) -> None:
    kept: list[bytes] = []
    for key, raw_key, raw_value in map_entries(payload, at):
        if key == "x-opt-scheduled-enqueue-time":
            scheduled = decode(raw_value)[0]
            message.scheduled_for = scheduled / 1000 if isinstance(scheduled, int) else None
        elif key not in _OURS:
            kept += (raw_key, raw_value)
    message.annotations = tuple(kept)


def _read_delivery_annotations(message: Message, payload: bytes, at: int) -> None:
    entries = (raw for key, *raw in map_entries(payload, at) if key not in _OURS)
    message.delivery_annotations = tuple(part for entry in entries for part in entry)


_READERS = {
    _HEADER: _read_header,
    _DELIVERY_ANNOTATIONS: _read_delivery_annotations,
    _ANNOTATIONS: _read_annotations,
    _PROPERTIES: _read_properties,
}

_OURS = frozenset(
    {
        "x-opt-enqueued-time",
        "x-opt-sequence-number",
        "x-opt-enqueue-sequence-number",
        "x-opt-locked-until",
        "x-opt-lock-token",
        "x-opt-message-state",
        "x-opt-deadletter-source",
        "x-opt-offset",
        "x-opt-partition-id",
    }
)


def map_entries(payload: bytes, at: int) -> Iterator[tuple[Any, bytes, bytes]]:
    """Walk a map without decoding its values: key, encoded key, encoded value; raises `DecodeError`."""
    constructor = payload[at]
    if constructor not in (0xC1, 0xD1):
        raise DecodeError("expected a map")
    end = skip(payload, at)
    at += 3 if constructor == 0xC1 else 9
    while at < end:
        value_at = skip(payload, at)
        after = skip(payload, value_at)
        yield decode(payload, at)[0], payload[at:value_at], payload[value_at:after]
        at = after


# --------------------------------------------------------------------------- editing


def with_application_properties(bare: bytes, changes: dict[str, Any]) -> bytes:
    """Return the bare message with these application properties added or replaced."""
    at, start, kept = 0, 0, []
    while at < len(bare):
        code, value_at = _section(bare, at)
        if code > _APPLICATION_PROPERTIES:
            break
        after = skip(bare, value_at)
        if code == _APPLICATION_PROPERTIES:
            kept = [part for key, *raw in map_entries(bare, value_at) if key not in changes for part in raw]
        else:
            start = after
        at = after
    added = [part for name, value in changes.items() for part in (encode_string(name), encode(value))]
    return bare[:start] + b"\x00\x53\x74" + compound_map(kept + added) + bare[at:]


def with_message_id(bare: bytes, message_id: str) -> bytes:
    """Return a bare message that had no message id with this one."""
    first = encode_string(message_id)
    if not bare or _section(bare, 0)[0] != _PROPERTIES:
        return b"\x00\x53\x73" + compound_list([first]) + bare
    value_at = _section(bare, 0)[1]
    return b"\x00\x53\x73" + compound_list([first, *list_items(bare, value_at)[1:]]) + bare[skip(bare, value_at) :]


_LIST_HEADS = {0x45: 1, 0xC0: 3, 0xD0: 9}  # bytes before the first item: list0, list8, list32 (part 1, 1.6.22)


def list_items(payload: bytes, at: int) -> list[bytes]:
    """Return the items of the list at `at` as they are encoded; raises `DecodeError` if no list is there."""
    end, items = skip(payload, at), []
    if payload[at] not in _LIST_HEADS:
        raise DecodeError("expected a list")
    at += _LIST_HEADS[payload[at]]
    while at < end:
        after = skip(payload, at)
        items.append(payload[at:after])
        at = after
    return items


def without_body(payload: bytes) -> bytes:
    """Return what comes before the body of an encoded message."""
    at = 0
    while at < len(payload):
        code, value_at = _section(payload, at)
        if code > _APPLICATION_PROPERTIES:
            break
        at = skip(payload, value_at)
    return payload[:at]


# --------------------------------------------------------------------------- writing


def _key(name: str, constructor: bytes) -> bytes:
    return encode_symbol(name) + constructor


_INT64 = Struct(">q").pack
_ENQUEUED_TIME = _key("x-opt-enqueued-time", b"\x83")
_SEQUENCE = _key("x-opt-sequence-number", b"\x81")
_ENQUEUED_SEQUENCE = _key("x-opt-enqueue-sequence-number", b"\x81")
_STAMP = Struct(f">{len(_ENQUEUED_TIME)}sq{len(_SEQUENCE)}sq{len(_ENQUEUED_SEQUENCE)}sq").pack
_LOCKED_UNTIL = _key("x-opt-locked-until", b"\x83")
_SCHEDULED = _key("x-opt-scheduled-enqueue-time", b"\x83")
_STATE = _key("x-opt-message-state", b"\x54")
_DEAD_LETTER_SOURCE = encode_symbol("x-opt-deadletter-source")
_LOCK_TOKEN_KEY = encode_symbol("x-opt-lock-token")
_LOCK_TOKEN = b"\x00\x53\x71" + b"\xc1%c\x02" % 36 + _LOCK_TOKEN_KEY + b"\x98"
_STATES = {State.DEFERRED: b"\x01", State.SCHEDULED: b"\x02"}


def render(message: Message, locked_until: float | None = None, token: bytes | None = None) -> bytes:
    """Write the message for a receiver; lock and token are those of this delivery."""
    entries = _entries(message, locked_until)
    on_every_message = _STAMP(
        *(_ENQUEUED_TIME, int(message.enqueued_at * 1000)),
        *(_SEQUENCE, message.sequence),
        *(_ENQUEUED_SEQUENCE, message.enqueued_sequence),
    )
    contents = b"".join((on_every_message, *entries, *message.annotations))
    count = 2 * (3 + len(entries)) + len(message.annotations)
    annotations = b"\x00\x53\x72\xd1" + _UINT32_PAIR(len(contents) + 4, count) + contents
    delivery = b"" if token is None else _LOCK_TOKEN + token
    if message.delivery_annotations:
        lock = [] if token is None else [_LOCK_TOKEN_KEY, b"\x98" + token]
        delivery = b"\x00\x53\x71" + compound_map([*lock, *message.delivery_annotations])
    ttl = b"\x40" if message.time_to_live > _TTL_MAX else encode_uint(int(message.time_to_live * 1000))
    fields = b"%b%b%b%b" % (message.persistence, ttl, message.first_acquirer, encode_uint(message.delivery_count))
    header = b"\x00\x53\x70\xc0%c\x05%b" % (len(fields) + 1, fields)
    return b"".join((header, delivery, annotations, message.bare))


def _entries(message: Message, locked_until: float | None) -> list[bytes]:
    """Write the entries only some messages have, each a key and a value."""
    entries = []
    if locked_until is not None:
        entries.append(_LOCKED_UNTIL + _INT64(int(locked_until * 1000)))
    if message.scheduled_for is not None:
        entries.append(_SCHEDULED + _INT64(int(message.scheduled_for * 1000)))
    if message.deferred or message.state in _STATES:
        entries.append(_STATE + _STATES[State.DEFERRED if message.deferred else message.state])
    if message.dead_letter_source is not None:
        entries.append(_DEAD_LETTER_SOURCE + encode_string(message.dead_letter_source))
    return entries


_UINT32_PAIR = Struct(">II").pack


def reply(correlation_id: bytes, application: dict[str, Any], value: Any) -> bytes:
    """Write an answer: who it answers, its application properties, and a value as the body."""
    properties = b"\x40" * 5 + correlation_id
    return b"".join(
        (
            b"\x00\x53\x73\xd0" + _UINT32_PAIR(len(properties) + 4, 6) + properties,
            b"\x00\x53\x74" + encode(application),
            b"\x00\x53\x77" + encode(value),
        )
    )
