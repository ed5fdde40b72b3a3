"""Sessions: windows in both directions, handles, and outcomes by range."""

from typing import Any

import pytest

from servicebus_local.amqp.composites import (
    Accepted,
    Error,
    Modified,
    Outcome,
    Rejected,
    Released,
    Terminus,
    read_outcome,
)
from servicebus_local.amqp.events import CreditChanged, LinkDetached, OutcomeArrived
from servicebus_local.amqp.limits import DEFAULT_LIMITS
from servicebus_local.amqp.link import OutgoingLink
from servicebus_local.amqp.performatives import Attach, Close, Detach, Disposition, End, Flow, Transfer
from servicebus_local.amqp.serial import ahead, within
from servicebus_local.amqp.types import Described, Symbol, Ubyte, Uint, Ulong
from tests.unit.amqp_peer import ACCEPTED, RECEIVING, SENDING, Peer

TOP = 2**32
FIRST_DELIVERY_ID = DEFAULT_LIMITS.first_delivery_id


# --------------------------------------------------------------------------- serial numbers


@pytest.mark.parametrize(
    ("number", "other", "distance"),
    [(5, 3, 2), (3, 5, 0), (1, TOP - 2, 3), (TOP - 2, 1, 0), (7, 7, 0), (2**31, 0, 0), (2**31 - 1, 0, 2**31 - 1)],
)
def test_a_serial_number_is_ahead_of_another_across_the_wrap(number: int, other: int, distance: int) -> None:
    assert ahead(number, other) == distance


def test_a_range_of_serial_numbers_may_wrap() -> None:
    assert all(within(number, TOP - 2, 1) for number in (TOP - 2, TOP - 1, 0, 1))
    assert not any(within(number, TOP - 2, 1) for number in (TOP - 3, 2))


# --------------------------------------------------------------------------- ends and handles


def test_an_end_is_answered_and_frames_after_it_are_ignored() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.hear()
    assert peer.say(1, End()) == [LinkDetached(link)]
    assert peer.hear() == [(End(), b"")]
    assert peer.transfer(0, b"late") == []
    assert peer.say(1, Detach(Uint(SENDING), True)) == []
    assert peer.say(1, End()) == []
    assert peer.connection.take() == b""
    assert not peer.connection.closed


def test_a_session_that_was_ended_for_an_error_discards_what_follows() -> None:
    peer = Peer()
    link = peer.attach_sender()
    assert peer.transfer(0, b"x", handle=9) == [LinkDetached(link)]
    assert peer.last_error() == (End, "amqp:session:unattached-handle")
    assert peer.transfer(1, b"x") == []
    assert peer.say(1, End()) == []
    peer.begin(1)
    assert peer.attach_sender().attached


@pytest.mark.parametrize(
    "frame",
    [
        Flow(Uint(0), Uint(9), Uint(0), Uint(9), Uint(9)),
        Transfer(Uint(9), Uint(0), b"t"),
        Detach(Uint(9), True),
    ],
    ids=["flow", "transfer", "detach"],
)
def test_an_unattached_handle_ends_the_session(frame: Flow | Transfer | Detach) -> None:
    peer = Peer()
    peer.say(1, frame)
    assert peer.last_error() == (End, "amqp:session:unattached-handle")
    assert not peer.connection.closed


def test_a_handle_in_use_ends_the_session() -> None:
    peer = Peer()
    peer.attach_sender()
    peer.say(1, Attach("other", Uint(SENDING)))
    assert peer.last_error() == (End, "amqp:session:handle-in-use")


def test_a_transfer_where_the_peer_receives_ends_the_session() -> None:
    peer = Peer()
    peer.attach_receiver()
    peer.transfer(0, b"x", handle=RECEIVING)
    assert peer.last_error() == (End, "amqp:not-allowed")


def test_a_handle_the_peer_cannot_hear_is_not_used() -> None:
    peer = Peer(begin=False)
    peer.begin(1, handle_max=Uint(1))
    peer.hear()
    one, other = peer.attach_sender(handle=200), peer.attach_receiver(handle=201)
    assert sorted((one.handle, other.handle)) == [0, 1]
    peer.say(1, Attach("third", Uint(202)))
    assert peer.last_error() == (End, "amqp:not-allowed")


