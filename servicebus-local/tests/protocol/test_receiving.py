"""Everything a receiver can do, and the exact error of everything it cannot."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from time import time
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import AutoLockRenewer, ServiceBusReceiver
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageNotFoundError,
    ServiceBusError,
)

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import SOON, QueueClient, queue_client_at, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock(time() + 3600)
LONG = {"LockDuration": "PT1M", "MaxDeliveryCount": 10}
TOPOLOGY = topology(
    orders=LONG,
    shared=LONG,
    fast=LONG,
    ahead=LONG,
    stream=LONG,
    door=LONG | {"ForwardTo": "room"},
    room=LONG,
    left=LONG,
    put_off=LONG,
    empty=LONG,
)
SETTLEMENTS = ("complete_message", "abandon_message", "defer_message", "dead_letter_message")
DELETES = ServiceBusReceiveMode.RECEIVE_AND_DELETE


class Handlers:
    """A queue_client at `orders`, and receivers of other kinds on queues of their own."""

    def __init__(self, queue_client: QueueClient) -> None:
        self.queue_client = queue_client
        self.bus = queue_client.bus
        client = queue_client.client
        queues = ("shared", "fast", "ahead", "stream", "left", "put_off", "door")
        self.senders = {name: client.get_queue_sender(name) for name in queues}
        self.shared = client.get_queue_receiver("shared")
        self.other = client.get_queue_receiver("shared", client_identifier="clerk-7")
        self.leaving, self.putting_off = client.get_queue_receiver("left"), client.get_queue_receiver("put_off")
        self.fast = client.get_queue_receiver("fast", receive_mode=DELETES)
        self.ahead = client.get_queue_receiver("ahead", prefetch_count=3)
        # An iterator ends when nothing came for so long, which must be more than a slow machine needs for a message.
        self.stream = client.get_queue_receiver("stream", max_wait_time=2)
        self.stuck = client.get_queue_receiver("door", sub_queue=ServiceBusSubQueue.TRANSFER_DEAD_LETTER)

    async def open(self) -> None:
        receivers = (self.other, self.fast, self.ahead, self.stream, self.stuck, self.leaving, self.putting_off)
        await asyncio.gather(
            *map(self.queue_client.open, self.senders.values()), *map(self.queue_client.open, receivers)
        )
        await self.send("shared", "use up the credit every receiver opens with")
        await self.other.complete_message(await one(self.other))
        await self.queue_client.open(self.shared)

    async def send(self, queue: str, *bodies: str) -> None:
        await self.senders[queue].send_messages([ServiceBusMessage(body) for body in bodies])

    def active(self, path: str) -> int:
        return self.bus.counts(path).active


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def handlers() -> AsyncIterator[Handlers]:
    async with (
        LocalBus(TOPOLOGY, clock=CLOCK) as bus,
        queue_client_at(bus, "orders", dead_letters=True) as queue_client,
    ):
        handlers = Handlers(queue_client)
        await handlers.open()
        yield handlers


@pytest.fixture
def orders(handlers: Handlers) -> QueueClient:
    return handlers.queue_client


def moment(seconds: float = 0) -> datetime:
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


async def one(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    [message] = await receiver.receive_messages(1, max_wait_time=SOON)
    return message


# --------------------------------------------------------------------------- receiving


async def test_no_more_is_received_than_asked_for_nor_than_there_is(orders: QueueClient) -> None:
    await orders.sender.send_messages([ServiceBusMessage(str(number)) for number in range(5)])
    first = await orders.receiver.receive_messages(2, max_wait_time=SOON)
    rest = await orders.receiver.receive_messages(50, max_wait_time=SOON)
    assert [str(message) for message in first + rest] == ["0", "1", "2", "3", "4"]
    assert {message.delivery_count for message in first + rest} == {0}
    assert await orders.receiver.receive_messages(1, max_wait_time=0.05) == []
    await asyncio.gather(*map(orders.receiver.complete_message, first + rest))
    assert orders.left == 0


async def test_a_message_that_arrives_after_its_receiver_gave_up_is_released(orders: QueueClient) -> None:
    assert await orders.receiver.receive_messages(3, max_wait_time=0.05) == []
    await orders.send("a", "b", "c", "d")
    got = [await orders.next() for _ in range(4)]
    assert sorted((str(message), message.delivery_count) for message in got) == [(body, 0) for body in "abcd"]
    await asyncio.gather(*map(orders.receiver.complete_message, got))


async def test_arguments_are_checked_before_anything_is_asked(orders: QueueClient) -> None:
    receiver, client = orders.receiver, orders.client
    for call in (
        receiver.receive_messages(0),
        receiver.receive_messages(max_wait_time=0),
        receiver.receive_messages(max_wait_time=-1),
        receiver.receive_deferred_messages([1], timeout=0),
        receiver.peek_messages(-1),
        receiver.peek_messages(timeout=0),
    ):
        with pytest.raises(ValueError, match="greater"):
            await call
    for options in (
        {"max_wait_time": 0},
        {"prefetch_count": -1},
        {"prefetch_count": 50_001},
        {"receive_mode": "PEEKLOCK"},
        {"sub_queue": "DEADLETTER"},
        {"sub_queue": "deadletter", "session_id": "s"},
        {"receive_mode": DELETES, "auto_lock_renewer": AutoLockRenewer()},
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - the SDK's words are not what is looked at
            client.get_queue_receiver("orders", **options)
    assert await receiver.receive_deferred_messages([]) == []


async def test_modes_and_sub_queues_may_be_text(orders: QueueClient) -> None:
    deleting = orders.client.get_queue_receiver("fast", receive_mode="receiveanddelete")
    dead = orders.client.get_queue_receiver("orders", sub_queue="deadletter")
    transfers = orders.client.get_queue_receiver("orders", sub_queue="transferdeadletter")
    assert dead.entity_path == "orders/$DeadLetterQueue"
    assert transfers.entity_path == "orders/$Transfer/$DeadLetterQueue"
    assert deleting.entity_path == "fast"


async def test_a_receiver_has_a_name_and_an_entity(handlers: Handlers) -> None:
    named = handlers.other
    assert (named.client_identifier, named.entity_path) == ("clerk-7", "shared")
    assert not named.session
    assert str(named) == "Receiver client id: clerk-7, entity: shared"
    assert "clerk-7" in handlers.bus.connections.containers


# --------------------------------------------------------------------------- iterating


async def test_an_iterator_ends_when_nothing_came_for_a_while_and_can_go_on(handlers: Handlers) -> None:
    await handlers.send("stream", "a", "b", "c")
    seen = []
    async for message in handlers.stream:
        await handlers.stream.complete_message(message)
        seen.append(str(message))
        if len(seen) == 2:
            break
    async for message in handlers.stream:
        await handlers.stream.complete_message(message)
        seen.append(str(message))
    assert seen == ["a", "b", "c"]
    with pytest.raises(StopAsyncIteration):
        await anext(handlers.stream)
    await handlers.send("stream", "d")
    message = await anext(handlers.stream)
    await handlers.stream.complete_message(message)
    assert (str(message), handlers.active("stream")) == ("d", 0)


async def test_what_is_abandoned_in_an_iterator_comes_by_again(handlers: Handlers) -> None:
    await handlers.send("stream", "a", "b")
    seen = []
    async for message in handlers.stream:
        seen.append((str(message), message.delivery_count))
        settle = handlers.stream.complete_message if message.delivery_count else handlers.stream.abandon_message
        await settle(message)
        if len(seen) == 4:
            break
    assert sorted(seen) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


# --------------------------------------------------------------------------- prefetching


async def test_messages_are_locked_when_they_are_fetched_ahead(handlers: Handlers) -> None:
    await handlers.send("ahead", "a", "b", "c", "d", "e")
    first = await one(handlers.ahead)
    await handlers.bus.advance(10)
    later = [await one(handlers.ahead) for _ in range(4)]
    assert [str(message) for message in (first, *later)] == ["a", "b", "c", "d", "e"]
    assert first.locked_until_utc == later[0].locked_until_utc == moment(50)
    for message in (first, *later):
        await handlers.ahead.complete_message(message)
    assert handlers.active("ahead") == 0


# --------------------------------------------------------------------------- receive and delete


async def test_what_is_deleted_when_received_can_neither_be_settled_nor_renewed(handlers: Handlers) -> None:
    await handlers.send("fast", "a", "b")
    got = [await one(handlers.fast) for _ in range(2)]
    assert [str(message) for message in got] == ["a", "b"]
    assert handlers.active("fast") == 0
    for settlement in (*SETTLEMENTS, "renew_message_lock"):
        with pytest.raises(ValueError, match="not supported in 'RECEIVE_AND_DELETE'"):
            await getattr(handlers.fast, settlement)(got[0])


async def test_deferred_messages_are_deleted_by_such_a_receiver(handlers: Handlers) -> None:
    await handlers.send("put_off", "a", "b")
    numbers = []
    for _ in range(2):
        message = await one(handlers.putting_off)
        await handlers.putting_off.defer_message(message)
        numbers.append(message.sequence_number or 0)
    deleting = handlers.queue_client.client.get_queue_receiver("put_off", receive_mode=DELETES)
    await handlers.queue_client.open(deleting)
    got = await deleting.receive_deferred_messages(numbers)
    expected = [("a", None, 1), ("b", None, 1)]
    assert [(str(message), message.lock_token, message.delivery_count) for message in got] == expected
    with pytest.raises(ValueError, match="not supported in 'RECEIVE_AND_DELETE'"):
        await deleting.complete_message(got[0])
    with pytest.raises(MessageNotFoundError):
        await deleting.receive_deferred_messages(numbers)
    assert handlers.active("put_off") == 0


# --------------------------------------------------------------------------- settling


@pytest.mark.parametrize("settlement", SETTLEMENTS)
@pytest.mark.parametrize("again", [*SETTLEMENTS, "renew_message_lock"])
async def test_a_message_is_settled_once(orders: QueueClient, settlement: str, again: str) -> None:
    await orders.send("x")
    message = await orders.next()
    await getattr(orders.receiver, settlement)(message)
    with pytest.raises(MessageAlreadySettled):
        await getattr(orders.receiver, again)(message)
    orders.bus.purge("orders")
    orders.bus.purge("orders/$DeadLetterQueue")


@pytest.mark.parametrize("settlement", SETTLEMENTS)
async def test_a_message_whose_lock_was_lost_cannot_be_settled(orders: QueueClient, settlement: str) -> None:
    await orders.send("x")
    late = await orders.next()
    await orders.bus.advance(60)
    with pytest.raises(MessageLockLostError) as caught:
        await getattr(orders.receiver, settlement)(late)
    assert "The lock supplied is invalid" in str(caught.value)
    again = await orders.next()
    assert (str(again), again.delivery_count, again.sequence_number) == ("x", 1, late.sequence_number)
    await orders.receiver.complete_message(again)
    assert (orders.left, orders.bus.counts("orders").dead_lettered) == (0, 0)


@pytest.mark.parametrize("settlement", SETTLEMENTS)
async def test_a_message_that_was_only_looked_at_cannot_be_settled(orders: QueueClient, settlement: str) -> None:
    await orders.send("x")
    [seen] = await orders.receiver.peek_messages(sequence_number=1)
    assert (seen.lock_token, seen.delivery_count) == (None, 0)
    with pytest.raises(ValueError, match="not supported for peeked messages"):
        await getattr(orders.receiver, settlement)(seen)
    with pytest.raises(ValueError, match="not supported for peeked messages"):
        await orders.receiver.renew_message_lock(seen)
    await orders.receiver.complete_message(await orders.next())


@pytest.mark.parametrize("settlement", SETTLEMENTS)
async def test_only_received_messages_can_be_settled(orders: QueueClient, settlement: str) -> None:
    for wrong in (ServiceBusMessage("x"), "x", None):
        with pytest.raises(TypeError):
            await getattr(orders.receiver, settlement)(wrong)


@pytest.mark.parametrize("settlement", SETTLEMENTS)
async def test_any_holder_of_the_lock_token_may_settle(handlers: Handlers, settlement: str) -> None:
    """Another receiver's message is settled by $management, under its lock token."""
    await handlers.send("shared", "theirs")
    message = await one(handlers.shared)
    await getattr(handlers.other, settlement)(message)
    with pytest.raises(MessageAlreadySettled):
        await handlers.shared.complete_message(message)
    counts = handlers.bus.counts("shared")
    expected = {"complete_message": (0, 0), "dead_letter_message": (0, 1)}
    assert (counts.active, counts.dead_lettered) == expected.get(settlement, (1, 0))
    handlers.bus.purge("shared")
    handlers.bus.purge("shared/$DeadLetterQueue")


