"""A proxy with a client on one side and a target on the other, and a clock to turn by hand."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from local.proxy import Proxy

SOON = 300.0
# More than the sockets and the proxy between two ends can hold.
MUCH = 48 * 1024 * 1024


class End:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), SOON)

    async def hear(self, count: int) -> bytes:
        return await asyncio.wait_for(self._reader.readexactly(count), SOON)

    async def rest(self) -> bytes:
        """What comes until the other end says that it is finished."""
        return await asyncio.wait_for(self._reader.read(-1), SOON)

    async def is_reset(self) -> bool:
        try:
            await self.rest()
        except ConnectionResetError:
            return True
        return False

    def break_off(self) -> None:
        """Leave with an RST."""
        found = self._writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    @property
    def has_heard(self) -> bool:
        """Whether anything has come, the end among it."""
        return bool(self._reader._buffer) or self._reader.at_eof() or self._reader.exception() is not None  # type: ignore[attr-defined]

    def finish(self) -> None:
        self._writer.write_eof()

    def leave(self) -> None:
        self._writer.close()


class Far:
    """A target that keeps its ends."""

    def __init__(self) -> None:
        self._ends: asyncio.Queue[End] = asyncio.Queue()
        self._all: list[End] = []

    async def end(self) -> End:
        """The next connection that arrives."""
        end = await asyncio.wait_for(self._ends.get(), SOON)
        self._all.append(end)
        return end

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(lambda *both: self._ends.put_nowait(End(*both)), "127.0.0.1", 0)
        yield int(server.sockets[0].getsockname()[1])
        server.close()
        while not self._ends.empty():
            self._all.append(self._ends.get_nowait())
        for end in self._all:
            end.leave()
        await server.wait_closed()


class Pair:
    """A proxy, what is behind it, and clients."""

    def __init__(self, proxy: Proxy, far: Far) -> None:
        self.proxy = proxy
        self.far = far
        self.clients: list[End] = []

    async def client(self) -> End:
        client = End(*await asyncio.open_connection("127.0.0.1", self.proxy.port))
        self.clients.append(client)
        return client

    async def joined(self) -> tuple[End, End]:
        """A client, and its end at the target."""
        client = await self.client()
        return client, await self.far.end()

    async def still_carries(self) -> None:
        """A new connection works, and whatever was on its way before has arrived or never will."""
        client, target = await self.joined()
        for _ in range(3):
            await client.say(b"there")
            assert await target.hear(5) == b"there"
            await target.say(b"back")
            assert await client.hear(4) == b"back"


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleepers = 0
        self._changed = asyncio.Condition()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        self.sleepers += 1
        async with self._changed:
            await self._changed.wait_for(lambda: self.now >= until)
        self.sleepers -= 1

    async def advance(self, seconds: float) -> None:
        async with self._changed:
            self.now += seconds
            self._changed.notify_all()


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[Pair]:
    far = Far()
    async with far.listening() as port, Proxy("127.0.0.1", port, **options) as proxy:
        made = Pair(proxy, far)
        yield made
        for client in made.clients:
            client.leave()


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not what():
            await asyncio.sleep(0.005)
