"""HTTP for the stand-ins: uvicorn on a socket that is bound beforehand, inside the program's own event loop."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from local.loopback import App, guarded


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises `OSError` or `OverflowError` when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; without it every answer waits 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError):
        listener.close()
        raise
    return listener


@asynccontextmanager
async def serving(app: App, listener: socket.socket, *, grace: int = 1) -> AsyncIterator[str]:
    """Serve `app` while the block runs; gives its URL. Requests under way have `grace` seconds at the end.

    The listener is closed with it. On loopback, only this machine's programs are answered (`local.loopback`).
    """
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        guarded(app, host),
        http=_Protocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=grace,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    starting = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({running, starting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            raise RuntimeError("the HTTP server ended while starting") from running.exception()
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        starting.cancel()
        server.should_exit = True
        await running


@contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """An event that is set by SIGTERM or SIGINT, in the running loop."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


class _Protocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """Hands the connection to the application as `scope["state"]["transport"]`, so that it can reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, "transport": transport}


class _Server(uvicorn.Server):
    """Says when it listens, and leaves signals to the program."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
