"""The HTTP endpoint over real sockets: what a peer must show, how long it may take, how much it may hold.

Limits and deadlines are arguments, so that no test waits for one of the shipped ones.
"""

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from services.gateway.authentication import Slowdown
from services.gateway.connections import Connections, Limits
from services.gateway.http import make_app
from services.gateway.http_endpoint import HttpEndpoint
from services.gateway.server import listen, make_server
from shared.access.callers import Callers, hash_key
from shared.contracts.envelope import Envelope
from shared.redis import FailFastRedis
from tests.poison.corpus import NO_JSON, NO_TEXT, TOO_DEEP
from tests.support.builders import NOW
from tests.support.gateway import CALLERS, Gateway

PATIENCE = 300.0
KEY = b"Authorization: Bearer welcome-app\r\n"
HOST = b"Host: gateway\r\n"
GET = b"GET /v1/requests/r1 HTTP/1.1\r\n" + HOST + KEY + b"\r\n"
ASK = b'{"question": "How?"}'
CHUNKED = b"POST /v1/onboarding/ask HTTP/1.1\r\n" + HOST + KEY + b"Transfer-Encoding: chunked\r\n\r\n"


def post(body: bytes = ASK, headers: bytes = KEY, path: bytes = b"/v1/onboarding/ask", length: int = -1) -> bytes:
    size = b"%d" % (len(body) if length < 0 else length)
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %b\r\n\r\n%b" % (path, HOST, headers, size, body)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        assert found["status"] == self.status
        return found


class Peer:
    """The other end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def reply(self, *, head: bool = False) -> Reply:
        async with asyncio.timeout(PATIENCE):
            start, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            body = b"" if head else await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(start.split()[1]), headers, body)

    async def rest(self) -> bytes:
        """What comes until the server closes the connection."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self._writer.close()


class Server:
    """A running server, and what it has sent to the broker."""

    def __init__(self, redis: FailFastRedis) -> None:
        self.sent: list[Envelope] = []
        self.port = 0
        self._peers: list[Peer] = []
        gateway = Gateway(redis)
        self.endpoint = HttpEndpoint(
            callers=Callers(
                tenants=CALLERS.tenants,
                callers=tuple(c.model_copy(update={"api_keys": (hash_key(c.name),)}) for c in CALLERS.callers),
            ),
            intake=gateway.intake,
            cancelling=gateway.cancelling,
            ledger=gateway.ledger,
            waiters=gateway.waiters,
            send=self._send,
            connected=lambda: True,
            clock=lambda: NOW,
        )

    async def _send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)

    @asynccontextmanager
    async def running(self, limits: Limits, slowdown: Slowdown) -> AsyncIterator["Server"]:
        listening = listen("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        self.connections = Connections(limits)
        server = make_server(
            make_app(self.endpoint, limits.per_caller), self.endpoint.authentication, self.connections, slowdown
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield self
        finally:
            # Not uvicorn's way, which looks every tenth of a second whether all are gone.
            serving.cancel()
            for listener in server.servers:
                listener.close()
            for peer in self._peers:
                peer.close()

    async def peer(self, data: bytes = b"") -> Peer:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self.port))
        self._peers.append(peer)
        await peer.send(data)
        return peer

    async def ask(self) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE) as client:
            headers = {"Authorization": "Bearer welcome-app"}
            return await client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers)


Start = Callable[..., Any]


@pytest.fixture
def start(redis: FailFastRedis) -> Start:
    def running(slowdown: Slowdown | None = None, **limits: Any) -> Any:
        return Server(redis).running(Limits(**limits), slowdown or Slowdown(free=10_000))

    return running


@pytest.fixture
async def server(start: Start) -> AsyncIterator[Server]:
    async with start() as running:
        yield running


# -- the key


