"""How much a peer may ask for, and that nobody else pays for it."""

from servicebus_local.amqp.composites import Terminus
from servicebus_local.amqp.events import CreditChanged, LinkAsked, LinkDetached, OutcomeArrived
from servicebus_local.amqp.limits import DEFAULT_LIMITS
from servicebus_local.amqp.performatives import Attach, Begin, Close, Detach, Disposition, End, Flow
from servicebus_local.amqp.types import Symbol, Uint
from tests.unit.amqp_peer import ACCEPTED, RECEIVING, SENDING, Peer


def test_sessions_have_a_last_channel() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(channel_max=3))
    for channel in (0, 2, 3):
        peer.begin(channel)
    assert len(peer.heard(Begin)) == 3
    peer.begin(4)
    assert peer.last_error() == (Close, "amqp:connection:framing-error")


def test_a_session_has_a_last_handle() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(handle_max=3))
    for handle in range(4):
        peer.attach_sender(f"link {handle}", handle)
    peer.say(1, Attach("one more", Uint(4)))
    assert peer.last_error() == (Close, "amqp:connection:framing-error")


def test_links_beyond_those_of_a_connection_are_refused_and_may_come_when_others_left() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(links=2))
    peer.begin(2)
    peer.attach_sender("one", 1)
    peer.attach_sender("two", 1, channel=2)
    events = peer.say(1, Attach("three", Uint(3)))
    assert not [event for event in events if isinstance(event, LinkAsked)]
    assert peer.last_error() == (Detach, "amqp:resource-limit-exceeded")
    peer.say(2, Detach(Uint(1), True))
    assert peer.attach_sender("three", 4).attached


def test_links_may_not_say_more_about_themselves_than_can_be_kept() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(terms=1000))
    peer.attach_sender("x" * 400, 1)
    peer.say(1, Attach("two", Uint(2), properties={Symbol("long"): "x" * 600}))
    assert peer.last_error() == (Detach, "amqp:resource-limit-exceeded")
    peer.say(1, Detach(Uint(1), True))
    link = peer.attach_sender("y" * 800, 3)
    assert link.attached


def test_of_what_was_asked_only_the_addresses_are_kept() -> None:
    peer = Peer()
    asked = Terminus("q", {Symbol("filter"): "x" * 1000}, capabilities=[Symbol("queue")])
    link = peer.attach_receiver(source=asked.as_source(), properties={Symbol("long"): "x" * 1000})
    assert (link.source, link.target, link.properties) == (Terminus("q"), Terminus("me"), {})


def test_messages_that_are_not_whole_may_not_be_many_at_once() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(partial=1000))
    links = [peer.attach_sender(f"link {handle}", handle) for handle in range(4)]
    for number in range(3):
        assert peer.transfer(number, b"x" * 300, handle=number, more=True) == []
    assert peer.transfer(3, b"x" * 300, handle=3, more=True) == [LinkDetached(links[3])]
    assert peer.last_error() == (Detach, "amqp:resource-limit-exceeded")
    assert len(peer.transfer(0, b"x", handle=0)) == 1
    again = peer.attach_sender("again", 4)
    assert peer.transfer(4, b"x" * 300, handle=4, more=True) == []
    assert again.attached


def test_parts_are_given_back_however_their_message_ends() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(partial=1000, message=600))
    for number in range(0, 40, 4):
        link = peer.attach_sender()
        peer.transfer(number, b"x" * 500, more=True)
        peer.transfer(number, b"x")  # whole
        peer.transfer(number + 1, b"x" * 500, more=True)
        peer.transfer(number + 1, b"", aborted=True)
        peer.transfer(number + 2, b"x" * 500, more=True)
        peer.transfer(number + 2, b"x" * 500)  # too large
        assert peer.transfer(number + 3, b"x" * 500, more=True) == []
        peer.say(1, Detach(Uint(SENDING), True))
        assert not link.attached


def test_parts_of_nothing_take_no_memory() -> None:
    peer = Peer()
    link = peer.attach_sender()
    for _ in range(3000):
        assert peer.transfer(0, b"", more=True, settled=True) == []
    assert link.attached
    [arrived] = peer.transfer(0, b"end")
    assert arrived.payload == b"end"  # type: ignore[union-attr]


def test_a_peer_that_never_settles_gets_no_more_messages() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(unsettled=3))
    link = peer.attach_receiver(credit=10)
    for _ in range(3):
        assert link.ready
        link.send(b"t", b"x", "token")
    assert not link.ready
    events = peer.say(1, Disposition(True, Uint(2**28), None, True, ACCEPTED))
    assert [type(event) for event in events] == [OutcomeArrived, CreditChanged]
    assert link.ready


def test_answers_to_a_peer_that_opens_no_window_may_not_pile_up() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(waiting=1000))
    other = Peer()
    link = peer.attach_receiver()
    peer.give(0, window=0)
    for _ in range(3):
        link.send(b"t", b"x" * 300)
    assert peer.connection.pending() == []
    link.send(b"t", b"x" * 300)
    assert peer.connection.pending() == [LinkDetached(link)]
    assert peer.last_error() == (End, "amqp:resource-limit-exceeded")
    peer.begin(3)
    assert peer.attach_receiver(channel=3).attached
    assert not other.connection.closed


def test_what_waits_for_a_window_is_given_back_when_its_link_or_session_ends() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(waiting=1000))
    for _ in range(5):
        link = peer.attach_receiver()
        peer.give(0, window=0)
        for _ in range(3):
            link.send(b"t", b"x" * 300)
        peer.say(1, Detach(Uint(RECEIVING), True))
        peer.attach_receiver().send(b"t", b"x" * 900)
        peer.say(1, End())
        peer.begin(1)
    assert not [end for end in peer.heard(End) if end.error]


def test_a_peer_that_does_not_read_gets_neither_messages_nor_credit_nor_a_window() -> None:
    peer = Peer(limits=DEFAULT_LIMITS._replace(output=1000, credit=10, window=10))
    sender, receiver = peer.attach_sender(), peer.attach_receiver(credit=1000)
    peer.hear()
    while receiver.ready:
        receiver.send(b"t", b"x" * 100, "token")
    for number in range(9):
        peer.transfer(number, b"x", settled=True)
    assert sender.credit == 1
    assert not [flow for flow in peer.heard(Flow) if flow.handle in (None, SENDING)]
    assert {flow.handle for flow in peer.heard(Flow)} == {None, SENDING}
    assert sender.credit == 10
    assert receiver.ready


def test_a_disposition_of_four_billion_deliveries_costs_no_work() -> None:
    peer = Peer()
    link = peer.attach_receiver(credit=2)
    link.send(b"t", b"x", "token")
    for _ in range(1000):
        peer.say(1, Disposition(True, Uint(5), Uint(2**28 - 1), True, ACCEPTED))
    events = peer.say(1, Disposition(True, Uint(0), Uint(2**32 - 1), True, ACCEPTED))
    assert len(events) == 1


def test_a_thousand_sessions_come_and_go() -> None:
    peer = Peer()
    for turn in range(1000):
        channel = turn % 50 + 2
        peer.begin(channel)
        peer.attach_sender(f"link {turn}", channel=channel)
        peer.say(channel, End())
    assert len(peer.heard(Begin)) == 1000
    assert peer.connection.pending() == []
