"""The web server inside the worker: uvicorn, without its own signal handling."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shared.errors import SettingsError
from shared.telemetry.logs import get_logger

log = get_logger()


def http_server(app: Any, host: str, port: int) -> Callable[[asyncio.Event], Awaitable[None]]:
    """Something to run beside the workers: serves `app` until told to stop, then finishes open requests."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # The worker's own handlers stop everything in order.
            yield

    async def serve(stopping: asyncio.Event) -> None:
        config = uvicorn.Config(
            app, host=host, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=10
        )
        server = Server(config)
        running = asyncio.create_task(_serve(server, host, port))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopped.cancel()
        await running

    return serve


async def _serve(server: Any, host: str, port: int) -> None:
    try:
        await server.serve()
    except SystemExit as refused:
        raise SettingsError(
            f"RAGBUS_HTTP_PORT: port {port} on {host} is taken or not allowed; choose another"
        ) from refused
