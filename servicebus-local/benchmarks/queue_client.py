"""The unmodified SDK at one queue: what the measurements make it do."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

BATCH = 100
BODY = b"x" * 1024
_PATIENCE = 10.0
_BATCH_BYTES = 200_000  # of bodies; with what is around them still below the 256 KiB of a batch


class QueueClient:
    """A sender, a receiver that settles, and a receiver that deletes, all with the SDK's defaults."""

    def __init__(self, client: ServiceBusClient, queue: str) -> None:
        self._sender = client.get_queue_sender(queue)
        self._receiver = client.get_queue_receiver(queue)
        self._taker = client.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)

    async def open(self) -> None:
        """Open all three at once: each costs the SDK half a second."""
        await asyncio.gather(*(handler.__aenter__() for handler in (self._sender, self._receiver, self._taker)))

    async def close(self) -> None:
        """Close all three at once."""
        await asyncio.gather(*(handler.close() for handler in (self._sender, self._receiver, self._taker)))

    # ------------------------------------------------------------------ one by one

    async def send(self, count: int, body: bytes = BODY) -> None:
        """Send messages one by one."""
        for _ in range(count):
            await self._sender.send_messages(ServiceBusMessage(body))

    async def receive(self, count: int) -> None:
        """Receive and complete messages one by one."""
        for _ in range(count):
            [message] = await self._receiver.receive_messages(1, max_wait_time=_PATIENCE)
            await self._receiver.complete_message(message)

    async def travel(self) -> float:
        """Send a message to a receiver that waits; return the seconds from sending to receiving."""
        arrival = asyncio.create_task(self._arrival())
        await asyncio.sleep(0.02)  # long enough for everything to be idle
        sent = time.perf_counter()
        await self._sender.send_messages(ServiceBusMessage(BODY))
        return await arrival - sent

    async def _arrival(self) -> float:
        [message] = await self._receiver.receive_messages(1, max_wait_time=_PATIENCE)
        arrived = time.perf_counter()
        await self._receiver.complete_message(message)
        return arrived

    # ------------------------------------------------------------------ in batches

    async def send_batches(self, count: int, body: bytes = BODY) -> None:
        """Send messages in batches of a hundred, or of as many as fit."""
        fitting = min(BATCH, _BATCH_BYTES // len(body))
        for start in range(0, count, fitting):
            batch = await self._sender.create_message_batch()
            for _ in range(min(fitting, count - start)):
                batch.add_message(ServiceBusMessage(body))
            await self._sender.send_messages(batch)

    async def take_batches(self, count: int) -> None:
        """Receive messages in batches of a hundred that are deleted as they leave."""
        for start in range(0, count, BATCH):
            await _received(self._taker, min(BATCH, count - start))

    async def complete_in_turn(self, count: int) -> float:
        """Receive batches of a hundred, complete one message after the other; return the seconds spent completing."""
        return await self._complete(count, self._in_turn)

    async def complete_at_once(self, count: int) -> float:
        """Receive batches of a hundred, complete all messages of one at once; return the seconds spent completing."""
        return await self._complete(count, self._at_once)

    async def _complete(self, count: int, work: Callable[[list[ServiceBusReceivedMessage]], Awaitable[None]]) -> float:
        spent = 0.0
        for start in range(0, count, BATCH):
            messages = await _received(self._receiver, min(BATCH, count - start))
            began = time.perf_counter()
            await work(messages)
            spent += time.perf_counter() - began
        return spent

    async def _in_turn(self, messages: list[ServiceBusReceivedMessage]) -> None:
        for message in messages:
            await self._receiver.complete_message(message)

    async def _at_once(self, messages: list[ServiceBusReceivedMessage]) -> None:
        await asyncio.gather(*map(self._receiver.complete_message, messages))


async def _received(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    messages: list[ServiceBusReceivedMessage] = []
    while len(messages) < count:
        some = await receiver.receive_messages(count - len(messages), max_wait_time=_PATIENCE)
        if not some:
            raise SystemExit(f"{count - len(messages)} messages went missing")
        messages += some
    return messages


@asynccontextmanager
async def queue_clients(connection_string: str, *queues: str) -> AsyncIterator[list[QueueClient]]:
    """Open a queue_client at each queue."""
    async with ServiceBusClient.from_connection_string(connection_string) as client:
        opened = [QueueClient(client, queue) for queue in queues]
        try:
            await asyncio.gather(*(queue_client.open() for queue_client in opened))
            yield opened
        finally:
            await asyncio.gather(*(queue_client.close() for queue_client in opened))
