"""Reading the messages of a queue without changing them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from ops.connect import bus
from ops.message_filter import Filter
from ops.target import Target
from shared.bus.port import Browser, Received
from shared.contracts.queues import DEAD

# Messages of one peek; the broker may return fewer.
_PAGE = 250
# Messages beyond a limit are counted up to this number.
_COUNTED = 2_500


@dataclass(frozen=True, slots=True)
class Place:
    """A queue, or its dead letters."""

    queue: str
    dead: bool = False

    def __str__(self) -> str:
        return f"{self.queue}/$DeadLetterQueue" if self.dead else self.queue


REQUESTS = Place(DEAD, dead=True)
"""The dead letters of all request queues."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages to read: those that pass `keep`, after a sequence number, up to `limit`."""

    keep: Filter
    after: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What a limit left out: how many (at least), and the sequence number that they follow."""

    count: int
    after: int

    def __str__(self) -> str:
        many = f"{_COUNTED} or" if self.count == _COUNTED else self.count
        return f"{many} more are left: continue with --after {self.after}, or leave out --limit"


async def messages(browser: Browser, place: Place, selection: Selection) -> AsyncIterator[Received]:
    """The messages of `place` that pass, by sequence number, one page in memory at a time; raises as `peek` does."""
    after = selection.after
    while page := await browser.peek(place.queue, dead=place.dead, after=after, limit=_PAGE):
        for message in filter(selection.keep, page):
            yield message
        after = page[-1].sequence_number


async def each(browser: Browser, place: Place, selection: Selection, take: Callable[[Received], None]) -> Left | None:
    """Call `take` with every selected message; returns what the limit left out."""
    last, found, left = selection.after, 0, 0
    async for message in messages(browser, place, selection):
        if selection.limit is None or found < selection.limit:
            take(message)
            last, found = message.sequence_number, found + 1
        elif (left := left + 1) == _COUNTED:
            break
    return Left(left, last) if left else None


def each_of(target: Target, place: Place, selection: Selection, take: Callable[[Received], None]) -> Left | None:
    """As `each`, over a connection of its own; raises `CommandError`."""

    async def read() -> Left | None:
        async with bus(target) as connected:
            return await each(connected, place, selection, take)

    return asyncio.run(read())
