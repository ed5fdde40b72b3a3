"""`ragbus dlq` and `ragbus capture`: looking at messages without touching them."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
# So many of those beyond a limit are counted.
_COUNTED = 2_500
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
class Part:
    """Which messages are wanted: those that pass `keep`, above a sequence number, so many at the most."""

    keep: where.Filter
    after: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What a limit left out: how many, at least, and the sequence number that they follow."""

    count: int
    after: int

    def __str__(self) -> str:
        many = f"{_COUNTED} or" if self.count == _COUNTED else self.count
        return f"{many} more are left: --after {self.after} goes on there, without --limit all are taken"


@dataclass(slots=True)
class Group:
    """Dead letters of one reason from one queue, with the same description."""

    reason: str
    source: str
    description: str
    example: Received
    count: int = 0
    oldest: datetime | None = None


async def messages(browser: Browser, place: Place, part: Part) -> AsyncIterator[Received]:
    """The messages of `place` that pass, in the order of their sequence numbers; only a page of them is held."""
    after = part.after
    while page := await browser.peek(place.queue, dead=place.dead, after=after, limit=_PAGE):
        for message in filter(part.keep, page):
            yield message
        after = page[-1].sequence_number


async def each(browser: Browser, place: Place, part: Part, take: Callable[[Received], None]) -> Left | None:
    """Give every message that is wanted to `take`; says what the limit left out."""
    last, found, left = part.after, 0, 0
    async for message in messages(browser, place, part):
        if part.limit is None or found < part.limit:
            take(message)
            last, found = message.sequence_number, found + 1
        elif (left := left + 1) == _COUNTED:
            break
    return Left(left, last) if left else None


def groups_of(found: Iterable[Received]) -> list[Group]:
    """`found` by reason, by the queue they died on and by description, the largest group first."""
    groups: dict[tuple[str, str, str], Group] = {}
    for message in found:
        key = (where.value(message, "reason") or "Unknown", where.value(message, "source"), _described(message))
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
            # What groups are made of; the bodies of all dead letters would be too much to hold.
            seen.append(replace(message, body=b""))

    left = asyncio.run(_each(target, place, Part(where.parse(condition), after, limit), take))
    if as_json:
        say.as_json(listed)
    elif seen:
        say.console().print(_table(groups_of(seen)))
    else:
        say.console().print(f"no messages in {place}" + (" that match" if condition else ""))
    if left:
        say.aside(str(left))


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
    target: Target,
    place: Place,
    folder: Path,
    *,
    request: str | None,
    condition: str | None,
    after: int,
    limit: int | None,
) -> int:
    """Write one file per message into `folder`; says how many."""
    matches, count = where.parse(condition), 0

    def keep(message: Received) -> bool:
        return matches(message) and (request is None or where.belongs_to(message, request))

    def write(message: Received) -> None:
        nonlocal count
        at = folder / capsule.file_name(message)
        _write_private(at, capsule.write(Capsule(message, target.host, datetime.now(UTC), place.dead)))
        say.console().print(str(at), markup=False)
        count += 1

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    left = asyncio.run(_each(target, place, Part(keep, after, limit), write))
    say.aside(f"{say.count(count, 'message')} of {place} captured; none was taken from it")
    if left:
        say.aside(str(left))
    return count


def _write_private(file: Path, text: str) -> None:
    """Write what only its owner may read, also over a file that others could read: it holds what people asked."""
    new = file.with_name(f".{file.name}.part")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        opened.write(text)
    new.replace(file)


async def _each(target: Target, place: Place, part: Part, take: Callable[[Received], None]) -> Left | None:
    async with bus(target) as connected:
        return await each(connected, place, part, take)


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


def _line(message: Received) -> str:
    return " ".join(where.value(message, "description").split())


def _described(message: Received) -> str:
    """The description in a line; what differs only after it counts as the same."""
    line = _line(message)
    return line if len(line) <= _DESCRIBED else line[: _DESCRIBED - 1] + "…"


def _table(groups: Sequence[Group]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    columns = ("reason", "died on", "count", "oldest", "first", "its description")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for group in groups:
        oldest = f"{group.oldest:%Y-%m-%d %H:%M:%S}Z" if group.oldest else ""
        first = f"#{group.example.sequence_number}"
        # In a pipe nothing is cut; on a terminal `dlq show` has the whole.
        said = group.description if say.console().is_terminal else _line(group.example)
        cells = (group.reason, group.source, group.count, oldest, first, said)
        table.add_row(*(Text(say.harmless(str(cell))) for cell in cells))
    return table


def _facts(message: Received) -> dict[str, Any]:
    return {
        "sequence": message.sequence_number,
        "reason": message.dead_letter_reason,
        "description": message.dead_letter_description,
        "source": where.value(message, "source"),
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
