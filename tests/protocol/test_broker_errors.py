"""Errors and credentials: who is refused, in which words, and who is not disturbed by it."""

import asyncio
import base64
import hmac
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusError

from local.broker.testing import LocalBus, connection_string
from tests.protocol.broker_desk import Desk, desk_at, refusal, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders() -> AsyncIterator[Desk]:
    async with LocalBus(topology(orders={}, other={})) as bus, desk_at(bus, "orders") as desk:
        yield desk


async def test_an_unknown_queue_is_refused(orders: Desk) -> None:
    for handler in (orders.client.get_queue_sender("nowhere"), orders.client.get_queue_receiver("nowhere")):
        error = await refusal(handler)
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "404" in str(error.inner_exception)
        assert "'nowhere' could not be found" in str(error.inner_exception)


async def test_a_wrong_key_is_refused(orders: Desk) -> None:
    wrong = connection_string("127.0.0.1", orders.bus.port, key="guess")
    async with ServiceBusClient.from_connection_string(wrong, retry_total=0) as client:
        error = await refusal(client.get_queue_sender("orders"))
    assert isinstance(error, ServiceBusAuthenticationError)
    assert "401" in str(error.inner_exception)


@pytest.mark.parametrize(("expiry", "reason"), [(1_000_000_000, "expired"), (4_000_000_000, None)])
async def test_a_token_made_elsewhere_counts_until_it_expires(orders: Desk, expiry: int, reason: str | None) -> None:
    resource = quote(f"sb://127.0.0.1:{orders.bus.port}/orders", safe="")
    digest = hmac.digest(b"local", f"{resource}\n{expiry}".encode(), "sha256")
    signature = quote(base64.b64encode(digest), safe="")
    token = f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn=RootManageSharedAccessKey"
    string = f"Endpoint=sb://127.0.0.1:{orders.bus.port};SharedAccessSignature={token};UseDevelopmentEmulator=true"
    async with ServiceBusClient.from_connection_string(string, retry_total=0) as client:
        sender = client.get_queue_sender("orders")
        if reason is None:
            async with sender:
                return
        assert reason in str((await refusal(sender)).inner_exception)


async def test_the_placeholder_key_of_microsofts_emulator_opens_too(orders: Desk) -> None:
    string = connection_string("127.0.0.1", orders.bus.port, key="SAS_KEY_VALUE")
    async with ServiceBusClient.from_connection_string(string) as client, client.get_queue_sender("orders"):
        pass


async def test_queue_names_are_compared_without_case(orders: Desk) -> None:
    async with orders.client.get_queue_sender("OrDeRs") as sender:
        await sender.send_messages(ServiceBusMessage("x"))
    await orders.receiver.complete_message(await orders.next())


async def test_a_dead_letter_queue_cannot_be_sent_to(orders: Desk) -> None:
    async with orders.client.get_queue_sender("orders/$DeadLetterQueue") as sender:
        with pytest.raises(ServiceBusError, match="cannot be sent to"):
            await sender.send_messages(ServiceBusMessage("x"))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"AMQP\x00\x01\x00\x00" + b"\xff" * 64,
        b"AMQP\x00\x01\x00\x00" + b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x99\x45",
        b"AMQP\x00\x09\x00\x00",
        b"AMQP\x00\x01\x00\x00\x00\x00\x00\x04",
        b"\x00" * 1000,
    ],
)
async def test_garbage_ends_its_own_connection_and_no_other(orders: Desk, garbage: bytes) -> None:
    before = orders.bus.connections.current
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.bus.port)
    writer.write(garbage)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    await orders.send("unharmed")
    await orders.receiver.complete_message(await orders.next())
    assert orders.bus.connections.current == before


async def test_half_a_frame_waits_for_the_rest(orders: Desk) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.bus.port)
    for byte in b"AMQP\x00\x01\x00\x00":
        writer.write(bytes([byte]))
        await writer.drain()
    assert await asyncio.wait_for(reader.readexactly(8), 5) == b"AMQP\x00\x01\x00\x00"
    writer.close()
    await writer.wait_closed()
