"""A ready_queue: messages ready to leave in sequence order, and the receivers that take turns.

A plain queue has one ready_queue. A queue with sessions has one per session, with one receiver.
"""

from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush
from typing import Final, Protocol

from servicebus_local.bus.errors import BusError
from servicebus_local.bus.message import Message

_SWEEP_FROM: Final = 1024  # numbers of messages that are gone; fewer are not worth looking for


class Consumer(Protocol):
    """A receiver as the queue sees it."""

    name: str  # of its link
    container: str  # of its client, as the client calls itself
    deletes: bool

    @property
    def sends(self) -> bool:
        """Never: it receives."""
        ...

    @property
    def ready(self) -> bool:
        """Whether it has asked for a message and can be given one."""
        ...

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        """Take a message, with the lock that is on it unless it was deleted."""
        ...

    def lost(self, error: BusError) -> None:
        """Learn that it may not receive here any more."""
        ...


class ReadyQueue:
    """What is ready, and who is waiting."""

    def __init__(self) -> None:
        self.ready: list[int] = []
        self.consumers: deque[Consumer] = deque()

    def offer(self, sequence: int) -> None:
        """Make a message ready; the lowest sequence number leaves first."""
        heappush(self.ready, sequence)

    def forget_gone(self, there: Collection[int]) -> None:
        """Take away what left without being delivered: where it is first in line, or most of the line."""
        while self.ready and self.ready[0] not in there:
            heappop(self.ready)
        if len(self.ready) > _SWEEP_FROM + 2 * len(there):
            self.ready = sorted(sequence for sequence in self.ready if sequence in there)

    def next_consumer(self) -> Consumer | None:
        """Return the next receiver in turn that wants a message."""
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.ready:
                return consumer
        return None
