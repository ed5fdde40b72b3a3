"""Frames: cut anywhere, read by the specification's words, written so that the SDK can read them."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.broker.amqp import frames
from local.broker.amqp.frames import (
    Accepted,
    Attach,
    Begin,
    Detach,
    Disposition,
    Error,
    Flow,
    Frame,
    FrameReader,
    FramingError,
    Modified,
    Open,
    Outcome,
    Rejected,
    Released,
    Terminus,
    Transfer,
)
from local.broker.amqp.types import DecodeError, Described, Symbol, Uint, Ulong, Ushort, decode, encode

STREAM = (
    frames.AMQP_HEADER
    + frames.frame(0, Open(container_id="me", max_frame_size=Uint(512), channel_max=Ushort(1)))
    + frames.EMPTY_FRAME
    + frames.frame(7, Begin(next_outgoing_id=Uint(0), incoming_window=Uint(1), outgoing_window=Uint(1)))
)


def read_all(chunks: list[bytes]) -> list[bytes | Frame]:
    reader = FrameReader(512)
    return [unit for chunk in chunks for unit in reader.feed(chunk)]


@settings(max_examples=60)
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
    data = frames.disposition_frame(1, False, 9, frames.encode_outcome(Modified(True, False)))
    disposition, _ = frames.parse(body_of(data))
    assert isinstance(disposition, Disposition)
    assert disposition[:4] == (False, 9, None, True)
    assert frames.read_outcome(disposition.state) == Modified(True, False)


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
    assert frames.read_outcome(decode(frames.encode_outcome(outcome))[0]) == outcome


def test_an_error_always_has_three_fields() -> None:
    value, _ = decode(Error("amqp:internal-error").encoded())
    assert value == Described(0x1D, ["amqp:internal-error", None, None])


def test_descriptors_may_be_written_as_names() -> None:
    body = b"\x00" + encode(Symbol("amqp:detach:list")) + encode([Uint(1), True])
    assert frames.parse(body)[0] == Detach(1, True)
    assert frames.read_outcome(Described(Symbol("amqp:accepted:list"), [])) == Accepted()
    assert frames.read_terminus(Described(Symbol("amqp:source:list"), ["q"])) == Terminus("q")


def test_what_is_no_outcome_or_terminus_is_none() -> None:
    for value in (None, 1, Described(Ulong(0x23), []), Described(Ulong(0x24), "x")):
        assert frames.read_outcome(value) is None
        assert frames.read_terminus(value) is None


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda rest: b"\x00\x53\x14\xc0" + rest))
def test_no_body_raises_anything_but_a_decode_error(body: bytes) -> None:
    with suppress(DecodeError):
        frames.parse(body)
