"""Receives from one queue through the SDK's public API.

One receiver with a single reader that takes one message at a time: asking for more at once adds 0.2 s after the first,
because the SDK waits for the rest. Deliveries are settled on the same link, each by the task that worked on it.

    prefetch 0    a message is asked for when there is room for it, and costs a round trip
    prefetch n    n more are on their way, or here, while others are worked on: n cost one round trip
                  (`python -m benchmarks.adapter` compares the shapes)

The number is fixed when the SDK's receiver is made, so to change it is to close that receiver and to open another.
Closing gives back what was prefetched with its delivery count unchanged (azure-servicebus 7.15). Deliveries that were
handed out before stay locked; they are settled and renewed by their lock token through another receiver.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from shared.bus.port import BusUnavailable, Received, UnknownQueue
from shared.bus.servicebus.connections import TURN, Connections
from shared.bus.servicebus.translate import from_sdk, translated

MakeReceiver = Callable[[int], ServiceBusReceiver]
"""From the number of messages to prefetch."""

# A receiver that failed this often in a row is replaced.
REPLACE_AFTER = 3
# No sequence number of a queue comes so far.
NOWHERE = 1 << 53
# The broker's limit for both dead-letter texts is 4,096 characters.
LONGEST_TEXT = 4096
# Seconds for closing a receiver; with a peer that is gone it takes the SDK longer.
CLOSE_TIMEOUT = 5.0


class SdkDelivery:
    """A message under lock."""

    def __init__(self, inbox: "SdkInbox", raw: ServiceBusReceivedMessage, receiver: ServiceBusReceiver) -> None:
        self._inbox = inbox
        self._raw = raw
        self.receiver = receiver
        """The receiver that it came with, which may be closed meanwhile."""
        self.message: Received = from_sdk(inbox.queue, raw)
        # They are read now. A settlement looks there for a trace, and fails (7.15) when one is not ASCII.
        raw.application_properties = None

    @property
    def locked_until(self) -> datetime:
        """When the lock ends, by the broker's clock."""
        return self._raw.locked_until_utc or datetime.now(UTC)

    async def complete(self) -> None:
        """See the port."""
        await self._inbox.settle(self, lambda receiver: receiver.complete_message(self._raw))

    async def dead_letter(self, reason: str, description: str) -> None:
        """See the port; texts that are longer than the broker takes are cut."""
        await self._inbox.settle(
            self,
            lambda receiver: receiver.dead_letter_message(
                self._raw, reason=reason[:LONGEST_TEXT], error_description=description[:LONGEST_TEXT]
            ),
        )

    def forget(self) -> None:
        """See the port."""
        self._inbox.forget(self)

    async def renew(self) -> datetime:
        """See the port."""
        return await self._inbox.renew(self, self._raw)


