"""Bytes to values (specification part 1, 1.6).

No length, count or depth is believed, and nothing but `DecodeError` is raised. There is a table of
decoders, by constructor, for each depth, so that depth costs nothing and has an end.
"""

import struct
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from servicebus_local.amqp.values import (
    Array,
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
)

_UINT32 = Struct(">I")
_UINT32_PAIR = Struct(">II")
_INT64 = Struct(">q")

_Decoder = Callable[[bytes, int], tuple[Any, int]]


def decode(buffer: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode the value that starts at `at`; return it and where the next one starts; raises `DecodeError`."""
    try:
        value, after = _DECODERS[buffer[at]](buffer, at + 1)
    except DecodeError:
        raise
    except (IndexError, struct.error, UnicodeDecodeError) as cause:
        raise DecodeError(f"the value at byte {at} is cut short or malformed") from cause
    return value, after


def decode_list(buffer: bytes, at: int = 0) -> tuple[list[Any], int]:
    """Decode a value that must be a list; raises `DecodeError`."""
    try:
        value, after = _DECODERS[buffer[at]](buffer, at + 1)
    except (IndexError, struct.error, UnicodeDecodeError):
        decode(buffer, at)  # says what is wrong
        raise
    if type(value) is not list:
        raise DecodeError(f"expected a list, found {type(value).__name__}")
    return value, after


def skip(buffer: bytes, at: int = 0) -> int:
    """Return where the value after the one at `at` starts, without decoding it; raises `DecodeError`."""
    try:
        after = _skip(buffer, at)
    except (IndexError, struct.error) as cause:
        raise DecodeError(f"the value at byte {at} is cut short") from cause
    if after > len(buffer):
        raise DecodeError(f"the value at byte {at} is cut short")
    return after


def _skip(buffer: bytes, at: int) -> int:
    left = 1
    while left:
        if buffer[at] == 0x00:  # described: a descriptor, then the value
            left, at = left + 1, at + 1
        else:
            left, at = left - 1, _skip_plain(buffer, at)
    return at


def _skip_plain(buffer: bytes, at: int) -> int:
    """The upper half of a constructor tells the width of what follows it (part 1, 1.2)."""
    width = buffer[at] >> 4
    if width in _FIXED_WIDTHS:
        return at + 1 + _FIXED_WIDTHS[width]
    if width in (0xA, 0xC, 0xE):
        return at + 2 + buffer[at + 1]
    if width in (0xB, 0xD, 0xF):
        return at + 5 + int(_UINT32.unpack_from(buffer, at + 1)[0])
    raise DecodeError(f"no AMQP type has the constructor 0x{buffer[at]:02x}")


_FIXED_WIDTHS = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}


def _constant(value: Any) -> _Decoder:
    return lambda _buffer, at: (value, at)


def _number(layout: str) -> _Decoder:
    number = Struct(layout)
    unpack, width = number.unpack_from, number.size
    return lambda buffer, at: (unpack(buffer, at)[0], at + width)


def _decode_small(buffer: bytes, at: int) -> tuple[int, int]:
    return buffer[at], at + 1


def _decode_boolean(buffer: bytes, at: int) -> tuple[bool, int]:
    if buffer[at] > 1:
        raise DecodeError(f"the boolean at byte {at} is {buffer[at]}")
    return buffer[at] == 1, at + 1


def _decode_timestamp(buffer: bytes, at: int) -> tuple[Timestamp, int]:
    return Timestamp(_INT64.unpack_from(buffer, at)[0]), at + 8


def _decode_uuid(buffer: bytes, at: int) -> tuple[Uuid, int]:
    return Uuid(_slice(buffer, at, at + 16)), at + 16


def _opaque(constructor: int, width: int) -> _Decoder:
    first = bytes([constructor])
    return lambda buffer, at: (Raw(first + _slice(buffer, at, at + width)), at + width)


def _slice(buffer: bytes, start: int, end: int) -> bytes:
    if end > len(buffer):
        raise DecodeError(f"{end - start} bytes are announced at {start}, the buffer ends at {len(buffer)}")
    return buffer[start:end]


def _decode_binary8(buffer: bytes, at: int) -> tuple[bytes, int]:
    end = at + 1 + buffer[at]
    if end > len(buffer):
        raise DecodeError(f"{buffer[at]} bytes are announced at {at}, the buffer ends at {len(buffer)}")
    return buffer[at + 1 : end], end


def _narrow(convert: Callable[[bytes], Any]) -> _Decoder:
    """Build a decoder for a variable-width type whose size takes one byte."""

    def decode_narrow(buffer: bytes, at: int) -> tuple[Any, int]:
        end = at + 1 + buffer[at]
        return convert(_slice(buffer, at + 1, end)), end

    return decode_narrow


def _wide(convert: Callable[[bytes], Any]) -> _Decoder:
    """Build a decoder for a variable-width type whose size takes four bytes."""

    def decode_wide(buffer: bytes, at: int) -> tuple[Any, int]:
        end = at + 4 + _UINT32.unpack_from(buffer, at)[0]
        return convert(_slice(buffer, at + 4, end)), end

    return decode_wide


def _symbol(data: bytes) -> Symbol:
    return Symbol(data.decode("ascii"))


_Decoders = list[Any]  # by constructor; and in place 256, what gives the value of a constant
_VALUES: Final = 256


def _items(buffer: bytes, at: int, end: int, count: int, decoders: _Decoders) -> list[Any]:
    """Decode `count` values that must end at `end`."""
    values: list[Any] = []
    append = values.append
    while count:
        if end - at == count and not (rest := buffer[at:end]).translate(None, _CONSTANTS):
            values.extend(map(decoders[_VALUES], rest))
            return values
        value, at = decoders[buffer[at]](buffer, at + 1)
        append(value)
        count -= 1
    if at != end:
        _at_end(at, end)
    return values


# Clients like to write every field: most of a performative is constructors without a value.
_CONSTANTS = b"\x40\x41\x42\x43\x44"


def _at_end(at: int, end: int) -> int:
    if at != end:
        raise DecodeError(f"a compound value ends at byte {at}, its size says {end}")
    return at


def _pairs(items: list[Any], at: int) -> tuple[dict[Any, Any], int]:
    if len(items) % 2:
        raise DecodeError("a map holds a key without a value")
    try:
        return dict(zip(items[::2], items[1::2], strict=True)), at
    except TypeError as cause:
        raise DecodeError("a map has a key that cannot be one") from cause


# Elements such as null take no bytes at all, so their count may not be believed beyond this.
_MANY_CONSTANTS = 256


def _elements(buffer: bytes, at: int, end: int, count: int, decoders: _Decoders) -> tuple[Array, int]:
    """Decode the shared constructor of an array, then its elements, which must end at `end`."""
    constructor, at = buffer[at], at + 1
    if constructor == 0x00:
        return _described_elements(buffer, at, end, count, decoders)
    if count > (_MANY_CONSTANTS if 0x40 <= constructor <= 0x45 else end - at):
        raise DecodeError(f"an array announces {count} elements")
    decode_one, values = decoders[constructor], Array(constructor)
    for _ in range(count):
        value, at = decode_one(buffer, at)
        values.append(value)
    return values, _at_end(at, end)


def _described_elements(buffer: bytes, at: int, end: int, count: int, decoders: _Decoders) -> tuple[Array, int]:
    if buffer[at] == 0x00:
        raise DecodeError(f"the elements at byte {at} are described by something described")
    descriptor, at = decoders[buffer[at]](buffer, at + 1)
    if buffer[at] == 0x00:
        raise DecodeError(f"the elements at byte {at} are described twice")
    inner, after = _elements(buffer, at, end, count, decoders)
    if type(descriptor) is int and descriptor >= 0:
        descriptor = Ulong(descriptor)  # the only numbers that describe are ulongs
    return Array(0x00, [Described(descriptor, value) for value in inner], inner.constructor), after


def _refuse_constructor(constructor: int) -> _Decoder:
    def refuse(_buffer: bytes, at: int) -> tuple[Any, int]:
        raise DecodeError(f"no AMQP type has the constructor 0x{constructor:02x} (byte {at - 1})")

    return refuse


def _refuse_depth(_buffer: bytes, at: int) -> tuple[Any, int]:
    raise DecodeError(f"the value at byte {at} is nested too deeply")


def _typed(layout: str, kind: Callable[[Any], Any]) -> _Decoder:
    number = Struct(layout)
    unpack, width = number.unpack_from, number.size
    return lambda buffer, at: (kind(unpack(buffer, at)[0]), at + width)


_SCALARS: dict[int, _Decoder] = {
    0x40: _constant(None),
    0x41: _constant(True),
    0x42: _constant(False),
    0x43: _constant(0),
    0x44: _constant(0),
    0x45: lambda _buffer, at: ([], at),
    0x50: _decode_small,
    0x51: _number(">b"),
    0x52: _decode_small,
    0x53: _decode_small,
    0x54: _number(">b"),
    0x55: _number(">b"),
    0x56: _decode_boolean,
    0x60: _number(">H"),
    0x61: _number(">h"),
    0x70: _number(">I"),
    0x71: _number(">i"),
    0x72: _number(">f"),
    0x73: _opaque(0x73, 4),
    0x74: _opaque(0x74, 4),
    0x80: _number(">Q"),
    0x81: _number(">q"),
    0x82: _number(">d"),
    0x83: _decode_timestamp,
    0x84: _opaque(0x84, 8),
    0x94: _opaque(0x94, 16),
    0x98: _decode_uuid,
    0xA0: _decode_binary8,
    0xA1: _narrow(bytes.decode),
    0xA3: _narrow(_symbol),
    0xB0: _wide(bytes),
    0xB1: _wide(bytes.decode),
    0xB3: _wide(_symbol),
}
_TYPED_SCALARS: dict[int, _Decoder] = _SCALARS | {
    0x43: _constant(Uint(0)),
    0x44: _constant(Ulong(0)),
    0x50: _typed(">B", Ubyte),
    0x51: _typed(">b", Byte),
    0x52: _typed(">B", Uint),
    0x53: _typed(">B", Ulong),
    0x54: _typed(">b", Int),
    0x60: _typed(">H", Ushort),
    0x61: _typed(">h", Short),
    0x70: _typed(">I", Uint),
    0x71: _typed(">i", Int),
    0x72: _typed(">f", Float),
    0x80: _typed(">Q", Ulong),
}


_SMALL_ULONGS: Final = [Ulong(number) for number in range(256)]


def _compounds(items: _Decoders, values: _Decoders, elements: _Decoders) -> dict[int, _Decoder]:
    """Build the decoders of one depth from those one deeper: for lists, for maps, for arrays."""

    def described(buffer: bytes, at: int) -> tuple[Described, int]:
        if buffer[at] == 0x53:
            descriptor, at = _SMALL_ULONGS[buffer[at + 1]], at + 2
        else:
            descriptor, at = values[buffer[at]](buffer, at + 1)
        value, at = items[buffer[at]](buffer, at + 1)
        return Described(descriptor, value), at

    def list8(buffer: bytes, at: int) -> tuple[list[Any], int]:
        end = at + 1 + buffer[at]
        return _items(buffer, at + 2, end, buffer[at + 1], items), end

    def list32(buffer: bytes, at: int) -> tuple[list[Any], int]:
        size, count = _UINT32_PAIR.unpack_from(buffer, at)
        return _items(buffer, at + 8, at + 4 + size, count, items), at + 4 + size

    def map8(buffer: bytes, at: int) -> tuple[dict[Any, Any], int]:
        end = at + 1 + buffer[at]
        return _pairs(_items(buffer, at + 2, end, buffer[at + 1], values), end)

    def map32(buffer: bytes, at: int) -> tuple[dict[Any, Any], int]:
        size, count = _UINT32_PAIR.unpack_from(buffer, at)
        return _pairs(_items(buffer, at + 8, at + 4 + size, count, values), at + 4 + size)

    def array8(buffer: bytes, at: int) -> tuple[Array, int]:
        return _elements(buffer, at + 2, at + 1 + buffer[at], buffer[at + 1], elements)

    def array32(buffer: bytes, at: int) -> tuple[Array, int]:
        size, count = _UINT32_PAIR.unpack_from(buffer, at)
        return _elements(buffer, at + 8, at + 4 + size, count, elements)

    return {
        0x00: described,
        0xC0: list8,
        0xC1: map8,
        0xD0: list32,
        0xD1: map32,
        0xE0: array8,
        0xF0: array32,
    }


_UNKNOWN: Final = [_refuse_constructor(code) for code in range(256)]


def _table(known: dict[int, _Decoder]) -> _Decoders:
    table = _UNKNOWN.copy()
    for code, decoder in known.items():
        table[code] = decoder
    constants = {code: known[code](b"", 0)[0] for code in _CONSTANTS}
    return [*table, constants.__getitem__]


def _tables() -> _Decoders:
    """Build the decoders, one set for each depth, so that depth costs nothing and has an end.

    The elements of an array are plain: their type is the array's.
    """
    deepest = dict.fromkeys((0x00, 0xC0, 0xC1, 0xD0, 0xD1, 0xE0, 0xF0), _refuse_depth)
    plain, typed, elements = _table(_SCALARS | deepest), _table(_TYPED_SCALARS | deepest), _table(_SCALARS | deepest)
    for _ in range(_DEPTH):
        in_lists, in_maps = _compounds(plain, typed, elements), _compounds(typed, typed, elements)
        plain, typed, elements = (
            _table(_SCALARS | in_lists),
            _table(_TYPED_SCALARS | in_maps),
            _table(_SCALARS | in_maps),
        )
    return plain


_DEPTH: Final = 32
_DECODERS: Final = _tables()