async def test_any_holder_of_the_token_can_renew_a_lock(handlers: Handlers) -> None:
    await handlers.send("shared", "x")
    message = await one(handlers.shared)
    await handlers.bus.advance(30)
    assert await handlers.other.renew_message_lock(message) == message.locked_until_utc == moment(60)
    await handlers.shared.complete_message(message)


@pytest.mark.parametrize("settlement", SETTLEMENTS)
async def test_every_settlement_can_be_made_from_many_tasks(orders: QueueClient, settlement: str) -> None:
    await orders.sender.send_messages([ServiceBusMessage(str(number)) for number in range(20)])
    got = [await orders.next() for _ in range(20)]
    await asyncio.gather(*(getattr(orders.receiver, settlement)(message) for message in got))
    assert all(message.lock_token is None for message in got)
    found = {message.delivery_count for message in orders.bus.messages("orders")}
    assert found == {"abandon_message": {1}, "defer_message": {1}}.get(settlement, set())
    assert orders.bus.counts("orders").dead_lettered == (20 if settlement == "dead_letter_message" else 0)
    orders.bus.purge("orders")
    orders.bus.purge("orders/$DeadLetterQueue")


async def test_reasons_may_be_long_and_in_any_language(orders: QueueClient) -> None:
    await orders.send("x")
    reason, description = "Grund " * 500, "理由" * 1000
    await orders.receiver.dead_letter_message(await orders.next(), reason=reason, error_description=description)
    dead = await orders.next_dead_letter()
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == (reason, description)
    assert (dead.application_properties or {})[b"DeadLetterReason"] == reason.encode()
    assert (dead.application_properties or {})[b"DeadLetterErrorDescription"] == description.encode()


