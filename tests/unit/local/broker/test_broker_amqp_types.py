"""The codec: what goes in comes out, and no bytes can break it."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.broker.amqp.types import (
    Array,
    DecodeError,
    Described,
    Int,
    Raw,
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

ascii_text = st.text(st.characters(max_codepoint=127))
integers = st.one_of(
    st.integers(0, 2**8 - 1).map(Ubyte),
    st.integers(0, 2**16 - 1).map(Ushort),
    st.integers(0, 2**32 - 1).map(Uint),
    st.integers(0, 2**64 - 1).map(Ulong),
    st.integers(-(2**31), 2**31 - 1).map(Int),
    st.integers(-(2**63), 2**63 - 1),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(allow_nan=False),
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


@settings(max_examples=80, deadline=None)
@given(values)
def test_a_value_survives_the_wire(value: Any) -> None:
    data = encode(value)
    decoded, end = decode(data)
    assert decoded == value
    assert end == skip(data) == len(data)
    for kind in (Symbol, Uuid, Timestamp, Described, Array):
        assert isinstance(decoded, kind) == isinstance(value, kind)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_a_decode_error(data: bytes) -> None:
    try:
        _, end = decode(data)
    except DecodeError:
        return
    assert end == skip(data)


@settings(max_examples=100, deadline=None)
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
        (b"\xc0\x02\x02\x40\x40", "its size says"),
        (b"\x00" * 3000, "nested too deeply"),
        (b"\xd0\x00\x00\x10\x00\x00\x00\x00\x01" * 2000, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, reason: str) -> None:
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


def test_an_array_of_described_values_keeps_its_descriptor() -> None:
    array = Array(0x00, [Described(Symbol("a:b"), 2**40), Described(Symbol("a:b"), -(2**40))])
    assert decode(encode(array))[0] == array


def test_an_unknown_python_type_is_refused() -> None:
    with pytest.raises(TypeError, match="no type for object"):
        encode(object())
