"""Receives from one queue; deliveries are handed out one by one and settled concurrently on the same link.

With a pump, messages for all free slots are under way at once. Without one they are asked for one after the other:
asking for more at a time adds 0.2 s after the first (the SDK waits for the rest), and a settlement waits for the read
that is under way on its connection, at most `SOCKET_TIMEOUT`. The reply has left before on another connection, so only
the slot waits.
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
from shared.bus.servicebus.pump import Pump
from shared.bus.servicebus.translate import from_sdk, translated

# 0.2 s is the SDK's default and makes every settlement next to a poll wait that long; below 0.02 s an idle
# receiver costs more than 2 % of a core.
SOCKET_TIMEOUT = 0.05
# A receiver that failed this often in a row is replaced.
REPLACE_AFTER = 3
# No sequence number of a queue comes so far.
NOWHERE = 1 << 53
# The broker's limit for both dead-letter texts is 4,096 characters.
LONGEST_TEXT = 4096


class SdkDelivery:
    """A message under lock, with the receiver that can settle it."""

    def __init__(
        self,
        queue: str,
        raw: ServiceBusReceivedMessage,
        receiver: ServiceBusReceiver,
        within: float,
        over: Callable[["SdkDelivery", bool], None],
    ) -> None:
        """`within`: seconds that a settlement may take.

        `over`: told that the receiver is needed no more, and whether it was silent.
        """
        self._queue = queue
        self._raw = raw
        self._receiver = receiver
        self._within = within
        self._over = over
        self.message: Received = from_sdk(queue, raw)
        # They are read now. A settlement looks there for a trace, and fails (7.15) when one is not ASCII.
        raw.application_properties = None

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

    def forget(self) -> None:
        """The lock will run out by itself; the receiver need not stay open for it."""
        self._over(self, False)

    async def _settle(self, settlement: Coroutine[Any, Any, None]) -> None:
        limit = asyncio.timeout(self._within)
        try:
            with translated(self._queue):
                async with limit:
                    await settlement
        finally:
            self._over(self, limit.expired())

    async def renew(self) -> datetime:
        with translated(self._queue):
            return await self._receiver.renew_message_lock(self._raw, timeout=self._within)


class SdkInbox:
    """The deliveries of one queue; one task may call `receive`."""

    def __init__(
        self,
        queue: str,
        make: Callable[[], ServiceBusReceiver],
        connections: Connections,
        *,
        poll_interval: timedelta | None,
        slots: int,
        pumped: bool,
        settle_within: float,
        quiet: float,
    ) -> None:
        """`poll_interval`: where connections are scarce, look in only this often and keep no connection meanwhile.

        `slots`: how many deliveries may be out at once. `pumped`: whether a pump may be used. `quiet`: after so many
        seconds without a message the broker is asked whether it is there.
        """
        self._queue = queue
        self._make = make
        self._connections = connections
        self._patrol = poll_interval if connections.limited else None
        self._receiver: ServiceBusReceiver | None = None
        self.slots = slots
        self._pumped = pumped
        self._settle_within = settle_within
        self._quiet = quiet
        self._heard = 0.0
        self._pump: Pump | None = None
        self._failures = 0
        self._unsettled: set[SdkDelivery] = set()

    async def receive(self, wait: timedelta) -> SdkDelivery | None:
        """The next delivery, or None after `wait`."""
        await self._replace_if_broken()
        try:
            with translated(self._queue):
                receiver = await self._open()
                got = await self._next(receiver, wait.total_seconds())
                if got:
                    self._heard = asyncio.get_running_loop().time()
                else:
                    await self._listen(receiver)
        except (BusUnavailable, UnknownQueue):
            self._failures += 1
            await self._replace_if_broken()
            raise
        if not got:
            await self._go_on_patrol()
            return None
        self._failures = 0
        delivery = SdkDelivery(self._queue, got[0], receiver, self._settle_within, self._over)
        self._unsettled.add(delivery)
        return delivery

    async def close(self) -> None:
        """Close the link; what was not settled goes back to the queue when its lock ends."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            await self._stop_pump()
            with suppress(Exception):
                await asyncio.wait_for(receiver.close(), 5)
            await self._connections.free()
            if self._patrol is not None:
                self._connections.patrolling.release()

    async def _next(self, receiver: ServiceBusReceiver, wait: float) -> list[ServiceBusReceivedMessage]:
        pump = self._pump
        if pump is not None and (not await pump.wait(wait) or pump.runs):
            return pump.take()
        # The SDK finds out what has happened to the link, if there was one, and opens another.
        await self._stop_pump()
        got = await receiver.receive_messages(max_message_count=1, max_wait_time=wait)
        self._start_pump(receiver)
        return got

    async def _listen(self, receiver: ServiceBusReceiver) -> None:
        """Hear whether the broker is there; raises `BusUnavailable` when it says nothing.

        A connection whose other end went away without a word stays open for hours, and a receiver that only waits
        does not notice (azure-sdk-for-python #18795, #25198). So it is asked for messages that cannot be there.
        """
        loop = asyncio.get_running_loop()
        if loop.time() - self._heard < self._quiet:
            return
        try:
            async with asyncio.timeout(self._settle_within):
                await receiver.peek_messages(sequence_number=NOWHERE, timeout=self._settle_within)
        except Exception:
            self._failures = REPLACE_AFTER
            raise
        self._heard = loop.time()

    def _over(self, delivery: SdkDelivery, silence: bool) -> None:
        self._unsettled.discard(delivery)
        if silence:
            # Whoever does not confirm a settlement will hardly deliver anything.
            self._failures = REPLACE_AFTER
        if self._pump is not None:
            self._pump.changed()

    async def _open(self) -> ServiceBusReceiver:
        if self._receiver is None:
            await self._take_connection()
            self._receiver = self._make()
            # Opened here, or a short first look would end before the link is up and count as a failure.
            await self._receiver.__aenter__()
            self._heard = asyncio.get_running_loop().time()
            self._start_pump(self._receiver)
        return self._receiver

    def _start_pump(self, receiver: ServiceBusReceiver) -> None:
        if self._pumped:
            self._pump = Pump.on(receiver, lambda: self.slots - len(self._unsettled), self.slots)

    async def _stop_pump(self) -> None:
        pump, self._pump = self._pump, None
        if pump is not None:
            await pump.stop()

    async def _take_connection(self) -> None:
        if self._patrol is None:
            return await self._connections.take()
        await self._connections.patrolling.acquire()
        try:
            return await self._connections.take()
        except BaseException:
            self._connections.patrolling.release()
            raise

    async def _replace_if_broken(self) -> None:
        if self._failures >= REPLACE_AFTER and not self._unsettled:
            self._failures = 0
            await self.close()

    async def _go_on_patrol(self) -> None:
        if self._patrol is not None and not self._unsettled:
            await self.close()
            await asyncio.sleep(self._patrol.total_seconds())
