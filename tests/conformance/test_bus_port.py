"""The bus port's promises, kept by every adapter: in memory, and the real SDK against the local broker."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from servicebus_local.testing import LocalBus

from local.stack.broker_config import emulator_config
from shared.bus.port import Bus, BusUnavailable, Delivery, LockLost, MessageTooLarge, Outgoing, UnknownQueue
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.contracts.queues import Queue
from tests.support.memory_bus import MemoryBus
from tests.support.ports import wired

WAIT = timedelta(seconds=5)
QUEUES = ("work", "dead")


@pytest.fixture(params=["memory", "service bus"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[Bus]:
    if request.param == "memory":
        yield wired(MemoryBus(*QUEUES, forward_dead_to="dead"))
        return
    queues = [Queue("work", "", ()), Queue("dead", "", (), forward_dead_letters_to=None, duplicate_window=None)]
    async with LocalBus(emulator_config(queues)) as broker:
        connected = ServiceBus(ServiceBusAddress(broker.connection_string))
        try:
            yield wired(connected)
        finally:
            await connected.close()


async def take(bus: Bus, queue: str = "work") -> Delivery:
    delivery = await bus.inbox(queue).receive(WAIT)
    assert delivery is not None
    return delivery


async def test_what_is_sent_arrives_whole(bus: Bus) -> None:
    sent = Outgoing(
        queue="work",
        body=b'{"a": "\xc3\xa9"}',
        subject="ask.v1",
        message_id="m1",
        correlation_id="c1",
        reply_to="answers",
        reply_to_session_id="s1",
        time_to_live=timedelta(minutes=5),
        properties={"ragbus-attempt": 3, "traceparent": "00-1-2-01", "flag": True},
    )
    await bus.send(sent)
    got = (await take(bus)).message
    assert (got.body, got.subject, got.message_id, got.correlation_id) == (sent.body, "ask.v1", "m1", "c1")
    assert (got.reply_to, got.reply_to_session_id, got.content_type) == ("answers", "s1", "application/json")
    assert got.time_to_live == timedelta(minutes=5)
    assert dict(got.properties) == dict(sent.properties)
    assert got.attempt == 3
    assert (got.delivery_count, got.dead_letter_reason) == (0, None)
    assert got.sequence_number > 0


async def test_a_completed_delivery_is_gone(bus: Bus) -> None:
    await bus.send(Outgoing("work", b"1", "x"))
    delivery = await take(bus)
    await delivery.complete()
    assert await bus.peek("work") == []
    with pytest.raises(LockLost):
        await delivery.complete()


async def test_dead_letters_are_forwarded_with_their_reason_and_where_they_died(bus: Bus) -> None:
    await bus.send(Outgoing("work", b"1", "ask.v1", message_id="m1", properties={"kept": "yes"}))
    await (await take(bus)).dead_letter("SchemaInvalid", "no question")
    dead = (await take(bus, "dead")).message
    assert (dead.dead_letter_reason, dead.dead_letter_description) == ("SchemaInvalid", "no question")
    assert (dead.dead_letter_source, dead.message_id, dead.subject, dead.body) == ("work", "m1", "ask.v1", b"1")
    assert dead.properties["kept"] == "yes"


async def test_a_dead_letter_keeps_the_number_that_it_had_where_it_died(bus: Bus) -> None:
    """By it the sender's other messages with the same id are told apart."""
    for number in range(3):
        await bus.send(Outgoing("work", b"1", "ask.v1", message_id=f"m{number}"))
    for _ in range(2):
        await (await take(bus)).complete()
    last = await take(bus)
    await last.dead_letter("SchemaInvalid", "no question")
    dead = (await take(bus, "dead")).message
    assert dead.sequence_number != last.message.sequence_number
    assert dead.first_number == last.message.first_number == last.message.sequence_number


async def test_dead_letters_that_stay_can_be_seen(bus: Bus) -> None:
    await bus.send(Outgoing("dead", b"1", "x"))
    await (await take(bus, "dead")).dead_letter("Crashed", "once more")
    [archived] = await bus.peek("dead", dead=True)
    assert archived.dead_letter_reason == "Crashed"


async def test_the_same_id_twice_is_taken_once(bus: Bus) -> None:
    for _ in range(2):
        await bus.send(Outgoing("work", b"1", "x", message_id="same"))
    await bus.send(Outgoing("work", b"2", "x", message_id="other"))
    assert [message.message_id for message in await bus.peek("work")] == ["same", "other"]


async def test_a_scheduled_message_is_hidden_until_its_time(bus: Bus) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    await bus.send(Outgoing("work", b"1", "x", enqueue_at=at))
    await take(bus)
    assert datetime.now(UTC) >= at - timedelta(milliseconds=50)


async def test_many_tasks_may_send_at_once_and_each_message_arrives_once(bus: Bus) -> None:
    await asyncio.gather(*(bus.send(Outgoing("work", b"1", "x", message_id=f"m{n}")) for n in range(200)))
    found = await bus.peek("work", limit=250)
    assert sorted(str(message.message_id) for message in found) == sorted(f"m{n}" for n in range(200))


