"""What a worker does with the deliveries of one queue."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from shared.bus.port import Received
from shared.contracts.envelope import Envelope
from shared.contracts.request import Request
from shared.ledger.ledger import Entry
from shared.worker.outbox import Identity
from shared.worker.shared_breaker import Breaker

Task = TypeVar("Task")


@dataclass(frozen=True, slots=True)
class ArchiveInPlace:
    """A delivery that is archived as it is: dead-lettered with this reason and description."""

    reason: str
    description: str


@dataclass(frozen=True, slots=True)
class Consumer(Generic[Task]):
    """What a worker does with the deliveries of one queue."""

    queue: str
    decode: Callable[[Received], Task]
    handle: Callable[[Task, int], Awaitable[Sequence[Envelope]]]
    identify: Callable[[Received], Identity]
    """Also for messages that cannot be decoded, so it may use native properties only."""
    request: Callable[[Task], Request | None] = lambda _task: None
    """The admitted request that a task works for, if any; its deadline and its outcome are checked before."""
    after_deadline: bool = False
    """Whether the work still makes sense when the request is late (telling the caller that it is)."""
    prewarm: tuple[str, ...] = ()
    """Queues that it usually sends to; their senders are opened at the start."""
    shared: bool = False
    """Whether tenants share the queue: then they share the slots, and a few more deliveries are received."""
    circuit_breaker: bool = False
    """Whether it stops receiving while a dependency is down (`DependencyDown`)."""
    breaker: Breaker | None = None
    """Decides instead whether it receives, if the work has several dependencies of one kind."""
    longest_wait: timedelta | None = None
    """The longest wait between two attempts, if not the usual one."""
    concurrency: int | None = None
    """Maximum deliveries at once, if not the number in the settings."""
    attempts: int | None = None
    """Maximum attempts before it is dead-lettered, if not the number in the settings."""
    archive: Callable[[Task, Entry | None], ArchiveInPlace | Envelope | None] | None = None
    """What is kept of a delivery that was handled, given what the ledger has on a request that is over: it is itself
    dead-lettered, or completed after this was sent in its place; None: nothing is kept."""
