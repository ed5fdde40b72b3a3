"""The codec: what goes in comes out, and no bytes can break it."""

from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.wire import varied
from servicebus_local.amqp.types import (
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
    decode,
    encode,
    skip,
)
from tests.examples import examples

ascii_text = st.text(st.characters(max_codepoint=127))
integers = st.one_of(
    st.integers(0, 2**8 - 1).map(Ubyte),
    st.integers(0, 2**16 - 1).map(Ushort),
    st.integers(0, 2**32 - 1).map(Uint),
    st.integers(0, 2**64 - 1).map(Ulong),
    st.integers(-(2**7), 2**7 - 1).map(Byte),
    st.integers(-(2**15), 2**15 - 1).map(Short),
    st.integers(-(2**31), 2**31 - 1).map(Int),
    st.integers(-(2**63), 2**63 - 1),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(allow_nan=False),
    st.floats(allow_nan=False, width=32).map(Float),
    st.sampled_from([b"\x73\0\0\0A", b"\x74" + bytes(4), b"\x84" + bytes(8), b"\x94" + bytes(16)]).map(Raw),
    st.text(),
    st.text(min_size=200, max_size=300),
    st.binary(),
    st.binary(min_size=250, max_size=300),
    ascii_text.map(Symbol),
    st.binary(min_size=16, max_size=16).map(Uuid),
    st.integers(-(2**63), 2**63 - 1).map(Timestamp),
)
arrays = st.one_of(
    st.lists(st.integers(0, 2**32 - 1)).map(lambda values: Array(0x70, values)),
    st.lists(st.integers(-(2**63), 2**63 - 1)).map(lambda values: Array(0x81, values)),
    st.lists(st.integers(-(2**63), 2**63 - 1).map(Timestamp)).map(lambda values: Array(0x83, values)),
    st.lists(ascii_text.map(Symbol)).map(lambda values: Array(0xB3, values)),
    st.lists(st.text()).map(lambda values: Array(0xB1, values)),
    st.lists(st.binary(min_size=16, max_size=16).map(Uuid)).map(lambda values: Array(0x98, values)),
    st.lists(st.none()).map(lambda values: Array(0x40, values)),
    st.lists(st.booleans()).map(lambda values: Array(0x56, values)),
    st.lists(st.integers(-(2**15), 2**15 - 1)).map(lambda values: Array(0x61, values)),
    st.lists(st.floats(allow_nan=False)).map(lambda values: Array(0x82, values)),
    st.lists(st.lists(st.text(max_size=3), max_size=3)).map(lambda values: Array(0xD0, values)),
    st.lists(st.dictionaries(st.text(max_size=3), st.booleans(), max_size=3)).map(lambda values: Array(0xD1, values)),
    st.lists(st.lists(st.booleans(), max_size=3).map(lambda inner: Array(0x56, inner))).map(
        lambda values: Array(0xF0, values)
    ),
    st.lists(st.integers(-(2**63), 2**63 - 1).map(lambda value: Described(Symbol("a:b"), value)), min_size=1).map(
        lambda values: Array(0x00, values, 0x81)
    ),
)
values = st.recursive(
    scalars | arrays,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(inner, min_size=256, max_size=260),
        st.dictionaries(st.text() | ascii_text.map(Symbol) | st.integers(-(2**63), 2**63 - 1), inner, max_size=6),
        st.builds(Described, scalars, inner),
    ),
    max_leaves=12,
)


@examples(80)
@given(values)
def test_a_value_survives_the_wire(value: Any) -> None:
    data = encode(value)
    decoded, end = decode(data)
    assert decoded == value
    assert end == skip(data) == len(data)
    for kind in (Symbol, Uuid, Timestamp, Described, Array):
        assert isinstance(decoded, kind) == isinstance(value, kind)


@examples(300)
@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_a_decode_error(data: bytes) -> None:
    try:
        _, end = decode(data)
    except DecodeError:
        return
    assert end == skip(data)


@examples(80)
@given(values, st.randoms(use_true_random=False))
def test_every_form_of_a_value_is_read(value: Any, random: Random) -> None:
    data = varied(random, value)
    assert decode(data) == (value, len(data))
    assert skip(data) == len(data)


@examples(80)
@given(values)
def test_within_a_map_every_number_keeps_its_type(value: Any) -> None:
    data = encode({"key": value})
    assert encode(decode(data)[0]) == data


