"""The bus on Azure Service Bus: where it is, and the senders and receivers made from one client."""

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from azure.servicebus import ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient

from shared.bus.port import Outgoing, Received
from shared.bus.servicebus.connections import Connections
from shared.bus.servicebus.inbox import SdkInbox
from shared.bus.servicebus.sender import Sender
from shared.bus.servicebus.translate import from_sdk, translated

if TYPE_CHECKING:
    from azure.identity.aio import DefaultAzureCredential

PEEK_TIMEOUT = 10.0
# Seconds that one read of a receiver's socket waits. A settlement waits for the reads beside it, so the SDK's default,
# 0.2 s, is too long. A receiver that prefetches has much to settle: with 0.05 s it got half as many messages through,
# at a round trip of 2 and of 20 ms (ADR 2). Idle, it costs 5 % of a core with 0.01 s, and 1 % with 0.05 s.
SOCKET_TIMEOUT, SOCKET_TIMEOUT_PREFETCHING = 0.05, 0.01
LIMIT = re.compile(r"(?:^|(?<=;))MaxConnections=(?P<number>[^;]*)(?:;|$)", re.IGNORECASE)
# The SDK retries after 0.2, 0.4, 0.8, 1.6 and 3.2 s. With its own 1.6, 3.2 and 6.4 s for each broken link, hop after
# hop, workers were back up to 14 s after a restart of the broker; 15 s are promised.
RETRIES, BACKOFF = 5, 0.1


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for a peer that does not answer."""

    attempt: float = 5.0
    """One attempt of an operation; without it a silent peer hangs a send or a link forever."""
    send: float = 15.0
    """One send, all its attempts included; a silent peer must not hold a delivery for longer."""
    settle: float = 10.0
    """One settlement or renewal; over the management link the answer can get lost."""
    quiet: float = 10.0
    """A receive that gets no message; then a peek checks that the broker answers."""


@dataclass(frozen=True, slots=True)
class ServiceBusAddress:
    """Where the namespace is: a connection string, or a host name for the workload's own identity.

    A connection string may have `MaxConnections=…`, for a broker that takes few (see `connections`).
    """

    connection_string: str | None = None
    namespace: str | None = None


class ServiceBus:
    """A `Bus` on one namespace. Use it from one event loop and close it."""

    def __init__(self, address: ServiceBusAddress, *, patience: Patience = Patience()) -> None:
        """Connect nothing yet. Raises `ValueError` for an address that cannot be used."""
        self._patience = patience
        self._credential: DefaultAzureCredential | None = None
        self._address, limit = _without_limit(address)
        self._connections = Connections(limit)
        self._client = self._connect(RETRIES)
        # The SDK tries five times to cancel a message that no longer exists, and the link sends nothing else meanwhile.
        # So cancelling has connections of its own, and one attempt.
        self._cancelling: ServiceBusClient | None = None
        self._cancellers: dict[str, Sender] = {}
        self._senders: dict[str, Sender] = {}
        self._inboxes: list[SdkInbox] = []

    async def send(self, message: Outgoing) -> None:
        """Return when the broker has taken `message`."""
        await self._sender(message.queue).send(message)

    async def schedule(self, message: Outgoing) -> int:
        """Return the sequence number when the broker has taken `message`."""
        return await self._sender(message.queue).schedule(message)

    async def cancel(self, queue: str, numbers: Sequence[int]) -> None:
        """Remove scheduled messages that are not due yet."""
        if self._cancelling is None:
            self._cancelling = self._connect(0)
        if queue not in self._cancellers:
            self._cancellers[queue] = self._make_sender(self._cancelling, queue)
        await self._cancellers[queue].cancel(numbers)

    async def prewarm(self, queue: str) -> None:
        """Open the sender of `queue` now: a link takes half a second, which the first request need not wait for."""
        await self._sender(queue).prewarm()

    def inbox(self, queue: str) -> SdkInbox:
        """The inbox of `queue`."""
        inbox = SdkInbox(
            queue,
            lambda prefetch: self._client.get_queue_receiver(
                queue,
                prefetch_count=prefetch,
                socket_timeout=SOCKET_TIMEOUT_PREFETCHING if prefetch else SOCKET_TIMEOUT,
            ),
            self._connections,
            settle_within=self._patience.settle,
            quiet=self._patience.quiet,
        )
        self._inboxes.append(inbox)
        return inbox

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        """Up to `limit` messages above sequence number `after`, unlocked."""
        sub_queue = ServiceBusSubQueue.DEAD_LETTER if dead else None
        with translated(queue):
            async with (
                self._connections.receiving(),
                self._client.get_queue_receiver(queue, sub_queue=sub_queue) as receiver,
            ):
                found = await receiver.peek_messages(
                    max_message_count=limit, sequence_number=after + 1, timeout=PEEK_TIMEOUT
                )
        return [from_sdk(queue, message) for message in found]

    async def close(self) -> None:
        """Close all links, then the client and its credential."""
        await asyncio.gather(*(sender.close() for sender in (*self._senders.values(), *self._cancellers.values())))
        await asyncio.gather(*(inbox.end() for inbox in self._inboxes))
        for client in filter(None, (self._client, self._cancelling)):
            with suppress(Exception):
                await asyncio.wait_for(client.close(), 5)
        if self._credential is not None:
            await self._credential.close()

    def _sender(self, queue: str) -> Sender:
        if queue not in self._senders:
            self._senders[queue] = self._make_sender(self._client, queue)
        return self._senders[queue]

    def _make_sender(self, client: ServiceBusClient, queue: str) -> Sender:
        return Sender(
            queue,
            lambda: client.get_queue_sender(queue),
            self._connections,
            within=self._patience.send,
        )

    def _connect(self, retries: int) -> ServiceBusClient:
        how: dict[str, Any] = {
            "try_timeout": self._patience.attempt,
            "retry_total": retries,
            "retry_backoff_factor": BACKOFF,
        }
        if self._address.connection_string:
            return ServiceBusClient.from_connection_string(self._address.connection_string, **how)
        if not self._address.namespace:
            raise ValueError("a Service Bus address needs a connection string or a namespace")
        from azure.identity.aio import DefaultAzureCredential  # the extra `azure`; a laptop has none

        self._credential = self._credential or DefaultAzureCredential()
        return ServiceBusClient(self._address.namespace, self._credential, **how)


def _without_limit(address: ServiceBusAddress) -> tuple[ServiceBusAddress, int]:
    """The address as the SDK knows it, and its `MaxConnections`, 0: no limit (see `connections`).

    Raises `ValueError` for a limit that is not a number.
    """
    found = LIMIT.search(address.connection_string or "")
    if found is None:
        return address, 0
    if not re.fullmatch("[0-9]{1,9}", found["number"]):
        raise ValueError(f"MaxConnections must be a number, not {found['number']!r}")
    return replace(address, connection_string=LIMIT.sub("", address.connection_string or "")), int(found["number"])
