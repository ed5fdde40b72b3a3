"""Receives from one queue, one delivery at a time; deliveries are settled concurrently on the same link.

Asking for more than one message at a time adds 0.2 s after the first (the SDK waits for the rest), so
concurrency comes from handler tasks. A settlement waits for the read that is under way on its connection,
at most `SOCKET_TIMEOUT`; the reply has left before on another connection, so only the slot waits.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from shared.bus.port import BusUnavailable, Received, UnknownQueue
from shared.bus.servicebus.connections import Connections
from shared.bus.servicebus.translate import from_sdk, translated

# 0.2 s is the SDK's default and makes every settlement next to a poll wait that long; below 0.02 s an idle
# receiver costs more than 2 % of a core.
SOCKET_TIMEOUT = 0.05
# A renewal or settlement over the management link must not wait for an answer that was lost.
SETTLE_TIMEOUT = 10.0
# A receiver that failed this often in a row is replaced.
REPLACE_AFTER = 3
# The broker's limit for both dead-letter texts is 4,096 characters.
LONGEST_TEXT = 4096


class SdkDelivery:
    """A message under lock, with the receiver that can settle it."""

    def __init__(
        self, queue: str, raw: ServiceBusReceivedMessage, receiver: ServiceBusReceiver, unsettled: set["SdkDelivery"]
    ) -> None:
        self._queue = queue
        self._raw = raw
        self._receiver = receiver
        self._unsettled = unsettled
        unsettled.add(self)
        self.message: Received = from_sdk(queue, raw)

    @property
    def locked_until(self) -> datetime:
        return self._raw.locked_until_utc or datetime.now(UTC)

    async def complete(self) -> None:
        await self._settle(self._receiver.complete_message(self._raw))

    async def dead_letter(self, reason: str, description: str) -> None:
        await self._settle(
            self._receiver.dead_letter_message(
                self._raw, reason=reason[:LONGEST_TEXT], error_description=description[:LONGEST_TEXT]
            )
        )

    async def abandon(self) -> None:
        await self._settle(self._receiver.abandon_message(self._raw))

    def forget(self) -> None:
        """The lock will run out by itself; the receiver need not stay open for it."""
        self._unsettled.discard(self)

    async def _settle(self, settlement: Coroutine[Any, Any, None]) -> None:
        try:
            with translated(self._queue):
                await asyncio.wait_for(settlement, SETTLE_TIMEOUT)
        finally:
            self.forget()

    async def renew(self) -> datetime:
        with translated(self._queue):
            return await self._receiver.renew_message_lock(self._raw, timeout=SETTLE_TIMEOUT)


class SdkInbox:
    """The deliveries of one queue; one task may call `receive`."""

    def __init__(
        self,
        queue: str,
        make: Callable[[], ServiceBusReceiver],
        connections: Connections,
        patrol: timedelta | None = None,
    ) -> None:
        """`patrol`: where connections are scarce, look in only this often and keep no connection meanwhile."""
        self._queue = queue
        self._make = make
        self._connections = connections
        self._patrol = patrol if connections.limited else None
        self._receiver: ServiceBusReceiver | None = None
        self._failures = 0
        self._unsettled: set[SdkDelivery] = set()

    async def receive(self, wait: timedelta) -> SdkDelivery | None:
        """The next delivery, or None after `wait`."""
        try:
            with translated(self._queue):
                receiver = await self._open()
                got = await receiver.receive_messages(max_message_count=1, max_wait_time=wait.total_seconds())
        except (BusUnavailable, UnknownQueue):
            await self._after_failure()
            raise
        self._failures = 0
        if not got:
            await self._go_on_patrol()
            return None
        return SdkDelivery(self._queue, got[0], receiver, self._unsettled)

    async def close(self) -> None:
        """Close the link; what was not settled goes back to the queue when its lock ends."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            with suppress(Exception):
                await asyncio.wait_for(receiver.close(), 5)
            await self._connections.free()
            if self._patrol is not None:
                self._connections.patrolling.release()

    async def _open(self) -> ServiceBusReceiver:
        if self._receiver is None:
            await self._take_connection()
            self._receiver = self._make()
            # Opened here, or a short first look would end before the link is up and count as a failure.
            await self._receiver.__aenter__()
        return self._receiver

    async def _take_connection(self) -> None:
        if self._patrol is None:
            return await self._connections.take()
        await self._connections.patrolling.acquire()
        try:
            return await self._connections.take()
        except BaseException:
            self._connections.patrolling.release()
            raise

    async def _after_failure(self) -> None:
        self._failures += 1
        if self._failures >= REPLACE_AFTER and not self._unsettled:
            self._failures = 0
            await self.close()

    async def _go_on_patrol(self) -> None:
        if self._patrol is not None and not self._unsettled:
            await self.close()
            await asyncio.sleep(self._patrol.total_seconds())
