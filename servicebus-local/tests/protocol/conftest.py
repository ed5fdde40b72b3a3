"""One local bus for the protocol tests of the broker, with everything open on it at once."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from servicebus_local.testing import LocalBus
from tests.protocol.desk import CLOCK, DESKS, QUEUES, Desk, client_of


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def desks() -> AsyncIterator[dict[str, Desk]]:
    """A desk at every queue of the shared bus."""
    async with LocalBus(QUEUES, clock=CLOCK) as bus, client_of(bus) as client:
        desks = {name: Desk(bus, client, name) for name in DESKS}
        try:
            await asyncio.gather(*(desk.open_all() for desk in desks.values()))
            desks["answers"] = Desk(bus, client, "answers")  # its receivers name a session each
            await desks["answers"].open(desks["answers"].sender)
            yield desks
        finally:
            await asyncio.gather(*(desk.close() for desk in desks.values()))
