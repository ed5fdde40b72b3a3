"""AMQP 1.0 frames: a byte stream to performatives and back (specification part 2, 2.3 and 2.7).

    "AMQP" id major minor revision        a protocol header, before each layer
    size  doff type channel  performative payload…
    4 B   1 B  1 B  2 B

`FrameReader` cuts the stream, `parse` reads one body, and the `*_frame` functions write.
Performatives keep the names and the order of the specification; a field that was left
out is None. Descriptors are always written as `00 53 xx`: the Azure SDK does not read
their first two bytes, it steps over them.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final, NamedTuple, get_args, get_origin

from local.broker.amqp.types import (
    DecodeError,
    Described,
    Raw,
    Symbol,
    Uint,
    decode,
    decode_list,
    encode,
    encode_binary,
    encode_list,
    encode_uint,
)

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
EMPTY_FRAME: Final = b"\x00\x00\x00\x08\x02\x00\x00\x00"
UNLIMITED: Final = 0xFFFFFFFF

_FRAME_HEADER = Struct(">IBBH")
_SIZE = Struct(">I")
_AMQP_TYPE, _SASL_TYPE = 0, 1


class FramingError(DecodeError):
    """The stream cannot be cut into frames; nothing after this point can be read."""


# --------------------------------------------------------------------------- performatives


class Open(NamedTuple):
    """Negotiate the connection."""

    container_id: str = ""
    hostname: str | None = None
    max_frame_size: int | None = None
    channel_max: int | None = None
    idle_time_out: int | None = None
    outgoing_locales: Any = None
    incoming_locales: Any = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


class Begin(NamedTuple):
    """Begin a session on a channel."""

    remote_channel: int | None = None
    next_outgoing_id: int = 0
    incoming_window: int = 0
    outgoing_window: int = 0
    handle_max: int | None = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


class Attach(NamedTuple):
    """Attach a link to a session."""

    name: str = ""
    handle: int = 0
    role: bool = False
    snd_settle_mode: int | None = None
    rcv_settle_mode: int | None = None
    source: Any = None
    target: Any = None
    unsettled: dict[Any, Any] | None = None
    incomplete_unsettled: bool | None = None
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: dict[Any, Any] | None = None


class Flow(NamedTuple):
    """Update link credit and session windows."""

    next_incoming_id: int | None = None
    incoming_window: int = 0
    next_outgoing_id: int = 0
    outgoing_window: int = 0
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool | None = None
    echo: bool | None = None
    properties: dict[Any, Any] | None = None


class Transfer(NamedTuple):
    """Carry a message, or a part of one."""

    handle: int = 0
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool | None = None
    rcv_settle_mode: int | None = None
    state: Any = None
    resume: bool | None = None
    aborted: bool | None = None
    batchable: bool | None = None


class Disposition(NamedTuple):
    """Tell the peer what became of deliveries."""

    role: bool = False
    first: int = 0
    last: int | None = None
    settled: bool | None = None
    state: Any = None
    batchable: bool | None = None


class Detach(NamedTuple):
    """Detach a link from its session."""

    handle: int = 0
    closed: bool | None = None
    error: Any = None


class End(NamedTuple):
    """End a session."""

    error: Any = None


class Close(NamedTuple):
    """Signal that the connection is closing."""

    error: Any = None


class SaslMechanisms(NamedTuple):
    """Advertise the mechanisms the server supports."""

    sasl_server_mechanisms: Any = None


class SaslInit(NamedTuple):
    """Choose a mechanism."""

    mechanism: str | None = None
    initial_response: bytes | None = None
    hostname: str | None = None


class SaslOutcome(NamedTuple):
    """Tell how the authentication ended."""

    code: int | None = None
    additional_data: bytes | None = None


Performative = (
    Open
    | Begin
    | Attach
    | Flow
    | Transfer
    | Disposition
    | Detach
    | End
    | Close
    | SaslMechanisms
    | SaslInit
    | SaslOutcome
)

_CODES: dict[type, int] = {
    Open: 0x10,
    Begin: 0x11,
    Attach: 0x12,
    Flow: 0x13,
    Transfer: 0x14,
    Disposition: 0x15,
    Detach: 0x16,
    End: 0x17,
    Close: 0x18,
    SaslMechanisms: 0x40,
    SaslInit: 0x41,
    SaslOutcome: 0x44,
}


class _Shape:
    """How a performative is made from decoded fields, by the annotations of its class.

    `int` is a mandatory field, `dict[Any, Any] | None` may be left out, `Any` is not looked at.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._rules = [_rule(annotation) for annotation in kind.__annotations__.values()]
        self._seen: set[tuple[type, ...]] = set()

    def make(self, fields: list[Any]) -> "Performative":
        """Fill up what was left out at the end, check the types, and name the fields."""
        missing = len(self._rules) - len(fields)
        if missing < 0:
            raise DecodeError(f"{self._kind.__name__} has {len(fields)} fields")
        fields += [None] * missing
        signature = tuple(map(type, fields))
        if signature not in self._seen:  # a client sends a few kinds of each, again and again
            self._check(fields)
            if len(self._seen) < _SIGNATURES:
                self._seen.add(signature)
        made: Performative = self._kind._make(fields)
        return made

    def _check(self, fields: list[Any]) -> None:
        for field, (kind, optional) in zip(fields, self._rules, strict=True):
            if field is None and not optional:
                raise DecodeError(f"{self._kind.__name__} lacks a mandatory field")
            if field is not None and type(field) is not kind and not isinstance(field, _LOOSE.get(kind, ())):
                raise DecodeError(f"{self._kind.__name__} has {field!r:.40} where {kind.__name__} belongs")


