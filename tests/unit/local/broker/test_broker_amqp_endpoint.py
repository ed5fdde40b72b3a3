"""The connection as a state machine: bytes in, events and bytes out, and never an exception."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.broker.amqp import frames
from local.broker.amqp.endpoint import (
    MAX_MESSAGE_SIZE,
    Closed,
    Connection,
    CreditChanged,
    Event,
    IncomingLink,
    LinkAsked,
    LinkDetached,
    MessageArrived,
    OutcomeArrived,
    OutgoingLink,
)
from local.broker.amqp.frames import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Frame,
    FrameReader,
    Open,
    Performative,
    Rejected,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Terminus,
    Transfer,
)
from local.broker.amqp.types import Described, Symbol, Ubyte, Uint, Ulong, encode

ANONYMOUS = frames.frame(0, SaslInit(Symbol("ANONYMOUS")))


class Peer:
    """The other end, written by hand: it sends performatives and reads what comes back."""

    def __init__(self, *, max_frame_size: int = 65536, window: int = 1000) -> None:
        self.connection = Connection()
        self._reader = FrameReader(1 << 24)
        self.send(frames.AMQP_HEADER)
        self.say(0, Open(container_id="peer", max_frame_size=Uint(max_frame_size)))
        self.say(
            1,
            Begin(next_outgoing_id=Uint(0), incoming_window=Uint(window), outgoing_window=Uint(1000)),
        )
        self.hear()

    def send(self, data: bytes) -> list[Event]:
        return list(self.connection.receive(data))

    def say(self, channel: int, performative: Performative, payload: bytes = b"") -> list[Event]:
        data = frames.frame(channel, performative) + payload
        return self.send(len(data).to_bytes(4, "big") + data[4:])

    def hear(self) -> list[tuple[Performative, bytes]]:
        units = self._reader.feed(self.connection.take())
        return [frames.parse(unit.body) for unit in units if isinstance(unit, Frame) and unit.body]

    def attach_sender(self) -> IncomingLink:
        [asked] = self.say(
            1,
            Attach("s", Uint(1), False, source=Terminus("me").as_source(), target=Terminus("q").as_target()),
        )
        assert isinstance(asked, LinkAsked)
        assert isinstance(asked.link, IncomingLink)
        asked.link.accept()
        return asked.link

    def attach_receiver(self, credit: int = 0, **modes: Any) -> OutgoingLink:
        [asked] = self.say(
            1,
            Attach("r", Uint(2), True, source=Terminus("q").as_source(), target=Terminus("me").as_target(), **modes),
        )
        assert isinstance(asked, LinkAsked)
        assert isinstance(asked.link, OutgoingLink)
        asked.link.accept()
        if credit:
            self.give(credit)
        return asked.link

    def give(self, credit: int, seen: int = 0, *, drain: bool = False, window: int = 1000, got: int = 0) -> list[Event]:
        flow = Flow(Uint(got), Uint(window), Uint(0), Uint(9), Uint(2), Uint(seen), Uint(credit), None, drain)
        return self.say(1, flow)

    def transfer(self, number: int, payload: bytes, *, more: bool = False, settled: bool = False) -> list[Event]:
        return self.say(1, Transfer(Uint(1), Uint(number), b"t", Uint(0), settled, more), payload)


def test_authentication_lets_everybody_in() -> None:
    connection, reader = Connection(), FrameReader(512)
    assert list(connection.receive(frames.SASL_HEADER)) == []
    header, mechanisms = reader.feed(connection.take())
    assert header == frames.SASL_HEADER
    assert isinstance(mechanisms, Frame)
    assert frames.parse(mechanisms.body)[0] == SaslMechanisms(["ANONYMOUS", "MSSBCBS", "PLAIN"])
    assert list(connection.receive(ANONYMOUS + frames.AMQP_HEADER)) == []
    outcome = next(iter(reader.feed(connection.take())))
    assert isinstance(outcome, Frame)
    assert frames.parse(outcome.body)[0] == SaslOutcome(0)


def test_everything_may_be_pipelined() -> None:
    connection = Connection()
    attach = Attach("s", Uint(1), False, target=Terminus("q").as_target())
    data = (
        frames.SASL_HEADER
        + ANONYMOUS
        + frames.AMQP_HEADER
        + frames.frame(0, Open(container_id="c"))
        + frames.frame(0, Begin(next_outgoing_id=Uint(0), incoming_window=Uint(1), outgoing_window=Uint(1)))
        + frames.frame(0, attach)
    )
    [asked] = connection.receive(data)
    assert isinstance(asked, LinkAsked)
    assert connection.peer == "c"


def test_an_accepted_link_echoes_both_ends_and_the_size_limit() -> None:
    peer = Peer()
    peer.attach_sender()
    (attach, _), (flow, _) = peer.hear()
    assert isinstance(attach, Attach)
    assert frames.read_terminus(attach.source) == Terminus("me")
    assert frames.read_terminus(attach.target) == Terminus("q")
    assert attach.max_message_size == MAX_MESSAGE_SIZE
    assert isinstance(flow, Flow)
    assert (flow.link_credit or 0) > 0


def test_a_refused_link_is_attached_to_nothing_and_detached_with_the_error() -> None:
    peer = Peer()
    [asked] = peer.say(1, Attach("s", Uint(1), False, target=Terminus("q").as_target()))
    assert isinstance(asked, LinkAsked)
    asked.link.refuse(Error("amqp:not-found", "no"))
    (attach, _), (detach, _) = peer.hear()
    assert isinstance(attach, Attach)
    assert (attach.source, attach.target) == (None, None)
    assert isinstance(detach, Detach)
    assert frames.read_error(detach.error) == Error("amqp:not-found", "no")


def test_a_message_in_several_frames_is_announced_once() -> None:
    peer = Peer()
    link = peer.attach_sender()
    assert peer.transfer(0, b"one ", more=True) == []
    assert peer.transfer(0, b"two ", more=True) == []
    [arrived] = peer.transfer(0, b"three")
    assert arrived == MessageArrived(link, 0, False, 0, b"one two three")


def test_a_message_above_the_limit_is_rejected_without_being_kept() -> None:
    peer = Peer()
    peer.attach_sender()
    peer.hear()
    part = b"x" * 60_000
    for _ in range(5):
        assert peer.transfer(0, part, more=True) == []
    assert peer.transfer(0, part) == []
    [(disposition, _)] = peer.hear()
    assert isinstance(disposition, Disposition)
    outcome = frames.read_outcome(disposition.state)
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    assert outcome.error.condition == "amqp:link:message-size-exceeded"


def test_credit_is_granted_again_before_it_runs_out() -> None:
    peer = Peer()
    peer.attach_sender()
    peer.hear()
    for number in range(2000):
        peer.transfer(number, b"x", settled=True)
    grants = [flow for flow, _ in peer.hear() if isinstance(flow, Flow) and flow.handle == 1]
    assert len(grants) >= 3
    limits = [(grant.delivery_count or 0) + (grant.link_credit or 0) for grant in grants]
    assert limits == sorted(limits)


def test_a_delivery_carries_a_high_number_and_its_outcome_comes_back_to_it() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=1)
    readiness = [link.ready]
    link.send(b"tag", b"body", "token")
    assert [*readiness, link.ready] == [True, False]
    transfer, payload = peer.hear()[-1]
    assert isinstance(transfer, Transfer)
    assert (transfer.delivery_id, transfer.settled, payload) == (2**28, False, b"body")
    state = Described(Ulong(0x24), [])
    [event] = peer.say(1, Disposition(True, Uint(2**28), None, False, state))
    assert event == OutcomeArrived(link, 2**28, "token", Accepted(), False)
    link.confirm(2**28, Accepted())
    [(disposition, _)] = peer.hear()
    assert disposition[:4] == (False, 2**28, None, True)
    assert peer.say(1, Disposition(True, Uint(2**28), None, False, state)) == []


def test_a_range_of_outcomes_is_taken_one_by_one_however_wide_it_claims_to_be() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=3)
    for token in "abc":
        link.send(b"t", b"x", token)
    state = Described(Ulong(0x24), [])
    events = peer.say(1, Disposition(True, Uint(0), Uint(2**32 - 1), True, state))
    assert [event.token for event in events if isinstance(event, OutcomeArrived)] == ["a", "b", "c"]


def test_a_settled_delivery_is_forgotten_at_once() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=1, snd_settle_mode=Ubyte(1))
    assert link.settles_first
    link.send(b"t", b"x")
    transfer, _ = peer.hear()[-1]
    assert isinstance(transfer, Transfer)
    assert transfer.settled is True
    assert peer.say(1, Disposition(True, Uint(2**28), None, True, Described(Ulong(0x24), []))) == []


def test_credit_is_counted_from_what_the_peer_has_seen() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=5)
    link.send(b"t", b"1")
    link.send(b"t", b"2")
    peer.give(5, seen=0)  # on its way before the two arrived
    assert link.credit == 3
    peer.give(0, seen=0)
    assert link.credit == 0


def test_a_drain_gives_up_what_is_left() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    peer.hear()
    assert peer.give(5, drain=True) == [CreditChanged(link, drain=True)]
    link.drained()
    [(flow, _)] = peer.hear()
    assert isinstance(flow, Flow)
    assert (flow.delivery_count, flow.link_credit, flow.drain) == (5, 0, True)
    assert link.credit == 0


def test_a_long_message_is_cut_to_the_peers_frame_size() -> None:
    peer = Peer(max_frame_size=512)
    link = peer.attach_receiver(credit=1)
    peer.hear()
    body = bytes(range(256)) * 20
    link.send(b"t" * 16, body, "token")
    data = peer.connection.take()
    reader = FrameReader(512)
    list(reader.feed(frames.AMQP_HEADER))
    parts = [frames.parse(unit.body) for unit in reader.feed(data) if isinstance(unit, Frame)]
    assert b"".join(payload for _, payload in parts) == body
    assert [transfer.more for transfer, _ in parts if isinstance(transfer, Transfer)] == [True] * (len(parts) - 1) + [
        None
    ]


def test_transfers_wait_for_the_session_window() -> None:
    peer = Peer(window=1)
    link = peer.attach_receiver()
    peer.give(3, window=1)
    peer.hear()
    for body in (b"1", b"2", b"3"):
        link.send(b"t", body, body)
    assert [payload for _, payload in peer.hear()] == [b"1"]
    peer.give(3, window=5, got=1)
    assert [payload for _, payload in peer.hear()] == [b"2", b"3"]


def test_a_detached_link_forgets_its_deliveries_and_ignores_late_outcomes() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=1)
    link.send(b"t", b"x", "token")
    assert peer.say(1, Detach(Uint(2), True)) == [LinkDetached(link)]
    assert not link.attached
    assert peer.say(1, Disposition(True, Uint(2**28), None, False, Described(Ulong(0x24), []))) == []


def test_a_link_we_detach_may_still_be_sent_on_for_a_while() -> None:
    peer = Peer()
    link = peer.attach_sender()
    link.detach(Error("amqp:link:detach-forced", "away"))
    assert peer.transfer(0, b"late") == [LinkDetached(link)]
    assert not peer.connection.closed
    peer.say(1, Detach(Uint(1), True))
    peer.hear()
    peer.transfer(1, b"too late")
    [(end, _)] = peer.hear()
    assert isinstance(end, End)
    assert frames.read_error(end.error) is not None


def test_frames_on_an_ended_session_are_ignored() -> None:
    peer = Peer()
    link = peer.attach_sender()
    assert peer.say(1, End()) == [LinkDetached(link)]
    assert peer.transfer(0, b"late") == []
    assert peer.say(1, Detach(Uint(1), True)) == []
    assert not peer.connection.closed


def test_a_close_detaches_everything_and_is_answered() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.hear()
    assert peer.say(0, Close()) == [LinkDetached(link), Closed(None)]
    assert peer.hear() == [(Close(), b"")]


def test_a_lost_transport_detaches_everything() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    assert peer.connection.lost() == [LinkDetached(link)]


def test_output_outside_of_input_is_announced_once() -> None:
    calls: list[int] = []
    connection = Connection(on_output=lambda: calls.append(1))
    connection.heartbeat()
    connection.heartbeat()
    assert len(calls) == 1
    assert connection.take() == frames.EMPTY_FRAME * 2
    connection.heartbeat()
    assert len(calls) == 2


def test_a_peer_that_wants_heartbeats_is_heard() -> None:
    connection = Connection()
    list(connection.receive(frames.AMQP_HEADER + frames.frame(0, Open(container_id="c", idle_time_out=Uint(30_000)))))
    assert connection.peer_idle_time_out == 30.0


@pytest.mark.parametrize(
    ("body", "condition"),
    [
        (b"\x00\x53\x10" + encode(["again"]), "amqp:not-allowed"),
        (b"\x00\x53\x12" + encode(["no handle"]), "amqp:decode-error"),
        (b"\x00\x53\x13" + encode([None, "window", Uint(0), Uint(0)]), "amqp:decode-error"),
        (b"\x00\x53\x14" + encode([Uint(1), None]), "amqp:invalid-field"),
        (b"\x00\x53\x99\x45", "amqp:decode-error"),
    ],
)
def test_a_broken_protocol_closes_the_connection_with_its_error(body: bytes, condition: str) -> None:
    peer = Peer()
    peer.attach_sender()
    events = peer.send((len(body) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x01" + body)
    assert isinstance(events[-1], Closed)
    close, _ = peer.hear()[-1]
    assert isinstance(close, Close)
    error = frames.read_error(close.error)
    assert error is not None
    assert error.condition == condition
    assert peer.say(1, Begin()) == []


small = st.integers(0, 3)
fields = st.one_of(
    st.none(),
    st.booleans(),
    small.map(Uint),
    st.integers(0, 2**32 - 1).map(Uint),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.lists(small, max_size=3),
    st.dictionaries(small, small, max_size=2),
    st.builds(Described, st.integers(0x22, 0x30).map(Ulong), st.lists(st.none() | st.text(max_size=2), max_size=3)),
)
bodies = st.builds(
    lambda code, values: b"\x00\x53" + bytes([code]) + encode(values),
    st.integers(0x10, 0x18),
    st.lists(fields, max_size=14),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), bodies), max_size=12))
def test_no_sequence_of_performatives_raises(sequence: list[tuple[int, bytes]]) -> None:
    peer = Peer()
    peer.attach_sender()
    peer.attach_receiver(credit=2).send(b"t", b"x", "token")
    for channel, body in sequence:
        data = (len(body) + 8).to_bytes(4, "big") + b"\x02\x00" + channel.to_bytes(2, "big") + body
        for event in peer.send(data):
            if isinstance(event, LinkAsked):
                event.link.accept()
    peer.connection.take()
    peer.connection.lost()
