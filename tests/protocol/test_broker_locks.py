"""A lock ends, or is renewed; time is moved by hand."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import pytest_asyncio
from azure.servicebus.exceptions import MessageLockLostError

from local.broker.testing import LocalBus, ManualClock
from tests.protocol.broker_desk import Desk, desk_at, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders() -> AsyncIterator[Desk]:
    queues = topology(orders={"LockDuration": "PT1M", "MaxDeliveryCount": 10})
    async with LocalBus(queues, clock=CLOCK) as bus, desk_at(bus, "orders") as desk:
        yield desk


async def test_a_lock_ends_one_lock_duration_after_delivery(orders: Desk) -> None:
    await orders.send("x")
    message = await orders.next()
    assert message.locked_until_utc == datetime.fromtimestamp(int((CLOCK.now + 60) * 1000) / 1000, UTC)
    await orders.receiver.complete_message(message)


async def test_a_message_whose_lock_ended_is_delivered_again_and_counted(orders: Desk) -> None:
    await orders.send("slow")
    lost = await orders.next()
    await orders.bus.advance(60)
    again = await orders.next()
    assert (again.message_id, again.delivery_count) == (lost.message_id, 1)
    assert again.lock_token != lost.lock_token
    await orders.receiver.complete_message(again)


async def test_settling_under_a_lock_that_ended_is_refused(orders: Desk) -> None:
    await orders.send("slow")
    lost = await orders.next()
    await orders.bus.advance(60)
    with pytest.raises(MessageLockLostError):
        await orders.receiver.complete_message(lost)
    again = await orders.next()
    with pytest.raises(MessageLockLostError):
        await orders.receiver.abandon_message(lost)
    await orders.receiver.complete_message(again)
    assert orders.left == 0


async def test_a_renewed_lock_lasts_a_whole_duration_more(orders: Desk) -> None:
    await orders.send("long work")
    message = await orders.next()
    for _ in range(3):
        await orders.bus.advance(59)
        until = await orders.receiver.renew_message_lock(message)
        assert until == datetime.fromtimestamp(int((CLOCK.now + 60) * 1000) / 1000, UTC)
    await orders.bus.advance(59)
    await orders.receiver.complete_message(message)
    assert orders.left == 0


async def test_a_lock_that_ended_cannot_be_renewed(orders: Desk) -> None:
    await orders.send("too late")
    lost = await orders.next()
    await orders.bus.advance(61)
    with pytest.raises(MessageLockLostError):
        await orders.receiver.renew_message_lock(lost)
    await orders.receiver.complete_message(await orders.next())


async def test_each_lock_has_its_own_time(orders: Desk) -> None:
    await orders.send("early", "late")
    early = await orders.next()
    await orders.bus.advance(30)
    late = await orders.next()
    await orders.bus.advance(30)
    again = await orders.next()
    assert str(again) == "early"
    await orders.bus.advance(29)
    await orders.receiver.complete_message(late)
    with pytest.raises(MessageLockLostError):
        await orders.receiver.complete_message(early)
    await orders.receiver.complete_message(again)
