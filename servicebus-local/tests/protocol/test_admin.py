"""The admin port: health, connections, and what the SDK's administration client reads."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.request import Request, urlopen

import pytest
import pytest_asyncio
from azure.core.exceptions import ResourceNotFoundError
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio.management import ServiceBusAdministrationClient

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.admin import client_at, sync_client_at
from tests.protocol.queue_client import QueueClient, queue_client_at, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUES = topology(
    orders={
        "LockDuration": "PT30S",
        "MaxDeliveryCount": 7,
        "DefaultMessageTimeToLive": "PT20M",
        "RequiresDuplicateDetection": True,
        "DuplicateDetectionHistoryTimeWindow": "PT5M",
        "DeadLetteringOnMessageExpiration": True,
        "ForwardDeadLetteredMessagesTo": "dead",
    },
    dead={},
    **{f"more-{number:03}": {} for number in range(120)},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[LocalBus]:
    async with LocalBus(QUEUES, clock=ManualClock()) as bus:
        yield bus


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def dead(bus: LocalBus) -> AsyncIterator[QueueClient]:
    async with queue_client_at(bus, "dead") as queue_client:
        yield queue_client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(bus: LocalBus) -> AsyncIterator[ServiceBusAdministrationClient]:
    async with client_at(bus.admin_connection_string) as client:
        yield client


async def fetch(bus: LocalBus, path: str, method: str = "GET") -> Any:
    def read() -> Any:
        with urlopen(Request(bus.admin_url + path, method=method), timeout=60) as response:
            return response.status, json.load(response)

    return await asyncio.to_thread(read)


async def test_health_is_ok_while_connections_are_accepted(bus: LocalBus) -> None:
    status, _ = await fetch(bus, "/health")
    assert status == 200


async def test_connections_are_counted_and_named(bus: LocalBus, dead: QueueClient) -> None:
    _, seen = await fetch(bus, "/connections")
    assert seen["current"] == 2
    assert seen["peak"] >= 2
    assert sorted(name.partition("-")[0] for name in seen["containers"]) == ["SBReceiver", "SBSender"]
    _, reader = await asyncio.gather(
        dead.open(dead.client.get_queue_sender("orders")), dead.open(dead.client.get_queue_sender("orders"))
    )
    await reader.close()
    assert (await fetch(bus, "/connections"))[1]["peak"] == 4
    _, after = await fetch(bus, "/connections/reset-peak", "POST")
    assert after["peak"] == after["current"] == 3


async def test_the_properties_of_a_queue_are_those_of_the_configuration(
    bus: LocalBus, admin: ServiceBusAdministrationClient
) -> None:
    queue = await admin.get_queue("orders")
    assert queue.name == "orders"
    assert queue.lock_duration == timedelta(seconds=30)
    assert queue.default_message_time_to_live == timedelta(minutes=20)
    assert queue.duplicate_detection_history_time_window == timedelta(minutes=5)
    assert queue.max_delivery_count == 7
    assert queue.requires_duplicate_detection is True
    assert queue.requires_session is False
    assert queue.dead_lettering_on_message_expiration is True
    assert queue.forward_dead_lettered_messages_to == bus.admin_url.replace("http", "sb", 1) + "/dead"
    assert queue.forward_to is None
    assert queue.status == "Active"


async def test_all_queues_are_listed_page_by_page(admin: ServiceBusAdministrationClient) -> None:
    names = [queue.name async for queue in admin.list_queues()]
    assert names == sorted(names)
    assert len(names) == 122
    assert len([entry async for entry in admin.list_queues_runtime_properties()]) == 122


async def test_runtime_properties_count_messages_where_they_are(
    bus: LocalBus, dead: QueueClient, admin: ServiceBusAdministrationClient
) -> None:
    await dead.sender.send_messages([ServiceBusMessage("x" * 100) for _ in range(4)])
    await dead.receiver.dead_letter_message(await dead.next(), reason="r")
    locked = await dead.next()
    later = datetime.now(UTC) + timedelta(hours=1)
    await dead.sender.schedule_messages(ServiceBusMessage("later"), later)
    runtime = await admin.get_queue_runtime_properties("dead")
    assert runtime.active_message_count == 3
    assert runtime.dead_letter_message_count == 1
    assert runtime.scheduled_message_count == 1
    assert runtime.transfer_message_count == runtime.transfer_dead_letter_message_count == 0
    assert runtime.total_message_count == 5
    assert (runtime.size_in_bytes or 0) >= 400
    await dead.receiver.complete_message(locked)


async def test_a_queue_that_is_not_there_is_not_found(admin: ServiceBusAdministrationClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        await admin.get_queue("nowhere")
    with pytest.raises(ResourceNotFoundError):
        await admin.get_queue_runtime_properties("nowhere")


async def test_the_synchronous_client_reads_the_same(bus: LocalBus) -> None:
    def read() -> list[str]:
        with sync_client_at(bus.admin_connection_string) as client:
            assert client.get_queue_runtime_properties("orders").active_message_count == 0
            return [queue.name for queue in client.list_queues()]

    assert len(await asyncio.to_thread(read)) == 122
