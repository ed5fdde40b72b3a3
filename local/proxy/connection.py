"""One connection through the proxy: two sockets, and a pipe for each direction.

client ──read──▶ flow ──▶ [ due, bytes | due, bytes ] ──written when due──▶ target      up
client ◀──written when due── [ due, bytes ] ◀── flow ◀──read── target                   down
"""

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from local.proxy.faults import Fault
from local.proxy.flow import End, Flow

_MOST_AT_ONCE: Final = 64 * 1024
# What a pipe holds; at 100 ms that is 40 MB/s, and a reader that is stuck stops the writer at last.
_WINDOW: Final = 4 * 1024 * 1024
# A linger of zero seconds: closing sends an RST (socket(7), SO_LINGER).
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Timing:
    """The chance that decides on jitter, and the time; seconds."""

    chance: random.Random
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]


class Endpoint:
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

    def close(self, end: End = End.CLOSED) -> None:
        """Close it, in good order or with an RST; again does nothing."""
        if end is End.CLOSED:
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
        source: Endpoint,
        sink: Endpoint,
        flow: Flow,
        timing: Timing,
        *,
        over: Callable[[End], None],
        sink_left: Callable[[], None],
    ) -> None:
        """`over` is called when the connection ends, `sink_left` when the sink takes no more."""
        self._source = source
        self._sink = sink
        self._flow = flow
        self._timing = timing
        self._over = over
        self._sink_left = sink_left
        self._waiting: asyncio.Queue[_Due] = asyncio.Queue()
        self._held = 0
        self._room = asyncio.Event()
        self._sink_reads = True

    async def run(self) -> None:
        """Run until the source ends and everything that it sent is delivered."""
        delivering = asyncio.create_task(self._deliver())
        try:
            await self._collect()
            await delivering
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    async def _collect(self) -> None:
        at_the_end: Callable[[], None] = self._sink.finish
        try:
            while data := await self._source.read():
                through, end = self._flow.through(data)
                self._enter(through, None if end is None else lambda end=end: self._over(end))  # type: ignore[misc]
                while self._held >= _WINDOW:
                    self._room.clear()
                    await self._room.wait()
        except OSError:
            at_the_end = lambda: self._over(End.RESET)  # noqa: E731
        self._enter(b"", None if self._flow.hides_the_end else at_the_end, last=True)

    def _enter(self, data: bytes, then: Callable[[], None] | None, *, last: bool = False) -> None:
        # In a queue, so that nothing overtakes what was sent earlier, whatever the jitter.
        due = self._timing.clock() + self._flow.delay(self._timing.chance)
        self._held += len(data)
        self._waiting.put_nowait(_Due(due, data, then, last))

    async def _deliver(self) -> None:
        last = False
        while not last:
            due = await self._waiting.get()
            while (early := due.at - self._timing.clock()) > 0:
                await self._timing.sleep(early)
            if due.data and self._sink_reads:
                try:
                    await self._sink.write(due.data)
                except OSError:
                    self._sink_reads = False
                    self._sink_left()
            self._held -= len(due.data)
            self._room.set()
            if due.then is not None:
                due.then()
            last = due.last


class Connection:
    """A client's connection and the one to the target that belongs to it."""

    def __init__(self, client: Endpoint, target: Endpoint, flows: tuple[Flow, Flow], timing: Timing) -> None:
        """`flows`: up and down."""
        self._ends = (client, target)
        self._flows = flows
        up, down = flows
        self._over: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._pipes = (
            Pipe(client, target, up, timing, over=self.end, sink_left=lambda: self._left_by_sink(down)),
            Pipe(target, client, down, timing, over=self.end, sink_left=lambda: self._left_by_sink(up)),
        )

    async def run(self) -> End:
        """Carry until both ends have left, or until it is ended; returns how it ended."""
        end = End.RESET
        carrying = [asyncio.create_task(pipe.run()) for pipe in self._pipes]
        both = asyncio.create_task(self._ended_by(carrying))
        try:
            end = await self._over
        finally:
            for task in (*carrying, both):
                task.cancel()
            # Before anything is waited for: the closing of the proxy may not let us wait.
            for each in self._ends:
                each.close(end)
            await asyncio.gather(*carrying, both, return_exceptions=True)
        return end

    def obey(self, faults: Sequence[Fault]) -> None:
        """Have these faults from now on."""
        for flow in self._flows:
            if (end := flow.obey(faults)) is not None:
                self.end(end)

    def end(self, end: End) -> None:
        """End it; the first end counts."""
        if not self._over.done():
            self._over.set_result(end)

    async def _ended_by(self, carrying: Iterable[Awaitable[None]]) -> None:
        """It is also over when both ends have sent their last."""
        try:
            await asyncio.gather(*carrying)
        except Exception as bug:  # noqa: BLE001 - raised where the connection is waited for
            self._over.set_exception(bug)
        else:
            self.end(End.CLOSED)

    def _left_by_sink(self, back: Flow) -> None:
        """An end takes no more; the other gets an RST when it goes on sending, unless the way back hides it."""
        if not back.hides_the_end:
            self.end(End.RESET)