async def test_deliveries_are_settled_concurrently(bus: Bus) -> None:
    await asyncio.gather(*(bus.send(Outgoing("work", b"1", "x")) for _ in range(20)))
    inbox = bus.inbox("work")
    deliveries = [await inbox.receive(WAIT) for _ in range(20)]
    await asyncio.gather(*(delivery.complete() for delivery in deliveries if delivery is not None))
    assert await bus.peek("work") == []


async def test_a_lock_can_be_renewed(bus: Bus) -> None:
    await bus.send(Outgoing("work", b"1", "x"))
    delivery = await take(bus)
    before = delivery.locked_until
    assert await delivery.renew() >= before


async def test_peeking_neither_locks_nor_counts(bus: Bus) -> None:
    await bus.send(Outgoing("work", b"1", "x"))
    await bus.send(Outgoing("work", b"2", "x"))
    first, second = await bus.peek("work")
    assert [message.body for message in await bus.peek("work", after=first.sequence_number)] == [second.body]
    assert (await take(bus)).message.delivery_count == 0


async def test_what_is_too_large_is_the_senders_error_and_spares_the_rest(bus: Bus) -> None:
    large = bus.send(Outgoing("work", b"x" * 300_000, "x"))
    small = bus.send(Outgoing("work", b"1", "x", message_id="small"))
    results = await asyncio.gather(large, small, return_exceptions=True)
    assert isinstance(results[0], MessageTooLarge)
    assert results[1] is None
    assert [message.message_id for message in await bus.peek("work")] == ["small"]


async def test_an_unknown_queue_is_said_to_be_unknown(bus: Bus) -> None:
    with pytest.raises(UnknownQueue, match="nowhere"):
        await send_until_answered(bus, Outgoing("nowhere", b"1", "x"))


async def send_until_answered(bus: Bus, message: Outgoing) -> None:
    """On a busy machine the SDK's own retries may run out of time before it says which error it was."""
    for _ in range(5):
        try:
            return await bus.send(message)
        except BusUnavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("never answered")


async def test_what_is_scheduled_can_be_cancelled_until_it_is_due(bus: Bus) -> None:
    at = datetime.now(UTC) + timedelta(minutes=5)
    numbers = await asyncio.gather(
        *(bus.schedule(Outgoing("work", b"1", "x", message_id=f"m{n}", enqueue_at=at)) for n in range(5))
    )
    assert len(set(numbers)) == 5
    later = await bus.schedule(Outgoing("work", b"1", "x", message_id="later", enqueue_at=at + timedelta(minutes=1)))
    assert {message.message_id: message.sequence_number for message in await bus.peek("work")} == {
        **{f"m{n}": number for n, number in enumerate(numbers)},
        "later": later,
    }
    await bus.cancel("work", numbers)
    assert [message.message_id for message in await bus.peek("work")] == ["later"]


async def test_one_that_is_gone_does_not_keep_the_others_from_being_cancelled(bus: Bus) -> None:
    at = datetime.now(UTC) + timedelta(minutes=5)
    numbers = [await bus.schedule(Outgoing("work", b"1", "x", message_id=f"m{n}", enqueue_at=at)) for n in range(5)]
    await bus.send(Outgoing("work", b"1", "x", message_id="here"))
    [here] = [message.sequence_number for message in await bus.peek("work") if message.message_id == "here"]
    await bus.cancel("work", numbers[2:3])
    await bus.cancel("work", [*numbers, here, 10**9])
    assert [message.message_id for message in await bus.peek("work")] == ["here"]  # what is due is not cancelled
    await bus.cancel("work", numbers)  # and nothing of it is an error


async def test_what_is_scheduled_comes_when_it_is_due_and_whole(bus: Bus) -> None:
    at = datetime.now(UTC) + timedelta(seconds=1)
    message = Outgoing("work", b'{"a":1}', "x", message_id="m1", correlation_id="c1", enqueue_at=at)
    await bus.schedule(replace(message, time_to_live=timedelta(minutes=5), properties={"traceparent": "00-1-2-01"}))
    got = (await take(bus)).message
    assert datetime.now(UTC) >= at - timedelta(milliseconds=50)
    assert (got.body, got.subject, got.message_id, got.correlation_id) == (b'{"a":1}', "x", "m1", "c1")
    assert (got.properties["traceparent"], got.time_to_live) == ("00-1-2-01", timedelta(minutes=5))


async def test_the_same_scheduled_id_twice_is_taken_once(bus: Bus) -> None:
    at = datetime.now(UTC) + timedelta(minutes=5)
    for _ in range(2):
        await bus.schedule(Outgoing("work", b"1", "x", message_id="same", enqueue_at=at))
    assert [message.message_id for message in await bus.peek("work")] == ["same"]


async def test_what_is_too_large_to_be_scheduled_spares_the_rest(bus: Bus) -> None:
    at = datetime.now(UTC) + timedelta(minutes=5)
    large = bus.schedule(Outgoing("work", b"x" * 300_000, "x", message_id="large", enqueue_at=at))
    small = bus.schedule(Outgoing("work", b"1", "x", message_id="small", enqueue_at=at))
    results = await asyncio.gather(large, small, return_exceptions=True)
    assert isinstance(results[0], MessageTooLarge)
    assert [message.message_id for message in await bus.peek("work")] == ["small"]
