"""Links: how they come and go, and what may be sent on them."""

from typing import Any

import pytest

from servicebus_local.amqp.composites import Accepted, Error, Rejected, Released, Terminus, read_error, read_outcome
from servicebus_local.amqp.composites import read_terminus as terminus
from servicebus_local.amqp.events import CreditChanged, LinkAsked, LinkDetached, MessageArrived, OutcomeArrived
from servicebus_local.amqp.limits import DEFAULT_LIMITS
from servicebus_local.amqp.link import OutgoingLink
from servicebus_local.amqp.performatives import Attach, Detach, Disposition, End, Flow, Transfer
from servicebus_local.amqp.types import Array, Described, Symbol, Ubyte, Uint, Ulong
from tests.unit.amqp_peer import ACCEPTED, RECEIVING, SENDING, Peer, encoded

LIMIT = DEFAULT_LIMITS.message
FILTER = Symbol("com.microsoft:session-filter")


# --------------------------------------------------------------------------- attach


def test_an_accepted_sender_gets_both_ends_the_size_limit_and_credit() -> None:
    peer = Peer()
    peer.attach_sender()
    (attach, _), (flow, _) = peer.hear()
    assert isinstance(attach, Attach)
    assert (terminus(attach.source), terminus(attach.target)) == (Terminus("me"), Terminus("q"))
    assert (attach.role, attach.max_message_size) == (True, LIMIT)
    assert isinstance(flow, Flow)
    assert (flow.handle, flow.delivery_count, flow.link_credit) == (SENDING, 0, 1000)


def test_an_accepted_receiver_gets_its_first_delivery_count_and_its_properties() -> None:
    peer = Peer()
    link = peer.ask(Attach("r", Uint(RECEIVING), True, source=Terminus("q").as_source()))
    assert isinstance(link, OutgoingLink)
    link.accept(properties={Symbol("p"): 1})
    [attach] = peer.heard(Attach)
    assert (attach.role, attach.initial_delivery_count, attach.properties) == (False, 0, {"p": 1})
    assert terminus(attach.target) == Terminus()


@pytest.mark.parametrize("snd", [None, 0, 1, 2])
@pytest.mark.parametrize("rcv", [None, 0, 1])
def test_settle_modes_are_answered_as_they_were_wished(snd: int | None, rcv: int | None) -> None:
    modes: dict[str, Any] = {
        "snd_settle_mode": None if snd is None else Ubyte(snd),
        "rcv_settle_mode": None if rcv is None else Ubyte(rcv),
    }
    peer = Peer()
    peer.attach_receiver(**modes)
    [attach] = peer.heard(Attach)
    assert (attach.snd_settle_mode, attach.rcv_settle_mode) == (snd, rcv or 0)
    peer.attach_sender(**modes)
    [attach] = peer.heard(Attach)
    assert (attach.snd_settle_mode, attach.rcv_settle_mode) == (snd, 0)  # here the receiver settles first


def test_a_source_is_answered_with_what_is_in_force_of_it() -> None:
    asked = Terminus("q", {Symbol("other"): "x"}, outcomes=Array(0xA3, [Symbol("amqp:accepted:list")]))
    asked = asked._replace(default_outcome=ACCEPTED, distribution_mode=Symbol("move"))
    peer = Peer()
    peer.attach_receiver(source=asked.as_source())
    [attach] = peer.heard(Attach)
    assert terminus(attach.source) == asked._replace(filters=None)


@pytest.mark.parametrize("descriptor", [Ulong(0x137000000C), Symbol("com.microsoft:session-filter")])
def test_a_filter_that_was_described_is_answered_described(descriptor: object) -> None:
    peer = Peer()
    source = Terminus("q", {FILTER: Described(descriptor, None)}).as_source()
    link = peer.ask(Attach("r", Uint(RECEIVING), True, source=source))
    assert isinstance(link, OutgoingLink)
    link.accept({FILTER: "session"})
    [attach] = peer.heard(Attach)
    answer = terminus(attach.source)
    assert answer is not None
    assert answer.filters == {FILTER: Described(descriptor, "session")}


def test_a_plain_filter_is_answered_plain() -> None:
    peer = Peer()
    link = peer.ask(Attach("r", Uint(RECEIVING), True, source=Terminus("q", {FILTER: None}).as_source()))
    assert isinstance(link, OutgoingLink)
    link.accept({FILTER: "session"})
    [attach] = peer.heard(Attach)
    answer = terminus(attach.source)
    assert answer is not None
    assert answer.filters == {FILTER: "session"}