def _rule(annotation: Any) -> tuple[type, bool]:
    """Return the class a decoded field must have, and whether it may be left out."""
    if annotation is Any:
        return object, True
    choices = get_args(annotation)
    if not choices:
        return annotation, False
    return get_origin(choices[0]) or choices[0], True


_SIGNATURES: Final = 64
_LOOSE: dict[type, type] = {object: object, str: str}  # a symbol will do for a string
_SHAPES: dict[int, _Shape] = {code: _Shape(performative) for performative, code in _CODES.items()}


# --------------------------------------------------------------------------- composite fields


class Error(NamedTuple):
    """Why a link, session or connection ended, or a delivery was rejected."""

    condition: str
    description: str | None = None
    info: dict[Any, Any] | None = None

    def encoded(self) -> bytes:
        """Encode all three fields: with fewer the SDK's send waits for ever."""
        fields = [Symbol(self.condition), self.description, self.info]
        return b"\x00\x53\x1d" + encode_list(fields)


class Accepted(NamedTuple):
    """The delivery was processed."""


class Rejected(NamedTuple):
    """The delivery is invalid, or is to be dead-lettered."""

    error: Error | None = None


class Released(NamedTuple):
    """The delivery was not and will not be processed."""


class Modified(NamedTuple):
    """The delivery was not processed, and the message changed."""

    delivery_failed: bool = False
    undeliverable_here: bool = False
    message_annotations: dict[Any, Any] | None = None


Outcome = Accepted | Rejected | Released | Modified

ACCEPTED: Final = b"\x00\x53\x24\x45"
RELEASED: Final = b"\x00\x53\x26\x45"


def encode_outcome(outcome: Outcome) -> bytes:
    """Encode the state of a delivery."""
    match outcome:
        case Accepted():
            return ACCEPTED
        case Released():
            return RELEASED
        case Rejected(error):
            return b"\x00\x53\x25\x45" if error is None else _rejected(error)
        case Modified(failed, undeliverable, _):
            return b"\x00\x53\x27" + encode_list([failed, undeliverable])


def _rejected(error: Error) -> bytes:
    fields = error.encoded()
    return b"\x00\x53\x25\xd0" + Struct(">II").pack(len(fields) + 4, 1) + fields


def read_error(value: Any) -> Error | None:
    """Read an error from a decoded field."""
    if not isinstance(value, Described) or not isinstance(value.value, list) or not value.value:
        return None
    condition, description, info = [*value.value, None, None][:3]
    return Error(str(condition), description, info if isinstance(info, dict) else None)


_OUTCOMES: dict[Any, str] = {
    0x24: "accepted",
    0x25: "rejected",
    0x26: "released",
    0x27: "modified",
    "amqp:accepted:list": "accepted",
    "amqp:rejected:list": "rejected",
    "amqp:released:list": "released",
    "amqp:modified:list": "modified",
}


