"""A TCP proxy that delays: a pipe with a round trip, and all the bandwidth there is.

`python -m benchmarks.adapter.proxy --to HOST:PORT --round-trip 0.02` says on which port it listens, and on its way out
(when its input ends) how many connections there were at most at once.
"""

import argparse
import asyncio
import json
import selectors
import sys
from collections import deque
from functools import partial


class Pipe:
    """One direction: what comes in leaves `delay` seconds later, in order."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._under_way: deque[tuple[float, bytes | None]] = deque()
        self.out: asyncio.Transport | None = None

    def put(self, data: bytes | None) -> None:
        """Send `data` later; None: close."""
        self._under_way.append((self._loop.time() + self._delay, data))
        if len(self._under_way) == 1:
            self._loop.call_at(self._under_way[0][0], self._deliver)

    def _deliver(self) -> None:
        now = self._loop.time()
        while self._under_way and self._under_way[0][0] <= now:
            data = self._under_way.popleft()[1]
            if self.out is not None and not self.out.is_closing():
                self.out.close() if data is None else self.out.write(data)
        if self._under_way:
            self._loop.call_at(self._under_way[0][0], self._deliver)


class End(asyncio.Protocol):
    """One end of a connection: what it reads goes into `pipe`."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._pipe.put(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, too."""
        self._pipe.put(None)


class Front(End):
    """The end that faces the client; it connects to the other side."""

    def __init__(self, proxy: "Proxy") -> None:
        super().__init__(Pipe(proxy.delay))
        self._proxy = proxy

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the other side; what arrives until then waits in the pipe."""
        assert isinstance(transport, asyncio.Transport)
        self._proxy.count(1)
        transport.pause_reading()
        self._connecting = asyncio.create_task(self._connect(transport))

    async def _connect(self, transport: asyncio.Transport) -> None:
        back = Pipe(self._proxy.delay)
        back.out = transport
        try:
            self._pipe.out, _ = await asyncio.get_running_loop().create_connection(
                partial(End, back), *self._proxy.target
            )
        except OSError:
            transport.close()
        else:
            transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out."""
        self._proxy.count(-1)
        super().connection_lost(exc)


class Proxy:
    """Where to connect to, how late everything arrives, and how many connections there were at most."""

    def __init__(self, target: tuple[str, int], round_trip: float) -> None:
        self.target = target
        self.delay = round_trip / 2
        self.peak = self._current = 0

    def count(self, change: int) -> None:
        """Count a connection in or out."""
        self._current += change
        self.peak = max(self.peak, self._current)


async def serve(proxy: Proxy) -> None:
    """Serve until the input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Front, proxy), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({"peak": proxy.peak}), flush=True)
    server.close()


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser("benchmarks.adapter.proxy")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--round-trip", type=float, required=True, metavar="SECONDS")
    options = parser.parse_args()
    host, _, port = options.to.partition(":")
    # epoll waits for whole milliseconds, which two directions of three hops would add up; select does not.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(Proxy((host, int(port)), options.round_trip)))


if __name__ == "__main__":
    main()
