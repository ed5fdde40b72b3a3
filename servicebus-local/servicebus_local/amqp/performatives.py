"""The performatives of AMQP 1.0 and its SASL layer (specification part 2, 2.7; part 5, 5.3.3).

They keep the names and the order of the specification; a field that was left out is None.
`read` makes one from decoded fields and checks their types, `write` encodes one.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, Final, NamedTuple, get_args, get_origin

from servicebus_local.amqp.composites import encode_field
from servicebus_local.amqp.types import DecodeError


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

    mechanism: str = ""
    initial_response: bytes | None = None
    hostname: str | None = None


class SaslChallenge(NamedTuple):
    """Ask for more, in the words of the mechanism."""

    challenge: bytes | None = None


class SaslResponse(NamedTuple):
    """Answer a challenge."""

    response: bytes = b""


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
    | SaslChallenge
    | SaslResponse
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
    SaslChallenge: 0x42,
    SaslResponse: 0x43,
    SaslOutcome: 0x44,
}


class InvalidField(DecodeError):
    """A field is missing, or of a type that cannot be there."""


def read(descriptor: int | str, fields: list[Any]) -> Performative:
    """Make the performative a descriptor names (by number or by name) from its decoded fields.

    Raises `DecodeError` and `InvalidField`.
    """
    shape = _SHAPES.get(descriptor)
    if shape is None:
        raise DecodeError(f"no performative has the descriptor {descriptor!r:.40}")
    return shape.make(fields)


def is_sasl(performative: Performative) -> bool:
    """Tell whether a performative belongs into a frame of the SASL layer."""
    return _CODES[type(performative)] >= _FIRST_SASL


def write(performative: Performative) -> bytes:
    """Encode any performative, with a descriptor of three bytes and with all its fields.

    The specification lets a sender leave out the nulls at the end (part 1, 1.4), but azure-servicebus
    before 7.15 indexes the list it receives, and steps over the head of a list that is not empty.
    """
    contents = b"".join(map(encode_field, performative))
    sizes = _SIZES.pack(len(contents) + 4, len(performative))
    return b"\x00\x53%c\xd0%b%b" % (_CODES[type(performative)], sizes, contents)


_SIZES = Struct(">II")
_FIRST_SASL: Final = 0x40


_new_tuple: Callable[..., Any] = tuple.__new__  # a named one, without a look at its arguments


class _Shape:
    """How a performative is made from decoded fields, by the annotations of its class.

    `int` is a mandatory field, `dict[Any, Any] | None` may be left out, `Any` is not looked at.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._size = len(kind.__annotations__)
        self._rules = [_rule(annotation) for annotation in kind.__annotations__.values()]
        self._seen: set[tuple[type, ...]] = set()

    def make(self, fields: list[Any]) -> Performative:
        """Fill up what was left out at the end, check the types, and name the fields."""
        if len(fields) > self._size:
            raise InvalidField(f"{self._kind.__name__} has {len(fields)} fields")
        if len(fields) < self._size:
            fields += [None] * (self._size - len(fields))
        signature = tuple(map(type, fields))
        if signature not in self._seen:  # a client sends a few kinds of each, again and again
            self._check(fields)
            if len(self._seen) == _SIGNATURES:  # a peer tries them all: the common ones are added again
                self._seen.clear()
            self._seen.add(signature)
        made: Performative = _new_tuple(self._kind, fields)
        return made

    def _check(self, fields: list[Any]) -> None:
        for field, (kind, optional) in zip(fields, self._rules, strict=True):
            if field is None and not optional:
                raise InvalidField(f"{self._kind.__name__} lacks a mandatory field")
            if field is not None and type(field) is not kind and not isinstance(field, _LOOSE.get(kind, ())):
                raise InvalidField(f"{self._kind.__name__} has {field!r:.40} where {kind.__name__} belongs")


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


def _name(kind: type) -> str:
    """Return a descriptor's name, as in amqp:sasl-init:list (part 2, 2.7; part 5, 5.3.3)."""
    return f"amqp:{kind.__name__.replace('Sasl', 'sasl-').lower()}:list"


_SHAPES: dict[Any, _Shape] = {code: _Shape(kind) for kind, code in _CODES.items()}
_SHAPES |= {_name(kind): _SHAPES[code] for kind, code in _CODES.items()}