@pytest.mark.parametrize("role", [True, False])
def test_a_refused_link_is_attached_to_nothing_and_detached_with_the_error(role: bool) -> None:
    peer = Peer()
    link = peer.ask(Attach("s", Uint(1), role, target=Terminus("q").as_target()))
    link.refuse(Error("amqp:not-found", "no"))
    (attach, _), (detach, _) = peer.hear()
    assert isinstance(attach, Attach)
    assert (attach.source, attach.target) == (None, None)
    assert isinstance(detach, Detach)
    assert (detach.closed, read_error(detach.error)) == (True, Error("amqp:not-found", "no"))
    assert peer.connection.pending() == [LinkDetached(link)]


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        ({"snd_settle_mode": Ubyte(3)}, "amqp:invalid-field"),
        ({"rcv_settle_mode": Ubyte(2)}, "amqp:invalid-field"),
        ({"unsettled": {b"tag": ACCEPTED}, "incomplete_unsettled": True}, "amqp:not-implemented"),
    ],
)
def test_an_attach_with_impossible_terms_is_refused(fields: dict[str, Any], condition: str) -> None:
    peer = Peer()
    events = peer.say(1, Attach("r", Uint(2), True, source=Terminus("q").as_source(), **fields))
    assert not [event for event in events if isinstance(event, LinkAsked)]
    assert peer.last_error() == (Detach, condition)


def test_a_link_that_would_be_resumed_is_told_that_nothing_is_left() -> None:
    peer = Peer()
    peer.attach_receiver(unsettled={b"tag": ACCEPTED})
    peer.attach_sender()
    resumed, fresh = peer.heard(Attach)
    assert (resumed.unsettled, fresh.unsettled) == ({}, None)


# --------------------------------------------------------------------------- names


def test_a_link_attached_again_is_stolen_from_where_it_was() -> None:
    peer = Peer()
    peer.begin(2)
    old = peer.attach_receiver("mine")
    peer.hear()
    new = peer.attach_receiver("mine", 7, channel=2)
    assert (old.attached, new.attached) == (False, True)
    (detach, _), (attach, _) = peer.hear()
    assert isinstance(detach, Detach)
    error = read_error(detach.error)
    assert error is not None
    assert error.condition == "amqp:link:stolen"
    assert isinstance(attach, Attach)


def test_a_name_may_be_used_once_in_each_direction_and_again_after_a_detach() -> None:
    peer = Peer()
    sender, receiver = peer.attach_sender("mine"), peer.attach_receiver("mine")
    assert sender.attached
    assert receiver.attached
    peer.say(1, Detach(Uint(SENDING), True))
    assert peer.attach_sender("mine").attached
    assert receiver.attached


def test_a_link_that_is_not_answered_yet_can_be_stolen() -> None:
    peer = Peer()
    old = peer.ask(Attach("r", Uint(5), True, source=Terminus("q").as_source()))
    peer.attach_receiver("r")
    assert old.gone
    assert [type(frame) for frame, _ in peer.hear()] == [Attach, Detach, Attach]


# --------------------------------------------------------------------------- detach


@pytest.mark.parametrize("closed", [True, False, None])
def test_a_detach_is_answered_in_kind(closed: bool | None) -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.hear()
    assert peer.say(1, Detach(Uint(SENDING), closed)) == [LinkDetached(link)]
    assert peer.heard(Detach) == [Detach(SENDING, closed is True)]
    assert peer.attach_sender().attached


def test_a_detach_before_the_answer_is_answered_with_both() -> None:
    peer = Peer()
    link = peer.ask(Attach("r", Uint(2), True, source=Terminus("q").as_source()))
    assert isinstance(link, OutgoingLink)
    peer.say(1, Detach(Uint(2), True))
    (attach, _), (detach, _) = peer.hear()
    assert isinstance(attach, Attach)
    assert (attach.source, attach.target) == (None, None)
    assert detach == Detach(2, True)
    link.accept()
    link.refuse(Error("amqp:not-found"))
    assert peer.connection.take() == b""


