"""The proxy: listens, and gives each client a connection of its own to the target."""

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from local.proxy.connection import Connection, Endpoint, Timing
from local.proxy.faults import Direction, Fault, Refuse
from local.proxy.flow import End, Flow

_BACKLOG = 512


class Proxy:
    """Carries TCP from `port` to a target, with faults that can be changed at any moment.

        async with Proxy("127.0.0.1", 6379) as proxy:
            proxy.set(Latency(0.02))        # what is written to proxy.port arrives 20 ms later, both ways
            proxy.set()                     # no faults

    Faults apply to open and to new connections. When the target does not accept a connection, its client is reset.
    Use it from one event loop.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        chance: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`port` 0 takes a free one. `clock` and `sleep` are in seconds; `chance` decides on jitter."""
        self._target = (target_host, target_port)
        self._host = host
        self._wanted = port
        self._timing = Timing(chance or random.Random(0), clock, sleep)  # noqa: S311 - jitter, not a secret
        self._faults: tuple[Fault, ...] = ()
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._connections: set[Connection] = set()
        self.accepted = 0
        """Connections so far."""
        self.peak = 0
        """The most connections that were open at the same time."""
        self.swallowed = {Direction.UP: 0, Direction.DOWN: 0}
        """Bytes lost in a black hole. `DOWN` > 0: the target responded, and the client did not receive it."""

    async def __aenter__(self) -> Self:
        """Listen. Raises `OSError` when the port cannot be had."""
        if self._wanted:
            # With SO_REUSEPORT alone we would share a port with another proxy; it must be an error.
            _bound(self._host, self._wanted, shared=False).close()
        # It keeps the port ours while connections are refused.
        self._reserved = _bound(self._host, self._wanted, shared=True)
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Reset every connection and free the port."""
        self._stop_listening()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        # Aborted transports close their sockets in the next turn of the loop.
        await asyncio.sleep(0)
        if self._reserved is not None:
            self._reserved.close()

    @property
    def port(self) -> int:
        """Its port, also while connections are refused; raises `RuntimeError` before the block is entered."""
        if self._reserved is None:
            raise RuntimeError("the proxy is not started: use `async with Proxy(...)`")
        return int(self._reserved.getsockname()[1])

    @property
    def connected(self) -> int:
        """Clients that are connected now."""
        return len(self._serving)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in force."""
        return self._faults

    def set(self, *faults: Fault) -> None:
        """Replace the faults in force; without arguments there are none."""
        self._faults = faults
        if any(isinstance(fault, Refuse) for fault in faults):
            self._stop_listening()
        else:
            self._listen()
        for connection in list(self._connections):
            connection.obey(faults)

    # -- listening

    def _listen(self) -> None:
        if self._listener is not None:
            return
        self._listener = _bound(self._host, self.port, shared=True)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            client, _ = listener.accept()
            client.setblocking(False)
            task = asyncio.create_task(self._serve(client))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            self.accepted += 1
            self.peak = max(self.peak, len(self._serving))

    # -- one client

    async def _serve(self, accepted: socket.socket) -> None:
        client = Endpoint(*await asyncio.open_connection(sock=accepted))
        end = End.RESET
        try:
            end = await self._carry(client)
        finally:
            client.close(end)

    async def _carry(self, client: Endpoint) -> End:
        """Connect `client` with the target until one ends; returns how to close the client's socket."""
        _, end = self._flows()
        if end is not None:
            return end
        try:
            target = Endpoint(*await asyncio.open_connection(*self._target))
        except OSError:
            # The client is reset at once, unless the way back is a black hole.
            (_, down), _ = self._flows()
            if not down.hides_the_end:
                return End.RESET
            with suppress(OSError):
                while await client.read():
                    pass
            return End.CLOSED
        # Again: the faults may have changed while we connected.
        flows, end = self._flows()
        connection = Connection(client, target, flows, self._timing)
        if end is not None:
            connection.end(end)
        self._connections.add(connection)
        try:
            return await connection.run()
        finally:
            self._connections.discard(connection)

    def _flows(self) -> tuple[tuple[Flow, Flow], End | None]:
        """The flows of a new connection, up and down; and an end if the faults end it at once."""
        both = Flow(Direction.UP, self._swallow), Flow(Direction.DOWN, self._swallow)
        ends = [end for flow in both if (end := flow.obey(self._faults)) is not None]
        return both, ends[0] if ends else None

    def _swallow(self, direction: Direction, count: int) -> None:
        self.swallowed[direction] += count


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    # With the protocol named: only then asyncio turns Nagle's algorithm off for accepted connections.
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError):
        made.close()
        raise
    return made
