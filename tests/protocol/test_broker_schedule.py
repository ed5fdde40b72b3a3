"""Scheduled messages wait for their time, and can be called off."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.exceptions import MessageNotFoundError

from local.broker.testing import LocalBus, ManualClock
from tests.protocol.broker_desk import Desk, desk_at, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders() -> AsyncIterator[Desk]:
    async with LocalBus(topology(orders={}), clock=CLOCK) as bus, desk_at(bus, "orders") as desk:
        yield desk


def in_(seconds: float) -> datetime:
    """A moment by the clock of the bus."""
    return datetime.fromtimestamp(CLOCK.now + seconds, UTC)


async def test_a_scheduled_message_stays_hidden_until_its_time(orders: Desk) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("later"), in_(10))
    assert (orders.bus.counts("orders").scheduled, orders.bus.counts("orders").active) == (1, 0)
    await orders.bus.advance(9)
    assert orders.bus.counts("orders").active == 0
    await orders.bus.advance(1)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert str(got) == "later"
    assert (got.sequence_number or 0) > number
    assert got.enqueued_time_utc is not None
    assert abs(got.enqueued_time_utc - in_(0)) < timedelta(milliseconds=2)


async def test_a_time_on_the_message_schedules_it_too(orders: Desk) -> None:
    await orders.send("annotated", scheduled_enqueue_time_utc=in_(5))
    assert orders.bus.counts("orders").scheduled == 1
    await orders.bus.advance(5)
    got = await orders.next()
    assert got.scheduled_enqueue_time_utc is not None
    await orders.receiver.complete_message(got)


async def test_a_time_that_has_passed_means_now(orders: Desk) -> None:
    await orders.sender.schedule_messages(ServiceBusMessage("now"), in_(-5))
    await orders.receiver.complete_message(await orders.next())


async def test_scheduled_messages_come_in_the_order_of_their_times(orders: Desk) -> None:
    numbers = []
    for wait in (30, 10, 20):
        numbers += await orders.sender.schedule_messages(ServiceBusMessage(f"in {wait}"), in_(wait))
    await orders.bus.advance(60)
    got = [await orders.next() for _ in range(3)]
    assert [str(message) for message in got] == ["in 10", "in 20", "in 30"]
    for message in got:
        await orders.receiver.complete_message(message)


async def test_a_scheduled_message_can_be_cancelled(orders: Desk) -> None:
    numbers = await orders.sender.schedule_messages([ServiceBusMessage("no"), ServiceBusMessage("yes")], in_(10))
    await orders.sender.cancel_scheduled_messages(numbers[0])
    await orders.bus.advance(10)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert (str(got), orders.left) == ("yes", 0)


async def test_what_has_left_cannot_be_cancelled(orders: Desk) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("gone"), in_(1))
    await orders.bus.advance(1)
    with pytest.raises(MessageNotFoundError):
        await orders.sender.cancel_scheduled_messages(number)
    await orders.receiver.complete_message(await orders.next())


async def test_a_scheduled_message_can_be_looked_at(orders: Desk) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("soon"), in_(10))
    [seen] = await orders.receiver.peek_messages(sequence_number=number)
    assert (seen.state, str(seen)) == (ServiceBusMessageState.SCHEDULED, "soon")
    await orders.sender.cancel_scheduled_messages(number)


async def test_time_to_live_starts_when_the_message_appears(orders: Desk) -> None:
    brief = ServiceBusMessage("brief", time_to_live=timedelta(seconds=5))
    await orders.sender.schedule_messages(brief, in_(60))
    await orders.bus.advance(64)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert str(got) == "brief"