# --------------------------------------------------------------------------- locks


async def test_a_renewed_lock_returns_its_new_end_and_lasts_until_then(orders: QueueClient) -> None:
    await orders.send("x")
    message = await orders.next()
    assert message.locked_until_utc == moment(60)
    for _ in range(3):
        await orders.bus.advance(50)
        assert await orders.receiver.renew_message_lock(message, timeout=5) == moment(60)
        assert message.locked_until_utc == moment(60)
    with pytest.raises(ValueError, match="greater than 0"):
        await orders.receiver.renew_message_lock(message, timeout=0)
    await orders.receiver.complete_message(message)
    assert orders.left == 0


async def test_a_lost_lock_cannot_be_renewed(orders: QueueClient) -> None:
    await orders.send("x")
    message = await orders.next()
    await orders.bus.advance(60)
    with pytest.raises(MessageLockLostError, match="The lock supplied is invalid") as caught:
        await orders.receiver.renew_message_lock(message)
    assert "Status Code: 410" in str(caught.value)
    await orders.receiver.complete_message(await orders.next())


async def test_a_message_stays_locked_when_its_receiver_closes_without_settling(handlers: Handlers) -> None:
    await handlers.send("left", "x")
    message = await one(handlers.leaving)
    await handlers.leaving.close()
    with pytest.raises(ValueError, match="already been shutdown"):
        await handlers.leaving.complete_message(message)
    heir = handlers.queue_client.client.get_queue_receiver("left")
    await handlers.queue_client.open(heir)
    assert await heir.receive_messages(1, max_wait_time=0.05) == []
    await handlers.bus.advance(60)
    again = await one(heir)
    assert (str(again), again.delivery_count) == ("x", 1)
    await heir.complete_message(again)


