"""Dead letters: why a message is there, what it keeps, and where it may be forwarded."""

import asyncio
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.exceptions import ServiceBusError

from tests.protocol.queue_client import QueueClient

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def orders(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["fragile"]


@pytest.fixture(scope="session")
def work(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["work"]


@pytest.fixture(scope="session")
def dead(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["dead"]


async def test_a_dead_letter_carries_its_reason_and_everything_it_had(orders: QueueClient) -> None:
    await orders.send("poison", message_id="p", subject="ask.v1", application_properties={"tenant": "t"})
    message = await orders.next()
    await orders.receiver.dead_letter_message(message, reason="SchemaInvalid", error_description="no body")
    dead = await orders.next_dead_letter()
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("SchemaInvalid", "no body")
    assert (str(dead), dead.message_id, dead.subject) == ("poison", "p", "ask.v1")
    assert (dead.application_properties or {})[b"tenant"] == b"t"
    assert dead.sequence_number == message.sequence_number
    assert dead.dead_letter_source is None


async def test_dead_lettering_needs_no_reason(orders: QueueClient) -> None:
    await orders.send("x")
    await orders.receiver.dead_letter_message(await orders.next())
    assert (await orders.next_dead_letter()).dead_letter_reason is None


async def test_a_dead_letter_cannot_be_dead_lettered(orders: QueueClient) -> None:
    await orders.send("x")
    await orders.receiver.dead_letter_message(await orders.next(), reason="one")
    dead = await orders.next(orders.dead_letters)
    with pytest.raises(ServiceBusError, match="cannot be dead-lettered"):
        await orders.dead_letters.dead_letter_message(dead, reason="two")
    await orders.bus.advance(60)  # the SDK has closed the receiver, and the lock is still there
    dead = await orders.next_dead_letter()
    assert (dead.dead_letter_reason, dead.delivery_count) == ("one", 0)


async def test_too_many_deliveries_end_in_the_dead_letter_queue(orders: QueueClient) -> None:
    await orders.send("unlucky")
    for _ in range(2):
        await orders.receiver.abandon_message(await orders.next())
    dead = await orders.next_dead_letter()
    assert dead.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert dead.delivery_count == 2
    assert orders.left == 0


async def test_locks_that_end_count_as_deliveries(orders: QueueClient) -> None:
    await orders.send("crashing")
    for _ in range(2):
        await orders.next()
        await orders.bus.advance(60)
    assert (await orders.next_dead_letter()).dead_letter_reason == "MaxDeliveryCountExceeded"


async def test_in_the_dead_letter_queue_nothing_is_counted(orders: QueueClient) -> None:
    await orders.send("x")
    await orders.receiver.abandon_message(await orders.next())
    await orders.receiver.dead_letter_message(await orders.next())
    for _ in range(4):
        await orders.dead_letters.abandon_message(await orders.next(orders.dead_letters))
    assert (await orders.next_dead_letter()).delivery_count == 1


async def test_a_deferred_message_can_be_dead_lettered(orders: QueueClient) -> None:
    await orders.send("x")
    message = await orders.next()
    await orders.receiver.defer_message(message)
    [deferred] = await orders.receiver.receive_deferred_messages([message.sequence_number or 0])
    await orders.receiver.dead_letter_message(deferred, reason="late", error_description="told")
    dead = await orders.next_dead_letter()
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("late", "told")
    assert dead.state is ServiceBusMessageState.ACTIVE


async def test_a_forwarded_dead_letter_is_an_ordinary_message_elsewhere(work: QueueClient, dead: QueueClient) -> None:
    await dead.send("an older one")
    await work.send("w", message_id="w-1", application_properties={"tenant": "t"})
    await work.receiver.abandon_message(await work.next())
    await work.receiver.dead_letter_message(await work.next(), reason="Crashed", error_description="boom")
    older, got = await dead.next(), await dead.next()
    assert (got.dead_letter_source, got.dead_letter_reason) == ("work", "Crashed")
    assert got.dead_letter_error_description == "boom"
    assert (got.application_properties or {})[b"tenant"] == b"t"
    assert (got.message_id, got.delivery_count) == ("w-1", 0)
    assert got.state is ServiceBusMessageState.ACTIVE
    assert (got.sequence_number or 0) > (older.sequence_number or 0)
    assert dead.bus.counts("work").dead_lettered == 0
    for message in (older, got):
        await dead.receiver.complete_message(message)


async def test_dead_letters_are_forwarded_whatever_their_reason(work: QueueClient, dead: QueueClient) -> None:
    await work.send("counted out")
    for _ in range(2):
        await work.receiver.abandon_message(await work.next())
    await work.send("expired", time_to_live=timedelta(seconds=5))
    await work.bus.advance(6)
    counted, expired = await dead.next(), await dead.next()
    assert counted.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert expired.dead_letter_reason == "TTLExpiredException"
    for message in (counted, expired):
        await dead.receiver.complete_message(message)


async def test_an_archived_dead_letter_never_expires(work: QueueClient, dead: QueueClient) -> None:
    await work.send("kept", time_to_live=timedelta(seconds=5))
    await work.receiver.dead_letter_message(await work.next(), reason="Crashed")
    await dead.receiver.dead_letter_message(await dead.next(), reason="Seen")
    await dead.bus.advance(7200)
    kept = await dead.next_dead_letter()
    assert (str(kept), kept.dead_letter_source, kept.dead_letter_reason) == ("kept", "work", "Seen")


async def test_a_queue_may_forward_everything(orders: QueueClient) -> None:
    door, room, refused = await asyncio.gather(
        orders.open(orders.client.get_queue_sender("door")),
        orders.open(orders.client.get_queue_receiver("room")),
        orders.refusal(orders.client.get_queue_receiver("door")),
    )
    await door.send_messages(ServiceBusMessage("through"))
    got = await orders.next(room)
    await room.complete_message(got)
    assert (str(got), orders.bus.counts("door").active) == ("through", 0)
    assert "'door' forwards its messages to 'room'" in str(refused)


async def test_dead_letters_keep_coming_when_many_die_at_once(orders: QueueClient) -> None:
    await orders.sender.send_messages([ServiceBusMessage(str(n)) for n in range(10)])
    doomed = [await orders.next() for _ in range(10)]
    await asyncio.gather(*(orders.receiver.dead_letter_message(m, reason=str(m)) for m in doomed))
    dead = [await orders.next_dead_letter() for _ in range(10)]
    assert [m.dead_letter_reason for m in dead] == [str(n) for n in range(10)]
