"""What a rule sees of a message, and how a rule's action writes it back.

    bare message    properties · application properties · body · footer
                    sys.*        user.*                   never decoded

Values are plain: text, numbers, booleans, `Timestamp`, `timedelta`, `Uuid`, None. The names of
properties are compared without case, as Service Bus does (its SQL filter syntax says so).
"""

import struct
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from struct import Struct
from typing import Any, Final, NamedTuple
from uuid import UUID

from servicebus_local.amqp.types import (
    NULL,
    Byte,
    DecodeError,
    Described,
    Float,
    Int,
    Raw,
    Short,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Ushort,
    Uuid,
    compound_map,
    decode,
    decode_list,
    encode,
    encode_list,
    skip,
)
from servicebus_local.bus.errors import InvalidArgument
from servicebus_local.bus.message import list_items, map_entries

_PROPERTIES, _APPLICATION_PROPERTIES = 0x73, 0x74
_SECTIONS: Final[dict[Any, int]] = {
    _PROPERTIES: _PROPERTIES,
    _APPLICATION_PROPERTIES: _APPLICATION_PROPERTIES,
    "amqp:properties:list": _PROPERTIES,
    "amqp:application-properties:map": _APPLICATION_PROPERTIES,
}

# Where Service Bus keeps its names in the list of properties (AMQP 1.0 part 3, 3.2.4).
_FIELDS: Final = {
    "messageid": 0,
    "to": 2,
    "label": 3,
    "subject": 3,  # what newer SDKs call the label
    "replyto": 4,
    "correlationid": 5,
    "contenttype": 6,
    "sessionid": 10,
    "replytosessionid": 12,
}
_CONTENT_TYPE = _FIELDS["contenttype"]

_BROKER_PROPERTIES: Final = frozenset(
    {
        "deadlettersource",
        "deliverycount",
        "enqueuedsequencenumber",
        "enqueuedtimeutc",
        "expiresatutc",
        "forcepersistence",
        "lockeduntilutc",
        "locktoken",
        "partitionkey",
        "scheduledenqueuetimeutc",
        "sequencenumber",
        "size",
        "state",
        "timetolive",
        "viapartitionkey",
    }
)


def is_system(name: str) -> bool:
    """Say whether Service Bus has a system property of this name."""
    return name.lower() in _FIELDS or name.lower() in _BROKER_PROPERTIES


def is_writable(name: str) -> bool:
    """Say whether an action may change the system property of this name."""
    return name.lower() in _FIELDS


class Properties:
    """The properties of one message, decoded when they are first asked for.

    Reading raises `DecodeError` when the bytes are not what they should be.
    """

    def __init__(self, bare: bytes, broker: Mapping[str, Any]) -> None:
        self.bare = bare
        self._broker = broker

    @classmethod
    def of(cls, bare: bytes, broker: Mapping[str, Any] | None = None) -> "Properties":
        """Look at a bare message; `broker` has the system properties that are not in it, such as EnqueuedTimeUtc."""
        return cls(bare, {name.lower(): plain(value) for name, value in (broker or {}).items()})

    def system(self, name: str) -> Any:
        """Return a system property, None when the message does not have it."""
        name = name.lower()
        if name not in _FIELDS:
            return self._broker.get(name)
        at = _FIELDS[name]
        return self._fields[at] if at < len(self._fields) else None

    @cached_property
    def user(self) -> Mapping[str, Any]:
        """The application properties, by the name the sender gave them."""
        section = self._sections.get(_APPLICATION_PROPERTIES)
        if section is None:
            return {}
        value, _ = decode(self.bare, section.value_at)
        if not isinstance(value, dict):
            raise DecodeError("application properties must be a map")
        return {str(name): plain(value) for name, value in value.items() if isinstance(name, str)}

    def has(self, name: str) -> bool:
        """Say whether there is an application property of this name, whatever its case and value."""
        return name in self.user or name.lower() in self._spellings

    def get(self, name: str) -> Any:
        """Return the application property of this name, whatever its case; None when there is none."""
        return self.user[name] if name in self.user else self.user.get(self._spellings.get(name.lower(), name))

    def spelling(self, name: str) -> str:
        """Return the name as the message spells it, the one that was given when it has no such property."""
        return name if name in self.user else self._spellings.get(name.lower(), name)

    @cached_property
    def _sections(self) -> "dict[int, _Section]":
        return _locate(self.bare)

    @cached_property
    def _fields(self) -> list[Any]:
        section = self._sections.get(_PROPERTIES)
        return [] if section is None else list(map(_field_value, decode_list(self.bare, section.value_at)[0]))

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {name.lower(): name for name in reversed(list(self.user))}  # of two, the first counts


class _Section(NamedTuple):
    start: int
    value_at: int
    end: int


def _locate(bare: bytes) -> dict[int, _Section]:
    """Find the two sections in front of the body."""
    at, found = 0, {}
    while bare[at : at + 1] == b"\x00":
        descriptor, value_at = decode(bare, at + 1)
        code = _SECTIONS.get(descriptor) if isinstance(descriptor, int | str) else None
        if code is None:
            break
        end = skip(bare, value_at)
        found[code] = _Section(at, value_at, end)
        at = end
    return found


# --------------------------------------------------------------------------- plain values

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_TICKS = 621_355_968_000_000_000  # ticks are 100 ns since the year 1, as .NET counts


def plain(value: Any) -> Any:
    """Return a value of AMQP, or of a rule's parameter, as rules compare it."""
    convert = _CONVERSIONS.get(type(value))
    return value if convert is None else convert(value)


