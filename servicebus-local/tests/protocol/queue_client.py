"""What the protocol tests sit at: a local bus, and one queue with the real SDK open on it.

Opening a sender or a receiver costs the SDK half a second, closing it as much again, whatever
the broker. So all queue_clients are opened at once and closed at once, on one bus whose clock is moved
by hand, and the tests of a module share theirs; each leaves the queue as empty as it found it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import time
from typing import Any, TypeVar

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import ServiceBusError

from servicebus_local.testing import LocalBus, ManualClock

Handler = ServiceBusSender | ServiceBusReceiver
Opened = TypeVar("Opened", ServiceBusSender, ServiceBusReceiver)

SOON = 60.0
"""How long a test waits for what must come; it never comes to that."""


def topology(**queues: dict[str, Any]) -> dict[str, Any]:
    """Write a Config.json with these queues and their properties."""
    listed = [{"Name": name, "Properties": properties} for name, properties in queues.items()]
    namespace = {"Name": "sbemulatorns", "Queues": listed, "Topics": []}
    return {"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "Console"}}}


def queue_names(config: dict[str, Any]) -> list[str]:
    """Read the names back."""
    return [queue["Name"] for queue in config["UserConfig"]["Namespaces"][0]["Queues"]]


async def eventually(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the broker has seen what was sent to it."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


# An hour ahead of the SDK, which judges locks by real time and would call a slow test's lost.
CLOCK = ManualClock(time() + 3600)

_LENIENT = {"LockDuration": "PT1M", "MaxDeliveryCount": 10}
QUEUES = topology(
    settled=_LENIENT,
    locked=_LENIENT,
    shown=_LENIENT,
    sized={},
    later={},
    once={"RequiresDuplicateDetection": True, "DuplicateDetectionHistoryTimeWindow": "PT1M"},
    often={},
    keeps=_LENIENT | {"DefaultMessageTimeToLive": "PT1H", "DeadLetteringOnMessageExpiration": True},
    drops={"DefaultMessageTimeToLive": "PT10M"},
    fragile={"MaxDeliveryCount": 2, "LockDuration": "PT1M"},
    work={
        "MaxDeliveryCount": 2,
        "DeadLetteringOnMessageExpiration": True,
        "ForwardDeadLetteredMessagesTo": "dead",
    },
    dead={"DefaultMessageTimeToLive": "PT1H"},
    door={"ForwardTo": "room"},
    room={},
    answers=_LENIENT | {"RequiresSession": True},
)
QUEUE_CLIENTS = [name for name in queue_names(QUEUES) if name not in ("door", "room", "answers")]


def moment(seconds: float = 0) -> datetime:
    """A moment by the clock of the shared bus, as the protocol rounds it."""
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


def client_of(bus: LocalBus, **options: Any) -> ServiceBusClient:
    """Connect the unmodified SDK; a short socket time-out keeps settlements from waiting for reads."""
    return ServiceBusClient.from_connection_string(
        bus.connection_string, **{"socket_timeout": 0.02, "retry_total": 0} | options
    )


class QueueClient:
    """One queue: a sender, a receiver, and a receiver for its dead letters."""

    def __init__(self, bus: LocalBus, client: ServiceBusClient, queue: str) -> None:
        self.bus = bus
        self.client = client
        self.queue = queue
        self.sender: ServiceBusSender = client.get_queue_sender(queue)
        self.receiver: ServiceBusReceiver = client.get_queue_receiver(queue)
        self.dead_letters: ServiceBusReceiver = client.get_queue_receiver(
            queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER
        )
        self._opened: list[Handler] = []

    async def open(self, handler: Opened) -> Opened:
        """Open one more sender or receiver; it is closed with the queue_client."""
        self._opened.append(handler)
        await handler.__aenter__()
        return handler

    async def open_all(self) -> None:
        """Open the three it starts with."""
        await asyncio.gather(self.open(self.sender), self.open(self.receiver), self.open(self.dead_letters))

    async def refusal(self, handler: Handler) -> ServiceBusError:
        """Open what must be refused; return the error."""
        self._opened.append(handler)
        with pytest.raises(ServiceBusError) as caught:
            await handler.__aenter__()
        return caught.value

    async def close(self) -> None:
        """Close everything at once."""
        await asyncio.gather(*(handler.close() for handler in self._opened))

    async def send(self, *bodies: str, **properties: Any) -> None:
        """Send messages one by one."""
        for body in bodies:
            await self.sender.send_messages(ServiceBusMessage(body, **properties))

    async def next(self, receiver: ServiceBusReceiver | None = None) -> ServiceBusReceivedMessage:
        """Receive one message that must be there or come soon."""
        [message] = await (receiver or self.receiver).receive_messages(1, max_wait_time=SOON)
        return message

    async def next_dead_letter(self) -> ServiceBusReceivedMessage:
        """Receive one dead letter that must be there or come soon, and complete it."""
        message = await self.next(self.dead_letters)
        await self.dead_letters.complete_message(message)
        return message

    @property
    def left(self) -> int:
        """How many messages the queue holds, in any state but dead."""
        counts = self.bus.counts(self.queue)
        return counts.active + counts.scheduled


@asynccontextmanager
async def queue_client_at(
    bus: LocalBus, queue: str, *, receiver: bool = True, dead_letters: bool = False
) -> AsyncIterator[QueueClient]:
    """Open a client of a queue of a running bus, everything at once."""
    async with client_of(bus) as client:
        queue_client = QueueClient(bus, client, queue)
        receivers = [*[queue_client.receiver] * receiver, *[queue_client.dead_letters] * dead_letters]
        try:
            await asyncio.gather(
                queue_client.open(queue_client.sender), *(queue_client.open(each) for each in receivers)
            )
            yield queue_client
        finally:
            await queue_client.close()
