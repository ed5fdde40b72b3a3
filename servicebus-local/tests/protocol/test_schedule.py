"""Scheduled messages wait for their time, and can be called off."""

from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.exceptions import MessageNotFoundError

from tests.protocol.queue_client import QueueClient, moment

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def orders(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["later"]


async def test_a_scheduled_message_stays_hidden_until_its_time(orders: QueueClient) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("later"), moment(10))
    assert (orders.bus.counts("later").scheduled, orders.bus.counts("later").active) == (1, 0)
    await orders.bus.advance(9)
    assert orders.bus.counts("later").active == 0
    await orders.bus.advance(1)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert str(got) == "later"
    assert (got.sequence_number or 0) > number
    assert got.enqueued_time_utc is not None
    assert abs(got.enqueued_time_utc - moment(0)) < timedelta(milliseconds=2)


async def test_a_time_on_the_message_schedules_it_too(orders: QueueClient) -> None:
    await orders.send("annotated", scheduled_enqueue_time_utc=moment(5))
    assert orders.bus.counts("later").scheduled == 1
    await orders.bus.advance(5)
    got = await orders.next()
    assert got.scheduled_enqueue_time_utc is not None
    await orders.receiver.complete_message(got)


async def test_a_time_that_has_passed_means_now(orders: QueueClient) -> None:
    await orders.sender.schedule_messages(ServiceBusMessage("now"), moment(-5))
    await orders.receiver.complete_message(await orders.next())


async def test_scheduled_messages_come_in_the_order_of_their_times(orders: QueueClient) -> None:
    numbers = []
    for wait in (30, 10, 20):
        numbers += await orders.sender.schedule_messages(ServiceBusMessage(f"in {wait}"), moment(wait))
    await orders.bus.advance(60)
    got = [await orders.next() for _ in range(3)]
    assert [str(message) for message in got] == ["in 10", "in 20", "in 30"]
    for message in got:
        await orders.receiver.complete_message(message)


async def test_a_scheduled_message_can_be_cancelled(orders: QueueClient) -> None:
    numbers = await orders.sender.schedule_messages([ServiceBusMessage("no"), ServiceBusMessage("yes")], moment(10))
    await orders.sender.cancel_scheduled_messages(numbers[0])
    await orders.bus.advance(10)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert (str(got), orders.left) == ("yes", 0)


async def test_what_has_left_cannot_be_cancelled(orders: QueueClient) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("gone"), moment(1))
    await orders.bus.advance(1)
    with pytest.raises(MessageNotFoundError):
        await orders.sender.cancel_scheduled_messages(number)
    await orders.receiver.complete_message(await orders.next())


async def test_a_scheduled_message_can_be_looked_at(orders: QueueClient) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("soon"), moment(10))
    [seen] = await orders.receiver.peek_messages(sequence_number=number)
    assert (seen.state, str(seen)) == (ServiceBusMessageState.SCHEDULED, "soon")
    await orders.sender.cancel_scheduled_messages(number)


async def test_time_to_live_starts_when_the_message_appears(orders: QueueClient) -> None:
    brief = ServiceBusMessage("brief", time_to_live=timedelta(seconds=5))
    await orders.sender.schedule_messages(brief, moment(60))
    await orders.bus.advance(64)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert str(got) == "brief"
