"""As much HTTP/1.1 as an administration client needs: requests in, responses out, no TLS."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

_LARGEST_HEAD: Final = 64 * 1024
_LARGEST_BODY: Final = 1024 * 1024
_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 501: "Not Implemented"}


class BadRequest(ValueError):
    """The bytes are not a request this server can answer."""


class Request(NamedTuple):
    """One request; the path is decoded, of each query parameter the first value counts."""

    method: str
    path: str
    query: dict[str, str]
    host: str
    keep_alive: bool


class Response(NamedTuple):
    """One response."""

    status: int
    content_type: str
    body: bytes


Application = Callable[[Request], Response]


def read_request(buffer: bytes) -> tuple[Request, int] | None:
    """Read the request at the start of the buffer; None until it is complete."""
    head, separator, _ = buffer.partition(b"\r\n\r\n")
    if not separator:
        if len(buffer) > _LARGEST_HEAD:
            raise BadRequest("the header is too long")
        return None
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    end = len(head) + 4 + _body_length(headers)
    return (_request(lines[0], headers), end) if len(buffer) >= end else None


def _body_length(headers: dict[str, str]) -> int:
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > _LARGEST_BODY or "transfer-encoding" in headers:
        raise BadRequest("the body has no acceptable length")
    return int(length)


def _request(line: str, headers: dict[str, str]) -> Request:
    try:
        method, target, version = line.split(" ")
        url = urlsplit(target)
    except ValueError as error:
        raise BadRequest(f"not a request line: {line[:80]!r}") from error
    if not version.startswith("HTTP/1."):
        raise BadRequest(f"not HTTP/1: {version[:20]!r}")
    query = {name.lower(): values[0] for name, values in parse_qs(url.query).items()}
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Request(method, unquote(url.path), query, headers.get("host", "localhost"), keep_alive)


def write_response(response: Response, *, keep_alive: bool) -> bytes:
    """Write a response with the headers that HTTP insists on."""
    head = (
        f"HTTP/1.1 {response.status} {_REASONS.get(response.status, 'Error')}\r\n"
        f"content-type: {response.content_type}\r\n"
        f"content-length: {len(response.body)}\r\n"
        f"connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
    )
    return head.encode("latin-1") + response.body


class HttpProtocol(asyncio.Protocol):
    """One HTTP connection; requests are answered in turn."""

    def __init__(self, application: Application, open_sockets: set["HttpProtocol"]) -> None:
        self._application = application
        self._open_sockets = open_sockets
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the socket, so that it can be closed with the server."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the socket."""
        self._transport = None
        self._open_sockets.discard(self)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._buffer += data
        try:
            while (found := read_request(self._buffer)) is not None:
                request, end = found
                self._buffer = self._buffer[end:]
                self._answer(self._application(request), keep_alive=request.keep_alive)
        except BadRequest as error:
            self._answer(Response(400, "text/plain", f"{error}\n".encode()), keep_alive=False)

    def _answer(self, response: Response, *, keep_alive: bool) -> None:
        if self._transport is None:
            return
        self._transport.write(write_response(response, keep_alive=keep_alive))
        if not keep_alive:
            self._transport.close()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()