def test_a_link_we_detach_may_still_be_used_for_what_is_on_its_way() -> None:
    peer = Peer()
    link = peer.attach_sender()
    link.detach(Error("amqp:link:detach-forced", "away"))
    assert peer.connection.pending() == [LinkDetached(link)]
    assert peer.transfer(0, b"late") == []
    assert peer.say(1, Flow(Uint(0), Uint(9), Uint(0), Uint(9), Uint(SENDING))) == []
    assert peer.say(1, Detach(Uint(SENDING), True)) == []
    peer.hear()
    peer.transfer(1, b"too late")
    assert peer.last_error() == (End, "amqp:session:unattached-handle")


def test_more_than_the_credit_cannot_be_on_its_way() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(credit=3))
    link = peer.attach_sender()
    link.detach(Error("amqp:link:detach-forced", "away"))
    for number in range(4):
        peer.transfer(number, b"part", more=True)
        peer.transfer(number, b"late")
    assert not peer.heard(End)
    peer.transfer(4, b"errant")
    assert peer.last_error() == (End, "amqp:session:errant-link")


def test_two_detaches_that_cross_are_two_answers() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    peer.hear()
    link.detach()
    peer.say(1, Detach(Uint(RECEIVING), True))
    assert peer.heard(Detach) == [Detach(RECEIVING, True)]


# --------------------------------------------------------------------------- messages in


def test_a_message_in_several_frames_is_announced_once() -> None:
    peer = Peer()
    link = peer.attach_sender()
    assert peer.transfer(0, b"one ", more=True) == []
    later: dict[str, Any] = {"delivery_tag": None, "message_format": None}
    assert peer.say(1, Transfer(Uint(SENDING), more=True), b"two ") == []
    [arrived] = peer.transfer(0, b"three", **later)
    assert arrived == MessageArrived(link, 0, False, 0, b"one two three")


def test_messages_on_two_links_may_be_interleaved() -> None:
    peer = Peer()
    one, other = peer.attach_sender(), peer.attach_sender("other", 5)
    peer.transfer(0, b"a", more=True)
    peer.transfer(1, b"b", more=True, handle=5)
    assert peer.transfer(0, b"c") == [MessageArrived(one, 0, False, 0, b"ac")]
    assert peer.transfer(1, b"d", handle=5) == [MessageArrived(other, 1, False, 0, b"bd")]


@pytest.mark.parametrize(
    "change",
    [{"delivery_tag": b"u"}, {"message_format": Uint(1)}],
)
def test_a_message_is_not_begun_within_another(change: dict[str, Any]) -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.transfer(0, b"a", more=True)
    assert peer.transfer(0, b"b", **change) == [LinkDetached(link)]
    assert peer.last_error() == (Detach, "amqp:not-allowed")


def test_another_delivery_id_within_a_message_ends_the_link_alone() -> None:
    peer = Peer()
    other, link = peer.attach_sender("other", 5), peer.attach_sender()
    peer.transfer(0, b"a", more=True)
    assert peer.transfer(1, b"b") == [LinkDetached(link)]
    assert peer.last_error() == (Detach, "amqp:not-allowed")
    assert len(peer.transfer(2, b"x", handle=5)) == 1
    assert other.attached


@pytest.mark.parametrize(
    "fields",
    [
        {"delivery_id": None},
        {"delivery_id": Ulong(2**32)},
        {"delivery_tag": None},
        {"delivery_tag": b"t" * 33},
        {"rcv_settle_mode": Ubyte(1)},
    ],
)
def test_the_first_frame_of_a_message_must_be_right(fields: dict[str, Any]) -> None:
    peer = Peer()
    link = peer.attach_sender()
    usual: dict[str, Any] = {"delivery_id": Uint(0), "delivery_tag": b"t", "message_format": Uint(0)}
    assert peer.say(1, Transfer(Uint(SENDING), **(usual | fields)), b"x") == [LinkDetached(link)]
    assert peer.last_error() == (Detach, "amqp:invalid-field")
    assert not peer.connection.closed


@pytest.mark.parametrize("tag", [b"", b"t" * 32])
def test_a_tag_may_have_up_to_32_bytes(tag: bytes) -> None:
    peer = Peer()
    peer.attach_sender()
    assert len(peer.transfer(0, b"x", delivery_tag=tag)) == 1


@pytest.mark.parametrize("more", [True, False])
def test_an_aborted_message_is_dropped_and_counted(more: bool) -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.transfer(0, b"part", more=True)
    assert peer.transfer(0, b"part", more=more, aborted=True) == []
    assert link.credit == 999
    assert peer.transfer(1, b"whole") == [MessageArrived(link, 1, False, 0, b"whole")]


