"""Peeking: looking at messages without touching them."""

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState

from tests.protocol.queue_client import QueueClient, moment

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def orders(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["shown"]


async def clear(queue_client: QueueClient) -> None:
    while queue_client.left:
        await queue_client.receiver.complete_message(await queue_client.next())


async def test_peeking_changes_nothing(orders: QueueClient) -> None:
    await orders.send("a")
    for _ in range(2):
        [seen] = await orders.receiver.peek_messages(sequence_number=1)
        assert (str(seen), seen.delivery_count, seen.lock_token) == ("a", 0, None)
    await clear(orders)


async def test_peeking_goes_on_where_it_stopped(orders: QueueClient) -> None:
    await orders.sender.send_messages([ServiceBusMessage(str(n)) for n in range(5)])
    first = await orders.receiver.peek_messages(2, sequence_number=1)
    rest = await orders.receiver.peek_messages(10)
    assert [str(m) for m in first] == ["0", "1"]
    assert [str(m) for m in rest] == ["2", "3", "4"]
    assert await orders.receiver.peek_messages(10) == []
    await clear(orders)


async def test_peeking_starts_at_a_sequence_number(orders: QueueClient) -> None:
    await orders.sender.send_messages([ServiceBusMessage(str(n)) for n in range(5)])
    everything = await orders.receiver.peek_messages(10, sequence_number=1)
    from_third = await orders.receiver.peek_messages(10, sequence_number=everything[2].sequence_number or 0)
    assert [str(m) for m in from_third] == ["2", "3", "4"]
    await clear(orders)


async def test_messages_in_every_state_are_seen(orders: QueueClient) -> None:
    await orders.send("deferred", "locked", "active")
    deferred = await orders.next()
    await orders.receiver.defer_message(deferred)
    locked = await orders.next()
    in_an_hour = moment(3600)
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("scheduled"), in_an_hour)
    seen = {str(m): m.state for m in await orders.receiver.peek_messages(10, sequence_number=1)}
    assert seen == {
        "deferred": ServiceBusMessageState.DEFERRED,
        "locked": ServiceBusMessageState.ACTIVE,
        "active": ServiceBusMessageState.ACTIVE,
        "scheduled": ServiceBusMessageState.SCHEDULED,
    }
    await orders.sender.cancel_scheduled_messages(number)
    await orders.receiver.complete_message(locked)
    [again] = await orders.receiver.receive_deferred_messages([deferred.sequence_number or 0])
    await orders.receiver.complete_message(again)
    await clear(orders)


async def test_dead_letters_are_seen_in_sequence_order(orders: QueueClient) -> None:
    await orders.send("first", "second")
    first, second = await orders.next(), await orders.next()
    await orders.receiver.dead_letter_message(second, reason="b")
    await orders.receiver.dead_letter_message(first, reason="a")
    seen = await orders.dead_letters.peek_messages(10, sequence_number=1)
    assert [(str(m), m.dead_letter_reason) for m in seen] == [("first", "a"), ("second", "b")]
    for _ in range(2):
        await orders.next_dead_letter()


async def test_many_large_messages_are_seen_a_reply_at_a_time(orders: QueueClient) -> None:
    for _ in range(8):
        await orders.send("x" * 200_000)
    first = await orders.receiver.peek_messages(10, sequence_number=1)
    rest = await orders.receiver.peek_messages(10)
    assert 0 < len(first) < 8
    assert len(first) + len(rest) == 8
    await clear(orders)


async def test_an_empty_queue_shows_nothing(orders: QueueClient) -> None:
    assert await orders.receiver.peek_messages(10, sequence_number=1) == []
