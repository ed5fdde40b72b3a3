"""`/healthz`, `/readyz` and `/metrics` for a worker that has no web server of its own."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

from shared.telemetry import metrics

Answer = tuple[HTTPStatus, str, bytes]
# A probe that has not sent its request line by then is not one.
PATIENCE = 5.0


class Health:
    """A few fixed GET answers over HTTP/1.1; liveness never asks a dependency, readiness does."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; says on which port."""
        self._server = await asyncio.start_server(self._serve, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 1)

    def answer(self, path: str) -> Answer:
        """What a GET of `path` gets."""
        match path:
            case "/healthz":
                return HTTPStatus.OK, "text/plain", b"alive\n"
            case "/readyz" if self._ready():
                return HTTPStatus.OK, "text/plain", b"ready\n"
            case "/readyz":
                return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"not connected to every queue\n"
            case "/metrics":
                body, content_type = metrics.exposition()
                return HTTPStatus.OK, content_type, body
            case _:
                return HTTPStatus.NOT_FOUND, "text/plain", b"/healthz /readyz /metrics\n"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(TimeoutError, ConnectionError, ValueError, IndexError):
            async with asyncio.timeout(PATIENCE):
                path = (await reader.readline()).split()[1].decode("ascii", "replace").partition("?")[0]
                while (await reader.readline()).strip():
                    pass
                writer.write(_encode(*self.answer(path)))
                await writer.drain()
        writer.close()


def _encode(status: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
