"""Batches and sizes: many messages in one transfer, and one message in many frames."""

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.exceptions import MessageSizeExceededError

from tests.protocol.queue_client import QueueClient

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMIT = 256 * 1024


@pytest.fixture(scope="session")
def orders(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["sized"]


async def take(queue_client: QueueClient) -> bytes:
    message = await queue_client.next()
    await queue_client.receiver.complete_message(message)
    return b"".join(message.body)


async def test_a_batch_becomes_single_messages_in_order(orders: QueueClient) -> None:
    batch = await orders.sender.create_message_batch()
    for number in range(30):
        batch.add_message(ServiceBusMessage(str(number), message_id=f"m{number}", subject="s"))
    await orders.sender.send_messages(batch)
    assert [await take(orders) for _ in range(30)] == [str(number).encode() for number in range(30)]


async def test_the_client_learns_the_batch_limit(orders: QueueClient) -> None:
    batch = await orders.sender.create_message_batch()
    assert batch.max_size_in_bytes == LIMIT
    with pytest.raises(MessageSizeExceededError):
        batch.add_message(ServiceBusMessage(b"x" * LIMIT))


async def test_a_full_batch_arrives(orders: QueueClient) -> None:
    batch = await orders.sender.create_message_batch()
    sent = 0
    try:
        while True:
            batch.add_message(ServiceBusMessage(b"x" * 10_000))
            sent += 1
    except MessageSizeExceededError:
        await orders.sender.send_messages(batch)
    for _ in range(sent):
        assert await take(orders) == b"x" * 10_000
    assert orders.left == 0


@pytest.mark.parametrize("size", [0, 1, 65_400, 65_536, 130_000, LIMIT - 200])
async def test_a_message_of_any_size_up_to_the_limit_arrives_whole(orders: QueueClient, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    await orders.sender.send_messages(ServiceBusMessage(body))
    assert await take(orders) == body


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 2 * LIMIT, 900_000])
async def test_a_message_above_the_limit_is_refused_and_the_link_lives_on(orders: QueueClient, size: int) -> None:
    with pytest.raises(MessageSizeExceededError):
        await orders.sender.send_messages(ServiceBusMessage(b"x" * size))
    await orders.send("after")
    assert await take(orders) == b"after"


async def test_large_messages_are_received_by_prefetch(orders: QueueClient) -> None:
    for number in range(6):
        await orders.sender.send_messages(ServiceBusMessage(bytes([number]) * 200_000))
    greedy = await orders.open(orders.client.get_queue_receiver("sized", prefetch_count=10))
    for number in range(6):
        message = await orders.next(greedy)
        await greedy.complete_message(message)
        assert b"".join(message.body) == bytes([number]) * 200_000
    assert orders.left == 0
