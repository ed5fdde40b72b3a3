"""AMQP 1.0 types: values to bytes and back (specification part 1).

    null None          boolean bool         float, double  float       string  str
    binary bytes       symbol  Symbol       list  list                 map     dict
    uuid   Uuid        timestamp Timestamp  array Array                described Described
    every integer type decodes to a plain int; encode one by wrapping it (`Uint(7)`)
    a type Python has no word for (decimals) stays what it was on the wire: `Raw`

Decoding never trusts a length or a count, and raises nothing but `DecodeError`.
"""

import struct
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple


class DecodeError(ValueError):
    """The bytes are not AMQP."""


class Symbol(str):
    """A word from a constrained domain; equal to the same `str`."""

    __slots__ = ()


class Uuid(bytes):
    """The sixteen bytes of a UUID, in the order of RFC 4122."""

    __slots__ = ()


class Raw(bytes):
    """One value already encoded, constructor included; encoding it copies it."""

    __slots__ = ()


class Timestamp(int):
    """Milliseconds since the Unix epoch."""


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
    """Values of one AMQP type, named by the constructor they share."""

    def __init__(self, constructor: int, values: Sequence[Any] = ()) -> None:
        super().__init__(values)
        self.constructor = constructor


NULL: Final = b"\x40"
TRUE: Final = b"\x41"
FALSE: Final = b"\x42"

_UINT8 = Struct(">B")
_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_UINT32_PAIR = Struct(">II")
_UINT64 = Struct(">Q")
_INT32 = Struct(">i")
_INT64 = Struct(">q")

# --------------------------------------------------------------------------- bytes to values

_Decoder = Callable[[bytes, int], tuple[Any, int]]


