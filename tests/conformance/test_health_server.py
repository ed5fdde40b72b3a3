"""The probes' server over real sockets: it answers, whatever other peers do to it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.worker.health import MAX_PROBES, Health

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    health = Health(lambda: True, patience=3600)
    yield await health.start("127.0.0.1", 0)
    await health.stop()


async def send(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(), 300)
    except ConnectionError:
        return b""


async def test_a_probe_is_answered_while_others_hold_their_connections(port: int) -> None:
    held = [await send(port, b"GET /healthz HTTP/1.1\r\n") for _ in range(3 * MAX_PROBES)]
    reader, writer = await send(port, GET)
    assert (await rest(reader)).endswith(b"alive\n")
    assert [await rest(reader) for reader, _ in held[: 2 * MAX_PROBES]] == [b""] * 2 * MAX_PROBES
    for _, each in [*held, (reader, writer)]:
        each.close()


@pytest.mark.parametrize("request_", [b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, b"x" * 100_000, b"\r\n\r\n"])
async def test_a_request_that_is_none_is_dropped(port: int, request_: bytes) -> None:
    reader, writer = await send(port, request_)
    assert await rest(reader) == b""
    writer.close()
