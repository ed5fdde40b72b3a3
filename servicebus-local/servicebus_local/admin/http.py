"""As much HTTP/1.1 as administration clients need: requests in, responses out, no TLS.

    bytes ──▶ RequestReader ──▶ Continue, Request, Request, …     sans I/O, cut anywhere
                                        │ answered in turn
                                        ▼
                                   Application ──▶ Response ──▶ bytes

Heads and bodies are bounded; what is not a request is answered once, and the connection is closed.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from servicebus_local.foreign_protocols import peer_address, protocol_of

_LOGGER = logging.getLogger("servicebus_local")
_LARGEST_HEAD: Final = 64 * 1024
_LARGEST_BODY: Final = 1024 * 1024
_LARGEST_CHUNK_LINE: Final = 1024
_MOST_QUERY_FIELDS: Final = 100
_LINGER: Final = 2.0  # seconds for the peer to read why it is hung up on
_CHARACTER: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # of a token (RFC 9110, 5.6.2)
_TOKEN: Final = re.compile(f"{_CHARACTER}+")
_BEGINNING: Final = re.compile(rf"(?:\r\n)*{_CHARACTER}+ ".encode())  # a method, perhaps after empty lines
_BEGINNING_SO_FAR: Final = re.compile(rf"(?:\r\n)*(?:\r|{_CHARACTER}*)".encode())
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class BadRequest(ValueError):
    """The bytes are not a request this server can answer; `status` is what to say instead."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Request(NamedTuple):
    """One request; the path is decoded, names of headers and query are lower case, the first value counts."""

    method: str
    path: str
    query: Mapping[str, str]
    host: str
    keep_alive: bool
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Continue:
    """The peer waits to be told that its body is welcome."""


class Response(NamedTuple):
    """One response; without a content type it has no body."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Application = Callable[[Request], Response]


# --------------------------------------------------------------------------- reading


class RequestReader:
    """Finds the requests in a stream of bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._steps = self._requests()

    def feed(self, data: bytes) -> Iterator[Request | Continue]:
        """Take bytes, give what they complete; raises `BadRequest`, after which there is nothing more to read."""
        self._buffer += data
        while (event := next(self._steps)) is not None:
            yield event

    def _requests(self) -> Generator[Request | Continue | None, None, None]:
        while True:
            line, headers = _parse_head((yield from self._head()))
            expected = headers.get("expect", "").lower()
            if expected not in ("", "100-continue"):
                raise BadRequest(f"the expectation {expected[:40]!r} cannot be met", 417)
            if expected and not self._buffer:
                yield Continue()
            yield _request(line, headers, (yield from self._body(headers)))

    def _head(self) -> Generator[None, None, str]:
        """Wait for a method first: a client that begins a TLS handshake sends no more until it is answered."""
        while not _BEGINNING.match(self._buffer):
            if not _BEGINNING_SO_FAR.fullmatch(self._buffer):
                raise BadRequest(f"this port speaks plain HTTP, not {protocol_of(bytes(self._buffer))}")
            if len(self._buffer) > _LARGEST_HEAD:
                raise BadRequest("the header is too long", 431)
            yield None
        head = b""
        while not head:  # an empty line before a request is forgiven (RFC 9112, 2.2)
            head = yield from self._until(b"\r\n\r\n", _LARGEST_HEAD, "the header is too long", 431)
            head = head.removeprefix(b"\r\n")
        return head.decode("latin-1")

    def _until(self, end: bytes, limit: int, complaint: str, status: int = 400) -> Generator[None, None, bytes]:
        searched = 0
        while (found := self._buffer.find(end, searched)) < 0:
            if len(self._buffer) > limit:
                raise BadRequest(complaint, status)
            searched = max(0, len(self._buffer) - len(end) + 1)
            yield None
        if found > limit:
            raise BadRequest(complaint, status)
        data = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return data

    def _exactly(self, length: int) -> Generator[None, None, bytes]:
        while len(self._buffer) < length:
            yield None
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    def _body(self, headers: Mapping[str, str]) -> Generator[None, None, bytes]:
        coding = headers.get("transfer-encoding")
        if coding is None:
            length = headers.get("content-length", "0")
            if not (length.isascii() and length.isdigit()):
                raise BadRequest(f"not a length: {length[:40]!r}")
            if len(length) > 20 or int(length) > _LARGEST_BODY:
                raise BadRequest("the body is too large", 413)
            return (yield from self._exactly(int(length)))
        if "content-length" in headers:
            raise BadRequest("a body has a length or is chunked, not both")
        if coding.lower() != "chunked":
            raise BadRequest(f"the transfer encoding {coding[:40]!r} is not known here", 501)
        return (yield from self._chunks())

    def _chunks(self) -> Generator[None, None, bytes]:
        """Read a chunked body (RFC 9112, 7.1)."""
        body = bytearray()
        while True:
            line = yield from self._chunk_line()
            size_text = line.partition(b";")[0].strip(b" \t")
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size_text):
                raise BadRequest(f"not the size of a chunk: {line[:40]!r}")
            size = int(size_text, 16)
            if size == 0:
                break
            if len(body) + size > _LARGEST_BODY:
                raise BadRequest("the body is too large", 413)
            body += yield from self._exactly(size)
            if (yield from self._exactly(2)) != b"\r\n":
                raise BadRequest("a chunk does not end where it says")
        trailers = 0
        while line := (yield from self._chunk_line()):  # what follows the last chunk is of no use here
            trailers += len(line)
            if trailers > _LARGEST_HEAD:
                raise BadRequest("the trailer is too long", 431)
        return bytes(body)

    def _chunk_line(self) -> Generator[None, None, bytes]:
        return (yield from self._until(b"\r\n", _LARGEST_CHUNK_LINE, "a line between chunks is too long"))


