"""The topology, written once.

The configurations of the emulator and the local broker, AsyncAPI and the KEDA triggers are generated from it or checked
against it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

RETRIEVE = "retrieve"
GENERATE = "generate"
OUTCOMES = "outcomes"
DEAD = "dead"
BLOB_EVENTS = "blob-events"

# The start-up check requires: window >= longest deadline + lock + clock skew.
LOCK = timedelta(seconds=60)
SKEW = timedelta(seconds=30)
DUPLICATE_WINDOW = timedelta(minutes=10)
# Of an ingress queue, which drops duplicates silently. Long enough for an SDK's own retries; later repeats reach the
# gateway, which sends the outcome again.
INGRESS_WINDOW = timedelta(minutes=1)
# The longest time to live that the queues allow.
KEEP = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue and the properties that ragbus sets; all are peek-lock and unpartitioned."""

    name: str
    consumer: str
    carries: tuple[str, ...]
    forward_dead_letters_to: str | None = DEAD
    sessions: bool = False
    duplicate_window: timedelta | None = DUPLICATE_WINDOW
    dead_letter_on_expiry: bool = True
    max_delivery_count: int = 10
    lock: timedelta = LOCK
    time_to_live: timedelta = KEEP
    is_ingress: bool = False


def ingress(name: str) -> Queue:
    """A caller's ingress queue; `callers.yaml` binds the caller's rights to it."""
    carries = ("ask.v1", "cancel.v1")
    return Queue(name, consumer="gateway", carries=carries, duplicate_window=INGRESS_WINDOW, is_ingress=True)


def replies(name: str) -> Queue:
    """A caller's own reply queue, with sessions. An outcome that is not fetched in time is dropped."""
    return Queue(
        name,
        consumer="caller",
        carries=("answer.v1",),
        forward_dead_letters_to=None,
        sessions=True,
        dead_letter_on_expiry=False,
    )


CORE = (
    Queue(RETRIEVE, consumer="retriever", carries=("retrieve.v1",)),
    Queue(GENERATE, consumer="generator", carries=("generate.v1",)),
    Queue(OUTCOMES, consumer="gateway", carries=("answer.v1", "deadline.v1", "replay.v1")),
    Queue(BLOB_EVENTS, consumer="indexer", carries=("storage event",), forward_dead_letters_to=None),
    # Its handler dead-letters in place: dead/$DeadLetterQueue is the one archive for triage and replay. Work that was
    # only late is replaced by an `expired.v1`, without the passages. Duplicate detection is off, because it would drop
    # the second dead letter of a replayed message.
    Queue(
        DEAD,
        consumer="gateway",
        carries=(
            "ask.v1",
            "cancel.v1",
            "retrieve.v1",
            "generate.v1",
            "answer.v1",
            "deadline.v1",
            "replay.v1",
            "expired.v1",
        ),
        forward_dead_letters_to=None,
        duplicate_window=None,
    ),
)


def topology(ingresses: Iterable[str], reply_queues: Iterable[str]) -> tuple[Queue, ...]:
    """Every queue of an installation: the internal ones and the callers'."""
    doors = tuple(ingress(name) for name in dict.fromkeys(ingresses))
    boxes = tuple(replies(name) for name in dict.fromkeys(reply_queues) if name != OUTCOMES)
    return doors + CORE + boxes


def shortest_window(queues: Iterable[Queue]) -> timedelta:
    """The shortest duplicate-detection window among the queues whose windows guard work and outcomes."""
    return min(window for queue in queues if (window := queue.duplicate_window) is not None and not queue.is_ingress)


def longest_deadline(window: timedelta, lock: timedelta = LOCK) -> timedelta:
    """The longest deadline for which a second outcome still meets the first one's id in the duplicate window."""
    return window - lock - SKEW


def within_emulator(queue: Queue) -> Queue:
    """`queue` inside the limits of Microsoft's emulator: window <= 5 min, TTL <= 1 h, lock <= 5 min, count <= 10."""
    cap = timedelta(minutes=5)
    return replace(
        queue,
        duplicate_window=min(queue.duplicate_window, cap) if queue.duplicate_window else None,
        time_to_live=min(queue.time_to_live, timedelta(hours=1)),
        lock=min(queue.lock, cap),
        max_delivery_count=min(queue.max_delivery_count, 10),
    )