def test_links_are_spoken_of_by_our_handle_and_heard_by_theirs() -> None:
    peer = Peer(begin=False)
    peer.begin(1, handle_max=Uint(1))
    link = peer.attach_receiver(handle=200)
    peer.hear()
    peer.give(1, handle=200)
    link.send(b"t", b"x", "token")
    [transfer] = peer.heard(Transfer)
    assert (transfer.handle, link.handle) == (0, 0)
    peer.say(1, Detach(Uint(200), True))
    assert peer.heard(Detach) == [Detach(0, True)]


# --------------------------------------------------------------------------- the incoming window


def test_the_window_is_opened_again_before_it_is_used_up() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(window=10))
    peer.attach_sender()
    peer.hear()
    for number in range(100):
        peer.transfer(number, b"x", settled=True)
    flows = [flow for flow in peer.heard(Flow) if flow.handle is None]
    assert [(flow.next_incoming_id, flow.incoming_window) for flow in flows] == [
        (count, 10) for count in range(5, 101, 5)
    ]


def test_transfers_beyond_the_window_end_the_session() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(window=10))
    peer.attach_sender()
    peer.connection.paused = True  # the peer does not read, so nothing is renewed
    peer.hear()
    for number in range(10):
        assert len(peer.transfer(number, b"x", settled=True)) == 1
    peer.transfer(10, b"x")
    assert peer.last_error() == (End, "amqp:session:window-violation")


def test_the_window_is_opened_when_the_peer_reads_again() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(window=10))
    peer.attach_sender()
    peer.connection.paused = True
    peer.hear()
    for number in range(8):
        peer.transfer(number, b"x", settled=True)
    assert peer.connection.take() == b""
    peer.connection.paused = False
    [flow] = peer.heard(Flow)
    assert (flow.next_incoming_id, flow.incoming_window) == (8, 10)


def test_a_flow_of_the_session_is_echoed() -> None:
    peer = Peer()
    peer.say(1, Flow(Uint(0), Uint(9), Uint(77), Uint(9), echo=True))
    [flow] = peer.heard(Flow)
    assert flow == Flow(77, DEFAULT_LIMITS.window, 0, DEFAULT_LIMITS.window)


# --------------------------------------------------------------------------- the outgoing window


def test_a_message_waits_for_the_window() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    peer.give(3, window=1)
    peer.hear()
    for body in (b"1", b"2", b"3"):
        link.send(b"t", body, body)
    assert not link.ready
    assert [payload for _, payload in peer.hear()] == [b"1"]
    peer.give(2, seen=1, window=5, got=1)
    assert [payload for _, payload in peer.hear()] == [b"2", b"3"]


def test_numbers_are_given_when_a_message_leaves_so_that_none_is_skipped() -> None:
    peer = Peer()
    kept, gone = peer.attach_receiver(), peer.attach_receiver("gone", 3)
    peer.give(3, window=0, handle=3)
    gone.send(b"t", b"never", "token")
    kept.send(b"t", b"now", "token")
    peer.say(1, Detach(Uint(3), True))
    peer.hear()
    peer.give(3, window=9)
    [(transfer, payload)] = peer.hear()
    assert isinstance(transfer, Transfer)
    assert (transfer.delivery_id, payload) == (FIRST_DELIVERY_ID, b"now")


def test_links_that_were_held_back_resume_when_there_is_room() -> None:
    peer = Peer()
    one, other = peer.attach_receiver(), peer.attach_receiver("other", 3)
    peer.give(5, window=0)
    peer.give(5, window=0, handle=3)
    assert [one.ready, other.ready] == [False, False]
    session = (Uint(0), Uint(4), Uint(0), Uint(9))
    assert peer.say(1, Flow(*session)) == [CreditChanged(one, False), CreditChanged(other, False)]
    assert one.ready


