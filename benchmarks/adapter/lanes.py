"""What one would write with the SDK alone: the loop of its README, 32 handlers at once, shapes of several receivers.

    naive           one message after the other: iterate, send, complete
    concurrent      one receiver, 32 handler tasks; the sender is shared behind the lock its README asks for
    receivers-K-P   K receivers that each take single messages and prefetch P, handler tasks, one task that owns the
                    sender and sends what has gathered as one batch, and a short socket timeout; a slot is free again
                    when its message is handled, and as many again may be on their way out
    ideal           the best of these: one receiver, and as many prefetched as there are slots

What they leave out, and a worker needs: lock renewal, deadlines, retries and dead letters, batches larger than the
broker takes, messages that are sent while a link or the broker is down, traces, metrics, logs, and an orderly end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from benchmarks.adapter.stages import Load, Stage

Work = Coroutine[None, None, None]
Lane = Callable[[ServiceBusClient, Stage, Load], Work]
# Of the concurrent lane, as the goal names it.
HANDLERS = 32
# Short enough that a settlement hardly waits for the read beside it; an idle receiver then costs 2 % of a core.
QUICK = 0.01
MOST_AT_ONCE = 64


async def naive(client: ServiceBusClient, stage: Stage, load: Load) -> None:
    """One message after the other."""
    async with client.get_queue_receiver(stage.source) as receiver, client.get_queue_sender(stage.target) as sender:
        async for message in receiver:
            await load.handle()
            await sender.send_messages(_next(message))
            await receiver.complete_message(message)


async def concurrent(client: ServiceBusClient, stage: Stage, load: Load) -> None:
    """32 handler tasks, the obvious way."""
    free = asyncio.Semaphore(HANDLERS)
    sending = asyncio.Lock()

    async def work(message: ServiceBusReceivedMessage) -> None:
        try:
            await load.handle()
            async with sending:
                await sender.send_messages(_next(message))
            await receiver.complete_message(message)
        finally:
            free.release()

    async with client.get_queue_receiver(stage.source) as receiver, client.get_queue_sender(stage.target) as sender:
        await _each(receiver, free, work)


async def receivers(client: ServiceBusClient, stage: Stage, load: Load, count: int, prefetch: int) -> None:
    """Several receivers on one queue, which share the slots."""
    handling, leaving = asyncio.Semaphore(load.slots), asyncio.Semaphore(2 * load.slots)

    async def receive(receiver: ServiceBusReceiver, send: Callable[[ServiceBusMessage], Work]) -> None:
        async def work(message: ServiceBusReceivedMessage) -> None:
            try:
                await load.handle()
                handling.release()
                await send(_next(message))
                await receiver.complete_message(message)
            finally:
                leaving.release()

        async with asyncio.TaskGroup() as tasks:
            while True:
                await leaving.acquire()
                await handling.acquire()
                messages: list[ServiceBusReceivedMessage] = []
                while not messages:
                    messages = await receiver.receive_messages(max_message_count=1, max_wait_time=5)
                tasks.create_task(work(messages[0]))

    async with AsyncExitStack() as stack:
        sender = await stack.enter_async_context(client.get_queue_sender(stage.target))
        send = await stack.enter_async_context(_owned(sender))
        opened = [
            await stack.enter_async_context(
                client.get_queue_receiver(stage.source, prefetch_count=prefetch, socket_timeout=QUICK)
            )
            for _ in range(count)
        ]
        async with asyncio.TaskGroup() as tasks:
            for receiver in opened:
                tasks.create_task(receive(receiver, send))


def lane(name: str, slots: int) -> Lane:
    """The lane of that name."""
    if name in LANES:
        return LANES[name]
    count, prefetch = (1, slots - 1) if name == "ideal" else map(int, name.removeprefix("receivers-").split("-"))
    return partial(receivers, count=count, prefetch=prefetch)


LANES: dict[str, Lane] = {"naive": naive, "concurrent": concurrent}


async def _each(
    receiver: ServiceBusReceiver, free: asyncio.Semaphore, work: Callable[[ServiceBusReceivedMessage], Work]
) -> None:
    """Start a task for each message, while some are free."""
    async with asyncio.TaskGroup() as tasks:
        while True:
            await free.acquire()
            messages: list[ServiceBusReceivedMessage] = []
            while not messages:
                messages = await receiver.receive_messages(max_message_count=1, max_wait_time=5)
            tasks.create_task(work(messages[0]))


@asynccontextmanager
async def _owned(sender: ServiceBusSender) -> AsyncIterator[Callable[[ServiceBusMessage], Work]]:
    """Let one task own a sender, and send what has gathered while it was busy as one batch."""
    waiting: asyncio.Queue[tuple[ServiceBusMessage, asyncio.Future[None]]] = asyncio.Queue()

    async def own() -> None:
        while True:
            gathered = [await waiting.get()]
            while not waiting.empty() and len(gathered) < MOST_AT_ONCE:
                gathered.append(waiting.get_nowait())
            await sender.send_messages([message for message, _ in gathered])
            for _, sent in gathered:
                sent.set_result(None)

    async def send(message: ServiceBusMessage) -> None:
        sent = asyncio.get_running_loop().create_future()
        waiting.put_nowait((message, sent))
        await sent

    owner = asyncio.create_task(own())
    try:
        yield send
    finally:
        owner.cancel()


def _next(message: ServiceBusReceivedMessage) -> ServiceBusMessage:
    return ServiceBusMessage(b"".join(message.body), message_id=message.message_id, content_type="application/json")