def _parse_head(head: str) -> tuple[str, dict[str, str]]:
    """Return the request line, and the headers by name in lower case; raises `BadRequest`."""
    lines = head.split("\r\n")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name) or _CONTROL.search(value):
            raise BadRequest(f"not a header: {line[:80]!r}")
        name = name.lower()
        if name in ("content-length", "host", "transfer-encoding") and headers.get(name, value) != value:
            raise BadRequest(f"there are two values for {name}")
        headers.setdefault(name, value)
    return lines[0], headers


def _request(line: str, headers: dict[str, str], body: bytes) -> Request:
    """Read a request line (RFC 9112, 3) and put it together with headers and body; raises `BadRequest`."""
    parts = line.split(" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not parts[1] or _CONTROL.search(line):
        raise BadRequest(f"not a request line: {line[:80]!r}")
    method, target, version = parts
    if version not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(f"not HTTP/1: {version[:20]!r}", 505)
    path, _, query = target.partition("?")
    try:
        if not target.startswith(("/", "*")):
            path, query = (url := urlsplit(target)).path or "/", url.query
        fields = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_QUERY_FIELDS)
    except ValueError as error:
        raise BadRequest(f"not a target: {target[:80]!r}") from error
    first = {name.lower(): value for name, value in reversed(fields)}
    if version == "HTTP/1.1" and "host" not in headers:
        raise BadRequest("the host is missing")
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if version == "HTTP/1.1" else connection == "keep-alive"
    return Request(method, unquote(path), first, headers.get("host", "localhost"), keep_alive, headers, body)


# --------------------------------------------------------------------------- writing


def write_response(response: Response, *, keep_alive: bool, with_body: bool = True) -> bytes:
    """Write a response with the headers that HTTP requires; the answer to HEAD has no body (RFC 9110, 9.3.2)."""
    try:
        reason = HTTPStatus(response.status).phrase
    except ValueError:
        reason = "Unknown"
    typed = [("content-type", response.content_type)] if response.content_type else []
    headers = [
        *typed,
        *response.headers,
        ("content-length", str(len(response.body))),
        ("connection", "keep-alive" if keep_alive else "close"),
    ]
    lines = [f"HTTP/1.1 {response.status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode("latin-1") + (response.body if with_body else b"")


# --------------------------------------------------------------------------- the socket


class HttpProtocol(asyncio.Protocol):
    """One HTTP connection; requests are answered in turn."""

    def __init__(self, application: Application, open_sockets: set["HttpProtocol"]) -> None:
        self._application = application
        self._open_sockets = open_sockets
        self._reader: RequestReader | None = RequestReader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the socket, so that it can be closed with the server."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self._open_sockets.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the socket."""
        self._transport = None
        self._open_sockets.discard(self)

    def pause_writing(self) -> None:
        """Read no more from a peer that does not read."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on where it was left."""
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        if self._reader is None:
            return
        try:
            for event in self._reader.feed(data):
                if not self._handle(event):
                    return
        except BadRequest as error:
            _LOGGER.warning("%s: a bad request to the admin port: %s", peer_address(self._transport), error)
            refusal = Response(error.status, "text/plain", f"{error}\n".encode())
            self._answer(refusal, keep_alive=False)

    def _handle(self, event: Request | Continue) -> bool:
        """Answer; return whether there may be more."""
        if isinstance(event, Continue):
            if self._transport is not None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return True
        without_body = event.method == "HEAD"
        asked = event._replace(method="GET") if without_body else event  # the same, but for the body (RFC 9110, 9.3.2)
        try:
            response = self._application(asked)
        except Exception:  # a bug of ours ends this request, not the broker
            _LOGGER.exception("%s %s failed", asked.method, asked.path)
            response = Response(500, "text/plain", b"this is a bug of the local broker: its log has the details\n")
        self._answer(response, keep_alive=event.keep_alive, with_body=not without_body)
        return event.keep_alive

    def _answer(self, response: Response, *, keep_alive: bool, with_body: bool = True) -> None:
        """Write a response; after the last one a peer that is still sending gets time to read it."""
        if self._transport is None:
            return
        self._transport.write(write_response(response, keep_alive=keep_alive, with_body=with_body))
        if not keep_alive:
            self._reader = None
            self._transport.write_eof()
            asyncio.get_running_loop().call_later(_LINGER, self.close)

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()
