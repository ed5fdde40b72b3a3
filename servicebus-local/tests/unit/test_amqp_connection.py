"""One connection from its header to its close, and what a peer may not do on the way."""

import pytest

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Accepted, Error, Terminus, read_error
from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.connection_state import ConnectionState
from servicebus_local.amqp.events import Closed, LinkAsked, LinkDetached
from servicebus_local.amqp.frames import Frame, FrameReader
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
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    Transfer,
)
from servicebus_local.amqp.types import Symbol, Uint, Ushort, encode
from tests.unit.amqp_peer import Peer, encoded

OPEN = encoded(0, Open(container_id="c"))
BEGIN = encoded(0, Begin(next_outgoing_id=Uint(0), incoming_window=Uint(1), outgoing_window=Uint(1)))


def sasl(connection: Connection, *said: Performative) -> list[Performative]:
    """Go through the SASL layer; return what the broker said in it."""
    data = frames.SASL_HEADER + b"".join(encoded(0, performative) for performative in said)
    list(connection.receive(data))
    written = connection.take()
    assert written[:8] == frames.SASL_HEADER
    reader = FrameReader(512)
    reader.frame_type = frames.SASL_TYPE
    units = list(reader.feed(written))[1:]
    return [frames.parse(unit.body)[0] for unit in units if isinstance(unit, Frame)]


# --------------------------------------------------------------------------- headers and SASL


@pytest.mark.parametrize("mechanism", ["MSSBCBS", "ANONYMOUS", "EXTERNAL"])
def test_mechanisms_without_credentials_are_accepted(mechanism: str) -> None:
    connection = Connection()
    mechanisms, outcome = sasl(connection, SaslInit(Symbol(mechanism)))
    assert mechanisms == SaslMechanisms(["MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL"])
    assert outcome == SaslOutcome(0)
    assert list(connection.receive(frames.AMQP_HEADER + OPEN)) == []
    assert (connection.state, connection.user) == (ConnectionState.OPENED, "")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ([SaslInit(Symbol("PLAIN"), b"\0name\0key")], 0),
        ([SaslInit(Symbol("PLAIN"), b"whom\0name\0key")], 0),
        ([SaslInit(Symbol("PLAIN"), b"\0name\0guess")], 1),
        ([SaslInit(Symbol("PLAIN"), b"name")], 1),
        ([SaslInit(Symbol("PLAIN"), b"\0\xff\0\xfe")], 1),
        ([SaslInit(Symbol("PLAIN"), b"\0a\0name\0key")], 1),
        ([SaslInit(Symbol("PLAIN")), SaslResponse(b"\0name\0key")], 0),
        ([SaslInit(Symbol("PLAIN")), SaslResponse(b"")], 1),
        ([SaslInit(Symbol("SCRAM-SHA-256"))], 1),
    ],
)
def test_a_password_is_judged_by_the_application(said: list[Performative], code: int) -> None:
    connection = Connection(authenticate=lambda user, password: (user, password) == ("name", "key"))
    *_, outcome = sasl(connection, *said)
    assert outcome == SaslOutcome(code)
    assert connection.closed == bool(code)
    assert connection.user == ("" if code else "name")


def test_a_password_that_did_not_come_is_asked_for() -> None:
    _, challenge = sasl(Connection(), SaslInit(Symbol("PLAIN")))
    assert challenge == SaslChallenge(b"")


def test_a_response_without_a_challenge_is_refused() -> None:
    connection = Connection()
    sasl(connection, SaslResponse(b"\0name\0key"))
    assert connection.closed


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        (b"AMQP\x00\x00\x09\x01", frames.AMQP_HEADER),
        (b"AMQP\x03\x02\x00\x00", frames.SASL_HEADER),
        (b"AMQP\x02\x01\x00\x00", frames.SASL_HEADER),
        (b"GET / HTTP/1.1\r\n\r\n", frames.SASL_HEADER),
        (b"\x16\x03\x01\x02\x00", frames.SASL_HEADER),
    ],
)
def test_another_header_is_answered_with_the_one_that_is_spoken_here(header: bytes, answer: bytes) -> None:
    connection = Connection()
    assert list(connection.receive(header)) == [Closed(None)]
    assert connection.take() == answer


@pytest.mark.parametrize("header", [frames.SASL_HEADER, b"garbage!"])
def test_after_authentication_only_amqp_is_spoken(header: bytes) -> None:
    connection = Connection()
    sasl(connection, SaslInit(Symbol("ANONYMOUS")))
    assert list(connection.receive(header)) == [Closed(None)]
    assert connection.take() == frames.AMQP_HEADER


