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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver

from shared.bus.port import BusUnavailable, Received, UnknownQueue
from shared.bus.servicebus.connections import TURN, Connections
from shared.bus.servicebus.translate import from_sdk, translated

MakeReceiver = Callable[[int], ServiceBusReceiver]
"""From the number of messages to prefetch."""

# Failures in a row after which a receiver is replaced.
REPLACE_AFTER = 3
# A sequence number that no queue reaches.
NOWHERE = 1 << 53
# The broker's limit for both dead-letter texts is 4,096 characters.
LONGEST_TEXT = 4096
# Seconds to close a receiver; when the peer is gone, the SDK takes longer.
CLOSE_TIMEOUT = 5.0


class _Link:
    """A receiver of the SDK that is closed only when nothing is being settled or renewed on it.

    A settlement whose receiver is closed under it opens that receiver again and then fails (7.15), and the connection
    stays.
    """

    def __init__(self, receiver: ServiceBusReceiver) -> None:
        self.receiver = receiver
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @asynccontextmanager
    async def using(self) -> AsyncIterator[ServiceBusReceiver]:
        """Keep it open meanwhile."""
        self._users += 1
        self._unused.clear()
        try:
            yield self.receiver
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self, within: float) -> None:
        """Close it once it is not used, or after `within` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._unused.wait()
        with suppress(Exception):
            await asyncio.wait_for(self.receiver.close(), CLOSE_TIMEOUT)


class SdkDelivery:
    """A message under lock."""

    def __init__(self, inbox: "SdkInbox", raw: ServiceBusReceivedMessage, link: _Link) -> None:
        self._inbox = inbox
        self._raw = raw
        self.link = link
        """The link it came on, which may have been closed since."""
        self.message: Received = from_sdk(inbox.queue, raw)
        # `message` has them. A settlement looks here for a trace, and fails when one is not ASCII (7.15).
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

        `quiet`: seconds without a message after which a peek checks that the broker answers.
        """
        self.queue = queue
        self._make = make
        self._connections = connections
        self._settle_within = settle_within
        self._quiet = quiet
        self._link: _Link | None = None
        self._prefetch = 0
        self._opened = self._heard = 0.0
        self._failures = 0
        self._unsettled: set[SdkDelivery] = set()
        self._all_settled = asyncio.Event()
        self._all_settled.set()
        self._turn: asyncio.Task[None] | None = None  # waits for a connection, where they are limited
        # Settles deliveries whose link is closed, and is closed after the last of them. It never receives: the SDK
        # finds a message by its number on the link, and two links may use the same numbers.
        self._settler: _Link | None = None
        self._opening_settler = asyncio.Lock()

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> SdkDelivery | None:
        """The next delivery, or None after `wait`; see the port."""
        try:
            with translated(self.queue):
                link = await self._open(prefetch, wait.total_seconds())
                if link is None:
                    return None
                got = await link.receiver.receive_messages(max_message_count=1, max_wait_time=wait.total_seconds())
                if not got:
                    await self._check_that_the_broker_answers(link.receiver)
        except (BusUnavailable, UnknownQueue):
            self._failures += 1
            raise
        if not got:
            return None
        self._failures = 0
        self._heard = asyncio.get_running_loop().time()
        delivery = SdkDelivery(self, got[0], link)
        self._unsettled.add(delivery)
        self._all_settled.clear()
        return delivery

    async def close(self) -> None:
        """Stop receiving, and give back what was prefetched. Deliveries handed out can still be settled.

        Where connections are limited nothing is prefetched, and there is none to settle on but this: it stays open
        until all is settled.
        """
        if self._turn is not None:
            if self._turn.done():
                self._connections.end_receiving()
            self._turn.cancel()
            self._turn = None
        if not (self._connections.limited and self._unsettled):
            await self._close_link()

    async def end(self) -> None:
        """Close everything: what was not settled goes back to the queue when its lock ends."""
        await self.close()
        await self._close_link()
        await self._close_settler()

    # -- for its deliveries

    async def settle(self, delivery: SdkDelivery, how: Callable[[ServiceBusReceiver], Awaitable[None]]) -> None:
        """Settle `delivery`. Raises `LockLost`, `BusUnavailable`."""
        limit = asyncio.timeout(self._settle_within)
        try:
            with translated(self.queue):
                async with limit:
                    link = await self._link_of(delivery)
                    async with link.using() as receiver:
                        await how(receiver)
        finally:
            self.forget(delivery)
            if limit.expired() and delivery.link is self._link:
                # A peer that does not confirm a settlement will hardly deliver anything.
                self._failures = REPLACE_AFTER
            elif limit.expired() or all(each.link is self._link for each in self._unsettled):
                await self._close_settler()

    async def renew(self, delivery: SdkDelivery, raw: ServiceBusReceivedMessage) -> datetime:
        """Lock `delivery` anew. Raises `LockLost`, `BusUnavailable`."""
        try:
            with translated(self.queue):
                link = await self._link_of(delivery)
                async with link.using() as receiver:
                    return await receiver.renew_message_lock(raw, timeout=self._settle_within)
        except BusUnavailable:
            if delivery.link is not self._link:
                await self._close_settler()
            raise

    def forget(self, delivery: SdkDelivery) -> None:
        """Expect no settlement of `delivery`."""
        self._unsettled.discard(delivery)
        if not self._unsettled:
            self._all_settled.set()

    async def _link_of(self, delivery: SdkDelivery) -> _Link:
        if delivery.link is self._link:
            return self._link
        if self._connections.limited:
            raise BusUnavailable(f"{self.queue}: the connection that the message came on is closed")
        async with self._opening_settler:
            if self._settler is None:
                self._settler = await self._opened_link(0)
            return self._settler

    async def _close_settler(self) -> None:
        settler, self._settler = self._settler, None
        if settler is not None:
            await settler.close(self._settle_within)

    # -- the link

    async def _open(self, prefetch: int, wait: float) -> _Link | None:
        """The link, which is replaced where it is broken, prefetches another number, or its turn is over.

        None: where connections are limited, this inbox did not get one within `wait` seconds.
        """
        loop = asyncio.get_running_loop()
        if self._connections.limited:
            # A second connection to settle through would be one too many, so all is settled before this one closes.
            prefetch = 0
            if self._link is not None and self._connections.is_awaited and loop.time() - self._opened > TURN:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._all_settled.wait()
                if self._unsettled:
                    return None
                await self._close_link()
        if self._failures >= REPLACE_AFTER or prefetch != self._prefetch:
            self._failures = 0
            await self._close_link()
        if self._link is None:
            if self._turn is None:
                self._turn = asyncio.create_task(self._connections.begin_receiving())
            await asyncio.wait({self._turn}, timeout=wait)
            if not self._turn.done():
                return None
            self._turn = None
            try:
                self._link, self._prefetch = await self._opened_link(prefetch), prefetch
            except BaseException:
                self._connections.end_receiving()
                raise
            self._opened = self._heard = loop.time()
        return self._link

    async def _opened_link(self, prefetch: int) -> _Link:
        link = _Link(self._make(prefetch))
        try:
            # Opened here, or a short first look would end before the link is up and count as a failure.
            await link.receiver.__aenter__()
        except BaseException:
            await link.close(0)
            raise
        return link

    async def _close_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close(self._settle_within)
            self._connections.end_receiving()

    async def _check_that_the_broker_answers(self, receiver: ServiceBusReceiver) -> None:
        """Raises `BusUnavailable` when nothing came for a while and the broker does not answer.

        A connection whose peer vanished stays open for hours, and a receiver that only waits does not notice
        (azure-sdk-for-python #18795, #25198). So a peek asks for messages that cannot exist.
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
