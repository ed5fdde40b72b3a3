"""The described values inside performatives: errors, delivery states, sources and targets.

They are read from what `types.decode` returns. Descriptors may come as numbers or as names
(specification part 1, 1.3), fields left out at the end are null, and fields that are not used here
at are kept as they were, so that an answer can repeat them. What is written has all its fields,
as in `performatives`.
"""

from struct import Struct
from typing import Any, Final, NamedTuple

from servicebus_local.amqp.types import Described, Symbol, Ulong, encode, encode_list


class Error(NamedTuple):
    """Why a link, session or connection ended, or a delivery was rejected."""

    condition: str
    description: str | None = None
    info: dict[Any, Any] | None = None

    def encoded(self) -> bytes:
        """Encode all three fields: with fewer the SDK's send never returns."""
        fields = [Symbol(self.condition), self.description, self.info]
        return b"\x00\x53\x1d" + encode_list(fields)


def read_error(value: Any) -> Error | None:
    """Read an error from a decoded field; None for anything else."""
    fields = _fields_of(value)
    if not fields:
        return None
    condition, description, info = [*fields, None, None][:3]
    text = description if isinstance(description, str) else None
    return Error(str(condition), text, info if isinstance(info, dict) else None)


# --------------------------------------------------------------------------- delivery states


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
            field = encode_field(error)
            return b"\x00\x53\x25\xd0" + Struct(">II").pack(len(field) + 4, 1) + field
        case Modified(failed, undeliverable, _):
            return b"\x00\x53\x27" + encode_list([failed, undeliverable, None])


_DONE = Accepted()
_ACCEPTED, _REJECTED, _RELEASED, _MODIFIED, _TRANSACTIONAL = 0x24, 0x25, 0x26, 0x27, 0x34
_SOURCE, _TARGET = 0x28, 0x29
_NAMES: dict[str, int] = {
    "amqp:accepted:list": _ACCEPTED,
    "amqp:rejected:list": _REJECTED,
    "amqp:released:list": _RELEASED,
    "amqp:modified:list": _MODIFIED,
    "amqp:transactional-state:list": _TRANSACTIONAL,
    "amqp:source:list": _SOURCE,
    "amqp:target:list": _TARGET,
}


def _code(value: Any) -> int | None:
    """Return what a described value is, by the number of its descriptor."""
    if not isinstance(value, Described):
        return None
    descriptor = value.descriptor
    if isinstance(descriptor, int):
        return descriptor
    return _NAMES.get(descriptor) if isinstance(descriptor, str) else None


def _fields_of(value: Any) -> list[Any]:
    """Return the fields of a described list; none for anything else."""
    return value.value if isinstance(value, Described) and isinstance(value.value, list) else []


def read_outcome(value: Any) -> Outcome | None:
    """Read an outcome from a decoded field; None when it is absent or not terminal (3.4)."""
    code = _code(value)
    if code is None or not isinstance(value.value, list):
        return None
    if code == _ACCEPTED:
        return _DONE
    fields = value.value
    if code == _RELEASED:
        return Released()
    if code == _REJECTED:
        return Rejected(read_error(fields[0]) if fields else None)
    return _read_modified(fields) if code == _MODIFIED else None


def _read_modified(fields: list[Any]) -> Modified:
    failed, undeliverable, annotations = [*fields, None, None, None][:3]
    changes = annotations if isinstance(annotations, dict) and annotations else None
    return Modified(bool(failed), bool(undeliverable), changes)


def is_transactional(state: Any) -> bool:
    """Tell whether a delivery belongs to a transaction (part 4, 4.5.8)."""
    return _code(state) == _TRANSACTIONAL


# --------------------------------------------------------------------------- sources and targets


class Terminus(NamedTuple):
    """The end of a link: a source or a target (part 3, 3.5).

    What asks for a terminus that outlives its link (durable, expiry-policy, timeout) is not kept:
    links are not resumed here, and an answer tells what is.
    """

    address: str | None = None
    filters: dict[Any, Any] | None = None
    dynamic: bool = False
    distribution_mode: Any = None
    default_outcome: Any = None
    outcomes: Any = None
    capabilities: Any = None

    def as_source(self) -> Described:
        """Write this terminus as a source."""
        late = [self.distribution_mode, self.filters or None, self.default_outcome, self.outcomes, self.capabilities]
        return Described(Ulong(_SOURCE), [self.address, *[None] * 5, *late])

    def as_target(self) -> Described:
        """Write this terminus as a target."""
        return Described(Ulong(_TARGET), [self.address, *[None] * 5, self.capabilities])


def read_terminus(value: Any) -> Terminus | None:
    """Read a source or a target from a decoded field; None for anything else."""
    code = _code(value)
    if code not in (_SOURCE, _TARGET) or not isinstance(value.value, list):
        return None
    fields = [*value.value, *[None] * 11]
    address, filters = fields[0], fields[7]
    if code == _TARGET:
        return Terminus(_text(address), None, fields[4] is True, capabilities=fields[6])
    kept = filters if isinstance(filters, dict) else None
    return Terminus(_text(address), kept, fields[4] is True, fields[6], fields[8], fields[9], fields[10])


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def encode_field(field: Any) -> bytes:
    """Encode one field of a performative."""
    return field.encoded() if isinstance(field, Error) else encode(field)
