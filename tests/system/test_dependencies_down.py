"""What the workers depend on is away for a while: every request gets its one outcome all the same.

The workers reach everything through fault proxies; the upstream app and the test reach it directly.
"""

import asyncio
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.support.waiting import until
from tests.system.conftest import App
from tests.system.links import GONE, HUNG, Links

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.long]

WORKERS = ("gateway", "retriever", "generator", "indexer")
# Less than those that are shipped have with a model that hangs, so that a test need not have more.
IMPATIENT = {"RAGBUS_MODEL_TIMEOUT": "4"}
# Without Redis a worker counts a quarter of the tenant's tokens as its own: seven questions a minute.
FEW = 2
# A retry counts an attempt; what waits for a quota does not.
RETRIES = "ragbus_(?:retries|rescheduled)_total"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def links(indexed: App) -> AsyncIterator[Links]:
    """Workers behind proxies."""
    stack, made = indexed.stack, Links(indexed.stack)
    try:
        there = {worker: {**made.settings(worker), **IMPATIENT} for worker in WORKERS}
        await asyncio.gather(*(stack.restart(worker, there[worker]) for worker in WORKERS))
        yield made
        made.mend()
        before = {name: stack.env()[name] for name in made.settings("gateway")} | {"RAGBUS_MODEL_TIMEOUT": "60"}
        await asyncio.gather(*(stack.restart(worker, before) for worker in WORKERS))
    finally:
        made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def way(app: App, links: Links) -> AsyncIterator[Links]:
    """The ways to everything, without faults at first and at last."""
    yield links
    links.mend()


