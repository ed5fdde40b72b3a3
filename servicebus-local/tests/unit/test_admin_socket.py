"""The HTTP server on a real socket: in turn, many at once, and what becomes of those who misbehave."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest
import pytest_asyncio

from servicebus_local.admin.http import HttpProtocol, Request, Response

pytestmark = pytest.mark.asyncio(loop_scope="module")
SOON = 60.0


class Server(NamedTuple):
    """A server that says what it was asked."""

    port: int
    sockets: set[HttpProtocol]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def talk(self, data: bytes) -> bytes:
        """Send everything, and read until the server hangs up."""
        reader, writer = await self.connect()
        async with asyncio.timeout(SOON):
            writer.write(data)
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def answer(request: Request) -> Response:
    """Say what was asked."""
    if request.path == "/bug":
        raise RuntimeError("a bug")
    return Response(200, "text/plain", f"{request.method} {request.path} {len(request.body)};".encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    sockets: set[HttpProtocol] = set()
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(lambda: HttpProtocol(answer, sockets), "127.0.0.1", 0)
    yield Server(listening.sockets[0].getsockname()[1], sockets)
    listening.close()
    for socket in list(sockets):
        socket.close()
    await listening.wait_closed()


def get(path: str, *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: h", *headers, "")).encode()


async def test_requests_on_one_connection_are_answered_in_turn(server: Server) -> None:
    heard = await server.talk(get("/1") + get("/2") + get("/3", "Connection: close"))
    assert heard.count(b"HTTP/1.1 200") == 3
    assert heard.index(b"GET /1 0;") < heard.index(b"GET /2 0;") < heard.index(b"GET /3 0;")


async def test_nothing_is_answered_after_a_close_was_asked_for(server: Server) -> None:
    heard = await server.talk(get("/1", "Connection: close") + get("/2"))
    assert heard.count(b"HTTP/1.1 200") == 1


async def test_a_hundred_connections_are_answered_at_once(server: Server) -> None:
    heard = await asyncio.gather(*(server.talk(get(f"/{n}", "Connection: close")) for n in range(100)))
    assert all(f"GET /{n} 0;".encode() in text for n, text in enumerate(heard))


async def test_a_body_is_sent_when_it_is_asked_for(server: Server) -> None:
    reader, writer = await server.connect()
    async with asyncio.timeout(SOON):
        writer.write(b"PUT /b HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"abc")
        assert await reader.readuntil(b";")
    writer.close()
    await writer.wait_closed()


async def test_rubbish_is_answered_once_and_hung_up_on(server: Server) -> None:
    heard = await server.talk(get("/1") + b"rubbish\r\n\r\n" + get("/2"))
    assert heard.count(b"HTTP/1.1 200") == 1
    assert heard.count(b"HTTP/1.1 400") == 1


async def test_a_tls_handshake_is_refused_at_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    heard = await server.talk(outgoing.read())
    assert heard.startswith(b"HTTP/1.1 400 ")
    assert heard.endswith(b"this port speaks plain HTTP, not TLS\n")
    assert "not TLS" in caplog.text


async def test_the_answer_to_head_is_that_to_get_without_its_body(server: Server) -> None:
    heard = await server.talk(b"HEAD /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert f"content-length: {len(b'GET /1 0;')}".encode() in heard
    assert heard.endswith(b"\r\n\r\n")


async def test_a_client_that_sends_too_much_can_read_why_it_is_closed(server: Server) -> None:
    head = b"PUT /b HTTP/1.1\r\nHost: h\r\ncontent-length: 8000000\r\n\r\n"
    heard = await server.talk(head + b"x" * 8_000_000)
    assert heard.startswith(b"HTTP/1.1 413 ")


async def test_a_bug_ends_its_request_and_nothing_else(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    heard = await server.talk(get("/bug") + get("/after", "Connection: close"))
    assert b"HTTP/1.1 500 " in heard
    assert b"GET /after 0;" in heard
    assert "GET /bug failed" in caplog.text


class Wire(asyncio.Transport):
    """A connection to nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def pause_reading(self) -> None:
        """Read no more."""
        self.reading = False

    def resume_reading(self) -> None:
        """Go on."""
        self.reading = True


async def test_the_broker_does_not_read_from_a_client_that_does_not_read() -> None:
    protocol, wire = HttpProtocol(answer, set()), Wire()
    protocol.connection_made(wire)
    protocol.pause_writing()
    assert not wire.reading
    protocol.resume_writing()
    assert wire.reading