def read_outcome(value: Any) -> Outcome | None:
    """Read an outcome from a decoded field; None when it is absent or not terminal."""
    if not isinstance(value, Described) or not isinstance(value.value, list):
        return None
    fields = value.value
    match _OUTCOMES.get(value.descriptor):
        case "accepted":
            return Accepted()
        case "released":
            return Released()
        case "rejected":
            return Rejected(read_error(fields[0]) if fields else None)
        case "modified":
            failed, undeliverable, annotations = [*fields, None, None, None][:3]
            return Modified(bool(failed), bool(undeliverable), annotations or None)
        case _:
            return None


class Terminus(NamedTuple):
    """The end of a link: a source or a target, as far as a broker looks at it."""

    address: str | None = None
    filters: dict[Any, Any] | None = None

    def as_source(self) -> Described:
        """Write this terminus as a source."""
        fields = [self.address, *[None] * 6, self.filters] if self.filters else [self.address]
        return Described(_SOURCE, fields)

    def as_target(self) -> Described:
        """Write this terminus as a target."""
        return Described(_TARGET, [self.address])


class _Code(int):
    """A descriptor, always two bytes long."""


_SOURCE, _TARGET = _Code(0x28), _Code(0x29)
_FILTER_FIELD = 7


def read_terminus(value: Any) -> Terminus | None:
    """Read a source or a target from a decoded field; None for anything else."""
    if not isinstance(value, Described) or not isinstance(value.value, list):
        return None
    if value.descriptor not in (_SOURCE, _TARGET, "amqp:source:list", "amqp:target:list"):
        return None
    fields = value.value
    address = fields[0] if fields and isinstance(fields[0], str) else None
    filters = fields[_FILTER_FIELD] if len(fields) > _FILTER_FIELD else None
    return Terminus(address, filters if isinstance(filters, dict) else None)


# --------------------------------------------------------------------------- reading


class Frame(NamedTuple):
    """One frame as it was cut from the stream."""

    channel: int
    body: bytes


class FrameReader:
    """Cuts a byte stream into protocol headers and frames.

    A header is expected first, and again after each call of `expect_header`.
    """

    def __init__(self, max_frame_size: int) -> None:
        self._left = b""
        self._max = max_frame_size
        self._header_next = True

    def expect_header(self) -> None:
        """Take the next eight bytes for a protocol header."""
        self._header_next = True

    def feed(self, data: bytes) -> Iterator[bytes | Frame]:
        """Yield each protocol header (as bytes) and each frame that `data` completes."""
        buffer, at = self._left + data if self._left else data, 0
        while True:
            cut = self._cut_header(buffer, at) if self._header_next else self._cut_frame(buffer, at)
            if cut is None:
                break
            unit, at = cut
            self._header_next = False
            yield unit
        self._left = buffer[at:]

    @staticmethod
    def _cut_header(buffer: bytes, at: int) -> tuple[bytes, int] | None:
        header = buffer[at : at + 8]
        if header[:4] != b"AMQP"[: len(header)]:
            raise FramingError("the peer does not speak AMQP")
        return (header, at + 8) if len(header) == 8 else None

    def _cut_frame(self, buffer: bytes, at: int) -> tuple[Frame, int] | None:
        there = len(buffer) - at
        if there < 4:
            return None
        size: int = _SIZE.unpack_from(buffer, at)[0]
        if not 8 <= size <= self._max:
            raise FramingError(f"a frame of {size} bytes, where 8 to {self._max} are allowed")
        if there < size:
            return None
        _, data_offset, _, channel = _FRAME_HEADER.unpack_from(buffer, at)
        if not 8 <= 4 * data_offset <= size:
            raise FramingError(f"a frame whose body starts at word {data_offset}")
        return Frame(channel, buffer[at + 4 * data_offset : at + size]), at + size


def parse(body: bytes) -> tuple[Performative, bytes]:
    """Read a performative and the payload that follows it."""
    if body[:2] == b"\x00\x53" and len(body) > 3:
        code, at = body[2], 3
    else:
        code, at = _long_descriptor(body)
    shape = _SHAPES.get(code)
    if shape is None:
        raise DecodeError(f"no performative has the descriptor {code!r}")
    fields, at = decode_list(body, at)
    return shape.make(fields), body[at:]