class Asked:
    """New questions and their outcomes."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._session = uuid.uuid4().hex
        self.ids: list[str] = []

    @property
    def questions(self) -> list[str]:
        """What was asked."""
        return [f"What are the core hours for remote workers? ({number})" for number in self.ids]

    @classmethod
    async def some(cls, app: App, count: int = FEW, **properties: Any) -> "Asked":
        asked = cls(app)
        for _ in range(count):
            number = uuid.uuid4().hex
            asked.ids.append(number)
            body = {"question": asked.questions[-1], "use_case": "onboarding"}
            await app.post(body, message_id=number, reply_to_session_id=asked._session, **properties)
        return asked

    async def outcomes(self) -> Counter[str]:
        """How they ended; fails when one has two outcomes or none."""
        found: list[dict[str, Any]] = []
        while len(found) < len(self.ids) and (more := await self._app.answers(self._session, more=1)):
            found += more
        requests = [answer["request_id"] for answer in found]
        assert len(set(requests)) == len(requests) == len(self.ids)
        return Counter(answer["outcome"] for answer in found)

    async def paid(self) -> list[int]:
        """How often the model was paid for each."""
        return [len(await self._app.calls(question)) for question in self.questions]

    async def dead(self) -> list[str]:
        """Why some of them were dead-lettered."""
        found = [each for each in await self._app.dead() if each.correlation_id in self.ids]
        return [f"{each.dead_letter_reason}: {each.dead_letter_error_description}" for each in found]


async def retried(app: App, worker: str, times: int = FEW) -> None:
    """Wait until `worker` has rescheduled this many deliveries from now on."""
    before = await _retries(app, worker)

    async def more() -> bool:
        return await _retries(app, worker) >= before + times

    await until(more)


async def _retries(app: App, worker: str) -> float:
    async with httpx.AsyncClient(timeout=300) as http:
        shown = (await http.get(f"{app.stack.health_url(worker)}/metrics")).raise_for_status().text
    counted = re.findall(rf"^{RETRIES}.* (\S+)$", shown, re.MULTILINE)
    return sum(map(float, counted))


# -- Redis


@pytest.mark.parametrize("faults", [GONE, (HUNG,)], ids=["refused", "hung"])
async def test_without_redis_every_question_is_answered_and_paid_once(
    app: App, way: Links, faults: tuple[dict[str, Any], ...]
) -> None:
    way.redis.fail(*faults)
    asked = await Asked.some(app)
    assert await asked.outcomes() == {"answered": FEW}
    assert await asked.paid() == [1] * FEW


async def test_a_redis_that_is_back_is_used_again(app: App, way: Links) -> None:
    way.redis.fail(HUNG)
    assert await (await Asked.some(app, 1)).outcomes() == {"answered": 1}
    way.redis.fail()
    question = f"What are the core hours for remote workers? ({uuid.uuid4().hex})"

    async def cached() -> bool:
        return bool((await app.ask(question))["cache"] == "hit")

    await until(cached)


async def test_a_redis_that_loses_everything_in_mid_flight_costs_no_outcome_and_no_second_call(
    app: App, way: Links
) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 0.5})
    async with Redis.from_url(app.stack.redis_url) as redis:
        asked = await Asked.some(app, 6)

        async def all_called() -> bool:
            await redis.flushall()
            return sum(await asked.paid()) == 6

        await until(all_called)
        await redis.flushall()
    assert await asked.outcomes() == {"answered": 6}
    assert await asked.paid() == [1] * 6


# -- vectors


@pytest.mark.parametrize("faults", [GONE, (HUNG,)], ids=["refused", "hung"])
async def test_without_vectors_questions_wait_and_are_answered_when_they_are_back(
    app: App, way: Links, faults: tuple[dict[str, Any], ...]
) -> None:
    way.vectors.fail(*faults)
    asked = await Asked.some(app)
    await retried(app, "retriever", 1)
    assert await asked.paid() == [0] * FEW  # nothing is answered from nothing
    way.vectors.fail()
    assert await asked.outcomes() == {"answered": FEW}
    assert await asked.paid() == [1] * FEW


@pytest.mark.parametrize("faults", [GONE, (HUNG,)], ids=["refused", "hung"])
async def test_when_vectors_stay_away_the_questions_expire_in_time(
    app: App, way: Links, faults: tuple[dict[str, Any], ...]
) -> None:
    way.vectors.fail(*faults)
    asked = await Asked.some(app, time_to_live=timedelta(seconds=6))
    # What was tried before the first call was cut off expires; after it no call is begun that would be cut off as well.
    assert set(await asked.outcomes()) <= {"expired", "refused"}
    assert await asked.paid() == [0] * FEW


# -- the models

CUT = ({"fault": "truncate", "after": 150, "direction": "down"},)


@pytest.mark.parametrize("fault", [{"status": 429, "retry_after": 1}, {"status": 500}, {"status": 503}], ids=str)
async def test_a_model_that_fails_for_a_while_answers_in_the_end(app: App, way: Links, fault: dict[str, Any]) -> None:
    await app.fail({"deployment": "*", "kind": "chat", **fault})
    asked = await Asked.some(app)
    await retried(app, "generator")
    await app.fail()
    assert await asked.outcomes() == {"answered": FEW}
    assert await asked.paid() == [1] * FEW
    assert await asked.dead() == []


@pytest.mark.parametrize("worker", ["retriever", "generator"])
@pytest.mark.parametrize("faults", [GONE, (HUNG,), CUT], ids=["refused", "hung", "cut"])
async def test_a_model_that_is_not_reached_for_a_while_answers_in_the_end(
    app: App, way: Links, worker: str, faults: tuple[dict[str, Any], ...]
) -> None:
    link = way.embeddings if worker == "retriever" else way.chat
    link.fail(*faults)
    asked = await Asked.some(app)
    await retried(app, worker, 1)
    link.fail()
    assert await asked.outcomes() == {"answered": FEW}
    assert all(await asked.paid())  # what was cut off on its way here has been paid, and is paid again
    assert await asked.dead() == []


async def test_when_the_model_stays_away_the_questions_end_in_time(app: App, way: Links) -> None:
    way.chat.fail(HUNG)
    asked = await Asked.some(app, time_to_live=timedelta(seconds=6))
    # What was tried before the first call was cut off expires; after it no call is begun that would be cut off as well.
    assert set(await asked.outcomes()) <= {"expired", "refused"}


# -- the broker


async def test_without_a_broker_http_says_so_and_workers_are_back_soon_after_it(app: App, way: Links) -> None:
    way.broker.fail(*GONE)

    async def refused() -> Any:
        reply = await post(app)
        return reply if reply.status_code == 503 else None

    reply = await until(refused)
    assert int(reply.headers["Retry-After"]) >= 1
    asked = await Asked.some(app)  # to the upstream app it is there
    await nobody_connected(app)
    ready = [(await app.http.get(f"{app.stack.health_url(worker)}/readyz")).status_code for worker in WORKERS]
    assert dict(zip(WORKERS, ready, strict=True)) == {**dict.fromkeys(WORKERS, 503), "gateway": 200}
    assert (await app.http.get("/v1/requests/nothing", headers=app.key())).status_code == 404  # from Redis
    way.broker.fail()

    async def answered() -> bool:
        reply = await post(app)
        return bool(reply.status_code == 200 and reply.json()["outcome"] == "answered")

    await until(answered)
    assert await asked.outcomes() == {"answered": FEW}
    assert await asked.paid() == [1] * FEW


async def nobody_connected(app: App) -> None:
    """Wait until every worker has found out."""

    async def all_say_no() -> bool:
        async with httpx.AsyncClient(timeout=300) as http:
            replies = [await http.get(f"{app.stack.health_url(worker)}/connected") for worker in WORKERS]
        return all(reply.status_code == 503 for reply in replies)

    await until(all_say_no)


async def post(app: App) -> httpx.Response:
    """Ask over HTTP, and wait for the outcome."""
    body = {"question": f"What are the core hours for remote workers? ({uuid.uuid4().hex})"}
    return await app.http.post("/v1/onboarding/ask?wait=20", json=body, headers=app.key())
