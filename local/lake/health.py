"""`GET /healthz`, in as little HTTP as a probe needs."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Page = Callable[[], tuple[bool, dict[str, Any]]]
_PATIENCE = 2.0


@asynccontextmanager
async def serve(host: str, port: int, page: Page) -> AsyncIterator[int]:
    """Answer probes while the block runs; gives the port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(request, page))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _response(request: bytes, page: Page) -> bytes:
    method, path = (*request.split(b" ", 2), b"", b"")[:2]
    if method not in (b"GET", b"HEAD") or path.split(b"?")[0] not in (b"/healthz", b"/health"):
        return _http(404, {"error": "only /healthz is here"})
    ready, counts = page()
    return _http(200 if ready else 503, {"status": "ready" if ready else "starting"} | counts)


def _http(status: int, body: dict[str, Any]) -> bytes:
    reason = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}[status]
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + content
