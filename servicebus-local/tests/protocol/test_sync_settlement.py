"""The synchronous SDK settles: complete, abandon, defer, dead-letter, renew; and what cannot be settled."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
)
from azure.servicebus.exceptions import MessageAlreadySettled, MessageLockLostError, MessageNotFoundError

from tests.protocol.counter import MOMENT, SOON, Desk, desk_at, take
from tests.protocol.desk import topology

Settle = Callable[[ServiceBusReceiver, ServiceBusReceivedMessage], None]
SETTLEMENTS: dict[str, Settle] = {
    "complete": lambda receiver, message: receiver.complete_message(message),
    "abandon": lambda receiver, message: receiver.abandon_message(message),
    "defer": lambda receiver, message: receiver.defer_message(message),
    "dead-letter": lambda receiver, message: receiver.dead_letter_message(message, reason="r"),
}
every_settlement = pytest.mark.parametrize("settle", SETTLEMENTS.values(), ids=SETTLEMENTS.keys())


@pytest.fixture(scope="module")
def shared_desk() -> Iterator[Desk]:
    config = topology(orders={"LockDuration": "PT1M", "MaxDeliveryCount": 3, "DefaultMessageTimeToLive": "PT24H"})
    with desk_at(config, "orders", dead_letters=True) as desk:
        yield desk


@pytest.fixture
def desk(shared_desk: Desk) -> Iterator[Desk]:
    """The desk, with an empty queue for each test."""
    yield shared_desk
    shared_desk.bus.purge("orders")
    shared_desk.bus.purge("orders/$DeadLetterQueue")


@pytest.fixture(scope="module")
def taker(shared_desk: Desk) -> ServiceBusReceiver:
    """A receiver whose messages are gone when it has them."""
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    return shared_desk.counter.open(shared_desk.client.get_queue_receiver("orders", receive_mode=mode))


# --------------------------------------------------------------------------- the five ways out


def test_a_completed_message_is_gone(desk: Desk) -> None:
    desk.receiver.complete_message(desk.sent("done"))
    assert desk.left == 0


def test_an_abandoned_message_comes_back_until_its_deliveries_are_used_up(desk: Desk) -> None:
    desk.send("poison")
    for expected in range(3):
        message = desk.next()
        assert message.delivery_count == expected
        desk.receiver.abandon_message(message)
    dead = desk.next_dead_letter()
    assert (str(dead), dead.dead_letter_reason) == ("poison", "MaxDeliveryCountExceeded")
    assert desk.left == 0


def test_a_dead_letter_says_why_and_keeps_its_number(desk: Desk) -> None:
    message = desk.sent("bad", application_properties={"kept": "yes"})
    desk.receiver.dead_letter_message(message, reason="unreadable", error_description="no header")
    dead = desk.next_dead_letter()
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("unreadable", "no header")
    assert dead.sequence_number == message.sequence_number
    assert dead.application_properties is not None
    assert dead.application_properties[b"kept"] == b"yes"


def test_a_dead_letter_needs_no_reason(desk: Desk) -> None:
    desk.receiver.dead_letter_message(desk.sent("bad"))
    dead = desk.next_dead_letter()
    assert not dead.dead_letter_reason
    assert not dead.dead_letter_error_description


def test_deferred_messages_are_received_by_number_alone_or_together(desk: Desk) -> None:
    numbers = []
    for body in ("one", "two", "three"):
        message = desk.sent(body)
        desk.receiver.defer_message(message)
        numbers.append(message.sequence_number or 0)
    assert desk.receiver.receive_messages(1, max_wait_time=MOMENT) == []
    assert desk.receiver.receive_deferred_messages([]) == []
    [one] = desk.receiver.receive_deferred_messages(numbers[0])
    assert (str(one), one.state) == ("one", ServiceBusMessageState.DEFERRED)
    rest = desk.receiver.receive_deferred_messages(numbers[1:], timeout=SOON)
    assert [str(message) for message in rest] == ["two", "three"]
    for message in (one, *rest):
        desk.receiver.complete_message(message)
    assert desk.left == 0


@pytest.mark.parametrize("how", ["abandon", "defer"])
def test_a_deferred_message_stays_deferred_unless_it_is_done_with(desk: Desk, how: str) -> None:
    message = desk.sent("later")
    number = message.sequence_number or 0
    desk.receiver.defer_message(message)
    [deferred] = desk.receiver.receive_deferred_messages(number)
    SETTLEMENTS[how](desk.receiver, deferred)
    [again] = desk.receiver.receive_deferred_messages(number)
    assert again.delivery_count == (deferred.delivery_count or 0) + 1
    desk.receiver.dead_letter_message(again, reason="late")
    assert desk.next_dead_letter().dead_letter_reason == "late"


def test_a_deferred_message_can_be_received_and_deleted(desk: Desk, taker: ServiceBusReceiver) -> None:
    message = desk.sent("later")
    desk.receiver.defer_message(message)
    [deferred] = taker.receive_deferred_messages(message.sequence_number or 0)
    assert str(deferred) == "later"
    assert desk.left == 0


def test_a_locked_deferred_message_and_an_unknown_number_are_not_found(desk: Desk) -> None:
    message = desk.sent("later")
    number = message.sequence_number or 0
    with pytest.raises(MessageNotFoundError):
        desk.receiver.receive_deferred_messages(number)  # it is not deferred
    desk.receiver.defer_message(message)
    desk.receiver.receive_deferred_messages(number)
    for numbers in (number, [number, 987654], 987654):
        with pytest.raises(MessageNotFoundError):
            desk.receiver.receive_deferred_messages(numbers)


def test_received_and_deleted_messages_are_gone_at_once(desk: Desk, taker: ServiceBusReceiver) -> None:
    desk.send("one", "two")
    got = [str(message) for message in taker.receive_messages(2, max_wait_time=SOON)]
    while len(got) < 2:
        got += [str(message) for message in taker.receive_messages(2, max_wait_time=SOON)]
    assert got == ["one", "two"]
    assert desk.left == 0


# --------------------------------------------------------------------------- locks


def test_a_renewed_lock_lasts_as_long_again(desk: Desk) -> None:
    message = desk.sent("long work")
    assert message.locked_until_utc == desk.counter.moment(60)
    for _ in range(3):
        desk.bus.advance(40)
        assert desk.receiver.renew_message_lock(message, timeout=SOON) == desk.counter.moment(60)
        assert message.locked_until_utc == desk.counter.moment(60)
    desk.receiver.complete_message(message)
    assert desk.left == 0


@every_settlement
def test_a_message_whose_lock_has_ended_cannot_be_settled(desk: Desk, settle: Settle) -> None:
    message = desk.sent("slow work")
    desk.bus.advance(60)
    with pytest.raises(MessageLockLostError):
        settle(desk.receiver, message)
    again = desk.next()
    assert (str(again), again.delivery_count) == ("slow work", 1)
    assert again.lock_token != message.lock_token


def test_a_lock_that_has_ended_cannot_be_renewed(desk: Desk) -> None:
    message = desk.sent("slow work")
    desk.bus.advance(60)
    with pytest.raises(MessageLockLostError):
        desk.receiver.renew_message_lock(message)


def test_the_lock_of_a_deferred_message_ends_and_is_renewed_like_any_other(desk: Desk) -> None:
    message = desk.sent("later")
    desk.receiver.defer_message(message)
    [deferred] = desk.receiver.receive_deferred_messages(message.sequence_number or 0)
    desk.bus.advance(59)
    assert desk.receiver.renew_message_lock(deferred) == desk.counter.moment(60)
    desk.bus.advance(60)
    with pytest.raises(MessageLockLostError):
        desk.receiver.complete_message(deferred)
    assert len(desk.receiver.receive_deferred_messages(message.sequence_number or 0)) == 1


# --------------------------------------------------------------------------- what the SDK itself refuses


@every_settlement
def test_nothing_is_settled_twice(desk: Desk, settle: Settle) -> None:
    message = desk.sent("once")
    desk.receiver.complete_message(message)
    with pytest.raises(MessageAlreadySettled):
        settle(desk.receiver, message)
    with pytest.raises(MessageAlreadySettled):
        desk.receiver.renew_message_lock(message)


@every_settlement
def test_a_peeked_message_cannot_be_settled(desk: Desk, settle: Settle) -> None:
    desk.send("seen")
    [peeked] = desk.receiver.peek_messages(sequence_number=1)
    with pytest.raises(ValueError, match="peeked"):
        settle(desk.receiver, peeked)
    with pytest.raises(ValueError, match="peeked"):
        desk.receiver.renew_message_lock(peeked)


@every_settlement
def test_a_deleted_message_cannot_be_settled(desk: Desk, taker: ServiceBusReceiver, settle: Settle) -> None:
    desk.send("gone")
    [message] = taker.receive_messages(1, max_wait_time=SOON)
    with pytest.raises(ValueError, match="RECEIVE_AND_DELETE"):
        settle(taker, message)
    with pytest.raises(ValueError, match="RECEIVE_AND_DELETE"):
        taker.renew_message_lock(message)


def test_only_what_was_received_can_be_settled(desk: Desk) -> None:
    mine: Any = ServiceBusMessage("mine")
    with pytest.raises(TypeError, match="ServiceBusReceivedMessage"):
        desk.receiver.complete_message(mine)


# --------------------------------------------------------------------------- order


def test_messages_leave_in_the_order_they_came_and_return_to_their_place(desk: Desk) -> None:
    desk.send("a", "b", "c")
    first = desk.next()
    second = desk.next()
    desk.receiver.abandon_message(second)
    desk.receiver.abandon_message(first)
    assert take(desk.receiver, 3) == ["a", "b", "c"]