async def test_a_closed_receiver_does_nothing_any_more(orders: QueueClient) -> None:
    receiver = orders.client.get_queue_receiver("empty")
    assert await receiver.peek_messages() == []  # it opens when it is first used
    await receiver.close()
    await receiver.close()
    for call in (
        receiver.receive_messages(),
        receiver.receive_deferred_messages([1]),
        receiver.peek_messages(),
        receiver.__aenter__(),
        anext(receiver),
    ):
        with pytest.raises(ValueError, match="already been shutdown"):
            await call


# --------------------------------------------------------------------------- deferring


async def test_deferred_messages_are_fetched_in_the_order_they_are_asked_for(orders: QueueClient) -> None:
    await orders.send("a", "b", "c")
    numbers = []
    for _ in range(3):
        message = await orders.next()
        numbers.append(message.sequence_number or 0)
        await orders.receiver.defer_message(message)
    assert await orders.receiver.receive_messages(1, max_wait_time=0.05) == []
    [one_of_them] = await orders.receiver.receive_deferred_messages(numbers[1], timeout=5)
    others = await orders.receiver.receive_deferred_messages([numbers[2], numbers[0]])
    assert [str(message) for message in (one_of_them, *others)] == ["b", "c", "a"]
    for message in (one_of_them, *others):
        assert (message.state, message.delivery_count) == (ServiceBusMessageState.DEFERRED, 1)
        assert message.locked_until_utc == moment(60)
        assert isinstance(message.lock_token, UUID)
        await orders.receiver.complete_message(message)
    assert orders.left == 0


