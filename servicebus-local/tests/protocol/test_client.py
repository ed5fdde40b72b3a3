"""The client itself: connection strings and credentials, what it opens and closes, how it tries again."""

import asyncio
import base64
import hmac
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from time import time
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode, ServiceBusSubQueue, parse_connection_string
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusConnectionError,
    ServiceBusError,
    ServiceBusQuotaExceededError,
    ServiceBusServerBusyError,
)

from servicebus_local.testing import LocalBus
from tests.protocol.queue_client import SOON, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOPOLOGY = topology(orders={}, other={})
PLAIN: dict[str, Any] = {"use_tls": False, "retry_total": 0, "socket_timeout": 0.02}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[LocalBus]:
    async with LocalBus(TOPOLOGY) as bus:
        yield bus


def signature(bus: LocalBus, entity: str = "", key: bytes = b"local") -> str:
    """Sign for the namespace, or one entity in it."""
    resource = quote(f"sb://127.0.0.1:{bus.port}/{entity}", safe="")
    expiry = int(time()) + 600
    digest = base64.b64encode(hmac.digest(key, f"{resource}\n{expiry}".encode(), "sha256"))
    return f"SharedAccessSignature sr={resource}&sig={quote(digest, safe='')}&se={expiry}&skn=RootManageSharedAccessKey"


async def works(client: ServiceBusClient, queue: str = "orders") -> None:
    """Send a message and take it out."""
    sender = client.get_queue_sender(queue)
    receiver = client.get_queue_receiver(queue, receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    await asyncio.gather(sender.__aenter__(), receiver.__aenter__())
    await sender.send_messages(ServiceBusMessage(queue))
    [got] = await receiver.receive_messages(1, max_wait_time=SOON)
    assert str(got) == queue
    await asyncio.gather(sender.close(), receiver.close())


# --------------------------------------------------------------------------- ways in


async def test_every_way_in_works(bus: LocalBus) -> None:
    host, string = f"127.0.0.1:{bus.port}", bus.connection_string
    clients = {
        "string": ServiceBusClient.from_connection_string(string, **PLAIN),
        "semicolon": ServiceBusClient.from_connection_string(string + ";", **PLAIN),
        "entity": ServiceBusClient.from_connection_string(string + ";EntityPath=entity", **PLAIN),
        "signature": ServiceBusClient.from_connection_string(
            f"Endpoint=sb://{host}/;SharedAccessSignature={signature(bus)};UseDevelopmentEmulator=true", **PLAIN
        ),
        "key": ServiceBusClient(host, AzureNamedKeyCredential("RootManageSharedAccessKey", "local"), **PLAIN),
        "sas": ServiceBusClient(host, AzureSasCredential(signature(bus, "sas")), **PLAIN),
        "scheme": ServiceBusClient(
            f"sb://{host}/", AzureNamedKeyCredential("RootManageSharedAccessKey", "local"), **PLAIN
        ),
    }
    for way, client in clients.items():
        bus.create_queue(way)
        assert client.fully_qualified_namespace.rstrip("/").endswith(host)
    await asyncio.gather(*(works(client, way) for way, client in clients.items()))
    await asyncio.gather(*(client.close() for client in clients.values()))


async def test_an_entity_in_the_connection_string_is_the_only_one_there_is(bus: LocalBus) -> None:
    async with ServiceBusClient.from_connection_string(bus.connection_string + ";EntityPath=orders") as client:
        for get in (client.get_queue_sender, client.get_queue_receiver, client.get_topic_sender):
            with pytest.raises(ValueError, match="does not match the EntityPath"):
                get("other")
        with pytest.raises(ValueError, match="does not match the EntityPath"):
            client.get_subscription_receiver("other", "all")
        assert isinstance(client.get_queue_sender("orders"), ServiceBusSender)


async def test_a_connection_string_says_what_it_is_made_of() -> None:
    parts = parse_connection_string("Endpoint=sb://h:5672;SharedAccessKeyName=n;SharedAccessKey=k=;EntityPath=orders")
    assert (parts.entity_path, parts.shared_access_key_name, parts.shared_access_key) == ("orders", "n", "k=")


async def test_wrong_credentials_are_not_let_in(bus: LocalBus) -> None:
    host = f"127.0.0.1:{bus.port}"
    wrong: list[Any] = [
        AzureNamedKeyCredential("RootManageSharedAccessKey", "guess"),
        AzureNamedKeyCredential("nobody", "local"),
        AzureSasCredential(signature(bus, key=b"guess")),
        AzureSasCredential(signature(bus, "other")),
    ]
    handlers = [ServiceBusClient(host, credential, **PLAIN).get_queue_sender("orders") for credential in wrong]
    outcomes = await asyncio.gather(
        *(sender.send_messages(ServiceBusMessage("x")) for sender in handlers), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [ServiceBusAuthenticationError] * 4
    await asyncio.gather(*(sender.close() for sender in handlers))
    assert bus.counts("orders").active == 0


async def test_without_a_listener_the_connection_fails(bus: LocalBus) -> None:
    nobody = bus.connection_string.replace(f":{bus.port}", ":1")
    async with ServiceBusClient.from_connection_string(nobody, **PLAIN) as client:
        with pytest.raises(ServiceBusError) as caught:
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))
    assert isinstance(caught.value, ServiceBusConnectionError)


# --------------------------------------------------------------------------- what it opens and closes


