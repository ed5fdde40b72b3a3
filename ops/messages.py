"""Looking at the messages of a queue without touching them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from ops.connect import bus
from ops.message_filter import Filter
from ops.target import Target
from shared.bus.port import Browser, Received
from shared.contracts.queues import DEAD

# What one look asks for; the broker may show fewer.
_PAGE = 250
# So many of those beyond a limit are counted.
_COUNTED = 2_500


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
class Selection:
    """Which messages are wanted: those that pass `keep`, above a sequence number, so many at the most."""

    keep: Filter
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


async def messages(browser: Browser, place: Place, selection: Selection) -> AsyncIterator[Received]:
    """The messages of `place` that pass, in the order of their sequence numbers; only a page of them is held."""
    after = selection.after
    while page := await browser.peek(place.queue, dead=place.dead, after=after, limit=_PAGE):
        for message in filter(selection.keep, page):
            yield message
        after = page[-1].sequence_number


async def each(browser: Browser, place: Place, selection: Selection, take: Callable[[Received], None]) -> Left | None:
    """Give every message that is wanted to `take`; says what the limit left out."""
    last, found, left = selection.after, 0, 0
    async for message in messages(browser, place, selection):
        if selection.limit is None or found < selection.limit:
            take(message)
            last, found = message.sequence_number, found + 1
        elif (left := left + 1) == _COUNTED:
            break
    return Left(left, last) if left else None


def each_of(target: Target, place: Place, selection: Selection, take: Callable[[Received], None]) -> Left | None:
    """As `each`, on the target's own bus."""
    return asyncio.run(_each_of(target, place, selection, take))


async def _each_of(target: Target, place: Place, selection: Selection, take: Callable[[Received], None]) -> Left | None:
    async with bus(target) as connected:
        return await each(connected, place, selection, take)
