"""All queues, found by address, and the forwarding between them."""

from collections.abc import Iterator, Mapping

from local.broker.bus.clock import Timers
from local.broker.bus.errors import EntityNotFound
from local.broker.bus.message import Message
from local.broker.bus.queue import DEAD_LETTER_QUEUE, Queue, QueueOptions
from local.broker.bus.store import MemoryStore, Store

TRANSFER = "$transfer"


class Namespace:
    """The queues of one broker. Names are compared without case."""

    def __init__(self, queues: Mapping[str, QueueOptions], timers: Timers, store: Store | None = None) -> None:
        self.timers = timers
        self.store: Store = store or MemoryStore()
        self._queues: dict[str, Queue] = {}
        for name, options in queues.items():
            self.add(name, options)

    def add(self, name: str, options: QueueOptions) -> Queue:
        """Create a queue."""
        queue = Queue(name, options, self.timers, store=self.store, forward=self._forward)
        self._queues[name.lower()] = queue
        return queue

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._queues.values())

    def find(self, path: str) -> Queue:
        """Return the queue, or dead-letter queue, at a path such as `orders/$DeadLetterQueue`."""
        name, sub_queues = _split(path)
        queue = self._queues.get(name)
        if queue is None:
            raise EntityNotFound(f"The messaging entity '{path}' could not be found.")
        if not sub_queues:
            return queue
        if sub_queues in ([DEAD_LETTER_QUEUE.lower()], [TRANSFER, DEAD_LETTER_QUEUE.lower()]):
            return queue.dead_letters
        raise EntityNotFound(f"The messaging entity '{path}' could not be found.")

    def _forward(self, target: str, message: Message) -> None:
        self.find(target).send([message])


def _split(path: str) -> tuple[str, list[str]]:
    """Split a path into the name of the entity and the sub-queue parts that start with `$`."""
    parts = path.strip("/").lower().split("/")
    at = next((i for i, part in enumerate(parts) if part.startswith("$")), len(parts))
    return "/".join(parts[:at]), parts[at:]
