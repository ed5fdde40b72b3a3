"""One local bus for the protocol tests of the broker, with everything open on it at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from servicebus_local.testing import LocalBus
from tests.protocol.queue_client import CLOCK, QUEUE_CLIENTS, QUEUES, QueueClient, client_of


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def queue_clients() -> AsyncIterator[dict[str, QueueClient]]:
    """A queue_client at every queue of the shared bus."""
    async with LocalBus(QUEUES, clock=CLOCK) as bus, client_of(bus) as client:
        queue_clients = {name: QueueClient(bus, client, name) for name in QUEUE_CLIENTS}
        try:
            await asyncio.gather(*(queue_client.open_all() for queue_client in queue_clients.values()))
            queue_clients["answers"] = QueueClient(bus, client, "answers")  # its receivers name a session each
            await queue_clients["answers"].open(queue_clients["answers"].sender)
            yield queue_clients
        finally:
            await asyncio.gather(*(queue_client.close() for queue_client in queue_clients.values()))
