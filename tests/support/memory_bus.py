"""The bus in memory: the port's promises and nothing more, for tests that need no socket.

Peek-lock with a delivery count, scheduled messages, duplicate detection, dead letters with forwarding. Time is
an argument.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from shared.bus.port import LockLost, MessageTooLarge, Outgoing, Received, UnknownQueue

LOCK = timedelta(seconds=60)
LARGEST = 256 * 1024


@dataclass(slots=True)
class _Held:
    message: Received
    visible_from: datetime
    locked_until: datetime | None = None
    expires_at: datetime | None = None


@dataclass(slots=True)
class _Queue:
    forward_dead_to: str | None
    detects_duplicates: bool
    held: list[_Held] = field(default_factory=list)
    dead: list[Received] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryBus:
    """A broker and its client in one object."""

    def __init__(
        self,
        *queues: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        forward_dead_to: str | None = None,
        max_deliveries: int = 10,
    ) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._max_deliveries = max_deliveries
        self._queues = {
            name: _Queue(forward_dead_to if name != forward_dead_to else None, name != forward_dead_to)
            for name in queues
        }
        self.sent: list[Outgoing] = []

    async def send(self, message: Outgoing) -> None:
        queue = self._queue(message.queue)
        if len(message.body) > LARGEST:
            raise MessageTooLarge(f"{message.queue}: {len(message.body)} bytes")
        self.sent.append(message)
        if queue.detects_duplicates and message.message_id is not None:
            if message.message_id in queue.seen:
                return
            queue.seen.add(message.message_id)
        self._put(queue, self._received(message), message)

    async def schedule(self, message: Outgoing) -> int:
        queue = self._queue(message.queue)
        await self.send(message)
        same = (held.message for held in queue.held if held.message.message_id == message.message_id)
        found = next(same, None) if message.message_id is not None else queue.held[-1].message
        return found.sequence_number if found is not None else 0

    async def cancel(self, queue: str, numbers: Sequence[int]) -> None:
        held, now = self._queue(queue).held, self._clock()
        held[:] = [each for each in held if each.message.sequence_number not in numbers or each.visible_from <= now]

    def inbox(self, queue: str) -> "MemoryInbox":
        self._queue(queue)
        return MemoryInbox(self, queue)

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        found = self._queue(queue)
        messages = found.dead if dead else [held.message for held in found.held]
        return [message for message in messages if message.sequence_number > after][:limit]

    async def prewarm(self, queue: str) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """Nothing is open."""

    def take(self, name: str) -> _Held | None:
        """Lock the first visible message of a queue."""
        queue, now = self._queue(name), self._clock()
        self._expire(name, now)
        for held in queue.held:
            if held.visible_from <= now and (held.locked_until is None or held.locked_until <= now):
                lapsed = held.locked_until is not None
                held.message = replace(held.message, delivery_count=held.message.delivery_count + lapsed)
                if held.message.delivery_count >= self._max_deliveries:
                    self.bury(name, held, "MaxDeliveryCountExceeded", "delivered too often")
                    return self.take(name)
                held.locked_until = now + LOCK
                return held
        return None

    def settle(self, name: str, held: _Held) -> None:
        """Remove a locked message; raises `LockLost` if the lock has passed."""
        if held.locked_until is None or held.locked_until <= self._clock() or held not in self._queue(name).held:
            raise LockLost(f"{name}: the lock expired")
        self._queue(name).held.remove(held)

    def bury(self, name: str, held: _Held, reason: str, description: str) -> None:
        """Move a message to the dead-letter queue, or where dead letters are forwarded."""
        queue = self._queue(name)
        if held in queue.held:
            queue.held.remove(held)
        dead = replace(held.message, dead_letter_reason=reason, dead_letter_description=description)
        if queue.forward_dead_to is None:
            queue.dead.append(dead)
            return
        moved = replace(
            dead,
            queue=queue.forward_dead_to,
            dead_letter_source=name,
            delivery_count=0,
            sequence_number=next(self._numbers),
            enqueued_sequence_number=dead.sequence_number,
        )
        target = self._queue(queue.forward_dead_to)
        target.held.append(_Held(moved, self._clock()))
        target.arrived.set()

    async def arrival(self, name: str, wait: timedelta) -> None:
        """Return when something may have arrived, or after `wait`."""
        queue = self._queue(name)
        queue.arrived.clear()
        try:
            async with asyncio.timeout(min(wait.total_seconds(), 0.02)):
                await queue.arrived.wait()
        except TimeoutError:
            return

    @property
    def now(self) -> datetime:
        return self._clock()

    def _expire(self, name: str, now: datetime) -> None:
        for held in [h for h in self._queue(name).held if h.expires_at is not None and h.expires_at <= now]:
            if held.locked_until is None or held.locked_until <= now:
                self.bury(name, held, "TTLExpiredException", "the message expired")

    def _put(self, queue: _Queue, message: Received, sent: Outgoing) -> None:
        visible = sent.enqueue_at or self._clock()
        expires = max(visible, self._clock()) + sent.time_to_live if sent.time_to_live else None
        queue.held.append(_Held(message, visible, None, expires))
        queue.arrived.set()

    def _received(self, message: Outgoing) -> Received:
        now = self._clock()
        return Received(
            queue=message.queue,
            body=message.body,
            subject=message.subject,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            session_id=message.session_id,
            reply_to=message.reply_to,
            reply_to_session_id=message.reply_to_session_id,
            content_type=message.content_type,
            time_to_live=message.time_to_live,
            enqueued_at=max(now, message.enqueue_at) if message.enqueue_at else now,
            scheduled_for=message.enqueue_at,
            sequence_number=next(self._numbers),
            properties=dict(message.properties),
        )

    def _queue(self, name: str) -> _Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise UnknownQueue(f"{name}: no such queue") from None


class MemoryInbox:
    """Receives from one queue of a `MemoryBus`."""

    def __init__(self, bus: MemoryBus, queue: str) -> None:
        self._bus = bus
        self._queue = queue

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> "MemoryDelivery | None":
        until = asyncio.get_running_loop().time() + wait.total_seconds()
        while True:
            held = self._bus.take(self._queue)
            if held is not None:
                return MemoryDelivery(self._bus, self._queue, held)
            if asyncio.get_running_loop().time() >= until:
                return None
            await self._bus.arrival(self._queue, wait)

    async def close(self) -> None:
        """Nothing is open."""


class MemoryDelivery:
    """A locked message of a `MemoryBus`."""

    def __init__(self, bus: MemoryBus, queue: str, held: _Held) -> None:
        self._bus = bus
        self._queue = queue
        self._held = held
        self.message = held.message
        self.settled: str | None = None

    @property
    def locked_until(self) -> datetime:
        return self._held.locked_until or self._bus.now

    async def complete(self) -> None:
        self._bus.settle(self._queue, self._held)
        self.settled = "completed"

    async def dead_letter(self, reason: str, description: str) -> None:
        self._bus.settle(self._queue, self._held)
        self._bus.bury(self._queue, self._held, reason, description)
        self.settled = "dead_lettered"

    def forget(self) -> None:
        self.settled = self.settled or "left"

    async def renew(self) -> datetime:
        if self._held.locked_until is None or self._held.locked_until <= self._bus.now:
            raise LockLost(f"{self._queue}: the lock expired")
        self._held.locked_until = self._bus.now + LOCK
        return self._held.locked_until
