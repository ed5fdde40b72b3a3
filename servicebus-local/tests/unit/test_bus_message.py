"""Messages: what the broker reads of them, what it writes, and what it leaves alone."""

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_local.amqp.types import (
    DecodeError,
    Described,
    Raw,
    Symbol,
    Timestamp,
    Ubyte,
    Uint,
    Ulong,
    Uuid,
    decode,
    decode_list,
    encode,
)
from servicebus_local.bus.message import (
    Message,
    State,
    read,
    read_batch,
    read_body,
    render,
    reply,
    with_application_properties,
)
from tests.examples import examples


def section(code: int, value: Any) -> bytes:
    return b"\x00\x53%c" % code + encode(value)


def sections(payload: bytes) -> dict[int, Any]:
    found: dict[int, Any] = {}
    at = 0
    while at < len(payload):
        described, at = decode(payload, at)
        assert isinstance(described, Described)
        found[described.descriptor] = described.value
    return found


PROPERTIES = section(0x73, ["id-1", *[None] * 9, "session-1"])
APPLICATION = section(0x74, {"tenant": "t", "weight": Raw(b"\x94" + b"\x01" * 16)})
BODY = section(0x75, b"body")
BARE = PROPERTIES + APPLICATION + BODY


def test_only_what_the_broker_needs_is_read() -> None:
    header = section(0x70, [True, Ubyte(7), Uint(1500)])
    annotations = section(
        0x72,
        {
            Symbol("x-opt-partition-key"): "p",
            Symbol("x-opt-sequence-number"): 99,
            Symbol("x-opt-scheduled-enqueue-time"): Timestamp(12_500),
        },
    )
    message = read(header + section(0x71, {Symbol("hop"): 1}) + annotations + BARE)
    assert (message.message_id, message.session_id) == ("id-1", "session-1")
    assert (message.time_to_live, message.scheduled_for) == (1.5, 12.5)
    assert message.bare == BARE
    assert message.annotations == (encode(Symbol("x-opt-partition-key")), encode("p"))


@pytest.mark.parametrize("message_id", ["text", 7, Uuid(b"\x01" * 16), b"bytes", None])
def test_a_message_id_has_one_of_four_types(message_id: Any) -> None:
    typed = Ulong(message_id) if isinstance(message_id, int) else message_id
    assert read(section(0x73, [typed]) + BODY).message_id == message_id


def test_a_message_may_consist_of_a_body_alone() -> None:
    assert read(BODY).bare == BODY
    assert read(b"").bare == b""


def test_what_is_rendered_is_the_bare_message_behind_the_brokers_words() -> None:
    message = read(section(0x70, [None, Ubyte(3), Uint(60_000)]) + BARE)
    message.sequence, message.enqueued_sequence, message.enqueued_at = 42, 41, 1000.25
    message.delivery_count = 2
    payload = render(message, 1060.25, b"\x07" * 16)
    assert payload.endswith(BARE)
    found = sections(payload)
    assert found[0x70] == [None, 3, 60_000, None, 2]
    assert found[0x71] == {"x-opt-lock-token": Uuid(b"\x07" * 16)}
    assert found[0x72] == {
        "x-opt-enqueued-time": Timestamp(1_000_250),
        "x-opt-sequence-number": 42,
        "x-opt-enqueue-sequence-number": 41,
        "x-opt-locked-until": Timestamp(1_060_250),
    }


@pytest.mark.parametrize("token", [None, b"\x07" * 16])
def test_delivery_annotations_and_the_whole_header_are_passed_on(token: bytes | None) -> None:
    sent = {Symbol("x-opt-lock-token"): Uuid(b"\x01" * 16), Symbol("trace"): "t", Symbol("hop"): [1, None]}
    message = read(section(0x70, [False, Ubyte(9), Uint(60_000), True, Uint(7)]) + section(0x71, sent) + BARE)
    found = sections(render(message.copy(), None, token))
    assert found[0x70] == [False, 9, 60_000, True, 0]
    lock = {} if token is None else {"x-opt-lock-token": Uuid(token)}
    assert found[0x71] == lock | {"trace": "t", "hop": [1, None]}


def test_states_and_sources_are_rendered_when_there_is_something_to_say() -> None:
    message = read(BODY)
    assert sections(render(message))[0x72].keys() == {
        "x-opt-enqueued-time",
        "x-opt-sequence-number",
        "x-opt-enqueue-sequence-number",
    }
    message.state, message.scheduled_for, message.dead_letter_source = State.SCHEDULED, 5.0, "orders"
    annotations = sections(render(message))[0x72]
    assert annotations["x-opt-message-state"] == 2
    assert annotations["x-opt-scheduled-enqueue-time"] == 5000
    assert annotations["x-opt-deadletter-source"] == "orders"