async def test_of_deferred_messages_all_are_received_or_none(orders: QueueClient) -> None:
    await orders.send("a", "b")
    deferred = await orders.next()
    active = await orders.next()
    await orders.receiver.defer_message(deferred)
    number = deferred.sequence_number or 0
    for wrong in (
        [987_654],
        [number, 987_654],
        [active.sequence_number or 0],
        [number, active.sequence_number or 0],
        [0],
    ):
        with pytest.raises(MessageNotFoundError):
            await orders.receiver.receive_deferred_messages(wrong)
    [got] = await orders.receiver.receive_deferred_messages([number])
    with pytest.raises(MessageNotFoundError):
        await orders.receiver.receive_deferred_messages([number])  # it is locked now
    await orders.receiver.abandon_message(got)
    [got] = await orders.receiver.receive_deferred_messages([number, number])
    assert got.delivery_count == 2
    await asyncio.gather(orders.receiver.complete_message(got), orders.receiver.complete_message(active))


async def test_a_deferred_message_whose_lock_ends_is_deferred_again(orders: QueueClient) -> None:
    await orders.send("x")
    message = await orders.next()
    await orders.receiver.defer_message(message)
    number = message.sequence_number or 0
    [late] = await orders.receiver.receive_deferred_messages(number)
    await orders.bus.advance(60)
    with pytest.raises(MessageLockLostError):
        await orders.receiver.complete_message(late)
    [seen] = await orders.receiver.peek_messages(sequence_number=number)
    assert (seen.state, seen.delivery_count) == (ServiceBusMessageState.DEFERRED, 2)
    [again] = await orders.receiver.receive_deferred_messages(number)
    await orders.receiver.defer_message(again)
    [again] = await orders.receiver.receive_deferred_messages(number)
    assert again.delivery_count == 3
    await orders.receiver.complete_message(again)


# --------------------------------------------------------------------------- sub-queues


async def test_dead_letters_are_abandoned_and_deferred_like_others(orders: QueueClient) -> None:
    await orders.send("x")
    await orders.receiver.dead_letter_message(await orders.next(), reason="why")
    dead = await orders.next(orders.dead_letters)
    assert (dead.locked_until_utc, dead.time_to_live is None) == (moment(60), False)
    assert await orders.dead_letters.renew_message_lock(dead) == moment(60)
    await orders.dead_letters.abandon_message(dead)
    dead = await orders.next(orders.dead_letters)
    await orders.dead_letters.defer_message(dead)
    [deferred] = await orders.dead_letters.receive_deferred_messages(dead.sequence_number or 0)
    assert (str(deferred), deferred.dead_letter_reason) == ("x", "why")
    await orders.dead_letters.complete_message(deferred)
    assert orders.bus.counts("orders").dead_lettered == 0


async def test_transfer_dead_letters_have_a_receiver_of_their_own(handlers: Handlers) -> None:
    handlers.bus.delete("room")
    await handlers.send("door", "stuck")
    [seen] = await handlers.stuck.peek_messages()
    stuck = await one(handlers.stuck)
    await handlers.stuck.complete_message(stuck)
    assert (str(stuck), stuck.dead_letter_reason, seen.sequence_number) == (
        "stuck",
        "AutoForwardFailed",
        stuck.sequence_number,
    )


async def test_a_dead_letter_queue_has_no_dead_letter_queue(orders: QueueClient) -> None:
    receiver: Any = orders.client.get_queue_receiver("orders/$DeadLetterQueue/$DeadLetterQueue")
    assert isinstance(await orders.refusal(receiver), ServiceBusError)
