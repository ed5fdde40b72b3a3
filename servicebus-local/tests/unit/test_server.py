"""The server: what it owes to peers that are slow, silent, or ask for heartbeats."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import pytest
import pytest_asyncio

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Error, Terminus, read_error
from servicebus_local.amqp.frames import Frame, FrameReader
from servicebus_local.amqp.performatives import Attach, Begin, Close, Flow, Open
from servicebus_local.amqp.types import Ubyte, Uint
from servicebus_local.bus.message import Message
from servicebus_local.bus.topology import QueueOptions, Topology
from servicebus_local.server import Broker

T = TypeVar("T")


@pytest_asyncio.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker(Topology({"q": QueueOptions()}))
    yield broker
    await broker.stop()


async def eventually(condition: Callable[[], T]) -> T:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(60):
        while not (found := condition()):
            await asyncio.sleep(0.001)
    return found


async def connect(broker: Broker, opening: Open) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = await broker.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    begin = Begin(next_outgoing_id=Uint(0), incoming_window=Uint(100_000), outgoing_window=Uint(1))
    writer.write(frames.AMQP_HEADER + frames.frame(0, opening) + frames.frame(0, begin))
    return reader, writer


async def test_a_client_that_does_not_speak_amqp_is_closed_at_once_and_logged(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    port = await broker.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    async with asyncio.timeout(60):
        assert await reader.read() == frames.SASL_HEADER  # what would be welcome (2.2)
    assert "not TLS; clients are told by UseDevelopmentEmulator=true" in caplog.text
    writer.close()
    await writer.wait_closed()


async def test_a_broker_that_stops_says_so(broker: Broker) -> None:
    reader, writer = await connect(broker, Open(container_id="c"))
    cut = FrameReader(65536)
    await eventually(lambda: broker.connections.containers == ["c"])
    await broker.stop()
    async with asyncio.timeout(60):
        units = list(cut.feed(await reader.read()))
    last, _ = frames.parse(units[-1].body)  # type: ignore[union-attr]
    assert isinstance(last, Close)
    assert read_error(last.error) == Error("amqp:connection:forced", "The broker stops.")
    writer.close()
    await writer.wait_closed()


async def test_a_peer_with_an_idle_time_out_gets_heartbeats(broker: Broker) -> None:
    reader, writer = await connect(broker, Open(container_id="c", idle_time_out=Uint(20)))
    cut = FrameReader(65536)
    heartbeats = 0
    async with asyncio.timeout(60):
        while heartbeats < 3:
            heartbeats += sum(unit == Frame(0, b"") for unit in cut.feed(await reader.read(1024)))
    writer.close()
    await writer.wait_closed()


async def test_a_peer_that_does_not_read_gets_no_more_messages_and_then_all_of_them(broker: Broker) -> None:
    reader, writer = await connect(broker, Open(container_id="c"))
    [protocol] = await eventually(lambda: list(broker.connections._open))
    protocol.container.login("RootManageSharedAccessKey", "local")
    queue = broker.namespace.find("q")
    queue.send([Message(b"\x00\x53\x75\xb0\x00\x01\x00\x00" + b"x" * 65536) for _ in range(200)])
    source, target = Terminus("q").as_source(), Terminus("me").as_target()
    attach = Attach("r", Uint(0), True, Ubyte(1), None, source, target)
    writer.write(frames.frame(0, attach))
    credit = Flow(Uint(0), Uint(100_000), Uint(0), Uint(1), Uint(0), Uint(0), Uint(1000))
    writer.write(frames.frame(0, credit))
    await eventually(lambda: not protocol.connection.writable)
    assert 0 < queue.counts().active < 200
    async with asyncio.timeout(60):
        while queue.counts().active:
            await reader.read(1 << 20)
    writer.close()
    await writer.wait_closed()
