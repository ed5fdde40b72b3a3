"""What is administrated takes effect on those who are connected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from time import time
from typing import Any

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusError,
)
from azure.servicebus.management import AuthorizationRule, CorrelationRuleFilter, SqlRuleFilter

from servicebus_local.testing import LocalBus, ManualClock, connection_string
from tests.protocol.admin import Admin, client_at
from tests.protocol.queue_client import SOON, client_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[LocalBus]:
    async with LocalBus(clock=ManualClock(time() + 3600)) as bus:  # ahead of the SDK's clock
        yield bus


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(bus: LocalBus) -> AsyncIterator[Admin]:
    async with client_at(bus.admin_connection_string) as client:
        yield Admin(client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(bus: LocalBus) -> AsyncIterator[ServiceBusClient]:
    # Whoever is turned out learns why when it tries to come back.
    async with client_of(bus, retry_total=2, retry_backoff_factor=0.01) as client:
        yield client


@asynccontextmanager
async def opened(*handlers: ServiceBusSender | ServiceBusReceiver) -> AsyncIterator[None]:
    """Open all at once and close all at once: either takes the SDK half a second."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(lambda: asyncio.gather(*(handler.close() for handler in handlers)))
        await asyncio.gather(*(handler.__aenter__() for handler in handlers))
        yield


async def bodies(receiver: ServiceBusReceiver, count: int) -> list[str]:
    """Receive and complete so many messages, which must come soon."""
    found = []
    for _ in range(count):
        [message] = await receiver.receive_messages(1, max_wait_time=SOON)
        await receiver.complete_message(message)
        found.append(str(message))
    return found


async def test_a_queue_in_use_can_be_updated_and_deleted(bus: LocalBus, admin: Admin, client: ServiceBusClient) -> None:
    queue = await admin("create_queue", "orders")
    await admin("create_queue", "archive")
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    async with opened(sender, receiver):
        await sender.send_messages(ServiceBusMessage("1"))
        assert await bodies(receiver, 1) == ["1"]

        await admin("update_queue", queue, lock_duration=timedelta(minutes=5))
        await sender.send_messages(ServiceBusMessage("2"))
        [message] = await receiver.receive_messages(1, max_wait_time=SOON)
        await bus.advance(299)
        await receiver.complete_message(message)

        await admin("update_queue", queue, status="SendDisabled")
        with pytest.raises(MessagingEntityDisabledError):
            await sender.send_messages(ServiceBusMessage("3"))
        await admin("update_queue", queue, status="Active")
        await sender.send_messages(ServiceBusMessage("4"))
        assert await bodies(receiver, 1) == ["4"]

        await admin("update_queue", queue, forward_to="archive")
        await sender.send_messages(ServiceBusMessage("5"))
        assert (bus.counts("orders").active, bus.counts("archive").active) == (0, 1)

        await admin("delete_queue", "archive")
        await sender.send_messages(ServiceBusMessage("6"))
        counted = await admin("get_queue_runtime_properties", "orders")
        assert (counted.active_message_count, counted.transfer_dead_letter_message_count) == (0, 1)
        assert counted.total_message_count == 1
        assert counted.size_in_bytes > 0

        await admin("delete_queue", "orders")
        with pytest.raises(ServiceBusError):  # its token is for what is not there, which the SDK takes for a wrong one
            await sender.send_messages(ServiceBusMessage("7"))


async def test_a_receiver_of_a_deleted_queue_is_detached_with_the_reason(
    admin: Admin, client: ServiceBusClient
) -> None:
    await admin("create_queue", "short-lived")
    receiver = client.get_queue_receiver("short-lived")
    async with opened(receiver):
        waiting = asyncio.create_task(receiver.receive_messages(1, max_wait_time=SOON))
        await admin("delete_queue", "short-lived")
        with pytest.raises(MessagingEntityNotFoundError):
            await waiting


async def test_rules_choose_from_the_moment_they_are_there(
    bus: LocalBus, admin: Admin, client: ServiceBusClient
) -> None:
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "red")
    await admin("delete_rule", "news", "red", "$Default")
    sender = client.get_topic_sender("news")

    async def publish(*colours: str) -> int:
        for colour in colours:
            await sender.send_messages(ServiceBusMessage(colour, application_properties={"colour": colour}))
        return bus.counts("news/Subscriptions/red").active

    async with opened(sender):
        assert await publish("red", "blue") == 0
        rule = await admin("create_rule", "news", "red", "chosen", filter=SqlRuleFilter("colour = 'red'"))
        assert await publish("red", "blue") == 1
        rule.filter = CorrelationRuleFilter(properties={"colour": "blue"})
        await admin("update_rule", "news", "red", rule)
        assert await publish("red", "blue", "blue") == 3
        counted = await admin("get_subscription_runtime_properties", "news", "red")
        assert (counted.active_message_count, counted.total_message_count) == (3, 3)
        assert counted.transfer_message_count == counted.dead_letter_message_count == 0
    await admin("delete_topic", "news")


async def test_an_idle_entity_is_deleted(bus: LocalBus, admin: Admin) -> None:
    queue = await admin("create_queue", "idle", auto_delete_on_idle=timedelta(minutes=10))
    await bus.advance(400)
    await admin("update_queue", queue, max_delivery_count=3)  # is a use
    await bus.advance(599)
    await admin("get_queue", "idle")  # is none
    await bus.advance(1)
    with pytest.raises(ResourceNotFoundError):
        await admin("get_queue", "idle")


async def test_a_policy_made_here_opens_what_it_says(bus: LocalBus, admin: Admin) -> None:
    policy = AuthorizationRule(key_name="postman", rights=["Send"])
    queue = await admin("create_queue", "letters", authorization_rules=[policy])
    await admin("create_queue", "other")
    [made] = queue.authorization_rules
    string = connection_string("127.0.0.1", bus.port, made.secondary_key, "postman")
    options: dict[str, Any] = {"socket_timeout": 0.02, "retry_total": 0}
    async with ServiceBusClient.from_connection_string(string, **options) as client:
        sender, reader = client.get_queue_sender("letters"), client.get_queue_receiver("letters")
        peer = client.get_queue_sender("other")
        async with opened(sender):
            await sender.send_messages(ServiceBusMessage("a letter"))
            with pytest.raises(ServiceBusAuthorizationError):
                await reader.__aenter__()
            with pytest.raises(ServiceBusAuthenticationError):
                await peer.__aenter__()
            await asyncio.gather(reader.close(), peer.close())
    assert bus.counts("letters").active == 1
