"""Frames: cut anywhere, read by the specification's words, written so that the SDK can read them."""

from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.wire import varied_frame
from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import (
    Accepted,
    Error,
    Modified,
    Outcome,
    Rejected,
    Released,
    Terminus,
    encode_outcome,
    read_outcome,
    read_terminus,
)
from servicebus_local.amqp.frames import Frame, FrameReader, FramingError
from servicebus_local.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    SaslOutcome,
    SaslResponse,
    Transfer,
    is_sasl,
)
from servicebus_local.amqp.types import DecodeError, Described, Symbol, Uint, Ulong, Ushort, decode, encode
from tests.examples import examples

STREAM = (
    frames.AMQP_HEADER
    + frames.frame(0, Open(container_id="me", max_frame_size=Uint(512), channel_max=Ushort(1)))
    + frames.EMPTY_FRAME
    + frames.frame(7, Begin(next_outgoing_id=Uint(0), incoming_window=Uint(1), outgoing_window=Uint(1)))
)


def read_all(chunks: list[bytes]) -> list[bytes | Frame]:
    reader = FrameReader(512)
    return [unit for chunk in chunks for unit in reader.feed(chunk)]


@examples(60)
@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(edges)]
    header, opening, empty, begin = read_all(chunks)
    assert header == frames.AMQP_HEADER
    assert isinstance(opening, Frame)
    assert frames.parse(opening.body)[0] == Open("me", None, 512, 1)
    assert empty == Frame(0, b"")
    assert isinstance(begin, Frame)
    assert begin.channel == 7


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP",
        b"A1",
        frames.AMQP_HEADER + b"\x00\x00\x00\x07\x02\x00\x00\x00",
        frames.AMQP_HEADER + b"\x00\x00\x02\x01\x02\x00\x00\x00",
        frames.AMQP_HEADER + b"\x00\x00\x00\x08\x01\x00\x00\x00",
        frames.AMQP_HEADER + b"\x00\x00\x00\x08\x03\x00\x00\x00",
    ],
)
def test_a_stream_that_is_not_frames_is_a_framing_error(data: bytes) -> None:
    with pytest.raises(FramingError):
        read_all([data])


def test_a_frame_is_not_waited_for_when_its_size_is_refused() -> None:
    with pytest.raises(FramingError, match="4294967295 bytes"):
        read_all([frames.AMQP_HEADER + b"\xff\xff\xff\xff"])


def body_of(data: bytes) -> bytes:
    [_, unit] = read_all([frames.AMQP_HEADER, data])
    assert isinstance(unit, Frame)
    return unit.body


def test_transfers_are_written_as_they_are_read() -> None:
    fields = frames.transfer_fields(3, 2**28, b"\x01" * 16, settled=False)
    for more in (True, False):
        transfer, payload = frames.parse(body_of(frames.transfer_frame(1, fields, more, b"payload")))
        assert transfer == Transfer(3, 2**28, b"\x01" * 16, 0, False, more or None)
        assert payload == b"payload"


def test_dispositions_settle_one_delivery_with_its_outcome() -> None:
    data = frames.disposition_frame(1, False, 9, encode_outcome(Modified(True, False)))
    disposition, _ = frames.parse(body_of(data))
    assert isinstance(disposition, Disposition)
    assert disposition[:4] == (False, 9, None, True)
    assert read_outcome(disposition.state) == Modified(True, False)


def test_flows_carry_windows_and_credit() -> None:
    assert frames.parse(body_of(frames.flow_frame(1, (1, 2, 3, 4))))[0] == Flow(1, 2, 3, 4)
    assert frames.parse(body_of(frames.flow_frame(1, (1, 2, 3, 4), (5, 6, 7))))[0] == Flow(1, 2, 3, 4, 5, 6, 7)
    drained, _ = frames.parse(body_of(frames.drained_frame(1, (1, 2, 3, 4), 5, 6)))
    assert drained == Flow(1, 2, 3, 4, 5, 6, 0, 0, True)


def test_descriptors_are_three_bytes_for_a_client_that_does_not_read_them() -> None:
    attach = Attach(name="l", handle=Uint(0), role=True, source=Terminus("q").as_source())
    assert body_of(frames.frame(0, attach)).count(b"\x00\x53\x28") == 1
    detach = Detach(Uint(0), True, Error("amqp:not-found", "gone"))
    assert b"\x00\x53\x1d" in body_of(frames.frame(0, detach))


@pytest.mark.parametrize(
    "outcome",
    [
        Accepted(),
        Released(),
        Rejected(),
        Rejected(Error("com.microsoft:dead-letter", "why", {Symbol("a"): "b"})),
        Rejected(Error("amqp:not-allowed", "x" * 300)),
        Modified(True, True),
    ],
)
def test_outcomes_survive_the_wire(outcome: Outcome) -> None:
    assert read_outcome(decode(encode_outcome(outcome))[0]) == outcome


def test_an_error_always_has_three_fields() -> None:
    value, _ = decode(Error("amqp:internal-error").encoded())
    assert value == Described(Ulong(0x1D), ["amqp:internal-error", None, None])


def test_descriptors_may_be_written_as_names() -> None:
    body = b"\x00" + encode(Symbol("amqp:detach:list")) + encode([Uint(1), True])
    assert frames.parse(body)[0] == Detach(1, True)
    assert read_outcome(Described(Symbol("amqp:accepted:list"), [])) == Accepted()
    assert read_terminus(Described(Symbol("amqp:source:list"), ["q"])) == Terminus("q")


