"""One connection through the proxy: two sockets, and a pipe for each direction.

client ──read──▶ course ──▶ [ due, bytes | due, bytes ] ──written when due──▶ target      up
client ◀──written when due── [ due, bytes ] ◀── course ◀──read── target                   down
"""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from local.faults.course import Course, End
from local.faults.fault import Direction, Fault

_MOST_AT_ONCE: Final = 64 * 1024
# What a pipe holds; at 100 ms that is 40 MB/s, and a reader that is stuck stops the writer at last.
_WINDOW: Final = 4 * 1024 * 1024
# A linger of zero seconds: closing sends an RST (socket(7), SO_LINGER).
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Nature:
    """Time and chance, which tests may want to hold in their hands."""

    chance: random.Random
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]


class Leg:
    """The proxy's socket towards one of the ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # So that `drain` returns when everything is with the kernel, and an RST overtakes nothing of ours.
        writer.transport.set_write_buffer_limits(0)

    async def read(self) -> bytes:
        """What has come; nothing at the end. Raises `OSError`."""
        return await self._reader.read(_MOST_AT_ONCE)

    async def write(self, data: bytes) -> None:
        """Return when the kernel has `data`. Raises `OSError`."""
        self._writer.write(data)
        await self._writer.drain()

    def finish(self) -> None:
        """Say that nothing more will be written."""
        with suppress(OSError):
            self._writer.write_eof()

    def close(self, end: End = End.CUT) -> None:
        """Close it, in good order or with an RST; again does nothing."""
        if end is End.CUT:
            return self._writer.close()
        with suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return self._writer.transport.abort()


@dataclass(frozen=True, slots=True)
class _Due:
    """Bytes that leave the pipe `at` a moment, and what is done `then`; after the `last` nothing follows."""

    at: float
    data: bytes
    then: Callable[[], None] | None = None
    last: bool = False


class Pipe:
    """One direction: reads from `source`, and writes to `sink` what comes through, when it is due."""

    def __init__(
        self,
        source: Leg,
        sink: Leg,
        course: Course,
        nature: Nature,
        *,
        over: Callable[[End], None],
        sink_left: Callable[[], None],
    ) -> None:
        """`over`: the connection ends so. `sink_left`: the sink takes no more."""
        self._source = source
        self._sink = sink
        self._course = course
        self._nature = nature
        self._over = over
        self._sink_left = sink_left
        self._waiting: asyncio.Queue[_Due] = asyncio.Queue()
        self._held = 0
        self._room = asyncio.Event()
        self._sink_hears = True

    async def run(self) -> None:
        """Until the source ends and all that it said is delivered."""
        delivering = asyncio.create_task(self._deliver())
        try:
            await self._collect()
            await delivering
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _collect(self) -> None:
        try:
            while data := await self._source.read():
                through, end = self._course.through(data)
                self._enter(through, None if end is None else self._ending(end))
                await self._until_there_is_room()
        except OSError:
            self._enter_last(self._ending(End.RESET))
        else:
            self._enter_last(self._sink.finish)

    def _enter_last(self, tell: Callable[[], None]) -> None:
        self._enter(b"", None if self._course.hides_the_end else tell, last=True)

    def _enter(self, data: bytes, then: Callable[[], None] | None, *, last: bool = False) -> None:
        # In a queue, so that nothing overtakes what was said earlier, however lucky the jitter.
        due = self._nature.clock() + self._course.delay(self._nature.chance)
        self._held += len(data)
        self._waiting.put_nowait(_Due(due, data, then, last))

    async def _until_there_is_room(self) -> None:
        while self._held >= _WINDOW:
            self._room.clear()
            await self._room.wait()

    async def _deliver(self) -> None:
        last = False
        while not last:
            due = await self._waiting.get()
            while (early := due.at - self._nature.clock()) > 0:
                await self._nature.sleep(early)
            await self._hand_over(due.data)
            if due.then is not None:
                due.then()
            last = due.last

    async def _hand_over(self, data: bytes) -> None:
        if data and self._sink_hears:
            try:
                await self._sink.write(data)
            except OSError:
                self._sink_hears = False
                self._sink_left()
        self._held -= len(data)
        self._room.set()

    def _ending(self, end: End) -> Callable[[], None]:
        return lambda: self._over(end)


class Connection:
    """A client's connection and the one to the target that belongs to it."""

    def __init__(self, client: Leg, target: Leg, courses: tuple[Course, Course], nature: Nature) -> None:
        """`courses`: up and down."""
        self._legs = (client, target)
        self._courses = courses
        up, down = courses
        self._over: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._pipes = (
            Pipe(client, target, up, nature, over=self.end, sink_left=lambda: self._left_by_sink(down)),
            Pipe(target, client, down, nature, over=self.end, sink_left=lambda: self._left_by_sink(up)),
        )

    async def run(self) -> End:
        """Carry until both ends have left, or until it is ended; says how it ended."""
        end = End.RESET
        carrying = [asyncio.create_task(pipe.run()) for pipe in self._pipes]
        both = asyncio.create_task(self._ended_by(carrying))
        try:
            end = await self._over
        finally:
            for task in (*carrying, both):
                task.cancel()
            # Before anything is waited for: whoever closes the proxy may not let us wait.
            for leg in self._legs:
                leg.close(end)
            await asyncio.gather(*carrying, both, return_exceptions=True)
        return end

    def obey(self, faults: Sequence[Fault]) -> None:
        """From now on have these."""
        for course in self._courses:
            if (end := course.obey(faults)) is not None:
                self.end(end)

    def end(self, end: End) -> None:
        """End it; the first end counts."""
        if not self._over.done():
            self._over.set_result(end)

    async def _ended_by(self, carrying: Iterable[Awaitable[None]]) -> None:
        """It is also over when both ends have said their last."""
        try:
            await asyncio.gather(*carrying)
        except Exception as bug:  # noqa: BLE001 - raised where the connection is waited for
            self._over.set_exception(bug)
        else:
            self.end(End.CUT)

    def _left_by_sink(self, back: Course) -> None:
        """An end takes no more; whoever still talks to it gets an RST, unless the way back hides it."""
        if not back.hides_the_end:
            self.end(End.RESET)


def courses(faults: Sequence[Fault]) -> tuple[tuple[Course, Course], End | None]:
    """The courses of a new connection, and how it ends at once, if it does."""
    both = Course(Direction.UP), Course(Direction.DOWN)
    ends = [end for course in both if (end := course.obey(faults)) is not None]
    return both, ends[0] if ends else None
