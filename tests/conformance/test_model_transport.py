"""HTTP to models over a real socket: every fault has the SDK's name for it, and connections are kept and closed."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import httpx2
import openai
import pytest

from shared.errors import DependencyDown
from shared.llm.aiohttp_transport import AiohttpTransport
from shared.llm.client import make_client
from shared.llm.deployments import Deployment
from shared.llm.faults import translate
from shared.llm.post import CHAT, posted

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=0.2)


def a_deployment(url: str) -> Deployment:
    return Deployment.model_validate(
        {"name": "d", "provider": "compatible", "endpoint": url, "model": "m", "region": "r", "context_window": 4000}
    )


@asynccontextmanager
async def served(serve: Handler) -> AsyncIterator[str]:
    """The address of a server that treats each connection by `serve`."""

    serving: set[asyncio.Task[None]] = set()

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    listening = await asyncio.start_server(guarded, "127.0.0.1", 0)
    async with asyncio.timeout(300):
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        listening.close()
        await asyncio.gather(*serving)  # each ends with its client


async def request(reader: asyncio.StreamReader) -> str:
    """The head of one request, after reading all of it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(line for line in head.lower().splitlines() if line.startswith("content-length:"))
    await reader.readexactly(int(length.partition(":")[2]))
    return head


async def ask(url: str, *, patience: timedelta = LONG, times: int = 1) -> bytes:
    """The body of the last of several answers, one after the other."""
    async with make_client(a_deployment(url), timeout=patience, environment={}) as client:
        for _ in range(times):
            async with posted(client, CHAT, BODY) as response:
                said = b"".join([block async for block in response.aiter_bytes()])
        return said


