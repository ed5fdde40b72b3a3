"""Properties: what rules see of a message, and how it is changed without touching the rest."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
)
from servicebus_local.bus.errors import InvalidArgument
from servicebus_local.bus.properties import Properties, is_system, is_writable, plain, rewrite
from tests.examples import examples

BODY = b"\x00\x53\x75\xb0\x00\x00\x00\x04body"
FIELDS = [
    "id-1",
    b"user",
    "orders",
    "urgent",
    "replies",
    "corr-1",
    Symbol("text/plain"),
    Symbol("gzip"),
    Timestamp(5),
    Timestamp(6),
    "session-1",
    Uint(7),
    "session-2",
]


def section(code: int, value: Any) -> bytes:
    return b"\x00\x53%c" % code + encode(value)


def message(fields: list[Any] | None = None, user: dict[Any, Any] | None = None, body: bytes = BODY) -> bytes:
    properties = b"" if fields is None else section(0x73, fields)
    return properties + (b"" if user is None else section(0x74, user)) + body


def sections(bare: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    at = 0
    while at < len(bare):
        described, at = decode(bare, at)
        found[described.descriptor] = described.value
    return found


# --------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MessageId", "id-1"),
        ("To", "orders"),
        ("Label", "urgent"),
        ("Subject", "urgent"),
        ("ReplyTo", "replies"),
        ("CorrelationId", "corr-1"),
        ("ContentType", "text/plain"),
        ("SessionId", "session-1"),
        ("ReplyToSessionId", "session-2"),
    ],
)
def test_each_system_property_is_read_from_its_field(name: str, value: str) -> None:
    properties = Properties.of(message(FIELDS))
    assert properties.system(name) == value
    assert properties.system(name.upper()) == value
    assert is_system(name)
    assert is_writable(name.lower())


def test_what_a_message_does_not_have_is_none() -> None:
    short = Properties.of(message(["id-1"]))
    assert (short.system("MessageId"), short.system("To"), short.system("ReplyToSessionId")) == ("id-1", None, None)
    empty = Properties.of(BODY)
    assert (empty.system("MessageId"), dict(empty.user), empty.get("color")) == (None, {}, None)


@pytest.mark.parametrize(
    ("identifier", "text"),
    [
        (Ulong(7), "7"),
        (Uuid(bytes(range(16))), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        ("seven", "seven"),
    ],
)
def test_identifiers_of_other_types_are_text(identifier: Any, text: str) -> None:
    properties = Properties.of(message([identifier, None, None, None, None, identifier]))
    assert (properties.system("MessageId"), properties.system("CorrelationId")) == (text, text)


def test_properties_the_broker_knows_are_given_by_it() -> None:
    enqueued = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
    properties = Properties.of(message(FIELDS), {"EnqueuedTimeUtc": enqueued, "SequenceNumber": 12})
    assert properties.system("enqueuedtimeutc") == Timestamp(1_795_348_800_000)
    assert properties.system("SequenceNumber") == 12
    assert properties.system("TimeToLive") is None
    assert is_system("TimeToLive")
    assert not is_writable("TimeToLive")
    assert not is_system("Colour")


def test_application_properties_are_found_regardless_of_case() -> None:
    properties = Properties.of(message(user={"Color": "red", "COLOR": "blue", "empty": None}))
    assert properties.get("color") == "red"  # of two spellings the first one
    assert properties.get("COLOR") == "blue"  # unless one is exact
    assert (properties.spelling("cOLOR"), properties.spelling("size")) == ("Color", "size")
    assert (properties.has("EMPTY"), properties.get("EMPTY"), properties.has("size")) == (True, None, False)


def test_the_body_is_never_decoded_and_each_section_only_when_asked_for() -> None:
    nonsense = b"\x00\x53\x75\xff\xff"
    assert Properties.of(message(FIELDS, {"a": 1}, nonsense)).get("a") == 1
    broken = b"\x00\x53\x74\xc1\x03\x02\x3f\x3f"
    properties = Properties.of(section(0x73, FIELDS) + broken)
    assert properties.system("Label") == "urgent"
    with pytest.raises(DecodeError):
        properties.get("a")


def test_sections_may_be_described_at_length() -> None:
    properties = b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x73" + encode(["id-1"])
    application = b"\x00" + encode(Symbol("amqp:application-properties:map")) + encode({"a": 1})
    view = Properties.of(properties + application + BODY)
    assert (view.system("MessageId"), view.get("a")) == ("id-1", 1)


def test_application_properties_that_are_no_map_are_an_error() -> None:
    with pytest.raises(DecodeError, match="map"):
        _ = Properties.of(section(0x74, [1, 2])).user


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Symbol("word"), "word"),
        *((kind(7), 7) for kind in (Byte, Short, Int, Ubyte, Ushort, Uint, Ulong, int)),
        (Float(0.5), 0.5),
        (datetime(1970, 1, 1, 0, 0, 1), Timestamp(1000)),  # noqa: DTZ001 - the SDK's users send such
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), Timestamp(0)),
        (Described(Symbol("com.microsoft:timespan"), 10_000_000), timedelta(seconds=1)),
        (Described(Symbol("com.microsoft:datetime-offset"), 621_355_968_000_000_000), Timestamp(0)),
        (Described(Symbol("com.microsoft:uri"), "http://a/"), "http://a/"),
        (Described(Symbol("com.example:other"), 1), Described(Symbol("com.example:other"), 1)),
        (Described(Symbol("com.microsoft:timespan"), None), Described(Symbol("com.microsoft:timespan"), None)),
        (True, True),
        (None, None),
    ],
)
def test_values_are_made_plain(value: Any, expected: Any) -> None:
    made = plain(value)
    assert made == expected
    assert type(made) is type(expected)


@examples(400)
@given(
    st.binary(max_size=60)
    | st.tuples(st.integers(0, 40), st.binary(max_size=20)).map(
        lambda cut: message(FIELDS, {"a": 1})[: cut[0]] + cut[1]
    )
)
def test_arbitrary_bytes_raise_nothing_but_decode_errors(bare: bytes) -> None:
    properties = Properties.of(bare)
    reads: list[Callable[[], Any]] = [
        lambda: properties.system("MessageId"),
        lambda: properties.get("a"),
        lambda: rewrite(bare, {"Label": "x"}, {"a": 2}, {"b"}),
    ]
    for read in reads:
        with suppress(DecodeError):
            read()


# --------------------------------------------------------------------------- writing


def test_nothing_changed_is_the_same_bytes() -> None:
    bare = message(FIELDS, {"a": 1})
    assert rewrite(bare, {}, {}) == bare
    assert rewrite(BODY, {}, {}) == BODY


def test_only_what_is_named_changes() -> None:
    bare = message(FIELDS, {"a": Ubyte(1), "b": "two", "c": Raw(b"\x94" + b"\x07" * 16)})
    changed = rewrite(bare, {"label": "calm"}, {"b": "three", "d": True}, {"a"})
    before, after = sections(bare), sections(changed)
    assert after[0x73] == [*before[0x73][:3], "calm", *before[0x73][4:]]
    assert after[0x74] == {"b": "three", "c": Raw(b"\x94" + b"\x07" * 16), "d": True}
    assert changed.endswith(BODY)


def test_sections_that_are_missing_are_made_in_their_place() -> None:
    changed = rewrite(BODY, {"ReplyToSessionId": "s", "ContentType": "text/plain"}, {"a": 1})
    assert list(sections(changed)) == [0x73, 0x74, 0x75]
    view = Properties.of(changed)
    assert (view.system("ReplyToSessionId"), view.system("ContentType"), view.get("a")) == ("s", "text/plain", 1)
    assert isinstance(sections(changed)[0x73][6], Symbol)
    assert sections(rewrite(BODY, {"Label": "x"}, {}))[0x73] == [None, None, None, "x"]


def test_a_system_property_is_cleared_with_none() -> None:
    assert Properties.of(rewrite(message(FIELDS), {"To": None}, {})).system("To") is None


def test_a_content_type_must_be_ascii() -> None:
    with pytest.raises(InvalidArgument, match="ASCII"):
        rewrite(BODY, {"ContentType": "tëxt"}, {})


@pytest.mark.parametrize(
    ("old", "new", "encoded"),
    [
        (Ubyte(1), 255, b"\x50\xff"),
        (Ushort(1), 2, b"\x60\x00\x02"),
        (Uint(0), 2, b"\x70\x00\x00\x00\x02"),
        (Ulong(3), 2, b"\x80" + bytes(7) + b"\x02"),
        (Int(3), -2, b"\x71\xff\xff\xff\xfe"),
        (Raw(b"\x51\x03"), -2, b"\x51\xfe"),
        (Raw(b"\x61\x00\x03"), -2, b"\x61\xff\xfe"),
        (1.5, 2, encode(2.0)),
        (Raw(b"\x72\x00\x00\x00\x00"), 2, encode(2.0)),
        (Ubyte(1), 256, encode(256)),
        (Uint(1), -1, encode(-1)),
        (1, 2.5, encode(2.5)),
        ("1", 2, encode(2)),
        (1, "two", encode("two")),
        (1, True, encode(True)),
        (1, None, encode(None)),
    ],
)
def test_a_number_keeps_the_type_of_the_one_it_replaces_if_it_fits(old: Any, new: Any, encoded: bytes) -> None:
    changed = rewrite(message(user={"n": old}), {}, {"n": new})
    assert changed == b"\x00\x53\x74\xc1%c\x02" % (len(encoded) + 4) + b"\xa1\x01n" + encoded + BODY


@pytest.mark.parametrize(
    "value", [2**64 - 1, -(2**63), timedelta(days=-3, microseconds=7), Uuid(bytes(16)), Timestamp(9), b"\x00", 0.5]
)
def test_every_value_an_expression_can_have_can_be_written(value: Any) -> None:
    read = Properties.of(rewrite(BODY, {}, {"v": value})).get("v")
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("value", [2**64, Timestamp(2**63), timedelta.max, "\ud800"])
def test_what_amqp_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="AMQP cannot hold"):
        rewrite(BODY, {}, {"v": value})


def test_text_that_utf_8_cannot_encode_is_refused_everywhere() -> None:
    for changes in ({"Label": "\ud800"}, {}):
        with pytest.raises(InvalidArgument, match="AMQP cannot hold"):
            rewrite(BODY, changes, {"\ud800": 1})


def test_entries_whose_names_are_no_text_are_left_alone() -> None:
    bare = message(user={1: "one", "a": 2})
    assert sections(rewrite(bare, {}, {"a": 3}, {"b"}))[0x74] == {1: "one", "a": 3}
    array_key = b"\x00\x53\x74\xc1\x07\x02\xe0\x03\x01\x50\x05\x40" + BODY
    assert rewrite(array_key, {}, {"a": None}, {"b"}).endswith(b"\xe0\x03\x01\x50\x05\x40\xa1\x01a\x40" + BODY)
    assert decode(b"\xe0\x03\x01\x50\x05")[0] == Array(0x50, [5])


def test_properties_that_are_no_list_cannot_be_changed() -> None:
    with pytest.raises(DecodeError, match="list"):
        rewrite(section(0x73, {"a": 1}), {"Label": "x"}, {})


texts = st.text(max_size=6)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts


@examples(150)
@given(
    fields=st.lists(st.none() | texts, max_size=13),
    user=st.dictionaries(texts, scalars, max_size=5),
    system_changes=st.dictionaries(
        st.sampled_from(["MessageId", "To", "Label", "ReplyTo", "CorrelationId", "SessionId", "ReplyToSessionId"]),
        st.none() | st.text(max_size=300),
        max_size=3,
    ),
    user_changes=st.dictionaries(texts, scalars, max_size=3),
    removed=st.sets(texts, max_size=3),
    body=st.binary(max_size=20),
)
def test_what_is_written_is_read_again_and_the_rest_is_as_it_was(
    fields: list[Any],
    user: dict[str, Any],
    system_changes: dict[str, str | None],
    user_changes: dict[str, Any],
    removed: set[str],
    body: bytes,
) -> None:
    bare = message(fields, user, section(0x75, body))
    changed = rewrite(bare, system_changes, user_changes, removed - set(user_changes))
    before, after = Properties.of(bare), Properties.of(changed)
    expected = {name: value for name, value in user.items() if name not in removed} | user_changes
    assert dict(after.user) == expected
    for name in ("MessageId", "To", "Label", "ReplyTo", "CorrelationId", "SessionId", "ReplyToSessionId"):
        assert after.system(name) == system_changes.get(name, before.system(name))
    assert changed.endswith(section(0x75, body))
