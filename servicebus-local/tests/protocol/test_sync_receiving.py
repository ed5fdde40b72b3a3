"""The synchronous SDK receives: by loops that end, by calls that wait, ahead of the calls, and after its end."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
)

from tests.protocol.counter import MOMENT, SOON, Desk, client_of, desk_at, next_of, take, together
from tests.protocol.desk import topology

BRIEF = 0.3
"""How long a loop waits for one more message."""


class Place(NamedTuple):
    """A queue, with somebody who sends and somebody who receives."""

    desk: Desk
    queue: str
    sender: ServiceBusSender
    receiver: ServiceBusReceiver

    def send(self, *bodies: str) -> None:
        """Send messages in one batch."""
        self.sender.send_messages([ServiceBusMessage(body) for body in bodies])

    def wait_until_locked(self) -> None:
        """Wait until every message is with a receiver, asked for or not."""
        bus = self.desk.bus
        bus.wait_until(lambda: all(message.state == "locked" for message in bus.messages(self.queue)))

    @property
    def left(self) -> int:
        """How many messages the queue holds."""
        return self.desk.bus.counts(self.queue).active


@pytest.fixture(scope="module")
def shared_desk() -> Iterator[Desk]:
    with desk_at(topology(orders={}, loop={}, next={}, deleted={}, ahead={}), "orders") as desk:
        yield desk


@pytest.fixture(scope="module")
def places(shared_desk: Desk) -> dict[str, Place]:
    """A queue for each way of receiving: a loop that was left has asked for more than it got."""
    get, mode = shared_desk.client.get_queue_receiver, ServiceBusReceiveMode.RECEIVE_AND_DELETE
    receivers = {
        "loop": get("loop", max_wait_time=BRIEF),
        "next": get("next"),
        "deleted": get("deleted", max_wait_time=BRIEF, receive_mode=mode, prefetch_count=10),
        "ahead": get("ahead", prefetch_count=10),
    }
    places = {
        name: Place(shared_desk, name, shared_desk.client.get_queue_sender(name), receiver)
        for name, receiver in receivers.items()
    }
    shared_desk.counter.open_all(*(handler for place in places.values() for handler in (place.sender, place.receiver)))
    return places


@pytest.fixture
def desk(shared_desk: Desk) -> Iterator[Desk]:
    yield shared_desk
    shared_desk.bus.purge("orders")


# --------------------------------------------------------------------------- calls


def test_a_call_returns_what_is_there_and_no_more_than_was_asked_for(desk: Desk) -> None:
    desk.send(*"abcde")
    got: list[ServiceBusReceivedMessage] = []
    while len(got) < 3:
        got += desk.receiver.receive_messages(3 - len(got), max_wait_time=SOON)
    assert [str(message) for message in got] == ["a", "b", "c"]
    for message in got:
        desk.receiver.complete_message(message)
    assert desk.left == 2


def test_a_call_without_messages_ends_after_its_time(desk: Desk) -> None:
    assert desk.receiver.receive_messages(5, max_wait_time=MOMENT) == []


def test_a_waiting_call_gets_a_message_the_moment_it_is_sent(desk: Desk) -> None:
    def speak() -> None:
        desk.bus.wait_until(lambda: desk.bus.waiting("orders"))
        desk.send("here")

    taken, _ = together(lambda: take(desk.receiver, 1), speak)
    assert taken == ["here"]


@pytest.mark.parametrize(
    "wrong", [{"max_message_count": 0}, {"max_message_count": -1}, {"max_wait_time": 0}, {"max_wait_time": -1}]
)
def test_counts_and_times_must_be_more_than_nothing(desk: Desk, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        desk.receiver.receive_messages(**wrong)
    with pytest.raises(ValueError, match="greater than 0"):
        desk.receiver.receive_deferred_messages(1, timeout=0)


# --------------------------------------------------------------------------- loops


def test_a_loop_ends_when_nothing_came_for_a_while(places: dict[str, Place]) -> None:
    place = places["loop"]
    for round_ in ("first", "second"):  # it can be begun again
        place.send(*(f"{round_} {number}" for number in range(5)))
        got = []
        for message in place.receiver:
            place.receiver.complete_message(message)
            got.append(str(message))
        assert got == [f"{round_} {number}" for number in range(5)]
    assert place.left == 0


def test_the_next_message_may_be_asked_for(places: dict[str, Place]) -> None:
    place = places["next"]
    place.send("one", "two")
    for expected in ("one", "two"):
        message = place.receiver.next()
        place.receiver.complete_message(message)
        assert str(message) == expected


def test_a_loop_that_deletes_needs_no_settlement(places: dict[str, Place]) -> None:
    place = places["deleted"]
    place.send(*"abcdefgh")
    assert [str(message) for message in place.receiver] == list("abcdefgh")
    assert place.left == 0


# --------------------------------------------------------------------------- ahead


def test_prefetched_messages_are_locked_before_they_are_asked_for(places: dict[str, Place]) -> None:
    place = places["ahead"]
    place.send(*"abcde")
    first = take(place.receiver, 1)
    place.wait_until_locked()
    assert first + take(place.receiver, 4) == list("abcde")
    assert place.left == 0


def test_a_closing_receiver_gives_back_what_nobody_had_asked_for(places: dict[str, Place]) -> None:
    place = places["ahead"]
    place.send("handed out", "two", "three")
    next_of(place.receiver)
    place.wait_until_locked()
    place.receiver.close()
    stored = place.desk.bus.messages("ahead")
    assert [message.state for message in stored] == ["locked", "active", "active"]
    assert [message.delivery_count for message in stored] == [0, 0, 0]


@pytest.mark.parametrize("count", [-1, 50_001])
def test_prefetch_has_bounds(desk: Desk, count: int) -> None:
    with pytest.raises(ValueError, match="prefetch_count"):
        desk.client.get_queue_receiver("orders", prefetch_count=count)


# --------------------------------------------------------------------------- names, beginnings and ends


def test_handlers_have_the_names_they_were_given_and_open_when_they_are_used_first(desk: Desk) -> None:
    receiver = desk.client.get_queue_receiver("orders", client_identifier="reader")
    sender = desk.client.get_queue_sender("orders", client_identifier="writer")
    assert (receiver.client_identifier, sender.client_identifier) == ("reader", "writer")
    assert (receiver.entity_path, sender.entity_name) == ("orders", "orders")
    assert not receiver.session
    assert "reader" in str(receiver)
    _, taken = together(  # they open when they are used first
        lambda: sender.send_messages(ServiceBusMessage("without a with")), lambda: take(receiver, 1)
    )
    assert taken == ["without a with"]
    assert {"reader", "writer"} <= set(desk.bus.connections.containers)
    together(receiver.close, sender.close)
    sender.close()  # twice does no harm


def test_what_was_closed_cannot_be_used(shared_desk: Desk) -> None:
    bus = shared_desk.bus
    with client_of(bus) as client:
        sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
        together(sender.__enter__, receiver.__enter__)
        shared_desk.send("x")
        [message] = receiver.receive_messages(1, max_wait_time=SOON)
        together(sender.close, receiver.close)
    for use in (
        lambda: sender.send_messages(ServiceBusMessage("x")),
        lambda: sender.schedule_messages(ServiceBusMessage("x"), shared_desk.counter.moment(1)),
        lambda: sender.cancel_scheduled_messages(1),
        lambda: receiver.receive_messages(),
        lambda: receiver.peek_messages(),
        lambda: receiver.receive_deferred_messages(1),
        lambda: receiver.complete_message(message),
        lambda: receiver.renew_message_lock(message),
        receiver.__enter__,
        sender.__enter__,
        receiver.next,
    ):
        with pytest.raises(ValueError, match="already been shutdown"):
            use()
    names = {sender.client_identifier, receiver.client_identifier}
    bus.wait_until(lambda: names.isdisjoint(bus.connections.containers))


def test_a_client_for_one_entity_serves_no_other(desk: Desk) -> None:
    string = f"{desk.bus.connection_string};EntityPath=orders"
    with type(desk.client).from_connection_string(string) as client:
        client.get_queue_sender("orders")
        for get in (
            lambda: client.get_queue_sender("other"),
            lambda: client.get_queue_receiver("other"),
            lambda: client.get_topic_sender("other"),
            lambda: client.get_subscription_receiver("other", "all"),
            lambda: client.list_queue_sessions("other"),
            lambda: client.list_subscription_sessions("other", "all"),
        ):
            with pytest.raises(ValueError, match="does not match"):
                get()
