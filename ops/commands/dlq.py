"""`ragbus dlq`: dead letters, read without changing them."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ops import console, message_filter
from ops.commands.queues import administration, depths
from ops.connect import bus
from ops.errors import CommandError
from ops.messages import Place, Selection, each_of
from ops.target import Target
from shared.bus.port import Received
from shared.contracts.queues import DEAD

if TYPE_CHECKING:
    from rich.table import Table

# Characters of a description that a group shares.
_DESCRIBED = 120


@dataclass(slots=True)
class Group:
    """Dead letters from one queue with one reason and one description."""

    reason: str
    source: str
    description: str
    example: Received
    count: int = 0
    oldest: datetime | None = None


def groups_of(found: Iterable[Received]) -> list[Group]:
    """`found` by reason, source queue and description, the largest group first."""
    groups: dict[tuple[str, str, str], Group] = {}
    for message in found:
        line = _line(message)
        key = (
            message_filter.value(message, "reason") or "Unknown",
            message_filter.value(message, "source"),
            line if len(line) <= _DESCRIBED else line[: _DESCRIBED - 1] + "…",
        )
        group = groups.setdefault(key, Group(*key, example=message))
        group.count += 1
        if message.enqueued_at is not None:
            group.oldest = min(group.oldest or message.enqueued_at, message.enqueued_at)
    return sorted(groups.values(), key=lambda group: -group.count)


def list_dead(
    target: Target, place: Place, *, condition: str | None, after: int, limit: int | None, as_json: bool
) -> None:
    """Print the dead letters of `place`, grouped."""
    listed: list[dict[str, Any]] = []
    seen: list[Received] = []

    def take(message: Received) -> None:
        if as_json:
            listed.append(_facts(message))
        else:
            # Without the bodies, which may be too large together.
            seen.append(replace(message, body=b""))

    left = each_of(target, place, Selection(message_filter.parse(condition), after, limit), take)
    if as_json:
        console.print_json(listed)
    elif seen:
        console.out().print(_table(groups_of(seen)))
    else:
        console.out().print(f"no messages in {place}" + (" that match" if condition else ""))
    if left:
        console.err(str(left))


def show(target: Target, place: Place, sequence: int) -> None:
    """Print one message in full; raises `CommandError`."""

    async def find() -> Received:
        async with bus(target) as connected:
            page = await connected.peek(place.queue, dead=place.dead, after=sequence - 1, limit=1)
        if not page or page[0].sequence_number != sequence:
            raise CommandError(
                f"{place} has no message with sequence number {sequence}; list them with `ragbus dlq ls --json`"
            )
        return page[0]

    message = asyncio.run(find())
    for name, value in _facts(message).items():
        if value not in (None, "", {}):
            console.out().print(f"{name:<24} {console.harmless(str(value))}", markup=False)
    for name, value in message.properties.items():
        console.out().print(f"  {console.harmless(f'{name} = {value!r}')}", markup=False)
    console.out().print("\n" + console.harmless(message_filter.pretty(message)), markup=False)


def mention_others(target: Target) -> None:
    """Print in one line which other queues have dead letters, if we have the right to count them."""
    try:
        with administration(target) as client:
            others = {each.queue: each.dead for each in depths(client) if each.dead and each.queue != DEAD}
    except CommandError:
        return  # counting needs the right to manage, peeking does not
    if others:
        listed = ", ".join(f"{count} of {queue}" for queue, count in others.items())
        console.err(f"other queues have dead letters: {listed}; list them with `ragbus dlq ls {next(iter(others))}`")


def _line(message: Received) -> str:
    return " ".join(message_filter.value(message, "description").split())


def _table(groups: Sequence[Group]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    columns = ("reason", "source", "count", "oldest", "first", "description of the first")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for group in groups:
        oldest = f"{group.oldest:%Y-%m-%d %H:%M:%S}Z" if group.oldest else ""
        first = f"#{group.example.sequence_number}"
        # In a pipe nothing is cut; on a terminal, `dlq show` prints all of it.
        said = group.description if console.out().is_terminal else _line(group.example)
        cells = (group.reason, group.source, group.count, oldest, first, said)
        table.add_row(*(Text(console.harmless(str(cell))) for cell in cells))
    return table


def _facts(message: Received) -> dict[str, Any]:
    return {
        "sequence": message.sequence_number,
        "reason": message.dead_letter_reason,
        "description": message.dead_letter_description,
        "source": message_filter.value(message, "source"),
        "kind": message.subject,
        "message_id": message.message_id,
        "correlation_id": message.correlation_id,
        "session_id": message.session_id,
        "reply_to": message.reply_to,
        "reply_to_session_id": message.reply_to_session_id,
        "content_type": message.content_type,
        "request": message_filter.value(message, "request"),
        "tenant": message_filter.value(message, "tenant"),
        "enqueued_at": message.enqueued_at,
        "scheduled_for": message.scheduled_for,
        "time_to_live": message.time_to_live,
        "delivery_count": message.delivery_count,
        "attempt": message.attempt,
        "state": message.state,
        "bytes": len(message.body),
    }