def answer(body: bytes = b"{}", *headers: str) -> bytes:
    head = "\r\n".join(["HTTP/1.1 200 OK", f"content-length: {len(body)}", *headers])
    return f"{head}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "reply",
    [b"", b"not HTTP at all\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"],
    ids=["nothing", "another protocol", "no status", "no length"],
)
async def test_a_server_that_breaks_off_or_speaks_no_http_is_down(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(reply)
        await writer.drain()

    async with served(serve) as url:
        with pytest.raises(openai.APIConnectionError) as failure:
            await ask(url)
        # What the log says is what happened, and not that there was no time.
        assert type(failure.value) is openai.APIConnectionError
        assert isinstance(failure.value.__cause__, httpx2.RemoteProtocolError)
        assert isinstance(translate(failure.value, a_deployment(url)), DependencyDown)


@pytest.mark.parametrize("reply", [answer(b"{}")[:-1], b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"])
async def test_half_a_body_is_an_error(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(reply)
        await writer.drain()

    async with served(serve) as url:
        with pytest.raises(httpx2.RemoteProtocolError) as failure:
            await ask(url)
        assert isinstance(translate(failure.value, a_deployment(url)), DependencyDown)


@pytest.mark.parametrize("status", ["200 OK", "500 Oops"])
@pytest.mark.parametrize("rest", [b"zz\r\n", b"{}0\r\n\r\n"], ids=["no size", "no line end"])
async def test_a_body_that_turns_out_to_be_no_http_is_an_error_at_once(rest: bytes, status: str) -> None:
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(f"HTTP/1.1 {status}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n".encode())
        await begun.wait()
        writer.write(rest)
        await reader.read()

    class Begun(AiohttpTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await super().handle_async_request(request)
            begun.set()
            return response

    async with (
        served(serve) as url,
        make_client(a_deployment(url), timeout=LONG * 100, transport=Begun(), environment={}) as client,
    ):
        with pytest.raises(httpx2.RemoteProtocolError) as failure:
            async with posted(client, CHAT, BODY) as response:
                await response.aread()
        assert isinstance(translate(failure.value, a_deployment(url)), DependencyDown)


@pytest.mark.parametrize("begun", [b"", answer(b"{}")[:-1]], ids=["no answer", "half an answer"])
async def test_a_silent_server_is_a_time_out(begun: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(begun)
        await reader.read()

    async with served(serve) as url:
        with pytest.raises((openai.APITimeoutError, httpx2.ReadTimeout)):
            await ask(url, patience=SHORT)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_a_server_that_reads_nothing_is_a_time_out() -> None:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await over.wait()  # asyncio itself reads a little ahead

    async with served(serve) as url, make_client(a_deployment(url), timeout=SHORT, environment={}) as client:
        with pytest.raises(openai.APITimeoutError) as failure:
            async with posted(client, CHAT, {**BODY, "user": "x" * 12_000_000}):
                pytest.fail("there is no answer")
        assert isinstance(failure.value.__cause__, httpx2.WriteTimeout)  # it was not sent, so nothing is paid
        over.set()


async def test_a_proxy_that_does_not_connect_is_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with served(serve) as url:
        monkeypatch.setenv("https_proxy", url.removesuffix("/v1"))
        with pytest.raises(openai.APITimeoutError) as failure:
            await ask("https://model.example/v1", patience=SHORT)
        assert isinstance(failure.value.__cause__, httpx2.ConnectTimeout)


@pytest.mark.parametrize("place", ["http://x:99999/", "ftp://x/", "http:///", "http://[::1/"])
async def test_a_redirection_to_nowhere_is_down(place: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(f"HTTP/1.1 307 There\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode())
        await reader.read()

    async with served(serve) as url:
        with pytest.raises(openai.APIConnectionError) as failure:
            await ask(url)
        assert isinstance(translate(failure.value, a_deployment(url)), DependencyDown)


async def test_of_a_redirection_only_the_beginning_is_read() -> None:
    hung_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 302 There\r\nlocation: ftp://x/\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                await writer.drain()
        except ConnectionError:
            hung_up.set()

    async with served(serve) as url:
        with pytest.raises(openai.APIConnectionError):
            await ask(url)
        await hung_up.wait()


async def test_a_user_in_the_address_is_sent_as_a_header() -> None:
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await request(reader))
        writer.write(answer())
        await writer.drain()

    async with served(serve) as url:
        assert await ask(url.replace("://", "://user:secret@")) == b"{}"
    [head] = heads
    assert head.lower().count("authorization:") == 1
    assert "Basic dXNlcjpzZWNyZXQ=" in head
    assert "secret" not in head


async def test_a_server_that_is_not_there_cannot_be_connected_to() -> None:
    async def serve(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        pytest.fail("it is closed")

    async with served(serve) as url:
        pass
    with pytest.raises(openai.APIConnectionError) as failure:
        await ask(url)
    assert isinstance(failure.value.__cause__, httpx2.ConnectError)


async def test_a_connection_is_used_again() -> None:
    heads: list[list[str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append([])
        while True:
            heads[-1].append(await request(reader))
            writer.write(answer(b"{}", f"x-long: {'x' * 20_000}"))
            await writer.drain()

    async with served(serve) as url:
        assert await ask(url, times=3) == b"{}"
    assert [len(each) for each in heads] == [3]


async def test_a_packed_body_is_unpacked() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(answer(gzip.compress(b'{"said": 1}'), "content-encoding: gzip"))
        await writer.drain()

    async with served(serve) as url:
        assert await ask(url) == b'{"said": 1}'


@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize(("spared", "through"), [("", True), ("other.example", True), ("model.example", False)])
async def test_the_proxies_of_the_environment_apply(
    spared: str, through: bool, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append((await request(reader)).splitlines()[0])
        writer.write(answer())
        await writer.drain()

    async with served(serve) as url:
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1").replace("http://", scheme))
        monkeypatch.setenv("no_proxy", spared)
        # Without the proxy the name has no address.
        with suppress(openai.APIConnectionError):
            await ask("http://model.example:81/v1")
    assert met == (["POST http://model.example:81/v1/chat/completions HTTP/1.1"] if through else [])