def decode(buffer: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode the value that starts at `at`; return it and where the next one starts."""
    try:
        return _DECODERS[buffer[at]](buffer, at + 1)
    except DecodeError:
        raise
    except (IndexError, struct.error, UnicodeDecodeError) as cause:
        raise DecodeError(f"the value at byte {at} is cut short or malformed") from cause
    except RecursionError as cause:
        raise DecodeError(f"the value at byte {at} is nested too deeply") from cause


def decode_list(buffer: bytes, at: int = 0) -> tuple[list[Any], int]:
    """Decode a value that must be a list."""
    value, at = decode(buffer, at)
    if type(value) is not list:
        raise DecodeError(f"expected a list, found {type(value).__name__}")
    return value, at


def skip(buffer: bytes, at: int = 0) -> int:
    """Return where the value after the one at `at` starts, without decoding it."""
    try:
        after = _skip(buffer, at)
    except (IndexError, struct.error) as cause:
        raise DecodeError(f"the value at byte {at} is cut short") from cause
    if after > len(buffer):
        raise DecodeError(f"the value at byte {at} is cut short")
    return after


def _skip(buffer: bytes, at: int) -> int:
    code = buffer[at]
    while code == 0x00:  # described: a descriptor, then the value
        at = _skip_plain(buffer, at + 1)
        code = buffer[at]
    return _skip_plain(buffer, at)


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
    return buffer[at] == 1, at + 1


def _decode_timestamp(buffer: bytes, at: int) -> tuple[Timestamp, int]:
    return Timestamp(_INT64.unpack_from(buffer, at)[0]), at + 8


def _decode_uuid(buffer: bytes, at: int) -> tuple[Uuid, int]:
    return Uuid(_slice(buffer, at, at + 16)), at + 16


def _decode_char(buffer: bytes, at: int) -> tuple[Raw, int]:
    return Raw(b"\x73" + _slice(buffer, at, at + 4)), at + 4


def _opaque(constructor: int, width: int) -> _Decoder:
    first = bytes([constructor])
    return lambda buffer, at: (Raw(first + _slice(buffer, at, at + width)), at + width)


def _slice(buffer: bytes, start: int, end: int) -> bytes:
    if end > len(buffer):
        raise DecodeError(f"{end - start} bytes are announced at {start}, the buffer ends at {len(buffer)}")
    return buffer[start:end]


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


def _items(buffer: bytes, at: int, end: int, count: int) -> list[Any]:
    """Decode `count` values that must end at `end`."""
    values: list[Any] = []
    while count:
        if end - at == count and not (rest := buffer[at:end]).translate(None, _CONSTANTS):
            values.extend(map(_CONSTANT_VALUES.__getitem__, rest))
            return values
        value, at = _DECODERS[buffer[at]](buffer, at + 1)
        values.append(value)
        count -= 1
    _at_end(at, end)
    return values


# Clients like to write every field: most of a performative is constructors without a value.
_CONSTANT_VALUES = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
_CONSTANTS = bytes(_CONSTANT_VALUES)


def _decode_list8(buffer: bytes, at: int) -> tuple[list[Any], int]:
    end = at + 1 + buffer[at]
    return _items(buffer, at + 2, end, buffer[at + 1]), end


def _decode_list32(buffer: bytes, at: int) -> tuple[list[Any], int]:
    size, count = _UINT32_PAIR.unpack_from(buffer, at)
    return _items(buffer, at + 8, at + 4 + size, count), at + 4 + size


def _decode_map8(buffer: bytes, at: int) -> tuple[dict[Any, Any], int]:
    return _pairs(*_decode_list8(buffer, at))


def _decode_map32(buffer: bytes, at: int) -> tuple[dict[Any, Any], int]:
    return _pairs(*_decode_list32(buffer, at))


def _pairs(items: list[Any], at: int) -> tuple[dict[Any, Any], int]:
    if len(items) % 2:
        raise DecodeError("a map holds a key without a value")
    try:
        return dict(zip(items[::2], items[1::2], strict=True)), at
    except TypeError as cause:
        raise DecodeError("a map has a key that cannot be one") from cause


def _decode_described(buffer: bytes, at: int) -> tuple[Described, int]:
    descriptor, at = _DECODERS[buffer[at]](buffer, at + 1)
    value, at = _DECODERS[buffer[at]](buffer, at + 1)
    return Described(descriptor, value), at


def _decode_array8(buffer: bytes, at: int) -> tuple[Array, int]:
    return _elements(buffer, at + 2, at + 1 + buffer[at], buffer[at + 1])


def _decode_array32(buffer: bytes, at: int) -> tuple[Array, int]:
    size, count = _UINT32_PAIR.unpack_from(buffer, at)
    return _elements(buffer, at + 8, at + 4 + size, count)


# Elements such as null take no bytes at all, so a count may not be believed beyond this.
_LARGEST_ARRAY = 65536


def _elements(buffer: bytes, at: int, end: int, count: int) -> tuple[Array, int]:
    if count > _LARGEST_ARRAY:
        raise DecodeError(f"an array announces {count} elements")
    constructor, at = buffer[at], at + 1
    if constructor == 0x00:
        return _described_elements(buffer, at, end, count)
    decode_one, values = _DECODERS[constructor], Array(constructor)
    for _ in range(count):
        value, at = decode_one(buffer, at)
        values.append(value)
    return values, _at_end(at, end)


def _described_elements(buffer: bytes, at: int, end: int, count: int) -> tuple[Array, int]:
    descriptor, at = _DECODERS[buffer[at]](buffer, at + 1)
    inner, after = _elements(buffer, at, end, count)
    return Array(0x00, [Described(descriptor, value) for value in inner]), after


def _at_end(at: int, end: int) -> int:
    if at != end:
        raise DecodeError(f"a compound value ends at byte {at}, its size says {end}")
    return at


def _unknown(constructor: int) -> _Decoder:
    def refuse(_buffer: bytes, at: int) -> tuple[Any, int]:
        raise DecodeError(f"no AMQP type has the constructor 0x{constructor:02x} (byte {at - 1})")

    return refuse


_KNOWN: dict[int, _Decoder] = {
    0x00: _decode_described,
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
    0x73: _decode_char,
    0x74: _opaque(0x74, 4),
    0x80: _number(">Q"),
    0x81: _number(">q"),
    0x82: _number(">d"),
    0x83: _decode_timestamp,
    0x84: _opaque(0x84, 8),
    0x94: _opaque(0x94, 16),
    0x98: _decode_uuid,
    0xA0: _narrow(bytes),
    0xA1: _narrow(bytes.decode),
    0xA3: _narrow(_symbol),
    0xB0: _wide(bytes),
    0xB1: _wide(bytes.decode),
    0xB3: _wide(_symbol),
    0xC0: _decode_list8,
    0xC1: _decode_map8,
    0xD0: _decode_list32,
    0xD1: _decode_map32,
    0xE0: _decode_array8,
    0xF0: _decode_array32,
}
_DECODERS: list[_Decoder] = [_KNOWN.get(code) or _unknown(code) for code in range(256)]

# --------------------------------------------------------------------------- values to bytes


def encode(value: Any) -> bytes:
    """Encode `value` by its Python type (see the module's table)."""
    try:
        return _ENCODERS[type(value)](value)
    except KeyError:
        raise TypeError(f"AMQP has no type for {type(value).__name__}") from None


def encode_uint(value: int) -> bytes:
    """Encode an unsigned integer of 32 bits in its shortest form."""
    if value == 0:
        return b"\x43"
    return b"\x52" + _UINT8.pack(value) if value < 256 else b"\x70" + _UINT32.pack(value)


def encode_ulong(value: int) -> bytes:
    """Encode an unsigned integer of 64 bits in its shortest form."""
    if value == 0:
        return b"\x44"
    return b"\x53" + _UINT8.pack(value) if value < 256 else b"\x80" + _UINT64.pack(value)


def encode_int(value: int) -> bytes:
    """Encode a signed integer of 32 bits in its shortest form."""
    return b"\x54" + _UINT8.pack(value & 0xFF) if -128 <= value < 128 else b"\x71" + _INT32.pack(value)


def encode_long(value: int) -> bytes:
    """Encode a signed integer of 64 bits in its shortest form."""
    return b"\x55" + _UINT8.pack(value & 0xFF) if -128 <= value < 128 else b"\x81" + _INT64.pack(value)


def encode_boolean(value: bool) -> bytes:
    """Encode a boolean in its shortest form."""
    return TRUE if value else FALSE


def encode_binary(value: bytes) -> bytes:
    """Encode bytes as binary in its shortest form."""
    return _sized(b"\xa0", b"\xb0", value)


def encode_string(value: str) -> bytes:
    """Encode text as a string in its shortest form."""
    return _sized(b"\xa1", b"\xb1", value.encode())


def encode_symbol(value: str) -> bytes:
    """Encode text as a symbol in its shortest form."""
    return _sized(b"\xa3", b"\xb3", value.encode("ascii"))


def encode_timestamp(value: int) -> bytes:
    """Encode milliseconds since the Unix epoch."""
    return b"\x83" + _INT64.pack(value)


def encode_list(values: Sequence[Any]) -> bytes:
    """Encode a list whose trailing nulls, if any, are kept."""
    return b"\x45" if not values else _compound(b"\xc0", b"\xd0", list(map(encode, values)))


def encode_map(values: dict[Any, Any]) -> bytes:
    """Encode a map in the order of its keys."""
    return _compound(b"\xc1", b"\xd1", [encode(part) for pair in values.items() for part in pair])


def encode_array(array: Array) -> bytes:
    """Encode an array; every element takes the constructor the array names."""
    constructor, contents = _array_contents(array)
    body = _UINT32.pack(len(array)) + constructor + contents
    return b"\xf0" + _UINT32.pack(len(body)) + body


def _array_contents(array: Array) -> tuple[bytes, bytes]:
    if array.constructor != 0x00:
        pack = _ELEMENTS[array.constructor]
        return bytes([array.constructor]), b"".join(map(pack, array))
    first = array[0]
    shared = Array(encode(first.value)[0], [described.value for described in array])
    constructor, contents = _array_contents(shared)
    return b"\x00" + encode(first.descriptor) + constructor, contents


def _sized(narrow: bytes, wide: bytes, data: bytes) -> bytes:
    if len(data) < 256:
        return narrow + _UINT8.pack(len(data)) + data
    return wide + _UINT32.pack(len(data)) + data


def _compound(narrow: bytes, wide: bytes, parts: list[bytes]) -> bytes:
    contents, count = b"".join(parts), len(parts)
    if len(contents) < 255 and count < 256:
        return b"%b%c%c%b" % (narrow, len(contents) + 1, count, contents)
    return wide + _UINT32.pack(len(contents) + 4) + _UINT32.pack(count) + contents


def compound_map(pairs: list[bytes]) -> bytes:
    """Encode a map from keys and values that are encoded already, in turn."""
    return _compound(b"\xc1", b"\xd1", pairs)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _none: NULL,
    bool: encode_boolean,
    int: encode_long,
    float: lambda value: b"\x82" + Struct(">d").pack(value),
    str: encode_string,
    bytes: encode_binary,
    bytearray: lambda value: encode_binary(bytes(value)),
    Symbol: encode_symbol,
    Uuid: lambda value: b"\x98" + value,
    Raw: bytes,
    Timestamp: encode_timestamp,
    Ubyte: lambda value: b"\x50" + _UINT8.pack(value),
    Ushort: lambda value: b"\x60" + _UINT16.pack(value),
    Uint: encode_uint,
    Ulong: encode_ulong,
    Int: encode_int,
    list: encode_list,
    tuple: encode_list,
    dict: encode_map,
    Array: encode_array,
    Described: lambda value: b"\x00" + encode(value.descriptor) + encode(value.value),
}


def _packed(layout: str) -> Callable[[Any], bytes]:
    return Struct(layout).pack


_ELEMENTS: dict[int, Callable[[Any], bytes]] = {
    0x40: lambda _null: b"",
    0x50: _packed(">B"),
    0x54: _packed(">b"),
    0x55: _packed(">b"),
    0x56: _packed(">?"),
    0x60: _packed(">H"),
    0x70: _packed(">I"),
    0x71: _packed(">i"),
    0x80: _packed(">Q"),
    0x81: _packed(">q"),
    0x82: _packed(">d"),
    0x83: _packed(">q"),
    0x98: bytes,
    0xA0: lambda value: _UINT8.pack(len(value)) + value,
    0xA1: lambda value: _UINT8.pack(len(value.encode())) + value.encode(),
    0xA3: lambda value: _UINT8.pack(len(value)) + value.encode("ascii"),
    0xB0: lambda value: _UINT32.pack(len(value)) + value,
    0xB1: lambda value: _UINT32.pack(len(value.encode())) + value.encode(),
    0xB3: lambda value: _UINT32.pack(len(value)) + value.encode("ascii"),
}