KEYLESS = [
    post(headers=b""),
    post(b"{broken", headers=b""),
    post(headers=b"Authorization: Bearer wrong\r\n"),
    post(headers=b"Authorization: Basic welcome-app\r\n"),
    post(headers=b"Authorization: Bearer \xed\xa0\x80\xff\r\n"),
    post(headers=b"X-API-Key: wrong\r\n"),
    b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /v1/x/ask/ HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n",
    b"OPTIONS /v1/x/ask HTTP/1.1\r\n" + HOST + b"\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n",
    b"DELETE /v1/requests/r1 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
]


async def test_without_a_valid_key_the_answer_is_401_and_the_connection_ends(server: Server) -> None:
    for request in KEYLESS:
        peer = await server.peer(request)
        reply = await peer.reply()
        assert (reply.status, reply.headers["connection"]) == (401, "close"), request
        assert reply.problem["code"] == "Unauthorized"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert await peer.rest() == b""
    assert server.sent == []


async def test_a_head_without_a_key_gets_401_without_a_body(server: Server) -> None:
    peer = await server.peer(b"HEAD /v1/requests/r1 HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (await peer.reply(head=True)).status == 401
    assert await peer.rest() == b""


async def test_the_key_is_checked_before_the_body_is_read(server: Server) -> None:
    strangers = [await server.peer(post(b"x" * 50_000, headers=b"", length=100_000)) for _ in range(5)]
    assert [(await stranger.reply()).status for stranger in strangers] == [401] * 5


async def test_a_peer_without_a_key_that_sends_its_whole_body_first_reads_the_401(server: Server) -> None:
    peer = await server.peer(post(b"x" * 120_000, headers=b""))
    assert (await peer.reply()).status == 401


async def test_a_connection_is_kept_for_the_next_request_and_asks_for_its_key_again(server: Server) -> None:
    peer = await server.peer(post())
    assert (await peer.reply()).status == 202
    await peer.send(GET)
    assert (await peer.reply()).status == 404
    await peer.send(post(headers=b""))
    assert (await peer.reply()).status == 401
    assert await peer.rest() == b""


async def test_a_key_may_come_in_either_header_and_ambiguous_keys_are_refused(server: Server) -> None:
    for headers, status in {
        KEY: 404,
        b"x-api-key: welcome-app\r\n": 404,
        KEY + b"X-API-Key: welcome-app\r\n": 404,
        KEY + KEY: 400,
        KEY + b"Authorization: Bearer hr-portal\r\n": 400,
        KEY + b"X-API-Key: hr-portal\r\n": 400,
        b"X-API-Key: welcome-app\r\nX-API-Key: welcome-app\r\n": 400,
    }.items():
        peer = await server.peer(GET.replace(KEY, headers))
        assert (await peer.reply()).problem["status"] == status, headers


async def test_the_application_asks_for_the_key_whatever_server_it_runs_in(server: Server) -> None:
    transport = httpx.ASGITransport(make_app(server.endpoint))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for path in ("/openapi.json", "/nowhere", "/v1/x/ask/"):
            assert (await client.get(path)).status_code == 401
        assert (await client.post("/v1/onboarding/ask", content=b"{broken")).status_code == 401
        key = {"Authorization": "Bearer welcome-app"}
        assert (await client.get("/openapi.json", headers=key)).status_code == 200


# -- what two servers could read differently

AMBIGUOUS = {
    "length and chunks": post(headers=KEY + b"Transfer-Encoding: chunked\r\n"),
    "chunks and length": CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + b"0\r\n\r\n",
    "two lengths": post(headers=KEY + b"Content-Length: 20\r\n"),
    "a list of lengths": post().replace(b"Content-Length: 20", b"Content-Length: 20, 20"),
    "a signed length": post().replace(b"Content-Length: 20", b"Content-Length: +20"),
    "a length of many digits": post().replace(b"Content-Length: 20", b"Content-Length: " + b"9" * 40),
    "no length": post().replace(b"Content-Length: 20", b"Content-Length:"),
    "two codings": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n",
    "another coding": CHUNKED.replace(b"chunked", b"gzip") + b"0\r\n\r\n",
    "nearly chunked": CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n",
    "chunked twice": CHUNKED.replace(b"chunked", b"chunked\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "a chunk size with a prefix": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size that overflows": CHUNKED + b"f" * 20 + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk that ends in a line feed": CHUNKED + b"5\nhello\n0\n\n",
    "a bare line feed": GET.replace(b"gateway\r\n", b"gateway\n"),
    "bare line feeds only": GET.replace(b"\r\n", b"\n"),
    "a bare carriage return": GET.replace(b"gateway\r\n", b"gateway\rX: y\r\n"),
    "a folded header": GET.replace(b"gateway\r\n", b"gateway\r\nX: a\r\n b\r\n"),
    "a space before the colon": GET.replace(b"Host:", b"Host :"),
    "a header without a name": GET.replace(b"Host:", b": x\r\nHost:"),
    "a NUL in a header": GET.replace(b"gateway", b"gate\0way"),
    "a NUL in the target": GET.replace(b"/r1", b"/r\0"),
    "no host": GET.replace(HOST, b""),
    "two hosts": GET.replace(HOST, HOST + HOST),
    "an absolute target": GET.replace(b"/v1", b"http://evil.example/v1", 1),
    "a target of another server": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n" + HOST + KEY + b"\r\n",
    "a fragment": GET.replace(b"/r1", b"/r1#x"),
    "a relative target": GET.replace(b"/v1", b"v1", 1),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0 by name": GET.replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/1.2": GET.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "HTTP/0.9": b"GET /v1/requests/r1\r\n\r\n",
    "an unknown method": GET.replace(b"GET", b"FETCH"),
    "a method in lower case": GET.replace(b"GET", b"get"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32,
}


async def test_an_ambiguous_request_is_refused_and_nothing_after_it_is_read(server: Server) -> None:
    for name, request in AMBIGUOUS.items():
        peer = await server.peer(request + post() + GET)
        reply = await peer.reply()
        assert (reply.problem["status"], reply.headers["connection"]) == (400, "close"), name
        assert await peer.rest() == b"", name
    assert server.sent == []


async def test_an_error_waits_for_the_responses_before_it(server: Server) -> None:
    peer = await server.peer(post() + GET + AMBIGUOUS["a folded header"] + post())
    assert [(await peer.reply()).status for _ in range(3)] == [202, 404, 400]
    assert await peer.rest() == b""
    assert len(server.sent) == 2  # the sentinel and the work of the first


ODD = [
    (GET.replace(b"/r1", b"/%2f..%2fr1"), 404),
    (GET.replace(b"/r1", b"/%00"), 404),
    (GET.replace(b"/r1", b"/%ed%a0%80"), 404),
    (GET.replace(b"/v1", b"//v1", 1), 404),
    (GET.replace(b"/r1", b"/r1?wait=nan"), 422),
    (post(path=b"/v1/onboarding/ask/"), 404),
    (post(path=b"/v1/..%2fonboarding/ask"), 404),
    (post(path=b"/v1/x%0d%0aLocation:%20y/ask"), 404),
    (post(headers=KEY + b"Idempotency-Key: \xed\xa0\x80\r\n"), 202),
    (post(headers=KEY + b"traceparent: \xff\r\n"), 202),
    (b"PATCH /v1/requests/r1 HTTP/1.1\r\n" + HOST + KEY + b"\r\n", 405),
]


async def test_an_odd_request_with_a_key_gets_a_clean_answer_and_keeps_its_connection(server: Server) -> None:
    for request, status in ODD:
        peer = await server.peer(request.replace(b"gateway", b"evil.example") + GET)
        reply = await peer.reply()
        assert reply.status == status, request
        assert "evil" not in str(reply)
        assert (await peer.reply()).status == 404


async def test_an_offer_to_upgrade_is_ignored(server: Server) -> None:
    """Java's client makes it with its first request."""
    offer = KEY + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    peer = await server.peer(post(headers=offer) + GET)
    assert [(await peer.reply()).status for _ in range(2)] == [202, 404]
    stranger = await server.peer(post(headers=offer.replace(KEY, b"")))
    assert (await stranger.reply()).status == 401


async def test_a_client_that_waits_for_100_gets_it_after_its_key_is_checked(server: Server) -> None:
    peer = await server.peer(post(b"", headers=KEY + b"Expect: 100-continue\r\n", length=len(ASK)))
    assert (await asyncio.wait_for(peer._reader.readuntil(b"\r\n\r\n"), PATIENCE)).startswith(b"HTTP/1.1 100")
    await peer.send(ASK)
    assert (await peer.reply()).status == 202
    stranger = await server.peer(post(b"", headers=b"Expect: 100-continue\r\n", length=len(ASK)))
    assert (await stranger.reply()).status == 401


# -- how much, how long


async def test_headers_and_target_have_a_maximum_size(server: Server) -> None:
    start = b"GET / HTTP/1.1\r\n" + HOST
    for beginning in (start, start + KEY):
        for fields in (
            b"X-Many: y\r\n" * 5_500 + b"\r\n",
            b"X-Long: " + b"y" * 60_000 + b"\r\n\r\n",
            b"X-Half: " + b"y" * 60_000,
        ):
            peer = await server.peer(beginning + fields)
            assert (await peer.reply()).problem["status"] == 431
            assert await peer.rest() == b""
    peer = await server.peer(b"GET /" + b"x" * 60_000)
    assert (await peer.reply()).status == 431


async def test_a_large_body_behind_a_request_is_not_taken_for_headers(server: Server) -> None:
    peer = await server.peer(post(b'{"question": "' + b"x" * 100_000 + b'"}') + GET[:30])
    assert (await peer.reply()).status == 422
    await peer.send(GET[30:])
    assert (await peer.reply()).status == 404


async def test_a_body_has_a_maximum_size_and_an_ordinary_client_reads_the_error(server: Server) -> None:
    async def chunks(number: int) -> AsyncIterator[bytes]:
        for _ in range(number):
            yield b"x" * 65_536

    url = f"http://127.0.0.1:{server.port}/v1/onboarding/ask"
    async with httpx.AsyncClient(timeout=PATIENCE) as client:
        for content in (chunks(3), chunks(160), b"x" * 10_000_000):
            reply = await client.post(url, content=content, headers={"Authorization": "Bearer welcome-app"})
            assert (reply.status_code, reply.json()["code"]) == (413, "PayloadTooLarge")


async def test_a_body_in_tiny_chunks_has_a_maximum_size_as_well(server: Server) -> None:
    peer = await server.peer(CHUNKED + b"1;" + b"e" * 2_000_000)
    assert (await peer.reply()).status == 413


async def test_a_trailer_is_no_header(server: Server) -> None:
    peer = await server.peer(CHUNKED + b"14\r\n" + ASK + b"\r\n0\r\nAuthorization: Bearer hr-portal\r\n\r\n" + GET)
    assert [(await peer.reply()).status for _ in range(2)] == [202, 404]
    other = await server.peer(CHUNKED.replace(KEY, b"") + b"0\r\n" + KEY + b"\r\n")
    assert (await other.reply()).status == 401


@pytest.mark.parametrize("half", [b"GET / HT", b"GET / HTTP/1.1\r\n" + HOST + KEY])
async def test_headers_have_a_deadline(start: Start, half: bytes) -> None:
    async with start(header_seconds=0.1) as server:
        peer = await server.peer(half)
        assert (await peer.reply()).problem["status"] == 408
        assert await peer.rest() == b""


@pytest.mark.parametrize("silence", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed(start: Start, silence: bytes) -> None:
    async with start(header_seconds=0.1) as server:
        peer = await server.peer(silence)
        assert await peer.rest() == b""


async def test_a_body_has_a_deadline(start: Start) -> None:
    async with start(body_seconds=0.1) as server:
        peer = await server.peer(post(b"x", length=1000))
        assert (await peer.reply()).problem["status"] == 408
        assert await peer.rest() == b""


async def test_a_body_that_comes_steadily_gets_more_time(start: Start) -> None:
    async with start(body_seconds=0.05, body_rate=1) as server:
        peer = await server.peer(post(ASK[:10], length=len(ASK)))
        await asyncio.sleep(0.2)
        await peer.send(ASK[10:])
        assert (await peer.reply()).status == 202


@pytest.mark.parametrize("more", [b"", b"\r\n"])
async def test_an_idle_connection_ends(start: Start, more: bytes) -> None:
    async with start(idle_seconds=0.1) as server:
        peer = await server.peer(GET)
        assert (await peer.reply()).status == 404
        await peer.send(more)
        assert await peer.rest() == b""


async def test_a_connection_whose_body_was_not_needed_ends_when_idle(start: Start) -> None:
    async with start(idle_seconds=0.1) as server:
        peer = await server.peer(post(b"x", path=b"/nowhere", length=10))
        assert (await peer.reply()).status == 404
        await peer.send(b"x" * 9)
        assert await peer.rest() == b""


async def test_waiting_for_an_outcome_does_not_count_as_the_peers_time(start: Start) -> None:
    async with start(idle_seconds=0.05, header_seconds=1, body_seconds=0.05) as server:
        peer = await server.peer(post(path=b"/v1/onboarding/ask?wait=1.2") + GET[:20])
        assert (await peer.reply()).status == 202
        await peer.send(GET[20:])
        assert (await peer.reply()).status == 404


# -- how many


async def test_connections_without_a_key_replace_one_another_and_a_caller_gets_in(start: Start) -> None:
    async with start(unauthenticated=5) as server:
        strangers = [await server.peer(b"GET / HTTP/1.1\r\n") for _ in range(20)]
        assert (await server.ask()).status_code == 202
        assert [await stranger.rest() for stranger in strangers[:15]] == [b""] * 15
        assert len(server.connections) <= 5


async def test_a_callers_request_beyond_its_share_gets_429_and_another_caller_gets_in(start: Start) -> None:
    async with start(per_caller=2) as server:
        wait = post(path=b"/v1/onboarding/ask?wait=60")
        waiting = [await server.peer(wait) for _ in range(2)]
        while len(server.sent) < 4:
            await asyncio.sleep(0.01)
        third = await server.peer(GET)
        reply = await third.reply()
        assert (reply.problem["status"], reply.headers["retry-after"]) == (429, "1")
        other = await server.peer(GET.replace(b"welcome-app", b"hr-portal"))
        assert (await other.reply()).status == 404
        for peer in waiting:
            peer.close()
        fourth = await server.peer(GET)  # the waiting requests work on without their connections
        assert (await fourth.reply()).problem["status"] == 429


async def test_a_callers_idle_connection_makes_room_for_its_next(start: Start) -> None:
    async with start(per_caller=2) as server:
        peers = [await server.peer() for _ in range(3)]
        for peer in peers:
            await peer.send(GET)
            assert (await peer.reply()).status == 404
        assert await peers[0].rest() == b""
        await peers[1].send(GET)
        assert (await peers[1].reply()).status == 404


async def test_idle_connections_make_room_when_there_is_none(start: Start) -> None:
    async with start(total=3) as server:
        for _ in range(6):
            peer = await server.peer(GET)
            assert (await peer.reply()).status == 404
        assert len(server.connections) == 3


async def test_requests_of_one_connection_do_not_pile_up(server: Server) -> None:
    peer = await server.peer(post(path=b"/v1/onboarding/ask?wait=0.5") + GET * 1000)
    statuses: list[int] = []
    while not statuses or statuses[-1] != 429:
        statuses.append((await peer.reply()).status)
    assert len(statuses) == 9
    assert await peer.rest() == b""


async def test_wrong_keys_wait_and_a_valid_key_from_the_same_peer_does_not(start: Start) -> None:
    async with start(Slowdown(free=1, interval=3600, longest=3600)) as server:
        first = await server.peer(post(headers=b"Authorization: Bearer wrong\r\n"))
        assert (await first.reply()).status == 401
        held = [await server.peer(post(headers=b"Authorization: Bearer wrong\r\n")) for _ in range(3)]
        held += [await server.peer(post(headers=b"")), await server.peer(AMBIGUOUS["TLS"])]
        assert (await server.ask()).status_code == 202
        waiting = asyncio.gather(*(peer.reply() for peer in held))
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        waiting.cancel()


async def test_delayed_refusals_are_bounded(start: Start) -> None:
    async with start(Slowdown(free=0, interval=3600, longest=3600), unauthenticated=4) as server:
        assert (await (await server.peer(post(headers=b""))).reply()).status == 401
        held = [await server.peer(post(headers=b"")) for _ in range(12)]
        assert [await peer.rest() for peer in held[:8]] == [b""] * 8
        assert len(server.connections) == 4
        assert (await server.ask()).status_code == 202


async def test_data_of_a_refused_peer_is_not_kept(start: Start) -> None:
    async with start(Slowdown(free=0, interval=3600, longest=3600)) as server:
        assert (await server.ask()).status_code == 202  # imports what it needs
        assert (await (await server.peer(post(headers=b""))).reply()).status == 401
        tracemalloc.start()
        try:
            for _ in range(40):
                await server.peer(post(b"x" * 50_000, headers=b"", length=100_000))
            assert (await server.ask()).status_code == 202  # all others were accepted before it
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 40 * 25_000


async def test_a_peer_that_does_not_read_its_response_is_dropped(server: Server) -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
            if not len(connections):
                return

    connections = Connections(Limits(write_seconds=0.1))
    listening = listen("127.0.0.1", 0)
    other = make_server(endless, server.endpoint.authentication, connections, Slowdown())
    serving = asyncio.create_task(other.serve(sockets=[listening]))
    _, writer = await asyncio.open_connection(*listening.getsockname())  # its reader takes 128 KiB, unasked
    writer.write(GET)
    async with asyncio.timeout(PATIENCE):
        while not len(connections):
            await asyncio.sleep(0.01)
        while len(connections):
            await asyncio.sleep(0.01)
    writer.close()
    serving.cancel()
    for listener in other.servers:
        listener.close()


# -- what is sent


async def test_another_content_type_is_named_in_the_problem(server: Server) -> None:
    for content_type in (b"text/plain", b"application/x-www-form-urlencoded", b"application/jsonx", b""):
        peer = await server.peer(post(headers=KEY + b"Content-Type: " + content_type + b"\r\n"))
        problem = (await peer.reply()).problem
        assert problem["status"] == 415
        assert "application/json" in problem["detail"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_json_is_read_without_a_content_type_and_with_a_byte_order_mark(server: Server, mark: bytes) -> None:
    for content_type in (b"", b"Content-Type: Application/JSON; charset=utf-8\r\n"):
        peer = await server.peer(post(mark + ASK, headers=KEY + content_type))
        assert (await peer.reply()).status == 202


async def test_http_refuses_every_body_that_the_queue_refuses(server: Server) -> None:
    for poison in (*NO_JSON, *NO_TEXT, *TOO_DEEP):
        assert isinstance(poison.body, bytes)
        if len(poison.body) > Limits.body:
            continue
        peer = await server.peer(post(poison.body))
        reply = await peer.reply()
        assert (reply.status == 422) == (poison.reason is not None), poison.name
        if poison.reason is not None:
            assert reply.problem["code"] == "SchemaInvalid"