class SdkInbox:
    """The deliveries of one queue; one task may call `receive`."""

    def __init__(
        self, queue: str, make: MakeReceiver, connections: Connections, *, settle_within: float, quiet: float
    ) -> None:
        """`settle_within`: seconds for one settlement or renewal.

        `quiet`: after so many seconds without a message the broker is asked whether it is there.
        """
        self.queue = queue
        self._make = make
        self._connections = connections
        self._settle_within = settle_within
        self._quiet = quiet
        self._receiver: ServiceBusReceiver | None = None
        self._prefetch = 0
        self._opened = self._heard = 0.0
        self._failures = 0
        self._unsettled: set[SdkDelivery] = set()
        self._all_settled = asyncio.Event()
        self._all_settled.set()
        # Settles what came with a receiver that is closed. It never receives: the SDK looks for a message by its number
        # on the link, and two links may use the same numbers.
        self._settler: ServiceBusReceiver | None = None
        self._opening_settler = asyncio.Lock()

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> SdkDelivery | None:
        """The next delivery, or None after `wait`; see the port."""
        try:
            with translated(self.queue):
                receiver = await self._open(prefetch)
                got = await receiver.receive_messages(max_message_count=1, max_wait_time=wait.total_seconds())
                if not got:
                    await self._check_that_the_broker_is_there(receiver)
        except (BusUnavailable, UnknownQueue):
            self._failures += 1
            raise
        if not got:
            return None
        self._failures = 0
        self._heard = asyncio.get_running_loop().time()
        delivery = SdkDelivery(self, got[0], receiver)
        self._unsettled.add(delivery)
        self._all_settled.clear()
        return delivery

    async def close(self) -> None:
        """Stop receiving, and give back what was prefetched. Deliveries handed out can still be settled."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            await _close(receiver)
            self._connections.end_receiving()

    async def end(self) -> None:
        """Close everything: what was not settled goes back to the queue when its lock ends."""
        await self.close()
        settler, self._settler = self._settler, None
        if settler is not None:
            await _close(settler)

    # -- for its deliveries

    async def settle(self, delivery: SdkDelivery, how: Callable[[ServiceBusReceiver], Awaitable[None]]) -> None:
        """Settle `delivery`. Raises `LockLost`, `BusUnavailable`."""
        limit = asyncio.timeout(self._settle_within)
        try:
            with translated(self.queue):
                async with limit:
                    await how(await self._receiver_of(delivery))
        finally:
            self.forget(delivery)
            if limit.expired():
                await self._replace_what_is_silent(delivery)

    async def renew(self, delivery: SdkDelivery, raw: ServiceBusReceivedMessage) -> datetime:
        """Lock `delivery` anew. Raises `LockLost`, `BusUnavailable`."""
        with translated(self.queue):
            receiver = await self._receiver_of(delivery)
            return await receiver.renew_message_lock(raw, timeout=self._settle_within)

    def forget(self, delivery: SdkDelivery) -> None:
        """It will not be settled (any more)."""
        self._unsettled.discard(delivery)
        if not self._unsettled:
            self._all_settled.set()

    async def _replace_what_is_silent(self, delivery: SdkDelivery) -> None:
        """A peer that does not confirm a settlement will hardly deliver anything, or confirm another."""
        if delivery.receiver is self._receiver:
            self._failures = REPLACE_AFTER
        else:
            settler, self._settler = self._settler, None
            if settler is not None:
                await _close(settler)

    async def _receiver_of(self, delivery: SdkDelivery) -> ServiceBusReceiver:
        if delivery.receiver is self._receiver:
            return self._receiver
        async with self._opening_settler:
            if self._settler is None:
                self._settler = await self._opened_receiver(0)
            return self._settler

    # -- the link

    async def _open(self, prefetch: int) -> ServiceBusReceiver:
        """The receiver, which is replaced where it is broken, prefetches another number, or its turn is over."""
        loop = asyncio.get_running_loop()
        if self._connections.limited:
            # A second receiver to settle through would be one too many, so all is settled before this one closes.
            prefetch = self._prefetch
            if self._connections.is_awaited and loop.time() - self._opened > TURN:
                await self._all_settled.wait()
                await self.close()
        if self._failures >= REPLACE_AFTER or prefetch != self._prefetch:
            self._failures = 0
            await self.close()
        if self._receiver is None:
            await self._connections.begin_receiving()
            try:
                self._receiver, self._prefetch = await self._opened_receiver(prefetch), prefetch
            except BaseException:
                self._connections.end_receiving()
                raise
            self._opened = self._heard = loop.time()
        return self._receiver

    async def _opened_receiver(self, prefetch: int) -> ServiceBusReceiver:
        receiver = self._make(prefetch)
        try:
            # Opened here, or a short first look would end before the link is up and count as a failure.
            await receiver.__aenter__()
        except BaseException:
            await _close(receiver)
            raise
        return receiver

    async def _check_that_the_broker_is_there(self, receiver: ServiceBusReceiver) -> None:
        """Raises `BusUnavailable` when nothing came for a while and the broker does not answer.

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


async def _close(receiver: ServiceBusReceiver) -> None:
    with suppress(Exception):
        await asyncio.wait_for(receiver.close(), CLOSE_TIMEOUT)
