"""Values to bytes, in their shortest form (specification part 1, 1.6)."""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

from servicebus_local.amqp.values import (
    Array,
    Byte,
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


def encode(value: Any) -> bytes:
    """Encode `value` by its Python type (see the module's table); raises `TypeError` for any other type."""
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
    if code and not array:
        return bytes([code]), b""
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
