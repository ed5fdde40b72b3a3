"""The proxy's HTTP side, by which another process switches its faults.

GET, POST, DELETE /control/faults       what is in force; have a list of faults instead; none
GET               /control/connections  how many are open, how many there were
GET               /health               200
"""

import asyncio
import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

from local.faults.fault import FaultError, read_faults, written
from local.faults.proxy import Proxy

_LARGEST_BODY: Final = 64 * 1024
# Whoever has not finished its request by then gets no answer.
_PATIENCE: Final = 5.0

Answer = tuple[HTTPStatus, Any]


class Control:
    """Answers one request per connection, as much HTTP/1.1 as `curl` and test clients need."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; says on which port. Raises `OSError`."""
        self._server = await asyncio.start_server(self._serve, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """What a request gets: a status, and a document."""
        match method, path:
            case "GET", "/health":
                return HTTPStatus.OK, {"status": "ready"}
            case "GET", "/control/connections":
                return HTTPStatus.OK, {"open": self._proxy.connected, "accepted": self._proxy.accepted}
            case "GET" | "POST" | "DELETE", "/control/faults":
                return self._faults(method, body)
            case _:
                return HTTPStatus.NOT_FOUND, {
                    "error": "GET /health /control/connections, GET POST DELETE /control/faults"
                }

    def _faults(self, method: str, body: bytes) -> Answer:
        try:
            if method == "POST":
                self._proxy.set(*read_faults(json.loads(body)))
            elif method == "DELETE":
                self._proxy.set()
        except (FaultError, ValueError, RecursionError) as wrong:
            return HTTPStatus.BAD_REQUEST, {"error": str(wrong)}
        return HTTPStatus.OK, [written(fault) for fault in self._proxy.faults]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(
            TimeoutError, ConnectionError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            async with asyncio.timeout(_PATIENCE):
                method, path, length = _head(await reader.readuntil(b"\r\n\r\n"))
                answer = self.answer(method, path, await reader.readexactly(length))
                writer.write(_encoded(*answer))
                await writer.drain()
        writer.close()


def _head(head: bytes) -> tuple[str, str, int]:
    """Method, path, and length of the body; raises `ValueError`."""
    line, *fields = head.decode("latin-1").splitlines()
    method, target, _ = line.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= _LARGEST_BODY:
        raise ValueError("the body is too large")
    return method, target.partition("?")[0], length


def _encoded(status: HTTPStatus, document: Any) -> bytes:
    body = json.dumps(document).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
