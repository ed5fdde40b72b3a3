"""The web server inside the worker: uvicorn with our connections, without its own signal handling."""

import asyncio
import resource
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from services.gateway.authentication import Authentication, Slowdown
from services.gateway.connections import Connections, Limits
from shared.errors import SettingsError
from shared.telemetry.logs import get_logger

if TYPE_CHECKING:
    import uvicorn

log = get_logger()

# asyncio accepts up to `backlog` connections in one turn of the event loop, before it reads from one. A few, so that a
# flood of new connections does not delay open ones or drop one that has just arrived.
ACCEPTED_AT_ONCE = 4
# The kernel's backlog.
BACKLOG = 1024
# How often dropped connections are logged, in seconds.
LOG_EVERY = 10.0


def http_server(
    app: ASGIApp, host: str, port: int, authentication: Authentication, limits: Limits, *, is_open: asyncio.Event
) -> Callable[[asyncio.Event], Awaitable[None]]:
    """A background task that serves `app` until it is stopped, then finishes open requests.

    `is_open` is set when callers can connect. Raises `SettingsError` when the port cannot be opened.
    """

    async def serve(stopping: asyncio.Event) -> None:
        listening = listen(host, port)
        is_open.set()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        connections = Connections(limits.within(descriptors if descriptors != resource.RLIM_INFINITY else 1 << 20))
        server = make_server(app, authentication, connections, Slowdown())
        running = asyncio.create_task(server.serve(sockets=[listening]))
        stopped = asyncio.create_task(stopping.wait())
        logging = asyncio.create_task(_log_dropped(connections))
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopped.cancel()
        await running
        logging.cancel()

    return serve


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `SettingsError`."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except (OSError, OverflowError) as refused:
        raise SettingsError(
            f"RAGBUS_HTTP_PORT: port {port} on {host} is taken or not allowed; choose another"
        ) from refused


def make_server(
    app: ASGIApp, authentication: Authentication, connections: Connections, slowdown: Slowdown
) -> "uvicorn.Server":
    """A server for `serve(sockets=[listen(…)])`, whose connections share the other arguments."""
    import uvicorn

    from services.gateway.connection import Connection, Guard

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for listening in sockets or []:
                listening.listen(BACKLOG)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # The worker's own handlers stop everything in order.
            yield

    guard = Guard(authentication.caller, connections, slowdown)
    config = uvicorn.Config(
        app,
        http=partial(Connection, guard=guard),  # type: ignore[arg-type]
        ws="none",
        backlog=ACCEPTED_AT_ONCE,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=10,
    )
    return Server(config)


async def _log_dropped(connections: Connections) -> None:
    logged = 0
    while True:
        await asyncio.sleep(LOG_EVERY)
        if connections.dropped > logged:
            log.warning("http.connections_dropped", count=connections.dropped - logged, in_flight=len(connections))
            logged = connections.dropped
