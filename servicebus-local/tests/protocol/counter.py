"""Where the tests of the synchronous SDK stand: a bus in a thread, one client, everything open at once.

Opening and closing costs the SDK half a second each, whatever the broker, so a module shares its
senders and receivers, and threads open and close them together.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from time import time
from typing import Any, TypeVar

import pytest
from azure.servicebus import (
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import ServiceBusError

from servicebus_local.testing import Given, LocalBus, ManualClock, ThreadedBus

Handler = ServiceBusSender | ServiceBusReceiver
Opened = TypeVar("Opened", ServiceBusSender, ServiceBusReceiver)

SOON = 60.0
"""How long a test waits for what must come; it never comes to that."""
MOMENT = 0.05
"""How long a test looks for what must not come."""


def client_of(bus: ThreadedBus, **options: Any) -> ServiceBusClient:
    """Connect the unmodified SDK; nothing is tried again, so that a test sees what happens."""
    given: dict[str, Any] = {"socket_timeout": 0.02, "retry_total": 0}
    return ServiceBusClient.from_connection_string(bus.connection_string, **given | options)


def together(*actions: Any) -> list[Any]:
    """Call functions in threads of their own; return what they return, in order."""
    with ThreadPoolExecutor(max(1, len(actions))) as threads:
        return [future.result() for future in [threads.submit(action) for action in actions]]


class Counter:
    """A bus, a client, and what was opened of it."""

    def __init__(self, bus: ThreadedBus, client: ServiceBusClient, clock: ManualClock) -> None:
        self.bus = bus
        self.client = client
        self.clock = clock
        self._opened: list[Handler] = []

    def open(self, handler: Opened) -> Opened:
        """Open a sender or receiver; it is closed with the counter."""
        self.open_all(handler)
        return handler

    def open_all(self, *handlers: Handler) -> None:
        """Open several at once."""
        self._opened += handlers
        together(*(handler.__enter__ for handler in handlers))

    def refusal(self, handler: Handler) -> ServiceBusError:
        """Open what must be refused; return the error."""
        self._opened.append(handler)
        with pytest.raises(ServiceBusError) as caught:
            handler.__enter__()
        return caught.value

    def close(self) -> None:
        """Close everything at once."""
        together(*(handler.close for handler in self._opened))

    def moment(self, seconds: float = 0) -> datetime:
        """A moment by the clock of the bus, as the protocol rounds it."""
        return datetime.fromtimestamp(int((self.clock.now + seconds) * 1000) / 1000, UTC)


@contextmanager
def counter_at(*entities: Given, **options: Any) -> Iterator[Counter]:
    """Start a bus, an hour ahead of the SDK, which judges locks by real time and would call a slow test's lost."""
    clock = ManualClock(time() + 3600)
    with LocalBus(*entities, clock=clock, **options) as bus, client_of(bus) as client:
        counter = Counter(bus, client, clock)
        try:
            yield counter
        finally:
            counter.close()


class Desk:
    """One queue: a sender, a receiver, and a receiver for its dead letters."""

    def __init__(self, counter: Counter, queue: str) -> None:
        client = counter.client
        self.counter, self.bus, self.client, self.queue = counter, counter.bus, client, queue
        self.sender = client.get_queue_sender(queue)
        self.receiver = client.get_queue_receiver(queue)
        self.dead_letters = client.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER)

    def send(self, *bodies: str, **properties: Any) -> None:
        """Send messages in one batch."""
        self.sender.send_messages([ServiceBusMessage(body, **properties) for body in bodies])

    def next(self, receiver: ServiceBusReceiver | None = None) -> ServiceBusReceivedMessage:
        """Receive one message that must be there or come soon."""
        return next_of(receiver or self.receiver)

    def sent(self, body: str, **properties: Any) -> ServiceBusReceivedMessage:
        """Send a message and receive it."""
        self.send(body, **properties)
        return self.next()

    def next_dead_letter(self) -> ServiceBusReceivedMessage:
        """Receive one dead letter that must be there or come soon, and complete it."""
        message = self.next(self.dead_letters)
        self.dead_letters.complete_message(message)
        return message

    @property
    def left(self) -> int:
        """How many messages the queue holds, in any state but dead."""
        counts = self.bus.counts(self.queue)
        return counts.active + counts.scheduled


@contextmanager
def desk_at(config: Given, queue: str, *, dead_letters: bool = False) -> Iterator[Desk]:
    """Start a bus with a desk at one of its queues."""
    with counter_at(config) as counter:
        desk = Desk(counter, queue)
        counter.open_all(desk.sender, desk.receiver, *[desk.dead_letters] * dead_letters)
        yield desk


def next_of(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    """Receive one message that must be there or come soon."""
    [message] = receiver.receive_messages(1, max_wait_time=SOON)
    return message


def take(receiver: ServiceBusReceiver, count: int) -> list[str]:
    """Receive and complete so many messages, one by one; return their bodies."""
    taken = []
    for _ in range(count):
        message = next_of(receiver)
        receiver.complete_message(message)
        taken.append(str(message))
    return taken
