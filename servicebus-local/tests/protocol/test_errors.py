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

from servicebus_local.testing import LocalBus, connection_string
from tests.protocol.queue_client import QueueClient, queue_client_at, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders() -> AsyncIterator[QueueClient]:
    async with LocalBus(topology(orders={}, other={})) as bus, queue_client_at(bus, "orders") as queue_client:
        yield queue_client


def token(port: int, key: bytes, expiry: int) -> str:
    """Write a connection string with a signature made by hand."""
    resource = quote(f"sb://127.0.0.1:{port}/orders", safe="")
    digest = hmac.digest(key, f"{resource}\n{expiry}".encode(), "sha256")
    signature = quote(base64.b64encode(digest), safe="")
    return (
        f"Endpoint=sb://127.0.0.1:{port};SharedAccessSignature=SharedAccessSignature sr={resource}"
        f"&sig={signature}&se={expiry}&skn=RootManageSharedAccessKey;UseDevelopmentEmulator=true"
    )


async def test_an_unknown_queue_is_refused(orders: QueueClient) -> None:
    errors = await asyncio.gather(
        orders.refusal(orders.client.get_queue_sender("nowhere")),
        orders.refusal(orders.client.get_queue_receiver("nowhere")),
    )
    for error in errors:
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "404" in str(error.inner_exception)
        assert "'nowhere' could not be found" in str(error.inner_exception)


async def test_a_credential_that_is_not_ours_is_refused(orders: QueueClient) -> None:
    port = orders.bus.port
    wrong = {
        "invalid signature": connection_string("127.0.0.1", port, key="guess"),
        "expired": token(port, b"local", 1_000_000_000),
        "has an invalid": token(port, b"guess", 4_000_000_000),
    }
    clients = {reason: ServiceBusClient.from_connection_string(text, retry_total=0) for reason, text in wrong.items()}
    errors = await asyncio.gather(*(orders.refusal(client.get_queue_sender("orders")) for client in clients.values()))
    for reason, error in zip(clients, errors, strict=True):
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "401" in str(error.inner_exception)
        assert reason in str(error.inner_exception)


async def test_a_credential_may_be_a_key_or_a_signature(orders: QueueClient) -> None:
    """The second key is the placeholder in the connection strings of Microsoft's emulator."""
    port = orders.bus.port
    right = [
        connection_string("127.0.0.1", port, key="local"),
        connection_string("127.0.0.1", port, key="SAS_KEY_VALUE"),
        token(port, b"local", 4_000_000_000),
    ]
    clients = map(ServiceBusClient.from_connection_string, right)
    await asyncio.gather(*(orders.open(client.get_queue_sender("orders")) for client in clients))


async def test_queue_names_are_compared_without_case(orders: QueueClient) -> None:
    sender = await orders.open(orders.client.get_queue_sender("OrDeRs"))
    await sender.send_messages(ServiceBusMessage("x"))
    await orders.receiver.complete_message(await orders.next())


async def test_a_dead_letter_queue_cannot_be_sent_to(orders: QueueClient) -> None:
    sender = await orders.open(orders.client.get_queue_sender("orders/$DeadLetterQueue"))
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
async def test_garbage_ends_its_own_connection_and_no_other(orders: QueueClient, garbage: bytes) -> None:
    before = orders.bus.connections.current
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.bus.port)
    writer.write(garbage)
    await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    await orders.send("unharmed")
    await orders.receiver.complete_message(await orders.next())
    assert orders.bus.connections.current == before


async def test_half_a_frame_waits_for_the_rest(orders: QueueClient) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", orders.bus.port)
    for byte in b"AMQP\x00\x01\x00\x00":
        writer.write(bytes([byte]))
        await writer.drain()
    assert await asyncio.wait_for(reader.readexactly(8), 5) == b"AMQP\x00\x01\x00\x00"
    writer.close()
    await writer.wait_closed()
