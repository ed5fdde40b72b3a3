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
# Bytes in a pipe; at 100 ms that is 40 MB/s. A reader that hangs blocks the writer when the pipe is full.
_WINDOW: Final = 4 * 1024 * 1024
# A linger of zero seconds: closing sends an RST (socket(7), SO_LINGER).
_NO_LINGER: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Timing:
    """Randomness for jitter, clock and sleep (both in seconds)."""

    chance: random.Random
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]]


class Endpoint:
    """The proxy's socket to one of the two ends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        # Then `drain` returns when the kernel has everything, and an RST overtakes no bytes of ours.
        writer.transport.set_write_buffer_limits(0)

    async def read(self) -> bytes:
        """The bytes that have arrived; empty at the end. Raises `OSError`."""
        return await self._reader.read(_MOST_AT_ONCE)

    async def write(self, data: bytes) -> None:
        """Return when the kernel has `data`. Raises `OSError`."""
        self._writer.write(data)
        await self._writer.drain()

    def finish(self) -> None:
        """Send a FIN: nothing more will be written."""
        with suppress(OSError):
            self._writer.write_eof()

    def close(self, end: End = End.CLOSED) -> None:
        """Close it with a FIN or an RST; a second call does nothing."""
        if end is End.CLOSED:
            return self._writer.close()
        with suppress(OSError):
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return self._writer.transport.abort()


@dataclass(frozen=True, slots=True)
class _Due:
    """Bytes that leave the pipe at the time `at`; then `then` is called. Nothing follows the `last`."""

    at: float
    data: bytes
    then: Callable[[], None] | None = None
    last: bool = False


class Pipe:
    """One direction: reads from `source`, and writes to `sink` what the flow lets through, when it is due."""

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
        """`over` is called when a fault or error ends the connection, `sink_left` when writing to the sink fails."""
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
        """Run until the source has ended and all its bytes are delivered."""
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
        # In a queue, so that jitter never reorders bytes.
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
        """Run until both ends have closed, or `end` is called; returns how it ended."""
        end = End.RESET
        carrying = [asyncio.create_task(pipe.run()) for pipe in self._pipes]
        both = asyncio.create_task(self._ended_by(carrying))
        try:
            end = await self._over
        finally:
            for task in (*carrying, both):
                task.cancel()
            # Before any await: while the proxy closes, an await may be cancelled.
            for each in self._ends:
                each.close(end)
            await asyncio.gather(*carrying, both, return_exceptions=True)
        return end

    def obey(self, faults: Sequence[Fault]) -> None:
        """Apply these faults from now on."""
        for flow in self._flows:
            if (end := flow.obey(faults)) is not None:
                self.end(end)

    def end(self, end: End) -> None:
        """End it; the first end counts."""
        if not self._over.done():
            self._over.set_result(end)

    async def _ended_by(self, carrying: Iterable[Awaitable[None]]) -> None:
        """End the connection when both pipes have ended; a bug in one is raised by `run`."""
        try:
            await asyncio.gather(*carrying)
        except Exception as bug:  # noqa: BLE001 - raised by `run`
            self._over.set_exception(bug)
        else:
            self.end(End.CLOSED)

    def _left_by_sink(self, back: Flow) -> None:
        """Reset the connection, because one end takes no more bytes; not when the way back hides that."""
        if not back.hides_the_end:
            self.end(End.RESET)