def test_a_large_message_goes_on_when_the_window_opens() -> None:
    peer = Peer(max_frame_size=512, window=2)
    link = peer.attach_receiver()
    peer.give(1, window=2)
    body = bytes(range(256)) * 8
    peer.hear()
    link.send(b"t" * 16, body, "token")
    first = peer.hear()
    assert len(first) == 2
    peer.give(1, window=100, got=2)
    parts = [*first, *peer.hear()]
    assert b"".join(payload for _, payload in parts) == body
    transfers = [transfer for transfer, _ in parts if isinstance(transfer, Transfer)]
    assert [transfer.more for transfer in transfers] == [True] * (len(transfers) - 1) + [None]
    assert {transfer.delivery_id for transfer in transfers} == {FIRST_DELIVERY_ID}


@pytest.mark.parametrize("room", [1, 100, 471, 472, 473, 2000])
def test_no_frame_is_larger_than_the_peer_can_take(room: int) -> None:
    peer = Peer(max_frame_size=512)
    link = peer.attach_receiver(credit=1)
    peer.hear()
    link.send(b"t" * 32, b"x" * room)
    data = peer.connection.take()
    sizes = []
    while data:
        size = int.from_bytes(data[:4], "big")
        sizes.append(size)
        data = data[size:]
    assert max(sizes) <= 512


def test_a_window_is_counted_across_the_wrap() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(first_transfer_id=TOP - 1, first_delivery_id=TOP - 1))
    link = peer.attach_receiver()
    peer.give(9, window=3, got=TOP - 1)
    for body in (b"1", b"2", b"3", b"4"):
        link.send(b"t", body, body)
    ids = [transfer.delivery_id for transfer in peer.heard(Transfer)]
    assert ids == [TOP - 1, 0, 1]
    events = peer.say(1, Disposition(True, Uint(TOP - 1), Uint(1), True, ACCEPTED))
    assert [event.token for event in events if isinstance(event, OutcomeArrived)] == [b"1", b"2", b"3"]
    peer.give(5, seen=4, window=1, got=2)
    assert [payload for _, payload in peer.hear()] == [b"4"]


@pytest.mark.parametrize("window", [2**31 - 1, 2**32 - 1])
def test_a_window_as_wide_as_it_can_be_is_open(window: int) -> None:
    peer = Peer()
    link = peer.attach_receiver()
    for got in range(3):
        peer.give(5, seen=got, window=window, got=0)
        assert link.ready
        link.send(b"t", b"x", "token")
    assert len(peer.heard(Transfer)) == 3


def test_a_flow_that_knows_of_no_transfer_counts_from_the_first() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=9)
    link.send(b"t", b"x", "token")
    peer.say(1, Flow(None, Uint(1), Uint(0), Uint(9), Uint(RECEIVING), Uint(1), Uint(5)))
    assert not link.ready


# --------------------------------------------------------------------------- outcomes


def delivered(peer: Peer, *tokens: str, **fields: Any) -> OutgoingLink:
    """Attach a receiver and send it a message for each token."""
    link = peer.attach_receiver(credit=len(tokens), **fields)
    for token in tokens:
        link.send(b"t", b"x", token)
    return link


def test_a_delivery_carries_a_high_number_and_its_outcome_comes_back_to_it() -> None:
    peer = Peer()
    link = delivered(peer, "token")
    transfer, payload = peer.hear()[-1]
    assert isinstance(transfer, Transfer)
    assert (transfer.delivery_id, transfer.settled, transfer.more, payload) == (2**28, False, None, b"x")
    settle = Disposition(True, Uint(2**28), None, False, ACCEPTED)
    assert peer.say(1, settle) == [OutcomeArrived(link, 2**28, "token", Accepted(), False)]
    link.confirm(2**28, Accepted())
    [disposition] = peer.heard(Disposition)
    assert disposition[:4] == (False, 2**28, None, True)
    assert peer.say(1, settle) == []


@pytest.mark.parametrize(("first", "last", "settled"), [(0, 2**32 - 1, True), (2**28, 2**28 + 2, False)])
def test_a_range_of_outcomes_is_taken_one_by_one_however_wide_it_claims_to_be(
    first: int, last: int, settled: bool
) -> None:
    peer = Peer()
    link = delivered(peer, "a", "b", "c")
    events = peer.say(1, Disposition(True, Uint(first), Uint(last), settled, ACCEPTED, True))
    assert events == [
        OutcomeArrived(link, 2**28 + at, token, Accepted(), settled) for at, token in enumerate(("a", "b", "c"))
    ]


