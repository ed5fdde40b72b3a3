"""`ragbus dlq` and `ragbus capture`: looking at messages without touching them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops import capsule, depths, say, where
from ops.capsule import Capsule
from ops.connect import bus
from ops.problem import Problem
from ops.target import Target
from shared.bus.port import Browser, Received
from shared.contracts.queues import DEAD

if TYPE_CHECKING:
    from rich.table import Table

# What one look asks for; the broker may show fewer.
_PAGE = 250
_DESCRIBED = 120


@dataclass(frozen=True, slots=True)
class Place:
    """A queue, or its dead letters."""

    queue: str
    dead: bool = False

    def __str__(self) -> str:
        return f"{self.queue}/$DeadLetterQueue" if self.dead else self.queue


REQUESTS = Place(DEAD, dead=True)
"""Where the dead letters of all request queues are."""


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one reason from one queue, with the same description."""

    reason: str
    source: str
    description: str
    count: int
    oldest: datetime | None
    example: Received


async def messages(browser: Browser, place: Place, *, keep: where.Filter, limit: int) -> AsyncIterator[Received]:
    """Up to `limit` messages that pass `keep`, in the order of their sequence numbers."""
    after, found = 0, 0
    while page := await browser.peek(place.queue, dead=place.dead, after=after, limit=_PAGE):
        for message in filter(keep, page):
            yield message
            found += 1
            if found == limit:
                return
        after = page[-1].sequence_number


def groups_of(found: Sequence[Received]) -> list[Group]:
    """`found` by reason, by the queue they died on and by description, the largest group first."""
    keys = [
        (where.value(message, "reason") or "Unknown", where.value(message, "source"), _described(message))
        for message in found
    ]
    counted = Counter(keys).most_common()
    by_key = {key: [message for message, own in zip(found, keys, strict=True) if own == key] for key, _ in counted}
    return [_group(key, by_key[key]) for key, _ in counted]


def list_dead(target: Target, place: Place, *, condition: str | None, limit: int, as_json: bool) -> None:
    """Print the dead letters of `place`, grouped."""
    found = asyncio.run(_collect(target, place, where.parse(condition), limit))
    if as_json:
        say.as_json([_facts(message) for message in found])
        return
    if not found:
        say.console().print(f"no messages in {place}" + (" that match" if condition else ""))
        return
    say.console().print(_table(groups_of(found)))
    if len(found) == limit:
        say.aside(f"only the first {limit} were looked at; --limit shows more")


def show(target: Target, place: Place, sequence: int) -> None:
    """Print one message whole."""
    message = asyncio.run(_at(target, place, sequence))
    for name, value in _facts(message).items():
        if value not in (None, "", {}):
            say.console().print(f"{name:<24} {say.harmless(str(value))}", markup=False)
    for name, value in message.properties.items():
        say.console().print(f"  {say.harmless(f'{name} = {value!r}')}", markup=False)
    say.console().print("\n" + say.harmless(where.pretty(message)), markup=False)


def capture(
    target: Target, place: Place, folder: Path, *, request: str | None, condition: str | None, limit: int
) -> int:
    """Write one file per message into `folder`; says how many."""
    matches = where.parse(condition)

    def keep(message: Received) -> bool:
        return matches(message) and (request is None or where.belongs_to(message, request))

    found = asyncio.run(_collect(target, place, keep, limit))
    folder.mkdir(parents=True, exist_ok=True)
    for message in found:
        at = folder / capsule.file_name(message)
        at.write_text(capsule.write(Capsule(message, target.host, datetime.now(UTC), place.dead)), "utf-8")
        say.console().print(str(at), markup=False)
    return len(found)


async def _collect(target: Target, place: Place, keep: where.Filter, limit: int) -> list[Received]:
    async with bus(target) as connected:
        return [message async for message in messages(connected, place, keep=keep, limit=limit)]


async def _at(target: Target, place: Place, sequence: int) -> Received:
    async with bus(target) as connected:
        page = await connected.peek(place.queue, dead=place.dead, after=sequence - 1, limit=1)
    if not page or page[0].sequence_number != sequence:
        raise Problem(f"{place} has no message with sequence number {sequence}; `ragbus dlq ls --json` lists them")
    return page[0]


def mention_others(target: Target) -> None:
    """Say in one line which other queues hold dead letters, if it can be known."""
    try:
        with depths.administration(target) as client:
            others = {each.queue: each.dead for each in depths.depths(client) if each.dead and each.queue != DEAD}
    except Problem:
        return  # counting needs the right to manage, looking does not
    if others:
        listed = ", ".join(f"{count} of {queue}" for queue, count in others.items())
        say.aside(f"there are others: {listed}; `ragbus dlq ls {next(iter(others))}` lists them")


def _described(message: Received) -> str:
    """The description in a line; what differs only after it counts as the same."""
    line = " ".join(where.value(message, "description").split())
    return line if len(line) <= _DESCRIBED else line[: _DESCRIBED - 1] + "…"


def _group(key: tuple[str, str, str], members: Sequence[Received]) -> Group:
    moments = [message.enqueued_at for message in members if message.enqueued_at is not None]
    return Group(*key, count=len(members), oldest=min(moments, default=None), example=members[0])


def _table(groups: Sequence[Group]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    columns = ("reason", "died on", "count", "oldest", "first", "its description")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for group in groups:
        oldest = f"{group.oldest:%Y-%m-%d %H:%M:%S}Z" if group.oldest else ""
        first = f"#{group.example.sequence_number}"
        cells = (group.reason, group.source, group.count, oldest, first, group.description)
        table.add_row(*(Text(say.harmless(str(cell))) for cell in cells))
    return table


def _facts(message: Received) -> dict[str, Any]:
    return {
        "sequence": message.sequence_number,
        "reason": message.dead_letter_reason,
        "description": message.dead_letter_description,
        "source": message.dead_letter_source,
        "kind": message.subject,
        "message_id": message.message_id,
        "correlation_id": message.correlation_id,
        "session_id": message.session_id,
        "reply_to": message.reply_to,
        "reply_to_session_id": message.reply_to_session_id,
        "content_type": message.content_type,
        "request": where.value(message, "request"),
        "tenant": where.value(message, "tenant"),
        "enqueued_at": message.enqueued_at,
        "scheduled_for": message.scheduled_for,
        "time_to_live": message.time_to_live,
        "delivery_count": message.delivery_count,
        "attempt": message.attempt,
        "state": message.state,
        "bytes": len(message.body),
    }