@examples(60)
@given(st.dictionaries(st.text(max_size=8), st.text(max_size=300), min_size=1, max_size=5))
def test_application_properties_are_added_and_everything_else_is_kept(changes: dict[str, str]) -> None:
    edited = with_application_properties(BARE, changes)
    found = sections(edited)
    kept = {"tenant": "t", "weight": Raw(b"\x94" + b"\x01" * 16)}
    assert found[0x74] == kept | changes
    assert edited.startswith(PROPERTIES)
    assert edited.endswith(BODY)


@pytest.mark.parametrize("bare", [BODY, PROPERTIES + BODY, APPLICATION, PROPERTIES, b""])
def test_application_properties_find_their_place(bare: bytes) -> None:
    edited = with_application_properties(bare, {"reason": "why"})
    assert [code for code in sections(edited) if code != 0x74] == [code for code in sections(bare) if code != 0x74]
    assert list(sections(edited)) == sorted(sections(edited))
    assert sections(edited)[0x74]["reason"] == "why"


def test_a_batch_holds_one_message_in_each_data_section() -> None:
    batch = PROPERTIES + b"".join(section(0x75, BARE + bytes(number)) for number in range(0))
    assert read_batch(batch) == []
    batch = PROPERTIES + section(0x75, BARE) + section(0x75, BODY)
    assert [message.bare for message in read_batch(batch)] == [BARE, BODY]


def test_a_request_is_read_and_answered_with_its_own_message_id() -> None:
    request = (
        section(0x73, [Uuid(b"\x05" * 16), None, None, None, "answers"])
        + section(0x74, {"operation": "op"})
        + section(0x77, {"a": 1})
    )
    properties, application, value = read_body(request)
    assert properties["reply-to"] == "answers"
    assert (application, value) == ({"operation": "op"}, {"a": 1})
    found = sections(reply(properties["message-id"], {"statusCode": 200}, [1]))
    assert found == {0x73: [None] * 5 + [Uuid(b"\x05" * 16)], 0x74: {"statusCode": 200}, 0x77: [1]}


def test_a_copy_has_the_content_and_not_the_life() -> None:
    message = read(BARE)
    message.sequence, message.delivery_count, message.state = 5, 3, State.LOCKED
    other = message.copy()
    assert (other.bare, other.message_id, other.enqueued_sequence) == (BARE, "id-1", 5)
    assert (other.sequence, other.delivery_count, other.state) == (0, 0, State.ACTIVE)
    other.sequence = 9
    assert other.copy().enqueued_sequence == 5


@pytest.mark.parametrize(
    "payload",
    [
        b"\x01",
        b"\x00\x53\x75",
        b"\x00\x53\x10\x45",
        b"\x00\xa3\x03abc\x40",
        section(0x70, "not a list"),
        section(0x70, [None, None, "soon"]),
        section(0x73, [[]]),
        section(0x72, [1]),
    ],
)
def test_bytes_that_are_not_a_message_raise_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        read(payload)


@examples(300)
@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: BARE[:60] + rest))
def test_no_bytes_raise_anything_but_a_decode_error(payload: bytes) -> None:
    for function in (read, read_batch, read_body):
        with suppress(DecodeError):
            function(payload)


def test_sections_may_be_named_in_words() -> None:
    worded = b"\x00" + encode(Symbol("amqp:properties:list")) + encode(["id-2"]) + BODY
    assert read(worded).message_id == "id-2"


def test_an_empty_message_is_small() -> None:
    assert Message(b"x" * 100).size == 100


@pytest.mark.parametrize(
    "properties",
    [
        b"",
        b"\x00\x53\x73\x45",
        b"\x00\x53\x73\xc0\x02\x01\x40",
        b"\x00\x53\x73\xc0\x08\x04\x40\x40\xa1\x01t\xa1\x00",
        b"\x00\x53\x73\xd0\x00\x00\x00\x09\x00\x00\x00\x03\x40\x40\xa1\x01t",
        b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x73\xc0\x02\x01\x40",
    ],
)
def test_a_message_without_an_id_is_given_one_and_keeps_the_rest(properties: bytes) -> None:
    body = b"\x00\x53\x75\xa0\x01x"
    message = read(properties + body)
    before = decode_list(properties, properties.index(b"\x73") + 1)[0][1:] if properties else []
    message.name()
    again = read(message.bare)
    assert re.fullmatch("[0-9a-f]{32}", again.message_id)
    assert again.message_id == message.message_id
    assert message.bare.endswith(body)
    assert decode_list(message.bare, 3)[0][1:] == before
