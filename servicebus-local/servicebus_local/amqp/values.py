"""Python classes for the AMQP types that Python lacks; `types` has the table."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class DecodeError(ValueError):
    """The bytes are not AMQP."""


class Symbol(str):
    """A symbol (part 1, 1.6.21); equal to the same `str`."""

    __slots__ = ()


class Uuid(bytes):
    """The sixteen bytes of a UUID, in the order of RFC 4122."""

    __slots__ = ()


class Raw(bytes):
    """One value already encoded, constructor included; encoding it copies it."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since the Unix epoch."""


class Byte(int):
    """A signed integer of 8 bits."""


class Short(int):
    """A signed integer of 16 bits."""


class Float(float):
    """A floating point number of 32 bits; a plain Python float is encoded as a double."""


class Ubyte(int):
    """An unsigned integer of 8 bits."""


class Ushort(int):
    """An unsigned integer of 16 bits."""


class Uint(int):
    """An unsigned integer of 32 bits."""


class Ulong(int):
    """An unsigned integer of 64 bits."""


class Int(int):
    """A signed integer of 32 bits; a plain Python int is encoded as a long."""


class Described(NamedTuple):
    """A value with the descriptor that says what it means."""

    descriptor: Any
    value: Any


class Array(list[Any]):
    """Values of one AMQP type, named by the constructor they share.

    The elements of constructor 0 are `Described`, all with the first one's descriptor; `inner` is
    the constructor of their values where it is known.
    """

    def __init__(self, constructor: int, values: Sequence[Any] = (), inner: int | None = None) -> None:
        super().__init__(values)
        self.constructor = constructor
        self.inner = inner
