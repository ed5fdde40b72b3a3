"""SIGTERM under load, one worker after the other: nothing is repeated or late."""

import asyncio
import json
from collections import Counter

import httpx
import pytest
from servicebus_local.record import Event

from shared.contracts.ids import request_id
from tests.system.conftest import App
from tests.system.test_pulling_plugs import ask_many, outcomes_of

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

# For each restart; few enough for the tenant's tokens while their stage is away.
MANY = 5
PATH = ("ask", "retrieve", "generate")


async def test_rolling_restarts_under_load_leave_every_delivery_the_first(app: App) -> None:
    """Work that is shorter than the grace period is finished, and what was prefetched is given back."""
    await app.fail({"deployment": "*", "kind": "chat", "latency": 0.2})
    async with httpx.AsyncClient(base_url=app.stack.admin_url, timeout=300) as broker:
        (await broker.post("/deliveries", json={"limit": 100_000})).raise_for_status()
        sessions = []
        for number, worker in enumerate(("gateway", "retriever", "generator") * 2):
            posting = asyncio.create_task(ask_many(app, f"leaving-{number}", MANY))
            await app.stack.stop_one(worker)
            assert await app.stack.process(worker).wait() == 0, f"{worker} did not leave by itself"
            await app.stack.start_one(worker)
            sessions.append(await posting)
        for session in sessions:
            assert await outcomes_of(app, session, MANY) == {"answered": MANY}
        lines = (await broker.get("/deliveries")).raise_for_status().text.splitlines()
        (await broker.delete("/deliveries")).raise_for_status()
    events = [Event.from_json(json.loads(line)) for line in lines]
    ours = {
        request_id("tessolund", "welcome-app", f"leaving-{at}-{n}") for at in range(len(sessions)) for n in range(MANY)
    }
    delivered = [
        event
        for event in events
        if event.kind == "delivered" and (event.message_id.startswith("leaving-") or event.message_id[:27] in ours)
    ]
    # What was given back is delivered again; that must not count.
    messages = {(event.entity, event.sequence) for event in delivered}
    assert Counter(entity for entity, _ in messages if entity in PATH) == dict.fromkeys(PATH, len(ours))
    # The record counts failed deliveries before this one, as AMQP does; the SDK shows one more.
    assert [event for event in delivered if event.delivery_count] == []
