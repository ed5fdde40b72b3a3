"""Values and frames in all the forms the specification allows, chosen by a random generator.

The broker's own encoder writes the shortest form of everything; other clients write descriptors
as names, integers at full width, extended headers, and lists that could have been shorter.
"""

from collections.abc import Callable
from random import Random
from struct import pack
from typing import Any

from servicebus_local.amqp import performatives
from servicebus_local.amqp.performatives import Performative
from servicebus_local.amqp.types import Array, Described, Int, Symbol, Uint, Ulong, encode


def varied(random: Random, value: Any) -> bytes:
    """Encode a value in any of its forms."""
    forms = _FORMS.get(type(value))
    return encode(value) if forms is None else random.choice(forms)(random, value)


Form = Callable[[Random, Any], bytes]


def _sized(narrow: int, wide: int, encode_text: Callable[[Any], bytes]) -> list[Form]:
    def short(random: Random, value: Any) -> bytes:
        data = encode_text(value)
        return bytes((narrow, len(data))) + data if len(data) < 256 else long(random, value)

    def long(_random: Random, value: Any) -> bytes:
        data = encode_text(value)
        return bytes((wide,)) + pack(">I", len(data)) + data

    return [short, long]


def _compound(narrow: int, wide: int, parts: Callable[[Any], list[Any]]) -> list[Form]:
    def short(random: Random, value: Any) -> bytes:
        items = [varied(random, part) for part in parts(value)]
        body = b"".join(items)
        if len(body) < 255 and len(items) < 256:
            return bytes((narrow, len(body) + 1, len(items))) + body
        return bytes((wide,)) + pack(">II", len(body) + 4, len(items)) + body

    def long(random: Random, value: Any) -> bytes:
        items = [varied(random, part) for part in parts(value)]
        body = b"".join(items)
        return bytes((wide,)) + pack(">II", len(body) + 4, len(items)) + body

    return [short, long]


def _number(constructor: int, layout: str) -> Form:
    return lambda _random, value: bytes((constructor,)) + pack(layout, value)


def _shortest(_random: Random, value: Any) -> bytes:
    return encode(value)


def _described(random: Random, value: Described) -> bytes:
    return b"\x00" + varied(random, value.descriptor) + varied(random, value.value)


def _array8(random: Random, array: Array) -> bytes:
    """Write an array whose size takes one byte, if it is small enough."""
    body = encode(array)[9:]
    count = len(array)
    return bytes((0xE0, len(body) + 1, count)) + body if len(body) < 255 and count < 256 else encode(array)


_FORMS: dict[type, list[Form]] = {
    bool: [_shortest, lambda _random, value: b"\x56\x01" if value else b"\x56\x00"],
    int: [_shortest, _number(0x81, ">q")],
    Int: [_shortest, _number(0x71, ">i")],
    Uint: [_shortest, _number(0x70, ">I")],
    Ulong: [_shortest, _number(0x80, ">Q")],
    str: _sized(0xA1, 0xB1, str.encode),
    Symbol: _sized(0xA3, 0xB3, lambda value: value.encode("ascii")),
    bytes: _sized(0xA0, 0xB0, bytes),
    list: _compound(0xC0, 0xD0, list),
    dict: _compound(0xC1, 0xD1, lambda value: [part for pair in value.items() for part in pair]),
    Described: [_described],
    Array: [_shortest, _array8],
}


def varied_frame(random: Random, channel: int, performative: Performative, payload: bytes = b"") -> bytes:
    """Write a frame with a descriptor in any form, nulls or none at its end, and an extended header or none."""
    fields = list(performative)
    if random.random() < 0.5:
        while fields and fields[-1] is None:
            fields.pop()
    body = b"\x00" + _descriptor(random, performative) + varied(random, fields) + payload
    words = random.choice((2, 2, 2, 3, 5))
    extended = bytes(4 * words - 8)
    kind = performatives.is_sasl(performative)
    return pack(">IBBH", 4 * words + len(body), words, kind, channel) + extended + body


def _descriptor(random: Random, performative: Performative) -> bytes:
    name = type(performative).__name__.replace("Sasl", "sasl-").lower()
    code = performatives.write(performative)[2]
    return random.choice(
        (
            bytes((0x53, code)),
            b"\x80" + pack(">Q", code),
            varied(random, Symbol(f"amqp:{name}:list")),
        )
    )
