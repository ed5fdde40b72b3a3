"""Whether the broker has the queues that the workers need."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ops.commands.queues import administration, depths, properties
from ops.connect import callers
from ops.errors import CommandError
from ops.findings import Finding, Level
from ops.target import Target
from shared.contracts.queues import Queue, topology

if TYPE_CHECKING:
    from azure.servicebus.management import QueueProperties


def queues(at: Target) -> Iterator[Finding]:
    """Whether the broker has the queues with the right settings, and which have dead letters."""
    known = callers(at)
    expected = topology(known.ingresses(), known.reply_queues())
    with administration(at) as client:
        actual, held = properties(client), depths(client)
    try:
        window = timedelta(seconds=float(at.variables.get("RAGBUS_DUPLICATE_WINDOW", "600")))
    except (ValueError, OverflowError) as error:
        raise CommandError(f"RAGBUS_DUPLICATE_WINDOW: {error}; correct the variable") from error
    wrong = list(topology_faults(expected, actual, window))
    yield from wrong
    if not wrong:
        yield Finding(Level.OK, "queues", f"all {len(expected)} exist with the right settings")
    dead = {depth.queue: depth.dead for depth in held if depth.dead}
    if dead:
        counts = ", ".join(f"{count} in {queue}" for queue, count in dead.items())
        yield Finding(
            Level.WARN,
            "dead letters",
            counts,
            f"read them with `ragbus dlq ls {next(iter(dead))}`, then replay or empty them",
        )


def topology_faults(
    expected: Iterable[Queue], actual: "Mapping[str, QueueProperties]", window: timedelta
) -> Iterator[Finding]:
    """How the queues differ from what the workers need. `window`: the gateway's RAGBUS_DUPLICATE_WINDOW."""
    for queue in expected:
        there = actual.get(queue.name)
        if there is None:
            yield Finding(Level.FAIL, "queues", f"{queue.name} is missing", "deploy the queues again (deploy/)")
            continue
        for level, wrong in _differences(queue, there, window):
            yield Finding(level, "queues", f"{queue.name}: {wrong}", "deploy the queues again (deploy/)")


def _differences(queue: Queue, there: "QueueProperties", window: timedelta) -> Iterator[tuple[Level, str]]:
    must: dict[str, tuple[Any, Any]] = {
        "requires sessions": (queue.sessions, bool(there.requires_session)),
        "duplicate detection": (queue.duplicate_window is not None, bool(there.requires_duplicate_detection)),
        "dead-lettering on expiry": (queue.dead_letter_on_expiry, bool(there.dead_lettering_on_message_expiration)),
        "forwards dead letters to": (
            queue.forward_dead_letters_to or "nowhere",
            entity(there.forward_dead_lettered_messages_to) or "nowhere",
        ),
    }
    for what, (wanted, found) in must.items():
        if wanted != found:
            yield Level.FAIL, f"{what}: {_said(found)}, must be {_said(wanted)}"
    there_window = _duration(there.duplicate_detection_history_time_window)
    if queue.is_ingress and queue.duplicate_window and there_window and there_window > queue.duplicate_window:
        yield (
            Level.WARN,
            f"duplicate window {there_window}, should be {queue.duplicate_window}: a repeat gets no answer",
        )
    if not queue.is_ingress and queue.duplicate_window and there_window is not None and there_window < window:
        yield Level.FAIL, f"duplicate window {there_window}, but RAGBUS_DUPLICATE_WINDOW is {window}"
    lock = _duration(there.lock_duration)
    if lock is not None and lock < queue.lock:
        yield Level.WARN, f"lock {lock}, should be {queue.lock}"
    if (there.max_delivery_count or 0) < queue.max_delivery_count:
        yield Level.WARN, f"max delivery count {there.max_delivery_count}, should be {queue.max_delivery_count}"


def entity(address: str | None) -> str:
    """The queue's name; Azure returns a whole address."""
    return (address or "").rstrip("/").rpartition("/")[2]


def _duration(value: Any) -> timedelta | None:
    return value if isinstance(value, timedelta) else None


def _said(value: Any) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
