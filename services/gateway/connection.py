"""One HTTP/1.1 connection: what a peer must send before its request costs anything.

uvicorn's protocol on llhttp, the parser of Node.js, which refuses messages that two servers could read differently
(Content-Length beside Transfer-Encoding, bare line feeds, folded headers). This class adds, per request:

    waiting ──first byte──▶ headers ──key, Host, target──▶ body ──last byte──▶ waiting
       │ idle_seconds          │ header_seconds, 431          │ body_seconds, 413
       ▼                       ▼                              ▼
     closed                  a problem document, sent after the responses to earlier requests; then what still
                             comes is read and discarded for a moment (so that the peer reads the problem instead of a
                             reset), and the connection is closed

Bytes after a refused request are not read as requests.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.authentication import Slowdown, presented_key, too_many_requests
from services.gateway.connections import Connections
from services.gateway.problems import Problem
from shared.access.callers import Caller
from shared.contracts.outcome import Code

# Requests sent on one connection before the first has its response; few clients pipeline at all.
PIPELINED = 8
# How many bytes may carry one byte of the body: chunk sizes, extensions and trailers included.
CHUNKING = 8
# After a refusal: for how many seconds, and how many bytes, further data of the peer is read and discarded.
LINGER_STRANGER = (2.0, 1 << 20)
LINGER_CALLER = (10.0, 16 << 20)


@dataclass(frozen=True, slots=True)
class Guard:
    """State that the connections of one server share."""

    authenticate: Callable[[Iterable[tuple[bytes, bytes]]], Caller]
    """Headers to their caller; raises `Problem`."""
    connections: Connections
    slowdown: Slowdown


class _Reading(Enum):
    NOTHING = auto()
    HEADERS = auto()
    BODY = auto()


class Connection(HttpToolsProtocol):
    """`uvicorn.Config(http=partial(Connection, guard=…))`."""

    def __init__(self, *, guard: Guard, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._guard = guard
        self._limits = guard.connections.limits
        self._reading = _Reading.NOTHING
        self._since = 0.0  # when these headers, or this body, began, by the event loop's clock
        self._received = 0  # bytes of them, with the framing
        self._headers_ended = False  # in the data that is being parsed
        self._size = 0  # bytes of them, without the framing
        self._unanswered = 0  # requests that the application has
        self._caller: Caller | None = None  # of the latest request with a valid key
        self._refusal: Problem | None = None
        self._spare = 0  # bytes that may come after the refusal
        self._offers_upgrade = False
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # -- called by the transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait(self._limits.header_seconds, self._late)
        self._guard.connections.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._guard.connections.left(self)
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse `data`; after a `Problem` of its callbacks, or an invalid request, count and discard what follows."""
        if self._refusal is not None:
            self._spare -= len(data)
            if self._spare < 0:
                self.transport.abort()
            return
        self._headers_ended = False
        try:
            self._feed(data)
            if not self._headers_ended:  # else `data` is partly of an earlier request
                self._received += len(data)
            if self._reading is _Reading.HEADERS and self._received > self._limits.header_bytes:
                raise _too_many_headers()
            if self._reading is _Reading.BODY and self._received > self._limits.body * CHUNKING:
                raise self._too_large()
        except Problem as problem:
            self._refuse(problem)
        except httptools.HttpParserError as error:
            # The parser's error has the callback's error as its context.
            cause = error.__context__
            broken = Problem(HTTPStatus.BAD_REQUEST, f"this is not a valid HTTP/1.1 request: {cause or error}")
            self._refuse(cause if isinstance(cause, Problem) else broken)

    def pause_writing(self) -> None:
        """The peer does not read its response: close after `write_seconds`."""
        super().pause_writing()
        self._unread = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def drop(self) -> None:
        """Close at once without a response: there are too many connections."""
        self.transport.abort()

    # -- called by the parser

    def on_message_begin(self) -> None:
        """The first byte of a request has come: its headers have `header_seconds`."""
        super().on_message_begin()
        self._begin(_Reading.HEADERS)
        self._wait(self._limits.header_seconds, self._late)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading is not _Reading.HEADERS:
            return  # a trailer: it comes after the key was checked, and nothing here needs one
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Check framing, key, target and the caller's share before the body is read; raises `Problem`."""
        self._check_framing()
        caller = self._caller = self._guard.authenticate(self.headers)
        if not self.url.startswith(b"/") or b"#" in self.url:
            raise Problem(HTTPStatus.BAD_REQUEST, "send a path as the request target; this server is not a proxy")
        if self.parser.should_upgrade():
            self._offers_upgrade = True  # see _feed
            return
        if self._unanswered >= PIPELINED:
            detail = f"more than {PIPELINED} requests without a response"
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "1"})
        if not self._guard.connections.begins(self, caller.name):
            raise too_many_requests(self._limits.per_caller)
        if any(name == b"content-length" and int(value) > self._limits.body for name, value in self.headers):
            raise self._too_large()
        super().on_headers_complete()
        self._unanswered += 1
        self._headers_ended = True
        self._begin(_Reading.BODY)
        self._wait(self._limits.body_seconds, self._late)

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on; raises `Problem` 413."""
        self._size += len(body)
        if self._size > self._limits.body:
            raise self._too_large()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        super().on_message_complete()
        self._begin(_Reading.NOTHING)
        self._rest()

    # -- called by the application

    def on_response_complete(self) -> None:
        """After the last response in progress: answer a refusal that waited for it, or wait for the next request."""
        super().on_response_complete()
        self._unanswered -= 1
        if self.transport.is_closing() or self._unanswered:
            return
        if self._refusal is not None:
            self._answer(self._refusal)
        elif self._reading is _Reading.NOTHING:
            self._rest()
        else:
            self._since = self.loop.time()  # the time limit of a request that has begun starts here

    def timeout_keep_alive_handler(self) -> None:
        """Do nothing: uvicorn's timer for idle connections, which a single byte cancels. `_late` closes them."""

    # -- reading

    def _feed(self, data: bytes) -> None:
        """Parse `data`; an offer to upgrade is ignored, as RFC 9110 7.8 allows.

        Java's client makes one (`h2c`) with its first request. llhttp treats everything after the headers as the other
        protocol, so the request is parsed again without the offer.
        """
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                [offset] = upgrade.args
                method = self.parser.get_method()
                lines = [b"%b %b HTTP/1.1" % (method, self.url)]
                lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
                data = b"\r\n".join([*lines, b"", b""]) + data[offset:]
                self._offers_upgrade = False
                self.parser = httptools.HttpRequestParser(self)

    def _begin(self, reading: _Reading) -> None:
        self._reading, self._since = reading, self.loop.time()
        self._received = self._size = 0

    def _count(self, size: int) -> None:
        self._size += size
        if len(self.headers) > self._limits.headers or self._size > self._limits.header_bytes:
            raise _too_many_headers()

    def _check_framing(self) -> None:
        """Raise `Problem` 400 for what a server on the way may have read differently (RFC 9112, 3.2 and 6.1)."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Problem(HTTPStatus.BAD_REQUEST, "this server speaks HTTP/1.1 and HTTP/1.0")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise Problem(HTTPStatus.BAD_REQUEST, "send one Host header")
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            raise Problem(HTTPStatus.BAD_REQUEST, "the only supported Transfer-Encoding is chunked, in HTTP/1.1")

    def _too_large(self) -> Problem:
        detail = f"the body is larger than {self._limits.body} bytes"
        return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, Code.PAYLOAD_TOO_LARGE)

    # -- waiting

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, then)

    def _rest(self) -> None:
        """Wait for the responses, or for the next request: every byte that came is part of a complete request."""
        if self._unanswered == 0:
            self._guard.connections.rests(self)
            self._wait(self._limits.idle_seconds, self._late)
        elif self._timer is not None:
            self._timer.cancel()

    def _late(self) -> None:
        """The peer was too slow, or sent nothing."""
        if self._unanswered > (self._reading is _Reading.BODY):
            # The connection is not read while earlier requests are in progress: that time is ours, not the peer's.
            self._wait(self._limits.header_seconds, self._late)
        elif self._reading is _Reading.NOTHING:
            self.transport.abort()
        else:
            end = self._since + self._limits.header_seconds
            if self._reading is _Reading.BODY:
                end = self._since + self._limits.body_seconds + self._size / self._limits.body_rate
            left = end - self.loop.time()
            if left > 0:
                self._wait(left, self._late)
            else:
                self._refuse(Problem(HTTPStatus.REQUEST_TIMEOUT, f"the {self._reading.name.lower()} took too long"))

    # -- refusing

    def _refuse(self, problem: Problem) -> None:
        """Read no further request; answer `problem` once the earlier ones have their responses."""
        # Without its traceback, whose frames contain received data.
        self._refusal = problem = problem.with_traceback(None)
        self._spare = (LINGER_CALLER if self._caller else LINGER_STRANGER)[1]
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is _Reading.BODY:
            # The application has the request, or is about to get it: tell it that the peer has disconnected.
            refused = self.cycle
            if not refused.response_complete:
                self._unanswered -= 1
                refused.disconnected = True
                refused.message_event.set()
                if self.pipeline and self.pipeline[0][0] is refused:
                    self.pipeline.popleft()
            if refused.response_started:
                self.transport.close()
                return
        if self._unanswered:
            self.flow.pause_reading()
        else:
            self._answer(problem)

    def _answer(self, problem: Problem) -> None:
        self._guard.connections.refused(self)
        wrong_key = problem.status is HTTPStatus.UNAUTHORIZED
        if not wrong_key and self._caller is not None:
            self._close_with(problem)
            return
        address = self.client[0] if self.client else ""
        delay = self._guard.slowdown.refused(
            address, presented_key(self.headers) if wrong_key else "", self.loop.time()
        )
        if delay:
            self.flow.pause_reading()
            self._wait(delay, lambda: self._close_with(problem))
        else:
            self._close_with(problem)

    def _close_with(self, problem: Problem) -> None:
        """Send `problem`, and read further data for a moment, so that the peer reads it instead of a reset."""
        without_body = self.parser.get_method() == b"HEAD"
        self.transport.write(problem.closing_response(self.server_state.default_headers, without_body=without_body))
        self.transport.write_eof()
        self.flow.resume_reading()
        self._wait((LINGER_CALLER if self._caller else LINGER_STRANGER)[0], self.transport.abort)


def _too_many_headers() -> Problem:
    return Problem(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "there are too many headers, or they are too large")