def test_a_message_may_be_settled_on_any_of_its_frames() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.transfer(0, b"a", more=True)
    peer.transfer(0, b"b", more=True, settled=True)
    assert peer.transfer(0, b"c") == [MessageArrived(link, 0, True, 0, b"abc")]
    assert peer.transfer(1, b"d") == [MessageArrived(link, 1, False, 0, b"d")]


def test_a_settled_message_is_not_spoken_of() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.transfer(0, b"x", settled=True)
    peer.hear()
    link.settle(0, Accepted())
    assert peer.connection.take() == b""
    peer.transfer(1, b"x")
    link.settle(1, Accepted())
    assert [disposition[:4] for disposition in peer.heard(Disposition)] == [(True, 1, None, True)]


def test_a_resumed_message_is_ignored_because_nothing_is_known_of_it() -> None:
    peer = Peer()
    link = peer.attach_sender()
    assert peer.transfer(0, b"part", more=True, resume=True) == []
    assert peer.transfer(0, b"rest") == []
    assert peer.transfer(1, b"new") == [MessageArrived(link, 1, False, 0, b"new")]


def test_a_message_of_a_transaction_is_rejected() -> None:
    peer = Peer()
    peer.attach_sender()
    peer.hear()
    assert peer.transfer(0, b"x", state=Described(Ulong(0x34), [b"txn"])) == []
    assert rejection(peer) == "amqp:transaction:unknown-id"


def rejection(peer: Peer) -> str:
    """Return why the last message was rejected."""
    outcome = read_outcome(peer.heard(Disposition)[-1].state)
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    return outcome.error.condition


def test_a_message_above_the_limit_is_rejected_without_being_kept() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.hear()
    part = b"x" * 60_000
    for _ in range(5):
        assert peer.transfer(0, part, more=True) == []
    assert peer.transfer(0, part) == []
    assert rejection(peer) == "amqp:link:message-size-exceeded"
    assert link.attached


def test_a_settled_message_above_the_limit_ends_the_link_which_is_the_only_answer_left() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(message=10))
    link = peer.attach_sender()
    assert peer.transfer(0, b"x" * 11, settled=True) == [LinkDetached(link)]
    assert peer.last_error() == (Detach, "amqp:link:message-size-exceeded")


@pytest.mark.parametrize("parts", [[LIMIT], [LIMIT - 10, 10], [10] * 3, [0, 0, 5], [0]])
def test_a_message_is_what_its_parts_are(parts: list[int]) -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(max_frame_size=1 << 20))
    link = peer.attach_sender()
    for size in parts[:-1]:
        assert peer.transfer(0, b"x" * size, more=True) == []
    [arrived] = peer.transfer(0, b"x" * parts[-1])
    assert arrived == MessageArrived(link, 0, False, 0, b"x" * sum(parts))


# --------------------------------------------------------------------------- credit for senders


def test_credit_is_granted_again_before_it_runs_out() -> None:
    peer = Peer()
    peer.attach_sender(initial_delivery_count=Uint(2**32 - 10))
    peer.hear()
    for number in range(2000):
        peer.transfer(number, b"x", settled=True)
    grants = [flow for flow in peer.heard(Flow) if flow.handle == SENDING]
    assert [grant.delivery_count for grant in grants] == [490, 990, 1490, 1990]
    assert {grant.link_credit for grant in grants} == {1000}


def test_a_sender_without_credit_loses_its_link() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(credit=3))
    link = peer.attach_sender()
    peer.connection.paused = True
    for number in range(3):
        assert len(peer.transfer(number, b"x")) == 1
    assert peer.transfer(3, b"x") == [LinkDetached(link)]
    assert peer.last_error() == (Detach, "amqp:link:transfer-limit-exceeded")
    assert not peer.connection.closed


def test_a_sender_that_was_not_accepted_has_no_credit() -> None:
    peer = Peer()
    link = peer.ask(Attach("s", Uint(SENDING), False, target=Terminus("q").as_target()))
    assert peer.transfer(0, b"x") == [LinkDetached(link)]
    assert [type(frame) for frame, _ in peer.hear()] == [Attach, Detach]