@pytest.mark.parametrize("dynamic", [True, False, None])
def test_a_terminus_is_read_with_what_it_asks_for(dynamic: bool | None) -> None:
    capabilities = [Symbol("queue")]
    target = Described(Ulong(0x29), ["q", Uint(2), Symbol("never"), Uint(60), dynamic, None, capabilities])
    assert read_terminus(target) == Terminus("q", None, dynamic is True, capabilities=capabilities)
    late = [Symbol("move"), {Symbol("f"): 1}, Described(Ulong(0x26), []), [Symbol("amqp:accepted:list")], capabilities]
    source = Described(Ulong(0x28), [None, None, None, None, dynamic, None, *late])
    assert read_terminus(source) == Terminus(None, {"f": 1}, dynamic is True, *[late[0], *late[2:]])


def test_an_unknown_outcome_or_terminus_reads_as_none() -> None:
    for value in (None, 1, Described(Ulong(0x23), []), Described(Ulong(0x24), "x")):
        assert read_outcome(value) is None
        assert read_terminus(value) is None


@examples(300)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"\x00\x53\x14\xc0" + rest))
def test_no_body_raises_anything_but_a_decode_error(body: bytes) -> None:
    with suppress(DecodeError):
        frames.parse(body)


PERFORMATIVES: list[Performative] = [
    Open("me", None, 512, 9, 1000, None, None, [Symbol("a")], None, {Symbol("k"): "v"}),
    Begin(1, 2, 3, 4),
    Attach("l", 1, True, 0, 1, None, None, {b"t": None}, True, 7, 8),
    Flow(1, 2, 3, 4, 5, 6, 7, 8, True, False),
    Transfer(1, 2, b"t", 0, True, False, None, None, True, False, True),
    Disposition(True, 1, 2, True, Described(Ulong(0x24), []), True),
    Detach(1, True, None),
    End(),
    Close(Described(Ulong(0x1D), ["amqp:not-found", None, None])),
    SaslInit("PLAIN", b"\0a\0b", "host"),
    SaslResponse(b"x"),
    SaslOutcome(0),
]


@pytest.mark.parametrize("performative", PERFORMATIVES, ids=lambda performative: type(performative).__name__)
@examples(25)
@given(random=st.randoms(use_true_random=False))
def test_a_performative_is_read_in_every_form(performative: Performative, random: Random) -> None:
    fields: list[Any] = [Uint(field) if type(field) is int else field for field in performative]
    typed: Performative = type(performative)(*fields)
    reader = FrameReader(65536)
    reader.frame_type = frames.SASL_TYPE if is_sasl(performative) else frames.AMQP_TYPE
    data = varied_frame(random, 3, typed, b"payload")
    [_, unit] = reader.feed(frames.AMQP_HEADER + data)
    assert isinstance(unit, Frame)
    assert unit.channel == 3
    assert frames.parse(unit.body) == (performative, b"payload")


WRITTEN: dict[str, tuple[int, bytes]] = {
    **{f"{type(full).__name__} empty": (len(full), frames.frame(0, type(full)())) for full in PERFORMATIVES},
    **{f"{type(full).__name__}": (len(full), frames.frame(0, full)) for full in PERFORMATIVES},
    "last transfer": (11, frames.transfer_frame(0, frames.transfer_fields(1, 2, b"t", True), False, b"")),
    "first transfer": (11, frames.transfer_frame(0, frames.transfer_fields(1, 2, b"t", False), True, b"")),
    "session flow": (11, frames.flow_frame(0, (1, 2, 3, 4))),
    "incoming link flow": (11, frames.flow_frame(0, (1, 2, 3, 4), (5, 6, 7))),
    "outgoing link flow": (11, frames.flow_frame(0, (1, 2, 3, 4), (5, 6, 7, 8))),
    "drained": (11, frames.drained_frame(0, (1, 2, 3, 4), 5, 6)),
    "disposition": (6, frames.disposition_frame(0, True, 9, encode_outcome(Accepted()))),
    "long disposition": (6, frames.disposition_frame(0, True, 9, encode_outcome(Rejected(Error("e", "x" * 999))))),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_performative_is_written_with_all_its_fields(name: str) -> None:
    """azure-servicebus before 7.15 indexes the list, and takes any list but list32 for list8 (`_decode.py`)."""
    count, data = WRITTEN[name]
    start = 8  # after the frame header
    assert data[start : start + 2] == b"\x00\x53"
    assert data[start + 3] in (0xC0, 0xD0)
    [fields, end] = decode(data, start + 3)
    assert (len(fields), end) == (count, len(data))


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (11, Terminus("q").as_source()),
        (11, Terminus(None).as_source()),
        (7, Terminus("q").as_target()),
        (3, decode(encode_outcome(Modified(True, False)))[0]),
        (1, decode(encode_outcome(Rejected()))[0]),
        (3, decode(Error("amqp:not-found").encoded())[0]),
    ],
    ids=["source", "no source", "target", "modified", "rejected", "error"],
)
def test_what_is_inside_of_a_performative_has_all_its_fields_too(count: int, written: Described) -> None:
    assert len(written.value) == count


@pytest.mark.parametrize("words", [2, 3, 255])
def test_an_extended_header_is_stepped_over(words: int) -> None:
    body = b"\x00\x53\x17\x45"
    size = 4 * words + len(body)
    data = size.to_bytes(4, "big") + bytes((words, 0, 0, 1)) + bytes(4 * words - 8) + body
    [_, unit] = FrameReader(2000).feed(frames.AMQP_HEADER + data)
    assert unit == Frame(1, body)


def test_a_frame_may_come_byte_by_byte() -> None:
    assert len(read_all([STREAM[at : at + 1] for at in range(len(STREAM))])) == 4