def test_a_range_may_span_links() -> None:
    peer = Peer()
    one, other = peer.attach_receiver(credit=1), peer.attach_receiver("other", 3)
    peer.give(1, handle=3)
    one.send(b"t", b"x", "one")
    other.send(b"t", b"x", "other")
    events = peer.say(1, Disposition(True, Uint(2**28), Uint(2**28 + 1), True, ACCEPTED))
    assert [event.link for event in events if isinstance(event, OutcomeArrived)] == [one, other]


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (Described(Ulong(0x24), []), Accepted()),
        (Described(Symbol("amqp:accepted:list"), []), Accepted()),
        (Described(Ulong(0x25), []), Rejected()),
        (Described(Ulong(0x26), []), Released()),
        (Described(Ulong(0x27), [True, None, {Symbol("k"): Uint(5)}]), Modified(True, False, {"k": 5})),
        (Described(Ulong(0x23), [Uint(0), Ulong(0)]), None),
        (Described(Ulong(0x34), [b"txn", None]), None),
        (None, None),
    ],
)
def test_a_settled_delivery_has_the_outcome_the_peer_says_or_none(state: object, outcome: Outcome | None) -> None:
    peer = Peer()
    link = delivered(peer, "token")
    events = peer.say(1, Disposition(True, Uint(2**28), None, True, state))
    assert events == [OutcomeArrived(link, 2**28, "token", outcome, True)]


@pytest.mark.parametrize("state", [None, Described(Ulong(0x23), [Uint(0), Ulong(0)])])
def test_a_delivery_that_is_not_finished_stays_under_way(state: object) -> None:
    peer = Peer()
    link = delivered(peer, "token")
    assert peer.say(1, Disposition(True, Uint(2**28), None, False, state)) == []
    events = peer.say(1, Disposition(True, Uint(2**28), None, True, ACCEPTED))
    assert events == [OutcomeArrived(link, 2**28, "token", Accepted(), True)]


def test_the_default_outcome_of_the_source_is_used_where_none_is_said() -> None:
    peer = Peer()
    source = Terminus("q", default_outcome=Described(Ulong(0x27), [True, False])).as_source()
    link = delivered(peer, "token", source=source)
    events = peer.say(1, Disposition(True, Uint(2**28), None, True, None))
    assert events == [OutcomeArrived(link, 2**28, "token", Modified(True, False), True)]


def test_outcomes_of_unknown_deliveries_and_of_senders_are_ignored() -> None:
    peer = Peer()
    link = delivered(peer, "token")
    assert peer.say(1, Disposition(True, Uint(5), Uint(9), True, ACCEPTED)) == []
    assert peer.say(1, Disposition(False, Uint(2**28), None, True, ACCEPTED)) == []
    assert link.attached


def test_a_settled_delivery_is_forgotten_at_once() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=1, snd_settle_mode=Ubyte(1))
    assert link.settles_first
    link.send(b"t", b"x")
    transfer, _ = peer.hear()[-1]
    assert isinstance(transfer, Transfer)
    assert transfer.settled is True
    assert peer.say(1, Disposition(True, Uint(2**28), None, True, ACCEPTED)) == []


def test_a_detached_link_forgets_its_deliveries_and_ignores_late_outcomes() -> None:
    peer = Peer()
    link = delivered(peer, "token")
    assert peer.say(1, Detach(Uint(RECEIVING), True)) == [LinkDetached(link)]
    assert not link.attached
    assert peer.say(1, Disposition(True, Uint(2**28), None, False, ACCEPTED)) == []


def test_a_reason_too_long_for_the_peer_is_left_out() -> None:
    peer = Peer(max_frame_size=512)
    link = peer.attach_sender()
    peer.transfer(0, b"x")
    peer.hear()
    link.settle(0, Rejected(Error("amqp:not-allowed", "x" * 600)))
    [disposition] = peer.heard(Disposition)
    assert read_outcome(disposition.state) == Rejected(Error("amqp:not-allowed"))


def test_a_close_after_an_end_is_only_a_close() -> None:
    peer = Peer()
    peer.say(1, End())
    peer.hear()
    peer.say(0, Close())
    assert peer.hear() == [(Close(), b"")]