def _from_datetime(value: datetime) -> Timestamp:
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    return Timestamp((moment - _EPOCH) // timedelta(milliseconds=1))


def _from_described(value: Described) -> Any:
    """Undo what the .NET SDK does to types AMQP does not have."""
    convert = _DESCRIBED.get(value.descriptor) if isinstance(value.descriptor, str) else None
    return convert(value.value) if convert is not None and isinstance(value.value, int | str) else value


_TIMESPAN = Symbol("com.microsoft:timespan")
_DESCRIBED: dict[str, Callable[[Any], Any]] = {
    _TIMESPAN: lambda ticks: timedelta(microseconds=ticks // 10),
    "com.microsoft:datetime-offset": lambda ticks: Timestamp((ticks - _EPOCH_TICKS) // 10_000),
    "com.microsoft:uri": str,
}
_CONVERSIONS: dict[type, Callable[[Any], Any]] = {
    **dict.fromkeys((Byte, Short, Int, Ubyte, Ushort, Uint, Ulong), int),
    Float: float,
    Symbol: str,
    datetime: _from_datetime,
    Described: _from_described,
}


def _field_value(value: Any) -> Any:
    """Identifiers are text to Service Bus, whatever AMQP allows."""
    if isinstance(value, Uuid):
        return str(UUID(bytes=bytes(value)))
    return str(value) if isinstance(value, int | Symbol) else value


# --------------------------------------------------------------------------- writing


def rewrite(
    bare: bytes,
    system_changes: Mapping[str, str | None],
    user_changes: Mapping[str, Any],
    user_removed: Collection[str] = (),
) -> bytes:
    """Return the bare message with other properties and the same body.

    System properties are text, or None for none; a number keeps the AMQP type of the number it
    replaces when it fits. Raises `InvalidArgument` for what cannot be written.
    """
    sections = _locate(bare)
    properties = sections.get(_PROPERTIES, _Section(0, 0, 0))
    application = sections.get(_APPLICATION_PROPERTIES, _Section(properties.end, 0, properties.end))
    before, between = bare[properties.start : properties.end], bare[properties.end : application.start]
    after = bare[application.start : application.end]
    if system_changes:
        before = b"\x00\x53\x73" + _changed_fields(bare, properties, system_changes)
    if user_changes or user_removed:
        after = b"\x00\x53\x74" + _changed_entries(bare, application, user_changes, user_removed)
    return b"".join((before, between, after, bare[application.end :]))


def _changed_fields(bare: bytes, section: _Section, changes: Mapping[str, str | None]) -> bytes:
    fields = [Raw(item) for item in list_items(bare, section.value_at)] if section.end else []
    for name, value in changes.items():
        at = _FIELDS[name.lower()]
        fields += [Raw(NULL)] * (at + 1 - len(fields))
        if at == _CONTENT_TYPE and value is not None:
            if not value.isascii():
                raise InvalidArgument(f"a content type is ASCII, which '{value}' is not")
            fields[at] = Raw(encode(Symbol(value)))
        else:
            fields[at] = Raw(_encode(value))
    return encode_list(fields)


def _changed_entries(bare: bytes, section: _Section, changes: Mapping[str, Any], removed: Collection[str]) -> bytes:
    entries, added = list(map_entries(bare, section.value_at)) if section.value_at else [], dict(changes)
    parts: list[bytes] = []
    for name, raw_name, raw_value in entries:
        known = isinstance(name, str)
        if known and name in added:
            parts += (raw_name, _encode_like(raw_value, added.pop(name)))
        elif not (known and name in removed):
            parts += (raw_name, raw_value)
    for name, value in added.items():
        parts += (_encode(name), _encode(value))
    return compound_map(parts)


def _encode(value: Any) -> bytes:
    """Undo `plain` for what has no type of its own on the wire, and encode it."""
    typed = value
    if isinstance(value, timedelta):
        typed = Described(_TIMESPAN, value // timedelta(microseconds=1) * 10)
    elif type(value) is int and value >= 1 << 63:
        typed = Ulong(value)
    try:
        return encode(typed)
    except (struct.error, UnicodeEncodeError) as error:
        raise InvalidArgument(f"AMQP cannot hold {value!r:.60}") from error


def _encode_like(old: bytes, value: Any) -> bytes:
    """Encode a number with the type of the number that was there, when that can hold it."""
    if type(value) is int and old[0] in _FLOATS:
        return encode(float(value))
    wide = _INTEGERS.get(old[0])
    if type(value) is not int or wide is None:
        return _encode(value)
    try:
        return wide[:1] + _PACKERS[wide](value)
    except struct.error:
        return _encode(value)


_FLOATS = (0x72, 0x82)
_PACKERS = {
    code: Struct(layout).pack
    for code, layout in (
        (b"\x50", ">B"),
        (b"\x51", ">b"),
        (b"\x60", ">H"),
        (b"\x61", ">h"),
        (b"\x70", ">I"),
        (b"\x71", ">i"),
        (b"\x80", ">Q"),
        (b"\x81", ">q"),
    )
}
# AMQP has short forms of small integers; the full one can be written for all of them.
_INTEGERS = {code[0]: code for code in _PACKERS} | {
    0x43: b"\x70",
    0x52: b"\x70",
    0x44: b"\x80",
    0x53: b"\x80",
    0x54: b"\x71",
    0x55: b"\x81",
}
