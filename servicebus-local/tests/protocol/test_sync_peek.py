"""The synchronous SDK looks without taking: every state, from any number, in dead letters and sessions too."""

from collections.abc import Iterator

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState

from tests.protocol.counter import SOON, Desk, desk_at
from tests.protocol.desk import topology

ACTIVE, DEFERRED, SCHEDULED = (
    ServiceBusMessageState.ACTIVE,
    ServiceBusMessageState.DEFERRED,
    ServiceBusMessageState.SCHEDULED,
)


@pytest.fixture(scope="module")
def shared_desk() -> Iterator[Desk]:
    with desk_at(topology(orders={}, talks={"RequiresSession": True}), "orders", dead_letters=True) as desk:
        yield desk


@pytest.fixture
def desk(shared_desk: Desk) -> Iterator[Desk]:
    yield shared_desk
    shared_desk.bus.purge("orders")
    shared_desk.bus.purge("orders/$DeadLetterQueue")


def test_an_empty_queue_shows_nothing(desk: Desk) -> None:
    assert desk.receiver.peek_messages() == []
    assert desk.receiver.peek_messages(10, sequence_number=1) == []


def test_messages_are_seen_in_order_as_many_as_wanted_and_stay(desk: Desk) -> None:
    desk.send(*"abcde")
    seen = desk.receiver.peek_messages(3, sequence_number=1, timeout=SOON)
    assert [str(message) for message in seen] == ["a", "b", "c"]
    further = desk.receiver.peek_messages(10, sequence_number=(seen[-1].sequence_number or 0) + 1)
    assert [str(message) for message in further] == ["d", "e"]
    assert desk.left == 5
    assert all(message.locked_until_utc is None for message in (*seen, *further))


def test_without_a_number_peeking_goes_on_after_what_was_received_or_seen(desk: Desk) -> None:
    desk.send(*"abcd")
    desk.receiver.complete_message(desk.next())
    assert [str(message) for message in desk.receiver.peek_messages()] == ["b"]
    assert [str(message) for message in desk.receiver.peek_messages(10)] == ["c", "d"]


def test_every_state_is_seen(desk: Desk) -> None:
    deferred = desk.sent("deferred")
    desk.receiver.defer_message(deferred)
    desk.sent("locked")
    desk.send("active")
    desk.sender.schedule_messages(ServiceBusMessage("scheduled"), desk.counter.moment(60))
    seen = desk.receiver.peek_messages(10, sequence_number=1)
    assert {str(message): message.state for message in seen} == {
        "deferred": DEFERRED,
        "locked": ACTIVE,
        "active": ACTIVE,
        "scheduled": SCHEDULED,
    }


def test_dead_letters_are_seen_with_their_reasons(desk: Desk) -> None:
    desk.receiver.dead_letter_message(desk.sent("bad"), reason="r", error_description="d")
    [seen] = desk.dead_letters.peek_messages(sequence_number=1)
    assert (str(seen), seen.dead_letter_reason, seen.dead_letter_error_description) == ("bad", "r", "d")
    assert desk.receiver.peek_messages(sequence_number=1) == []


def test_an_answer_has_as_much_as_fits(desk: Desk) -> None:
    for _ in range(6):
        desk.sender.send_messages(ServiceBusMessage(b"x" * 250_000))
    seen = desk.receiver.peek_messages(6, sequence_number=1)
    assert 0 < len(seen) < 6
    rest = desk.receiver.peek_messages(6, sequence_number=(seen[-1].sequence_number or 0) + 1)
    assert len(seen) + len(rest) == 6


def test_a_session_shows_its_own_messages(desk: Desk) -> None:
    sender = desk.client.get_queue_sender("talks")
    receiver = desk.client.get_queue_receiver("talks", session_id="mine")
    desk.counter.open_all(sender, receiver)
    for session in ("other", "mine", "other"):
        sender.send_messages(ServiceBusMessage(f"for {session}", session_id=session))
    [seen] = receiver.peek_messages(10, sequence_number=1)
    assert (str(seen), seen.session_id) == ("for mine", "mine")


def test_counts_and_times_that_make_no_sense_are_refused_by_the_sdk(desk: Desk) -> None:
    with pytest.raises(ValueError, match="max_message_count"):
        desk.receiver.peek_messages(-1)
    with pytest.raises(ValueError, match="timeout"):
        desk.receiver.peek_messages(1, timeout=0)
