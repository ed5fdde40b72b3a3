"""Time to live: what expires is dropped, or dead-lettered when the queue says so."""

from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessageState
from azure.servicebus.exceptions import MessageNotFoundError

from tests.protocol.queue_client import QueueClient

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def keeps(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["keeps"]


@pytest.fixture(scope="session")
def drops(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["drops"]


async def test_an_expired_message_is_dead_lettered_with_its_reason(keeps: QueueClient) -> None:
    await keeps.send("brief", time_to_live=timedelta(seconds=10))
    await keeps.bus.advance(10)
    dead = await keeps.next_dead_letter()
    assert (str(dead), dead.dead_letter_reason) == ("brief", "TTLExpiredException")
    assert keeps.left == 0


async def test_without_dead_lettering_an_expired_message_is_gone(drops: QueueClient) -> None:
    await drops.send("brief", time_to_live=timedelta(seconds=10))
    await drops.bus.advance(10)
    counts = drops.bus.counts("drops")
    assert (counts.active, counts.dead_lettered) == (0, 0)


async def test_the_queue_s_default_applies_and_is_the_ceiling(drops: QueueClient) -> None:
    await drops.send("default")
    await drops.send("asks for more", time_to_live=timedelta(hours=1))
    first, second = await drops.next(), await drops.next()
    assert first.time_to_live == second.time_to_live == timedelta(minutes=10)
    for message in (first, second):
        await drops.receiver.abandon_message(message)
    await drops.bus.advance(600)
    assert drops.left == 0


async def test_a_locked_message_does_not_expire_under_its_receiver(keeps: QueueClient) -> None:
    await keeps.send("in hand", time_to_live=timedelta(seconds=10))
    message = await keeps.next()
    await keeps.bus.advance(30)
    await keeps.receiver.complete_message(message)
    counts = keeps.bus.counts("keeps")
    assert (counts.active, counts.dead_lettered) == (0, 0)


async def test_a_message_that_expired_under_lock_dies_when_it_is_given_back(keeps: QueueClient) -> None:
    await keeps.send("too late", time_to_live=timedelta(seconds=10))
    message = await keeps.next()
    await keeps.bus.advance(30)
    await keeps.receiver.abandon_message(message)
    assert (await keeps.next_dead_letter()).dead_letter_reason == "TTLExpiredException"


async def test_a_received_message_shows_when_it_expires(keeps: QueueClient) -> None:
    await keeps.send("dated", time_to_live=timedelta(seconds=10))
    message = await keeps.next()
    assert message.expires_at_utc is not None
    assert message.enqueued_time_utc is not None
    assert message.expires_at_utc - message.enqueued_time_utc == timedelta(seconds=10)
    await keeps.receiver.complete_message(message)


async def test_a_deferred_message_expires_when_it_is_asked_for(keeps: QueueClient) -> None:
    await keeps.send("forgotten", time_to_live=timedelta(seconds=10))
    message = await keeps.next()
    assert message.sequence_number is not None
    await keeps.receiver.defer_message(message)
    await keeps.bus.advance(30)
    [found] = await keeps.receiver.peek_messages(sequence_number=message.sequence_number)
    assert found.state is ServiceBusMessageState.DEFERRED
    with pytest.raises(MessageNotFoundError):
        await keeps.receiver.receive_deferred_messages(message.sequence_number)
    dead = await keeps.next_dead_letter()
    assert (str(dead), dead.dead_letter_reason) == ("forgotten", "TTLExpiredException")


async def test_without_dead_lettering_an_expired_deferred_message_is_gone_once_asked_for(drops: QueueClient) -> None:
    await drops.send("forgotten", time_to_live=timedelta(seconds=10))
    message = await drops.next()
    assert message.sequence_number is not None
    await drops.receiver.defer_message(message)
    await drops.bus.advance(30)
    with pytest.raises(MessageNotFoundError):
        await drops.receiver.receive_deferred_messages(message.sequence_number)
    assert drops.left == 0