def test_credit_is_granted_when_the_peer_reads_again() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(credit=4))
    peer.attach_sender()
    peer.connection.paused = True
    peer.hear()
    for number in range(3):
        peer.transfer(number, b"x", settled=True)
    assert peer.connection.take() == b""
    peer.connection.paused = False
    [flow] = peer.heard(Flow)
    assert (flow.handle, flow.delivery_count, flow.link_credit) == (SENDING, 3, 4)


def test_a_sender_may_give_up_credit_and_ask_for_the_state() -> None:
    peer = Peer()
    link = peer.attach_sender()
    peer.hear()
    session = (Uint(0), Uint(9), Uint(0), Uint(9))
    peer.say(1, Flow(*session, Uint(SENDING), Uint(100), Uint(900), echo=True))
    assert link.credit == 900
    [flow] = peer.heard(Flow)
    assert (flow.delivery_count, flow.link_credit) == (100, 900)
    peer.say(1, Flow(*session, Uint(SENDING), Uint(600), Uint(400)))
    [flow] = peer.heard(Flow)
    assert (flow.delivery_count, flow.link_credit) == (600, 1000)


# --------------------------------------------------------------------------- credit for receivers


def test_credit_is_counted_from_what_the_peer_has_seen() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=5)
    link.send(b"t", b"1")
    link.send(b"t", b"2")
    peer.give(5, seen=0)  # on its way before the two arrived
    assert link.credit == 3
    peer.give(0, seen=0)
    assert link.credit == 0


def test_a_flow_before_the_first_attach_counts_from_the_beginning() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    flow = Flow(Uint(0), Uint(9), Uint(0), Uint(9), Uint(RECEIVING), None, Uint(5))
    assert peer.say(1, flow) == [CreditChanged(link, False)]
    assert link.credit == 5


def test_credit_that_came_before_the_answer_is_announced_with_it() -> None:
    peer = Peer()
    link = peer.ask(Attach("r", Uint(RECEIVING), True, source=Terminus("q").as_source()))
    assert isinstance(link, OutgoingLink)
    peer.give(3, drain=True)
    assert not link.ready
    link.accept()
    assert peer.connection.pending() == [CreditChanged(link, True)]
    assert link.ready


def test_a_drain_gives_up_what_is_left_once() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    peer.hear()
    assert peer.give(5, drain=True) == [CreditChanged(link, drain=True)]
    link.send(b"t", b"x", "token")
    link.drained()
    link.drained()
    transfer, flow = [frame for frame, _ in peer.hear()]
    assert isinstance(transfer, Transfer)
    assert isinstance(flow, Flow)
    assert (flow.delivery_count, flow.link_credit, flow.available, flow.drain) == (5, 0, 0, True)
    assert link.credit == 0
    peer.give(2, seen=5)
    assert link.credit == 2


def test_a_drain_that_was_taken_back_is_not_answered() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    peer.give(5, drain=True)
    peer.give(5)
    peer.hear()
    link.drained()
    assert (link.credit, peer.connection.take()) == (5, b"")


def test_the_state_of_a_receiver_is_echoed_after_its_messages() -> None:
    peer = Peer()
    link = peer.attach_receiver()
    peer.hear()
    link.available = 7
    session = (Uint(0), Uint(9), Uint(0), Uint(9))
    asked = encoded(1, Flow(*session, Uint(RECEIVING), Uint(0), Uint(5), echo=True))
    for event in peer.connection.receive(asked):
        assert event == CreditChanged(link, False)
        link.send(b"t", b"x", "token")
    transfer, flow = [frame for frame, _ in peer.hear()]
    assert isinstance(transfer, Transfer)
    assert isinstance(flow, Flow)
    assert (flow.handle, flow.delivery_count, flow.link_credit, flow.available) == (RECEIVING, 1, 4, 7)


@pytest.mark.parametrize("largest", [0, 10])
def test_a_message_the_peer_cannot_take_goes_back_and_ends_the_link(largest: int) -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=2, max_message_size=Ulong(largest))
    peer.hear()
    link.send(b"t", b"x" * 10, "fits")
    assert len(peer.heard(Transfer)) == 1
    link.send(b"t", b"x" * 11, "too large")
    if not largest:
        assert len(peer.heard(Transfer)) == 1
        return
    assert peer.last_error() == (Detach, "amqp:link:message-size-exceeded")
    back, gone = peer.connection.pending()
    assert back == OutcomeArrived(link, 0, "too large", Released(), True)
    assert gone == LinkDetached(link)