def test_everything_may_be_pipelined() -> None:
    connection = Connection()
    attach = encoded(0, Attach("s", Uint(1), False, target=Terminus("q").as_target()))
    anonymous = encoded(0, SaslInit(Symbol("ANONYMOUS")))
    [asked] = connection.receive(frames.SASL_HEADER + anonymous + frames.AMQP_HEADER + OPEN + BEGIN + attach)
    assert isinstance(asked, LinkAsked)
    assert connection.peer == "c"


def test_frames_belong_to_the_layer_that_is_spoken() -> None:
    connection = Connection()
    list(connection.receive(frames.SASL_HEADER + OPEN))
    assert connection.closed
    peer = Peer()
    peer.send(encoded(0, SaslInit(Symbol("ANONYMOUS"))))
    assert peer.last_error() == (Close, "amqp:connection:framing-error")


# --------------------------------------------------------------------------- open


def test_an_open_tells_what_this_is() -> None:
    connection = Connection(idle_time_out=30.0)
    list(connection.receive(frames.AMQP_HEADER + OPEN))
    _, unit = FrameReader(512).feed(connection.take())
    assert isinstance(unit, Frame)
    opening, _ = frames.parse(unit.body)
    assert isinstance(opening, Open)
    assert opening.container_id == "local-broker"
    assert (opening.max_frame_size, opening.channel_max, opening.idle_time_out) == (65536, 4999, 30_000)
    assert set(opening.properties or {}) == {"product", "version"}


@pytest.mark.parametrize(
    ("opening", "condition"),
    [
        (Open("c", max_frame_size=Uint(511)), "amqp:invalid-field"),
        (Open("c", idle_time_out=Uint(19)), "amqp:not-allowed"),
    ],
)
def test_an_open_that_cannot_be_lived_with_is_answered_and_closed(opening: Open, condition: str) -> None:
    connection = Connection()
    list(connection.receive(frames.AMQP_HEADER + encoded(0, opening)))
    _, answer, close = FrameReader(512).feed(connection.take())
    assert isinstance(answer, Frame)
    assert isinstance(close, Frame)
    assert isinstance(frames.parse(answer.body)[0], Open)
    said, _ = frames.parse(close.body)
    assert isinstance(said, Close)
    error = read_error(said.error)
    assert error is not None
    assert error.condition == condition


@pytest.mark.parametrize(
    "too_early",
    [BEGIN, encoded(0, Flow()), encoded(0, Transfer()), encoded(0, Close()), frames.EMPTY_FRAME],
    ids=["begin", "flow", "transfer", "close", "heartbeat"],
)
def test_nothing_comes_before_the_open(too_early: bytes) -> None:
    connection = Connection()
    events = list(connection.receive(frames.AMQP_HEADER + too_early))
    [closed] = events
    assert isinstance(closed, Closed)
    assert closed.error is not None
    assert closed.error.condition == "amqp:illegal-state"


# --------------------------------------------------------------------------- channels


def test_sessions_are_independent_and_their_channels_told_apart() -> None:
    peer = Peer()
    peer.begin(7)
    [begin] = peer.heard(Begin)
    assert (begin.remote_channel, begin.handle_max) == (7, 255)
    one, other = peer.attach_sender(channel=1), peer.attach_sender(channel=7, name="other")
    assert peer.say(1, End()) == [LinkDetached(one)]
    assert other.attached


def test_a_channel_the_peer_cannot_hear_on_is_not_used() -> None:
    peer = Peer(begin=False, channel_max=Ushort(0))
    peer.begin(9)
    reader = FrameReader(512)
    [unit] = [unit for unit in reader.feed(frames.AMQP_HEADER + peer.connection.take()) if isinstance(unit, Frame)]
    begin, _ = frames.parse(unit.body)
    assert isinstance(begin, Begin)
    assert (unit.channel, begin.remote_channel) == (0, 9)
    peer.begin(8)
    assert peer.last_error() == (Close, "amqp:not-allowed")


def test_a_channel_may_be_used_again_after_its_end() -> None:
    peer = Peer()
    peer.say(1, End())
    peer.hear()
    peer.begin(1)
    assert peer.attach_sender().attached


@pytest.mark.parametrize(
    ("channel", "performative", "condition"),
    [
        (0, Open("again"), "amqp:illegal-state"),
        (1, Begin(None, Uint(0), Uint(1), Uint(1)), "amqp:illegal-state"),
        (2, Begin(Ushort(1), Uint(0), Uint(1), Uint(1)), "amqp:not-allowed"),
        (5000, Begin(None, Uint(0), Uint(1), Uint(1)), "amqp:connection:framing-error"),
        (5000, Flow(), "amqp:connection:framing-error"),
        (3, Attach("no session"), "amqp:illegal-state"),
        (3, Transfer(), "amqp:illegal-state"),
        (3, Disposition(), "amqp:illegal-state"),
        (3, Detach(), "amqp:illegal-state"),
        (3, End(), "amqp:illegal-state"),
        (1, Attach("too high", Uint(256)), "amqp:connection:framing-error"),
    ],
)
def test_a_frame_that_cannot_be_there_closes_the_connection(
    channel: int, performative: Performative, condition: str
) -> None:
    peer = Peer()
    events = peer.say(channel, performative)
    assert isinstance(events[-1], Closed)
    assert peer.last_error() == (Close, condition)


