import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.captured_message import CapturedMessage, file_name, read, write
from ops.errors import CommandError
from shared.bus.port import Received

NOW = datetime(2026, 11, 22, 11, 5, tzinfo=UTC)

# What AMQP strings can hold: any text but halves of surrogate pairs.
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
maybe = st.none() | words
moments = st.none() | st.datetimes(timezones=st.just(UTC))
values = words | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=10,
)
bodies = (
    st.binary(max_size=60)
    | jsons.map(lambda value: json.dumps(value).encode())
    | jsons.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
)
messages = st.builds(
    Received,
    queue=words,
    body=bodies,
    subject=maybe,
    message_id=maybe,
    correlation_id=maybe,
    session_id=maybe,
    reply_to=maybe,
    reply_to_session_id=maybe,
    content_type=maybe,
    time_to_live=st.none() | st.timedeltas(timedelta(0), timedelta(days=3650)),
    enqueued_at=moments,
    scheduled_for=moments,
    sequence_number=st.integers(0, 2**53),
    delivery_count=st.integers(0, 2**31),
    dead_letter_reason=maybe,
    dead_letter_description=maybe,
    dead_letter_source=maybe,
    state=st.sampled_from(["active", "deferred", "scheduled"]),
    properties=st.dictionaries(words, values, max_size=5),
)
capsules = st.builds(CapturedMessage, messages, words, st.datetimes(timezones=st.just(UTC)), st.booleans())


@given(capsules)
def test_what_is_captured_comes_back_without_a_difference(captured: CapturedMessage) -> None:
    again = read(write(captured))
    assert again == captured
    kinds = [type(value) for value in again.message.properties.values()]
    assert kinds == [type(value) for value in captured.message.properties.values()]


@given(capsules)
def test_a_file_survives_utf_8(captured: CapturedMessage) -> None:
    assert read(write(captured).encode().decode()) == captured


def test_a_compact_json_body_is_readable_and_needs_no_second_copy() -> None:
    content = json.loads(write(captured(b'{"question":"Wie viele Tage?","n":[1,2.5,null]}')))
    assert content["body"] == {"question": "Wie viele Tage?", "n": [1, 2.5, None]}
    assert "body_base64" not in content


@pytest.mark.parametrize("body", [b'{"a": 1}', b'{"a":1,"a":2}', b'{"a":1e2}', b'{"a":"\\u00e9"}', b"\xef\xbb\xbf{}"])
def test_json_that_would_be_written_differently_keeps_its_bytes(body: bytes) -> None:
    assert "body_base64" in json.loads(write(captured(body)))
    assert read(write(captured(body))).message.body == body


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff\x00", b'{"a":NaN}', b'"\\ud800"', b"[" * 5000])
def test_a_body_that_is_not_json_keeps_its_bytes(body: bytes) -> None:
    content = json.loads(write(captured(body)))
    assert "body" not in content
    assert read(write(captured(body))).message.body == body


@pytest.mark.parametrize("body", [b'{"question":"old"}', b'{ "question": "old" }'])
def test_an_edited_body_wins(body: bytes) -> None:
    edited = write(captured(body)).replace("old", "new")
    assert read(edited).message.body == b'{"question":"new"}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"format": 1}',
        write(CapturedMessage(Received("q", b"x"), "n", NOW)).replace("eA==", "?"),
    ],
)
def test_a_file_that_is_not_a_captured_message_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="not a captured message"):
        read(text)


def test_a_file_of_another_version_is_refused() -> None:
    with pytest.raises(CommandError, match="format 99 is not supported"):
        read('{"format": 99}')


def test_file_names_sort_by_order_and_hold_nothing_odd() -> None:
    name = file_name(Received("Dead", b"", message_id="r1/../x\x1b[2J", sequence_number=7))
    assert name == "Dead-000007-r1-x-2J.json"


def captured(body: bytes) -> CapturedMessage:
    return CapturedMessage(Received("ask", body), "127.0.0.1:5672", NOW)
