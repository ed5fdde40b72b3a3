"""`/healthz`, `/readyz`, `/connected` and `/metrics` for a worker that has no web server of its own.

/healthz     the process is alive; checks no dependency, so that an outage restarts no worker
/readyz      it can work: receive from its queues; the gateway: answer HTTP (it answers 503 by itself)
/connected   it can receive from every queue, one line for each; for scripts that start a system
/metrics     for Prometheus
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus

from shared.telemetry import metrics

Answer = tuple[HTTPStatus, str, bytes]
# Seconds in which a probe must send its request and read the response.
PATIENCE = 5.0
# Bytes of a probe's request; usually a few.
MAX_REQUEST = 8 * 1024
# Maximum probes at once; the oldest is dropped for a new one, so that a new one is always answered.
MAX_PROBES = 64


class Health:
    """A few fixed GET answers over HTTP/1.1; liveness never asks a dependency, readiness does."""

    def __init__(
        self, ready: Callable[[], bool], queues: Callable[[], Mapping[str, str]] = dict, patience: float = PATIENCE
    ) -> None:
        """`queues`: the worker's own, each with the reason why it cannot receive from it; empty when it can."""
        self._patience = patience
        self._ready = ready
        self._queues = queues
        self._server: asyncio.Server | None = None
        self._probes: dict[asyncio.WriteTransport, None] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_REQUEST, backlog=MAX_PROBES // 4)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 1)

    def answer(self, path: str) -> Answer:
        """The response to a GET of `path`."""
        match path:
            case "/healthz":
                return HTTPStatus.OK, "text/plain", b"alive\n"
            case "/readyz":
                return self._state("ready", self._ready())
            case "/connected":
                return self._state("connected", not any(self._queues().values()))
            case "/metrics":
                body, content_type = metrics.exposition()
                return HTTPStatus.OK, content_type, body
            case _:
                return HTTPStatus.NOT_FOUND, "text/plain", b"/healthz /readyz /connected /metrics\n"

    def _state(self, what: str, good: bool) -> Answer:
        lines = [what if good else f"not {what}"]
        lines += [
            f"{queue}: {f'not connected: {why}' if why else 'connected'}" for queue, why in self._queues().items()
        ]
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return status, "text/plain; charset=utf-8", "".join(f"{line}\n" for line in lines).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._probes) >= MAX_PROBES:
            oldest = next(iter(self._probes))
            del self._probes[oldest]
            oldest.abort()
        self._probes[writer.transport] = None
        try:
            async with asyncio.timeout(self._patience):
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split(maxsplit=2)[1].decode("ascii", "replace").partition("?")[0]
                writer.write(_encode(*self.answer(path)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, ConnectionError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._probes.pop(writer.transport, None)


def _encode(status: HTTPStatus, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