@examples(200)
@given(values, st.data())
def test_what_was_read_can_always_be_written(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(encode(value))
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found, _ = decode(bytes(damaged))
    except DecodeError:
        return
    again, _ = decode(encode(found))
    assert repr(again) == repr(found)  # by its words, for not every float equals itself


@examples(100)
@given(values, st.data())
def test_a_damaged_value_is_a_value_or_a_decode_error(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(encode(value))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        decode(bytes(damaged))
    with suppress(DecodeError):
        skip(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"\x3f", "no AMQP type"),
        (b"\xa1\x05ab", "announced"),
        (b"\xa1\x01\xff", "malformed"),
        (b"\xc1\x02\x01\x40", "without a value"),
        (b"\xc1\x03\x02\x45\x40", "cannot be one"),
        (b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40", "announces 4294967295 elements"),
        (b"\xf0\x00\x00\x00\x05\x00\x00\x01\x01\x45", "announces 257 elements"),
        (b"\xf0\x00\x00\x00\x06\x00\x00\x00\x09\x50\x01", "announces 9 elements"),
        (b"\xf0\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x00\x40\x40\x40", "described"),
        (b"\xf0\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x53\x01\x00\x53\x01", "described twice"),
        (b"\x56\x02", "boolean"),
        (b"\xc0\x02\x02\x40\x40", "its size says"),
        (b"\x00" * 3000, "nested too deeply"),
        (b"\xd0\x00\x00\x10\x00\x00\x00\x00\x01" * 2000, "nested too deeply"),
        (b"\xd1\x00\x00\x10\x00\x00\x00\x00\x02\x40" * 2000, "nested too deeply"),
        (b"\xf0\x00\x00\x10\x00\x00\x00\x00\x01" * 2000, "nested too deeply"),
    ],
)
def test_invalid_bytes_are_reported_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@pytest.mark.parametrize("data", [b"", b"\xa1", b"\xa1\x05ab", b"\xb0\x00\x00\x00\x09", b"\x70\x00", b"\x3f"])
def test_nothing_is_skipped_beyond_the_end(data: bytes) -> None:
    with pytest.raises(DecodeError):
        skip(data)


@pytest.mark.parametrize("data", [b"\x74" + b"\x01" * 4, b"\x84" + b"\x02" * 8, b"\x94" + b"\x03" * 16, b"\x73\0\0\0A"])
def test_what_python_has_no_word_for_stays_as_it_was(data: bytes) -> None:
    value, _ = decode(data)
    assert isinstance(value, Raw)
    assert encode([value, 1]) == encode([Raw(data), 1])


def test_booleans_have_two_forms() -> None:
    assert [decode(data)[0] for data in (b"\x41", b"\x42", b"\x56\x01", b"\x56\x00")] == [True, False, True, False]


@pytest.mark.parametrize(
    "elements",
    [
        [2**40, -(2**40)],
        [1, 2**40],
        ["a", "b" * 300],
        [b"", b"x"],
        [True, False],
        [[], [1]],
        [Uint(0), Uint(2**31)],
        [],
    ],
)
def test_an_array_of_described_values_keeps_its_descriptor(elements: list[Any]) -> None:
    array = Array(0x00, [Described(Symbol("a:b"), element) for element in elements])
    assert decode(encode(array))[0] == array
    assert decode(encode({"key": array}))[0] == {"key": array}


@pytest.mark.parametrize("data", [b"\x00\x00\x53\x01\x53\x02\x40", b"\x00\x53\x01\x00\x53\x02\x45"])
def test_descriptors_and_what_they_describe_may_be_described(data: bytes) -> None:
    value, end = decode(data)
    assert end == skip(data) == len(data)
    assert encode(value) == data


def test_a_plausible_depth_of_nesting_is_read() -> None:
    value: Any = "deep"
    for _ in range(30):
        value = [value]
    assert decode(encode(value))[0] == value


def test_a_number_only_a_ulong_can_hold_is_written_as_one() -> None:
    assert encode([2**64 - 1]) == encode([Ulong(2**64 - 1)])


def test_an_unknown_python_type_is_refused() -> None:
    with pytest.raises(TypeError, match="no type for object"):
        encode(object())


@pytest.mark.parametrize(
    ("kind", "edges"),
    [
        (Ubyte, (0, 255)),
        (Ushort, (0, 65535)),
        (Uint, (0, 1, 255, 256, 2**32 - 1)),
        (Ulong, (0, 1, 255, 256, 2**64 - 1)),
        (Byte, (-128, 127)),
        (Short, (-(2**15), 2**15 - 1)),
        (Int, (-(2**31), -129, -128, 127, 128, 2**31 - 1)),
        (int, (-(2**63), -129, -128, 127, 128, 2**63 - 1)),
    ],
)
def test_a_number_survives_at_the_edges_of_its_forms(kind: type[int], edges: tuple[int, ...]) -> None:
    for edge in edges:
        assert decode(encode(kind(edge))) == (edge, len(encode(kind(edge))))
