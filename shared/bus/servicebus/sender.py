"""One owner task per destination queue. The SDK's sender is not safe to share between tasks: concurrent sends
race on a list, duplicate messages and hang (azure-sdk-for-python #36334). The owner sends whatever has
gathered while the last send was under way as one batch: no timer, so no added latency when there is little.

What is scheduled so that it can be cancelled goes over the link's management node, because only there the broker says
the sequence number. One such request takes many messages, but one time for all: so it is rounded up to a second.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import MessageNotFoundError, MessageSizeExceededError

from shared.bus.port import BusUnavailable, MessageTooLarge, Outgoing, QueueFull, UnknownQueue
from shared.bus.servicebus.connections import Connections
from shared.bus.servicebus.translate import to_sdk, translated

# A batch above this adds latency for its first message and saves little more CPU.
MOST_AT_ONCE = 64
# Sequence numbers in one request.
MOST_CANCELLED = 256
# Seconds beyond a send's own time-out, for the attempts that the SDK does not bound.
BEYOND = 5.0
# Opening a link, with the SDK's four attempts and its waits between them.
OPEN_TIMEOUT = 30.0
CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    message: AmqpAnnotatedMessage | None
    """None: only open the link, or cancel."""
    sent: "asyncio.Future[Any]"
    due: datetime | None = None
    """When the message is due, if its sequence number is wanted."""
    cancelled: Sequence[int] = ()
    """Sequence numbers of messages to cancel."""


class Sender:
    """Sends to one queue, for any number of tasks."""

    def __init__(
        self, queue: str, make: Callable[[], ServiceBusSender], connections: Connections, *, within: float
    ) -> None:
        """`within`: seconds that one send may take, all its attempts included."""
        self._within = within
        self._queue = queue
        self._make = make
        self._connections = connections
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._sender: ServiceBusSender | None = None
        self._owner = asyncio.create_task(self._run(), name=f"sender:{queue}")

    async def send(self, message: Outgoing) -> None:
        """Return when the broker has taken `message`."""
        waiting = _Waiting(to_sdk(message), asyncio.get_running_loop().create_future())
        self._waiting.put_nowait(waiting)
        await waiting.sent

    async def schedule(self, message: Outgoing) -> int:
        """Return its sequence number when the broker has taken `message`, which is due at the next whole second."""
        if message.enqueue_at is None:
            raise ValueError("a scheduled message needs a time")
        due = datetime.fromtimestamp(math.ceil(message.enqueue_at.timestamp()), UTC)
        waiting = _Waiting(to_sdk(message), asyncio.get_running_loop().create_future(), due=due)
        self._waiting.put_nowait(waiting)
        return int(await waiting.sent)

    async def cancel(self, numbers: Sequence[int]) -> None:
        """Return when the broker has removed what is left of the messages with these sequence numbers."""
        waiting = _Waiting(None, asyncio.get_running_loop().create_future(), cancelled=tuple(numbers))
        self._waiting.put_nowait(waiting)
        await waiting.sent

    async def prewarm(self) -> None:
        """Open the link now; a failure is reported by the next send."""
        if not self._connections.limited:
            waiting = _Waiting(None, asyncio.get_running_loop().create_future())
            self._waiting.put_nowait(waiting)
            await waiting.sent

    async def close(self) -> None:
        """Stop the owner and close the link; waiting sends fail with `BusUnavailable`."""
        self._owner.cancel()
        with suppress(asyncio.CancelledError):
            await self._owner
        while not self._waiting.empty():
            _fail(self._waiting.get_nowait(), BusUnavailable(f"{self._queue}: closing"))
        await self._close()

    async def _run(self) -> None:
        """Own the link: whatever was queued while the last batch was sent is the next batch."""
        while True:
            gathered = [await self._waiting.get()]
            while not self._waiting.empty() and len(gathered) < MOST_AT_ONCE:
                gathered.append(self._waiting.get_nowait())
            # Cancelled sends are left out.
            batch = [waiting for waiting in gathered if not waiting.sent.done()]
            try:
                async with self._connections.sending():
                    await self._work(batch)
                    if self._connections.limited:
                        await self._close()
            except asyncio.CancelledError:
                for waiting in batch:
                    _fail(waiting, BusUnavailable(f"{self._queue}: closing"))
                raise

    async def _work(self, batch: list[_Waiting]) -> None:
        openings = [waiting for waiting in batch if waiting.message is None and not waiting.cancelled]
        if openings:
            with suppress(Exception):  # the first send will meet it again, and say so
                await self._open()
            for waiting in openings:
                _succeed(waiting)
        await self._send([waiting for waiting in batch if waiting.message is not None and waiting.due is None])
        scheduled: dict[datetime, list[_Waiting]] = defaultdict(list)
        for waiting in batch:
            if waiting.due is not None:
                scheduled[waiting.due].append(waiting)
        for due, waiters in scheduled.items():
            await self._schedule(due, waiters)
        cancellations = [waiting for waiting in batch if waiting.cancelled]
        if cancellations:
            await self._cancel(cancellations)

    async def _send(self, batch: list[_Waiting]) -> None:
        """Send `batch`, in as many pieces as its size demands; each waiter gets its own result."""
        while batch:
            piece = batch
            try:
                with translated(self._queue):
                    sender = await self._open()
                    async with asyncio.timeout(self._within + BEYOND):
                        piece, sendable = await self._fill(sender, batch)
                        await sender.send_messages(sendable, timeout=self._within)
            except (BusUnavailable, QueueFull, UnknownQueue) as unavailable:
                # The link failed, not a message, so all of the piece fail.
                for waiting in piece:
                    _fail(waiting, unavailable)
                await self._close()
            except Exception as failed:  # noqa: BLE001 - every waiter must get a result
                await self._blame(piece, failed)
            else:
                for waiting in piece:
                    _succeed(waiting)
            batch = batch[len(piece) :]

    async def _schedule(self, due: datetime, waiters: list[_Waiting]) -> None:
        """Schedule messages for one time together; each waiter gets the number of its own."""
        messages = [waiting.message for waiting in waiters if waiting.message is not None]
        try:
            with translated(self._queue):
                sender = await self._open()
                async with asyncio.timeout(self._within + BEYOND):
                    numbers = await sender.schedule_messages(messages, due, timeout=self._within)
        except MessageTooLarge as large:
            # A request has the size limit of one message; alone, each may fit.
            for waiting in waiters:
                if len(waiters) == 1:
                    _fail(waiting, large)
                else:
                    await self._schedule(due, [waiting])
        except Exception as failed:  # noqa: BLE001 - every waiter must get a result
            known = isinstance(failed, BusUnavailable | QueueFull | UnknownQueue)
            for waiting in waiters:
                _fail(waiting, failed if known else BusUnavailable(f"{self._queue}: {failed!r}"))
            await self._close()
        else:
            for waiting, number in zip(waiters, numbers, strict=True):
                _succeed(waiting, number)

    async def _cancel(self, waiters: list[_Waiting]) -> None:
        numbers = [number for waiting in waiters for number in waiting.cancelled]
        try:
            with translated(self._queue):
                sender = await self._open()
                async with asyncio.timeout(self._within + BEYOND):
                    for start in range(0, len(numbers), MOST_CANCELLED):
                        await _cancelled(sender, numbers[start : start + MOST_CANCELLED], self._within)
        except Exception as failed:  # noqa: BLE001 - every waiter must get a result
            known = isinstance(failed, BusUnavailable | UnknownQueue)
            for waiting in waiters:
                _fail(waiting, failed if known else BusUnavailable(f"{self._queue}: {failed!r}"))
            await self._close()
        else:
            for waiting in waiters:
                _succeed(waiting)

    async def _blame(self, piece: list[_Waiting], failed: Exception) -> None:
        """Send the messages of a refused batch one by one, so that only the bad one fails."""
        if len(piece) == 1:
            bug = isinstance(failed, MessageTooLarge | ValueError | TypeError)
            _fail(piece[0], failed if bug else BusUnavailable(f"{self._queue}: {failed!r}"))
        if not isinstance(failed, MessageTooLarge):
            await self._close()
        if len(piece) > 1:
            for waiting in piece:
                await self._send([waiting])

    async def _fill(
        self, sender: ServiceBusSender, batch: list[_Waiting]
    ) -> tuple[list[_Waiting], AmqpAnnotatedMessage | ServiceBusMessageBatch]:
        """The first messages of `batch` that fit together, as the SDK wants them."""
        messages = [waiting.message for waiting in batch if waiting.message is not None]
        if len(batch) == 1:
            return batch, messages[0]
        together = await sender.create_message_batch()
        for count, message in enumerate(messages):
            try:
                together.add_message(message)
            except MessageSizeExceededError:
                # Alone it may still fit: the envelope of a batch costs a few bytes.
                return (batch[:count], together) if count else (batch[:1], message)
        return batch, together

    async def _open(self) -> ServiceBusSender:
        if self._sender is None:
            self._sender = self._make()
            # A refused link reports it after its retries; inside a send they would use up the send's time.
            await asyncio.wait_for(self._sender.__aenter__(), OPEN_TIMEOUT)
        return self._sender

    async def _close(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            # A peer that does not answer must not delay the next attempt.
            with suppress(Exception):
                await asyncio.wait_for(sender.close(), CLOSE_TIMEOUT)


async def _cancelled(sender: ServiceBusSender, numbers: Sequence[int], within: float) -> None:
    """Cancel all that still exist. The broker cancels all or none, so a refused request is halved and tried again."""
    try:
        await sender.cancel_scheduled_messages(list(numbers), timeout=within)
    except MessageNotFoundError:
        if len(numbers) > 1:
            middle = len(numbers) // 2
            await _cancelled(sender, numbers[:middle], within)
            await _cancelled(sender, numbers[middle:], within)


def _succeed(waiting: _Waiting, number: int | None = None) -> None:
    if not waiting.sent.done():
        waiting.sent.set_result(number)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.sent.done():
        waiting.sent.set_exception(error)
