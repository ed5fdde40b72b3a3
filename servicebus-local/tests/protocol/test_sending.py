"""Everything a sender can do: messages, lists, batches, schedules, and what is refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from time import time
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusMessageBatch, ServiceBusMessageState
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import MessageNotFoundError, MessageSizeExceededError, ServiceBusError

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import QueueClient, client_of, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock(time() + 3600)
KIB = 1024
TOPOLOGY = topology(orders={"LockDuration": "PT1M", "MaxDeliveryCount": 10}, answers={"RequiresSession": True})


class Handlers(QueueClient):
    """A queue_client at `orders`, and more senders."""

    async def open_more(self) -> None:
        self.named = self.client.get_queue_sender("orders", client_identifier="till-4")
        self.others = [self.client.get_queue_sender("orders") for _ in range(3)]
        self.answers = self.client.get_queue_sender("answers")
        await asyncio.gather(
            self.open(self.receiver), *map(self.open, (self.sender, self.named, self.answers, *self.others))
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders() -> AsyncIterator[Handlers]:
    async with LocalBus(TOPOLOGY, clock=CLOCK) as bus, client_of(bus) as client:
        handlers = Handlers(bus, client, "orders")
        try:
            await handlers.open_more()
            yield handlers
        finally:
            await handlers.close()


def moment(seconds: float = 0) -> datetime:
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


async def taken(orders: Handlers) -> list[str]:
    """Receive and complete everything."""
    found = []
    while orders.left:
        message = await orders.next()
        await orders.receiver.complete_message(message)
        found.append(str(message))
    return found


def some(bodies: str) -> Iterator[ServiceBusMessage]:
    yield from map(ServiceBusMessage, bodies)


# --------------------------------------------------------------------------- sending


@pytest.mark.parametrize(
    ("given", "arrives"),
    [
        (ServiceBusMessage("one"), ["one"]),
        ([ServiceBusMessage("one")], ["one"]),
        ([ServiceBusMessage("a"), ServiceBusMessage("b")], ["a", "b"]),
        (some("ab"), ["a", "b"]),
        ({"body": "mapped", "message_id": "m"}, ["mapped"]),
        ([{"body": "a"}, ServiceBusMessage("b"), AmqpAnnotatedMessage(data_body=b"c")], ["a", "b", "c"]),
        (AmqpAnnotatedMessage(data_body=b"raw"), ["raw"]),
        ([], []),
        (ServiceBusMessageBatch(), []),
    ],
    ids=lambda given: type(given).__name__,
)
async def test_what_can_be_sent(orders: Handlers, given: Any, arrives: list[str]) -> None:
    await orders.sender.send_messages(given, timeout=5)
    assert await taken(orders) == arrives


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("text", TypeError),
        (7, TypeError),
        (["text"], TypeError),
        ({"no": "body"}, TypeError),
        ([{"bad": 1}], TypeError),
    ],
    ids=repr,
)
async def test_what_cannot(orders: Handlers, given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await orders.sender.send_messages(given)
    with pytest.raises(error):
        await orders.sender.schedule_messages(given, moment(60))
    assert orders.left == 0


async def test_a_message_object_can_be_sent_twice(orders: Handlers) -> None:
    message = ServiceBusMessage("x")
    for _ in range(2):
        await orders.sender.send_messages(message)
    assert await taken(orders) == ["x", "x"]


async def test_time_outs_must_be_positive(orders: Handlers) -> None:
    for call in (
        orders.sender.send_messages(ServiceBusMessage("x"), timeout=0),
        orders.sender.schedule_messages(ServiceBusMessage("x"), moment(60), timeout=-1),
        orders.sender.cancel_scheduled_messages(1, timeout=0),
    ):
        with pytest.raises(ValueError, match="timeout must be greater than 0"):
            await call
    assert orders.left == 0


@pytest.mark.parametrize("overhead", [1, 10 * KIB])
async def test_a_list_that_does_not_fit_a_batch_is_not_sent_at_all(orders: Handlers, overhead: int) -> None:
    half = "x" * (128 * KIB)
    with pytest.raises(MessageSizeExceededError):
        await orders.sender.send_messages([ServiceBusMessage(half), ServiceBusMessage(half + "x" * overhead)])
    with pytest.raises(MessageSizeExceededError):
        await orders.sender.send_messages([ServiceBusMessage("x" * KIB) for _ in range(300)])
    assert orders.left == 0


async def test_a_message_as_large_as_the_limit_is_too_large(orders: Handlers) -> None:
    with pytest.raises(MessageSizeExceededError):
        await orders.sender.send_messages(ServiceBusMessage("A" * (256 * KIB)))
    await orders.sender.send_messages(ServiceBusMessage("A" * (255 * KIB)))
    assert [len(body) for body in await taken(orders)] == [255 * KIB]


# --------------------------------------------------------------------------- batches


async def test_a_batch_counts_and_measures_itself(orders: Handlers) -> None:
    batch = await orders.sender.create_message_batch()
    assert (batch.max_size_in_bytes, len(batch)) == (256 * KIB, 0)
    before = batch.size_in_bytes
    batch.add_message(ServiceBusMessage("x" * 1000))
    assert (len(batch), batch.size_in_bytes > before + 1000) == (1, True)
    assert repr(batch) == "ServiceBusMessageBatch(max_size_in_bytes=262144, message_count=1)"
    await orders.sender.send_messages(batch)
    await orders.sender.send_messages(batch)
    assert await taken(orders) == ["x" * 1000] * 2


async def test_a_batch_is_filled_to_its_limit_and_arrives(orders: Handlers) -> None:
    batch = await orders.sender.create_message_batch(max_size_in_bytes=10 * KIB)
    assert batch.max_size_in_bytes == 10 * KIB
    while 10 * KIB - batch.size_in_bytes > 1000:
        batch.add_message(ServiceBusMessage("x" * 900))
    with pytest.raises(MessageSizeExceededError):
        batch.add_message(ServiceBusMessage("x" * 1000))
    await orders.sender.send_messages(batch)
    assert await taken(orders) == ["x" * 900] * len(batch)


async def test_a_batch_cannot_be_made_larger_than_the_broker_allows(orders: Handlers) -> None:
    with pytest.raises(ValueError, match="acceptable max batch size is: 262144"):
        await orders.sender.create_message_batch(max_size_in_bytes=256 * KIB + 1)
    batch = await orders.sender.create_message_batch(max_size_in_bytes=256 * KIB)
    assert batch.max_size_in_bytes == 256 * KIB


async def test_a_batch_made_without_a_sender_may_be_too_large(orders: Handlers) -> None:
    batch = ServiceBusMessageBatch()
    for _ in range(3):
        batch.add_message(ServiceBusMessage("x" * 100 * KIB))
    with pytest.raises(MessageSizeExceededError):
        await orders.sender.send_messages(batch)
    assert orders.left == 0


async def test_each_message_of_a_batch_keeps_its_own_properties(orders: Handlers) -> None:
    batch = await orders.sender.create_message_batch()
    batch.add_message(ServiceBusMessage("a", message_id="1", session_id="s", application_properties={"n": 1}))
    batch.add_message(ServiceBusMessage("b", message_id="2", subject="second"))
    batch.add_message({"body": "c", "scheduled_enqueue_time_utc": moment(60), "message_id": "3"})
    await orders.sender.send_messages(batch)
    assert orders.bus.counts("orders").scheduled == 1
    first, second = await orders.next(), await orders.next()
    assert (first.message_id, first.session_id, first.application_properties) == ("1", "s", {b"n": 1})
    assert (second.message_id, second.session_id, second.subject) == ("2", None, "second")
    await asyncio.gather(orders.receiver.complete_message(first), orders.receiver.complete_message(second))
    await orders.bus.advance(60)
    assert await taken(orders) == ["c"]


async def test_a_batch_without_a_session_is_refused_whole(orders: Handlers) -> None:
    sender = orders.answers
    mixed = [ServiceBusMessage("a", session_id="s"), ServiceBusMessage("b")]
    for call in (sender.send_messages(mixed), sender.schedule_messages(mixed, moment(60))):
        with pytest.raises(ServiceBusError, match="SessionId was not set"):
            await call
    counts = orders.bus.counts("answers")
    assert (counts.active, counts.scheduled) == (0, 0)
    await sender.send_messages(ServiceBusMessage("a", session_id="s"))
    assert orders.bus.counts("answers").active == 1


# --------------------------------------------------------------------------- scheduling


@pytest.mark.parametrize(
    ("given", "count"),
    [
        (ServiceBusMessage("x"), 1),
        ([ServiceBusMessage("x"), ServiceBusMessage("y")], 2),
        ({"body": "x"}, 1),
        ([{"body": "x"}, AmqpAnnotatedMessage(value_body=7)], 2),
        (AmqpAnnotatedMessage(data_body=b"x"), 1),
        (some("xyz"), 3),
        ([], 0),
    ],
    ids=lambda given: type(given).__name__,
)
async def test_messages_can_be_scheduled_and_cancelled(orders: Handlers, given: Any, count: int) -> None:
    numbers = await orders.sender.schedule_messages(given, moment(60), timeout=5)
    assert (len(numbers), len(set(numbers))) == (count, count)
    assert orders.bus.counts("orders").scheduled == count
    await orders.sender.cancel_scheduled_messages(numbers, timeout=5)
    assert orders.left == 0


async def test_a_time_without_a_zone_is_utc(orders: Handlers) -> None:
    due = moment(60)
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("x"), due.replace(tzinfo=None))
    [seen] = await orders.receiver.peek_messages(sequence_number=number)
    assert (seen.scheduled_enqueue_time_utc, seen.state) == (due, ServiceBusMessageState.SCHEDULED)
    await orders.bus.advance(59.9)
    assert orders.bus.counts("orders").scheduled == 1
    await orders.bus.advance(0.1)
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert (got.scheduled_enqueue_time_utc, got.enqueued_time_utc) == (due, due)
    assert (got.state, got.enqueued_sequence_number) == (ServiceBusMessageState.ACTIVE, number)


async def test_a_message_scheduled_for_the_past_is_active_under_the_number_returned(orders: Handlers) -> None:
    [number] = await orders.sender.schedule_messages(ServiceBusMessage("x"), moment(-60))
    got = await orders.next()
    await orders.receiver.complete_message(got)
    assert (got.sequence_number, got.state) == (number, ServiceBusMessageState.ACTIVE)


async def test_only_scheduled_messages_can_be_cancelled(orders: Handlers) -> None:
    [first, second] = await orders.sender.schedule_messages(list(some("ab")), moment(60))
    await orders.send("active")
    active = await orders.next()
    for wrong in (987_654, [987_654], [first, 987_654], active.sequence_number or 0, 0, -1):
        with pytest.raises(MessageNotFoundError):
            await orders.sender.cancel_scheduled_messages(wrong)
    assert orders.bus.counts("orders").scheduled == 2
    await orders.sender.cancel_scheduled_messages([])
    await orders.sender.cancel_scheduled_messages(first)
    with pytest.raises(MessageNotFoundError):
        await orders.sender.cancel_scheduled_messages(first)
    await orders.sender.cancel_scheduled_messages([second])
    await orders.receiver.complete_message(active)
    assert orders.left == 0


async def test_a_message_too_large_to_be_sent_is_too_large_to_be_scheduled(orders: Handlers) -> None:
    with pytest.raises(MessageSizeExceededError):
        await orders.sender.schedule_messages(ServiceBusMessage("x" * (256 * KIB)), moment(60))
    assert orders.left == 0
    await orders.sender.cancel_scheduled_messages(
        await orders.sender.schedule_messages(ServiceBusMessage("x" * (200 * KIB)), moment(60))
    )


# --------------------------------------------------------------------------- the sender itself


async def test_a_sender_has_a_name_and_an_entity(orders: Handlers) -> None:
    named = orders.named
    assert (named.client_identifier, named.entity_name) == ("till-4", "orders")
    assert str(named) == "Sender client id: till-4, entity: orders"
    assert named.fully_qualified_namespace == f"127.0.0.1:{orders.bus.port}"
    await named.send_messages(ServiceBusMessage("x"))
    assert "till-4" in orders.bus.connections.containers
    assert orders.sender.client_identifier != named.client_identifier
    assert await taken(orders) == ["x"]


async def test_a_sender_opens_when_it_is_first_used_and_is_closed_for_good(orders: Handlers) -> None:
    sender = orders.client.get_queue_sender("orders")
    await sender.send_messages(ServiceBusMessage("x"))
    await sender.close()
    await sender.close()
    for call in (
        sender.send_messages(ServiceBusMessage("y")),
        sender.schedule_messages(ServiceBusMessage("y"), moment(60)),
        sender.cancel_scheduled_messages(1),
        sender.create_message_batch(),
        sender.__aenter__(),
    ):
        with pytest.raises(ValueError, match="already been shutdown"):
            await call
    assert await taken(orders) == ["x"]


async def test_senders_take_turns_without_disturbing_each_other(orders: Handlers) -> None:
    senders = (orders.sender, *orders.others)
    await asyncio.gather(*(sender.send_messages(list(some("ab"))) for sender in senders))
    assert sorted(await taken(orders)) == ["a"] * 4 + ["b"] * 4