@pytest.mark.parametrize(
    ("body", "condition"),
    [
        (b"\x00\x53\x12" + encode(["no handle"]), "amqp:invalid-field"),
        (b"\x00\x53\x13" + encode([None, "window", Uint(0), Uint(0)]), "amqp:invalid-field"),
        (b"\x00\x53\x17" + encode([None, None]), "amqp:invalid-field"),
        (b"\x00\x53\x99\x45", "amqp:decode-error"),
        (b"\x00\x53\x14\xa1\x01x", "amqp:decode-error"),
        (b"\x00\x53\x14\xc0\x09\x05", "amqp:decode-error"),
        (b"\x00\xc0\x02\x01\x40\x45", "amqp:decode-error"),
        (b"\x45", "amqp:decode-error"),
    ],
)
def test_a_frame_that_cannot_be_read_closes_the_connection(body: bytes, condition: str) -> None:
    peer = Peer()
    peer.send((len(body) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x01" + body)
    assert peer.last_error() == (Close, condition)
    assert peer.say(1, Begin()) == []


@pytest.mark.parametrize("size", [0, 7, 65537, 0xFFFFFFFF])
def test_a_frame_of_a_forbidden_size_is_not_waited_for(size: int) -> None:
    peer = Peer()
    peer.send(size.to_bytes(4, "big"))
    assert peer.last_error() == (Close, "amqp:connection:framing-error")
    assert peer.send(b"more of the same" * 1000) == []


# --------------------------------------------------------------------------- the end


def test_a_close_detaches_everything_and_is_answered() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.hear()
    assert peer.say(0, Close()) == [LinkDetached(link), Closed(None)]
    assert peer.hear() == [(Close(), b"")]
    assert peer.connection.finished


def test_after_our_close_only_the_peers_is_waited_for() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.connection.close(Error("amqp:internal-error", "a bug"))
    assert peer.connection.pending() == [LinkDetached(link), Closed(Error("amqp:internal-error", "a bug"))]
    assert peer.transfer(0, b"on its way") == []
    assert peer.send(encoded(9, Begin()) + frames.EMPTY_FRAME) == []
    assert (peer.connection.closed, peer.connection.finished) == (True, False)
    peer.say(0, Close())
    assert peer.connection.finished
    assert len(peer.heard(Close)) == 1


def test_nothing_is_written_after_the_last_word() -> None:
    peer = Peer()
    sender, receiver = peer.attach_sender(), peer.attach_receiver(credit=1)
    peer.say(0, Close())
    peer.hear()
    receiver.send(b"t", b"x", "token")
    receiver.confirm(2**28, Accepted())
    sender.settle(0, Accepted())
    sender.detach()
    peer.connection.heartbeat()
    assert peer.connection.take() == b""


def test_a_lost_transport_detaches_everything() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    assert peer.connection.lost() == [LinkDetached(link)]
    assert peer.connection.finished


def test_output_outside_of_input_is_announced_once() -> None:
    calls: list[int] = []
    connection = Connection(on_output=lambda: calls.append(1))
    connection.heartbeat()
    connection.heartbeat()
    assert len(calls) == 1
    assert connection.take() == frames.EMPTY_FRAME * 2
    connection.heartbeat()
    assert len(calls) == 2


def test_an_error_too_long_for_the_peer_keeps_its_condition() -> None:
    peer = Peer(max_frame_size=512)
    link = peer.attach_sender()
    peer.hear()
    link.detach(Error("amqp:not-found", "x" * 600, {Symbol("why"): "y" * 600}))
    assert peer.last_error() == (Detach, "amqp:not-found")
    peer.connection.close(Error("amqp:internal-error", "x" * 600))
    assert peer.last_error() == (Close, "amqp:internal-error")


def test_an_attach_too_long_for_the_peer_ends_its_session() -> None:
    peer = Peer(max_frame_size=512)
    link = peer.ask(Attach("n" * 600, Uint(1), False, target=Terminus("q").as_target()))
    link.refuse(Error("amqp:not-found"))
    assert peer.last_error() == (End, "amqp:frame-size-too-small")
    assert peer.connection.pending() == [LinkDetached(link)]