def _long_descriptor(body: bytes) -> tuple[Any, int]:
    if body[:1] != b"\x00":
        raise DecodeError("a frame body must start with a descriptor")
    descriptor, at = decode(body, 1)
    return _NAMES.get(descriptor, descriptor) if isinstance(descriptor, int | str) else None, at


_NAMES: dict[Any, int] = {
    f"amqp:{name}:list": code
    for name, code in (
        ("open", 0x10),
        ("begin", 0x11),
        ("attach", 0x12),
        ("flow", 0x13),
        ("transfer", 0x14),
        ("disposition", 0x15),
        ("detach", 0x16),
        ("end", 0x17),
        ("close", 0x18),
    )
}


# --------------------------------------------------------------------------- writing


def frame(channel: int, performative: Performative) -> bytes:
    """Write any performative; the ones on the hot path have functions of their own."""
    code, fields = _CODES[type(performative)], list(performative)
    while fields and fields[-1] is None:
        fields.pop()
    body = b"\x00\x53%c" % code + _encode_fields(fields)
    kind = _SASL_TYPE if code >= 0x40 else _AMQP_TYPE
    return _FRAME_HEADER.pack(len(body) + 8, 2, kind, channel) + body


def _encode_fields(fields: list[Any]) -> bytes:
    parts = [_encode_field(field) for field in fields]
    contents = b"".join(parts)
    return b"\xd0" + Struct(">II").pack(len(contents) + 4, len(parts)) + contents if parts else b"\x45"


def _encode_field(field: Any) -> bytes:
    if isinstance(field, Error):
        return field.encoded()
    if isinstance(field, Described) and isinstance(field.descriptor, _Code):
        return b"\x00\x53%c" % field.descriptor + encode(field.value)
    return encode(field)


def transfer_frame(channel: int, first_fields: bytes, more: bool, payload: bytes) -> bytes:
    """Write a transfer whose first five fields were encoded by `transfer_fields`."""
    fields = first_fields + (b"\x41" if more else b"")
    size = 8 + 6 + len(fields) + len(payload)
    start = _FRAME_HEADER.pack(size, 2, _AMQP_TYPE, channel)
    return b"%b\x00\x53\x14\xc0%c%c%b%b" % (start, len(fields) + 1, 6 if more else 5, fields, payload)


def transfer_fields(handle: int, delivery_id: int, tag: bytes, settled: bool) -> bytes:
    """Encode handle, delivery-id, delivery-tag, message-format and settled."""
    return b"%b%b%b\x43%b" % (
        encode_uint(handle),
        encode_uint(delivery_id),
        encode_binary(tag),
        b"\x41" if settled else b"\x42",
    )


def disposition_frame(channel: int, role: bool, delivery_id: int, state: bytes) -> bytes:
    """Settle one delivery with an encoded outcome. One frame each: the SDK stalls on ranges."""
    if len(state) > _SHORT_STATE:
        return frame(channel, Disposition(role, Uint(delivery_id), None, True, Raw(state)))
    constructor = b"\x41" if role else b"\x42"
    return b"%b\x00\x53\x15\xc0%c\x05%b\x70%b\x40\x41%b" % (
        _FRAME_HEADER.pack(22 + len(state), 2, _AMQP_TYPE, channel),
        len(state) + 9,
        constructor,
        _SIZE.pack(delivery_id),
        state,
    )


_SHORT_STATE: Final = 200


def flow_frame(channel: int, session: tuple[int, int, int, int], link: tuple[int, ...] = ()) -> bytes:
    """Write a flow: the four fields of the session, then handle, delivery-count and credit."""
    fields = b"".join(map(encode_uint, (*session, *link)))
    return _flow(channel, fields, 4 + len(link))


def drained_frame(channel: int, session: tuple[int, int, int, int], handle: int, delivery_count: int) -> bytes:
    """Write the flow that answers a drain: no credit left, none available, drain set."""
    fields = b"".join(map(encode_uint, (*session, handle, delivery_count, 0, 0)))
    return _flow(channel, fields + b"\x41", 9)


def _flow(channel: int, fields: bytes, count: int) -> bytes:
    body = b"\x00\x53\x13\xc0%c%c%b" % (len(fields) + 1, count, fields)
    return _FRAME_HEADER.pack(len(body) + 8, 2, _AMQP_TYPE, channel) + body