async def test_a_client_closes_what_it_opened_and_can_go_on(bus: LocalBus) -> None:
    client = ServiceBusClient.from_connection_string(bus.connection_string, **PLAIN)
    async with client:
        sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
        await asyncio.gather(sender.__aenter__(), receiver.__aenter__())
        assert bus.connections.current == 2
    for call in (sender.send_messages(ServiceBusMessage("x")), receiver.receive_messages()):
        with pytest.raises(ValueError, match="already been shutdown"):
            await call
    await bus.wait_until(lambda: bus.connections.current == 0)
    again = client.get_queue_sender("orders")
    await again.send_messages(ServiceBusMessage("a closed client opens again"))
    await client.close()
    await client.close()
    assert bus.purge("orders") == 1


async def test_a_client_opens_nothing_before_it_is_used(bus: LocalBus) -> None:
    async with ServiceBusClient.from_connection_string(bus.connection_string, **PLAIN) as client:
        handlers: list[ServiceBusSender | ServiceBusReceiver] = [
            client.get_queue_sender("nowhere"),
            client.get_queue_receiver("nowhere", sub_queue=ServiceBusSubQueue.DEAD_LETTER),
            client.get_subscription_receiver("nowhere", "nobody"),
        ]
        assert bus.connections.current == 0
        assert {handler.fully_qualified_namespace for handler in handlers} == {f"127.0.0.1:{bus.port}"}


async def test_frames_are_logged_on_request_and_names_reach_the_broker(
    bus: LocalBus, caplog: pytest.LogCaptureFixture
) -> None:
    options = PLAIN | {"logging_enable": True, "user_agent": "tests"}
    with caplog.at_level(logging.DEBUG, logger="azure.servicebus"):
        async with ServiceBusClient.from_connection_string(bus.connection_string, **options) as client:
            sender = client.get_queue_sender("other", client_identifier="till")
            receiver = client.get_queue_receiver("other", client_identifier="clerk")
            await asyncio.gather(sender.__aenter__(), receiver.__aenter__())
            assert sorted(bus.connections.containers) == ["clerk", "till"]
            await sender.send_messages(ServiceBusMessage("traced"))
            [message] = await receiver.receive_messages(1, max_wait_time=SOON)
            await receiver.complete_message(message)
            await asyncio.gather(sender.close(), receiver.close())
    frames = " ".join(record.getMessage() for record in caplog.records)
    for name in ("Open", "Begin", "Attach", "Flow", "Transfer", "Disposition", "Detach", "End", "Close"):
        assert f"{name}Frame" in frames


# --------------------------------------------------------------------------- trying again


async def test_the_sdk_retries_retryable_errors(bus: LocalBus) -> None:
    options: dict[str, Any] = PLAIN | {"retry_total": 2, "retry_backoff_factor": 0.01}
    due = datetime.now(UTC)

    async def persist(mode: str) -> None:
        async with ServiceBusClient.from_connection_string(bus.connection_string, retry_mode=mode, **options) as client:
            bus.create_queue(mode)
            sender = client.get_queue_sender(mode)
            bus.faults.refuse("request", "com.microsoft:timeout", "not yet", entity=mode, times=2)
            assert len(await sender.schedule_messages(ServiceBusMessage("at last"), due)) == 1
            bus.faults.refuse("request", "com.microsoft:timeout", "not yet", entity=mode, times=3)
            with pytest.raises(OperationTimeoutError, match="not yet"):
                await sender.schedule_messages(ServiceBusMessage("never"), due)
            await sender.close()
            assert bus.counts(mode).active == 1

    await asyncio.gather(persist("fixed"), persist("exponential"))
    bus.faults.clear()


REFUSALS: dict[str, type[ServiceBusError]] = {
    "com.microsoft:server-busy": ServiceBusServerBusyError,
    "amqp:resource-limit-exceeded": ServiceBusQuotaExceededError,
    "com.microsoft:entity-disabled": MessagingEntityDisabledError,
    "amqp:not-found": MessagingEntityNotFoundError,
    "amqp:unauthorized-access": ServiceBusAuthorizationError,
    "com.microsoft:auth-failed": ServiceBusAuthorizationError,
    "amqp:link:message-size-exceeded": MessageSizeExceededError,
    "com.microsoft:timeout": OperationTimeoutError,
    "com.microsoft:argument-error": ServiceBusError,
    "amqp:not-allowed": ServiceBusError,
}


async def test_refusals_become_the_error_that_is_documented(bus: LocalBus) -> None:
    """Each at a queue of its own, all at once: after most of them the SDK opens its sender anew."""
    async with ServiceBusClient.from_connection_string(bus.connection_string, **PLAIN) as client:

        async def refused(number: int, condition: str, error: type[ServiceBusError]) -> None:
            queue = f"q{number}"
            bus.create_queue(queue)
            sender = client.get_queue_sender(queue)
            bus.faults.refuse("request", condition, "the reason", entity=queue, times=None)
            with pytest.raises(error, match="the reason") as caught:
                await sender.schedule_messages(ServiceBusMessage("x"), datetime.now(UTC))
            assert condition in str(caught.value)
            assert type(caught.value) is error
            await sender.close()
            assert bus.counts(queue).active == 0

        tried = [refused(number, *refusal) for number, refusal in enumerate(REFUSALS.items())]
        await asyncio.gather(*tried)
    bus.faults.clear()
