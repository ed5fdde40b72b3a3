"""AMQP 1.0 types: values to bytes and back (specification part 1).

    null None          boolean bool         float, double  float       string  str
    binary bytes       symbol  Symbol       list  list                 map     dict
    uuid   Uuid        timestamp Timestamp  array Array                described Described
    every integer type decodes to a plain int; encode one by wrapping it (`Uint(7)`)
    inside maps and as descriptors numbers keep their types, because those are given back to clients
    a type Python has no word for (decimals, char) stays what it was on the wire: `Raw`

Decoding never trusts a length, a count or a depth, and raises nothing but `DecodeError`; what it
returns can always be encoded.
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
        value, after = _DECODERS[buffer[at]](buffer, at + 1)
    except DecodeError:
        raise
    except (IndexError, struct.error, UnicodeDecodeError) as cause:
        raise DecodeError(f"the value at byte {at} is cut short or malformed") from cause
    return value, after


def decode_list(buffer: bytes, at: int = 0) -> tuple[list[Any], int]:
    """Decode a value that must be a list."""
    try:
        value, after = _DECODERS[buffer[at]](buffer, at + 1)
    except (IndexError, struct.error, UnicodeDecodeError):
        decode(buffer, at)  # says what is wrong
        raise
    if type(value) is not list:
        raise DecodeError(f"expected a list, found {type(value).__name__}")
    return value, after


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
    described = [Described(_as_descriptor(descriptor), value) for value in inner]
    return Array(0x00, described, inner.constructor), after


def _as_descriptor(value: Any) -> Any:
    """Keep a numeric descriptor what it was: the only numbers that describe are ulongs."""
    return Ulong(value) if type(value) is int and value >= 0 else value


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
    """Encode a signed integer of 64 bits in its shortest form, or as a ulong if only that can hold it."""
    if -128 <= value < 128:
        return b"\x55" + _UINT8.pack(value & 0xFF)
    return b"\x81" + _INT64.pack(value) if value < 2**63 else encode_ulong(value)


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
    """Encode an array; every element takes the constructor the array names, or its wide form."""
    constructor, contents = _array_contents(array)
    body = _UINT32.pack(len(array)) + constructor + contents
    return b"\xf0" + _UINT32.pack(len(body)) + body


def _array_contents(array: Array) -> tuple[bytes, bytes]:
    code = _WIDER.get(array.constructor, array.constructor)
    if code:
        return bytes([code]), b"".join(map(_ELEMENTS[code], array))
    if not array:
        return NULL, b""
    inner = array.inner or _WIDEST.get(code := encode(array[0].value)[0], code)
    constructor, contents = _array_contents(Array(inner, [described.value for described in array]))
    return b"\x00" + encode(array[0].descriptor) + constructor, contents


def _sized(narrow: bytes, wide: bytes, data: bytes) -> bytes:
    if len(data) < 256:
        return narrow + _UINT8.pack(len(data)) + data
    return wide + _UINT32.pack(len(data)) + data


def _compound(narrow: bytes, wide: bytes, parts: list[bytes]) -> bytes:
    contents, count = b"".join(parts), len(parts)
    if len(contents) < 255 and count < 256:
        return b"%b%c%c%b" % (narrow, len(contents) + 1, count, contents)
    return wide + _UINT32.pack(len(contents) + 4) + _UINT32.pack(count) + contents


def compound_list(fields: list[bytes]) -> bytes:
    """Encode a list from fields that are encoded already."""
    return _compound(b"\xc0", b"\xd0", fields)


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
    Byte: lambda value: b"\x51" + _UINT8.pack(value & 0xFF),
    Short: lambda value: b"\x61" + Struct(">h").pack(value),
    Float: lambda value: b"\x72" + Struct(">f").pack(value),
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


def _unwrapped(value: Any) -> bytes:
    """Encode without the constructor."""
    return encode(value)[1:]


def _list_body(value: list[Any]) -> bytes:
    contents = b"".join(map(encode, value))
    return _UINT32_PAIR.pack(len(contents) + 4, len(value)) + contents


def _map_body(value: dict[Any, Any]) -> bytes:
    contents = b"".join(encode(part) for pair in value.items() for part in pair)
    return _UINT32_PAIR.pack(len(contents) + 4, 2 * len(value)) + contents


# A narrow form may be too narrow for what a client's elements become here.
_WIDER = {0xA0: 0xB0, 0xA1: 0xB1, 0xA3: 0xB3, 0xC0: 0xD0, 0xC1: 0xD1, 0xE0: 0xF0}
_WIDEST = _WIDER | {
    0x43: 0x70,
    0x52: 0x70,
    0x44: 0x80,
    0x53: 0x80,
    0x54: 0x71,
    0x55: 0x81,
    0x41: 0x56,
    0x42: 0x56,
    0x45: 0xD0,
}
_ELEMENTS: dict[int, Callable[[Any], bytes]] = {
    **dict.fromkeys(range(0x40, 0x46), lambda _constant: b""),
    0x50: _packed(">B"),
    0x51: _packed(">b"),
    0x52: _packed(">B"),
    0x53: _packed(">B"),
    0x54: _packed(">b"),
    0x55: _packed(">b"),
    0x56: _packed(">?"),
    0x60: _packed(">H"),
    0x61: _packed(">h"),
    0x70: _packed(">I"),
    0x71: _packed(">i"),
    0x72: _packed(">f"),
    0x73: _unwrapped,
    0x74: _unwrapped,
    0x80: _packed(">Q"),
    0x81: _packed(">q"),
    0x82: _packed(">d"),
    0x83: _packed(">q"),
    0x84: _unwrapped,
    0x94: _unwrapped,
    0x98: bytes,
    0xB0: lambda value: _UINT32.pack(len(value)) + value,
    0xB1: lambda value: _UINT32.pack(len(value.encode())) + value.encode(),
    0xB3: lambda value: _UINT32.pack(len(value)) + value.encode("ascii"),
    0xD0: _list_body,
    0xD1: _map_body,
    0xF0: _unwrapped,
}
