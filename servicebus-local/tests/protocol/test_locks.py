"""A lock ends, or is renewed; time is moved by hand."""

import asyncio

import pytest
from azure.servicebus.exceptions import MessageLockLostError

from tests.protocol.queue_client import SOON, QueueClient, moment

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def orders(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["locked"]


async def test_a_lock_ends_one_lock_duration_after_delivery(orders: QueueClient) -> None:
    await orders.send("x")
    message = await orders.next()
    assert message.locked_until_utc == moment(60)
    await orders.receiver.complete_message(message)


async def test_a_message_whose_lock_ended_is_delivered_again_and_counted(orders: QueueClient) -> None:
    await orders.send("slow")
    lost = await orders.next()
    await orders.bus.advance(60)
    again = await orders.next()
    assert (again.message_id, again.delivery_count) == (lost.message_id, 1)
    assert again.lock_token != lost.lock_token
    await orders.receiver.complete_message(again)


async def test_settling_under_a_lock_that_ended_is_refused(orders: QueueClient) -> None:
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


async def test_a_renewed_lock_lasts_a_whole_duration_more(orders: QueueClient) -> None:
    await orders.send("long work")
    message = await orders.next()
    for _ in range(3):
        await orders.bus.advance(59)
        until = await orders.receiver.renew_message_lock(message)
        assert until == moment(60)
    await orders.bus.advance(59)
    await orders.receiver.complete_message(message)
    assert orders.left == 0


async def test_a_lock_that_ended_cannot_be_renewed(orders: QueueClient) -> None:
    await orders.send("too late")
    lost = await orders.next()
    await orders.bus.advance(61)
    with pytest.raises(MessageLockLostError):
        await orders.receiver.renew_message_lock(lost)
    await orders.receiver.complete_message(await orders.next())


async def test_each_lock_has_its_own_time(orders: QueueClient) -> None:
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


async def test_renewals_and_settlements_do_not_disturb_each_other(orders: QueueClient) -> None:
    """With low delivery ids the SDK mistakes an outcome for the answer to its own request."""
    await orders.send(*(str(number) for number in range(8)))
    renewed, dead = [[await orders.next() for _ in range(4)] for _ in range(2)]
    async with asyncio.timeout(SOON):
        await asyncio.gather(
            *(orders.receiver.renew_message_lock(message) for message in renewed * 5),
            *(orders.receiver.dead_letter_message(message, reason="r") for message in dead),
        )
    await asyncio.gather(*(orders.receiver.complete_message(message) for message in renewed))
    counts = orders.bus.counts("locked")
    assert (counts.active, counts.dead_lettered) == (0, 4)
