"""Cancelling through the whole system: at every stage, by either door, and never two outcomes."""

import hashlib
import uuid
from datetime import timedelta
from typing import Any, ClassVar

import httpx
import pytest

from shared.contracts.ids import request_id
from tests.support.waiting import until
from tests.system.conftest import App
from tests.system.test_replay import ragbus

pytestmark = pytest.mark.asyncio(loop_scope="session")

# The model does not answer: however long the test takes, what ends the request is what the test does.
SILENT = {"deployment": "*", "kind": "chat", "hang": True}
HUNG_UP = 499
DOORS = ["queue", "http"]


class Asked:
    """One request of the welcome app's."""

    sessions: ClassVar[set[str]] = set()
    """Of every request that was posted."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.message_id = uuid.uuid4().hex
        self.id = request_id("tessolund", "welcome-app", self.message_id)
        self.question = f"What are the core hours for remote workers? ({self.message_id})"
        self.session = self.message_id

    async def post(self, **properties: Any) -> "Asked":
        body = {"question": self.question, "use_case": "onboarding", "cache": "refresh"}
        await self.app.post(body, message_id=self.message_id, reply_to_session_id=self.session, **properties)
        self.sessions.add(self.session)
        return self

    async def cancel(self, door: str = "queue", queue: str = "ask") -> None:
        """Take it back, by either door."""
        if door == "queue":
            await self.app.post({"message_id": self.message_id}, queue=queue, subject="cancel.v1")
        else:
            reply = await self.delete()
            assert (reply.status_code, reply.json()["outcome"]) == (200, "cancelled")

    async def delete(self, caller: str = "ask") -> httpx.Response:
        return await self.app.http.delete(f"/v1/requests/{self.id}", headers=self.app.key(caller))

    async def is_accepted(self) -> bool:
        reply = await self.app.http.get(f"/v1/requests/{self.id}", headers=self.app.key())
        return reply.status_code == 202

    async def outcome(self) -> Any:
        """The one that its caller hears; that there is no other, the last test says of all."""
        [answer] = await self.app.answers(self.session)
        assert (answer["request_id"], answer["message_id"]) == (self.id, f"{self.id}/reply")
        return answer["outcome"]

    async def is_being_answered(self) -> bool:
        return any(call["fault"] for call in await self.calls())

    async def is_broken_off(self) -> bool:
        return any(call["status"] == HUNG_UP for call in await self.calls())

    async def calls(self) -> list[dict[str, Any]]:
        """Of any kind, embeddings too."""
        text = hashlib.sha256(self.question.encode()).hexdigest()
        found = (await self.app.control.get("/control/calls")).json()
        return [call for call in found if self.question in call["question"] or call["prompt_sha256"] == text]


async def waiting(app: App, queue: str) -> int:
    """How many messages a queue holds that are not scheduled for later."""
    async with httpx.AsyncClient(timeout=300) as admin:
        told = (await admin.get(f"{app.stack.admin_url}/stats/{queue}")).raise_for_status().json()
    return int(told["active"]) + int(told["locked"])


async def test_an_ask_that_was_cancelled_before_it_came_is_not_worked_on(app: App) -> None:
    asked = Asked(app)
    await asked.cancel()

    async def taken() -> bool:
        return await waiting(app, "ask") == 0

    await until(taken)
    await asked.post()
    assert await asked.outcome() == "cancelled"
    assert await asked.calls() == []


@pytest.mark.long
@pytest.mark.parametrize("door", DOORS)
async def test_a_request_cancelled_before_it_is_retrieved_for_is_not_paid_for(app: App, door: str) -> None:
    await app.stack.stop_one("retriever")
    try:
        asked = await Asked(app).post()
        await until(asked.is_accepted)
        await asked.cancel(door)
        assert await asked.outcome() == "cancelled"  # though the stage that has it is stopped
    finally:
        await app.stack.start_one("retriever")

    async def thrown_away() -> bool:
        return await waiting(app, "retrieve") == 0

    await until(thrown_away)
    assert await asked.calls() == []


@pytest.mark.parametrize("door", DOORS)
async def test_an_answer_that_is_cancelled_is_broken_off(app: App, door: str) -> None:
    await app.fail(SILENT)
    asked = await Asked(app).post()
    await until(asked.is_being_answered)
    await asked.cancel(door)
    assert await asked.outcome() == "cancelled"
    await until(asked.is_broken_off)


@pytest.mark.long
async def test_an_answer_that_is_too_late_is_broken_off(app: App) -> None:
    await app.fail(SILENT)
    asked = await Asked(app).post(time_to_live=timedelta(seconds=10))
    await until(asked.is_being_answered)
    assert await asked.outcome() == "expired"
    await until(asked.is_broken_off)


async def test_an_answer_that_was_first_stays_the_outcome(app: App) -> None:
    asked = await Asked(app).post()
    assert await asked.outcome() == "answered"
    reply = await asked.delete()
    assert (reply.status_code, reply.json()["outcome"]) == (200, "answered")
    await asked.cancel()


async def test_http_callers_hear_it_where_they_wait(app: App) -> None:
    await app.fail(SILENT)
    body = {"question": f"What are the core hours for remote workers? ({uuid.uuid4().hex})", "cache": "refresh"}
    accepted = await app.http.post("/v1/onboarding/ask", json=body, headers=app.key())
    where = accepted.headers["Location"]
    assert (await app.http.delete(where, headers=app.key())).json()["outcome"] == "cancelled"
    told = await app.http.get(f"{where}?wait=60", headers=app.key())
    assert (told.status_code, told.json()["outcome"], told.json()["code"]) == (200, "cancelled", "Cancelled")


async def test_a_caller_cannot_cancel_a_request_of_another(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 5})
    asked = await Asked(app).post()
    await until(asked.is_being_answered)
    assert (await asked.delete("ask-hr")).status_code == 404
    await asked.cancel(queue="ask-hr")
    assert await asked.outcome() == "answered"


async def test_cancelling_again_and_again_changes_nothing(app: App) -> None:
    await app.fail(SILENT)
    asked = await Asked(app).post()
    await until(asked.is_being_answered)
    for door in ("queue", "http", "http", "queue"):
        await asked.cancel(door)
    assert await asked.outcome() == "cancelled"


async def test_the_command_cancels_too(app: App) -> None:
    await app.fail(SILENT)
    asked = await Asked(app).post()
    await until(asked.is_being_answered)
    assert "sent" in await ragbus(app, "cancel", asked.message_id)
    assert await asked.outcome() == "cancelled"
    assert '"outcome": "cancelled"' in await ragbus(app, "cancel", "--http", asked.id)


@pytest.mark.long
async def test_without_redis_a_request_cannot_be_cancelled_and_is_answered(app: App) -> None:
    app.stack.kill("redis")
    try:
        asked = await Asked(app).post()
        await asked.cancel()
        reply = await asked.delete()
        assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
        assert int(reply.headers["Retry-After"]) >= 1
        assert await asked.outcome() == "answered"
    finally:
        await app.stack.start_one("redis")


async def test_no_caller_got_a_second_outcome_after_cancelling(app: App) -> None:
    """When everything under way has ended and no queue of ours holds anything, no caller has a second outcome."""

    async def still() -> bool:
        return not any([await waiting(app, queue) for queue in ("ask", "retrieve", "generate", "outcomes", "dead")])

    await until(still)
    assert [session for session in Asked.sessions if await app.answers_waiting(session)] == []
