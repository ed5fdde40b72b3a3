"""The whole system while parts of it fail: every accepted request gets its one outcome."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import httpx
import pytest

from ops.commands.budget import ask as change_budget
from shared.budget.scripts import CHANGE
from shared.redis import FailFastRedis
from tests.support.waiting import until
from tests.system.conftest import LOCK, App

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 12


async def ask_many(app: App, about: str, count: int = MANY, **properties: Any) -> str:
    """Post `count` different questions whose answers come in one session."""
    session = f"session-{about}"
    for number in range(count):
        body = {"question": f"What are the core hours for remote workers? ({about} {number})", "cache": "refresh"}
        await app.post(body, message_id=f"{about}-{number}", reply_to_session_id=session, **properties)
    return session


async def outcomes_of(app: App, session: str, count: int = MANY, quiet: float = 1.5) -> Counter[str]:
    """How the requests of a session ended; fails when one has two outcomes or none."""
    found: list[dict[str, Any]] = []
    while len(found) < count and (more := await app.answers(session, more=quiet)):
        found += more
    requests = [answer["request_id"] for answer in found]
    assert len(requests) == len(set(requests)), "a second outcome"
    assert len(requests) == count, "an outcome is missing"
    return Counter(answer["outcome"] for answer in found)


LONG = pytest.mark.long
LATER = frozenset({("refused", "BudgetExceeded"), ("refused", "Overloaded"), ("expired", "DeadlineExceeded")})


@pytest.mark.parametrize(
    "worker", [pytest.param("gateway", marks=LONG), pytest.param("retriever", marks=LONG), "generator"]
)
async def test_a_worker_killed_in_mid_flight_loses_nothing(app: App, worker: str) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 0.3})
    posting = asyncio.create_task(ask_many(app, f"kill-{worker}"))
    await asyncio.sleep(0.4)  # somewhere in the middle: which requests are where does not matter
    app.stack.kill(worker)
    session = await posting
    await app.stack.start_one(worker)
    assert await outcomes_of(app, session) == {"answered": MANY}


@LONG
async def test_an_indexer_killed_in_mid_flight_loses_no_document(app: App) -> None:
    for number in range(6):
        (app.stack.lake / f"plug-{number}.md").write_text(f"# Plug {number}\n\nPlug number {number} is green.\n")
    await asyncio.sleep(0.5)
    app.stack.kill("indexer")
    await app.stack.start_one("indexer")

    async def all_indexed() -> bool:
        return {f"plug-{number}.md" for number in range(6)} <= set(await app.documents())

    await until(all_indexed)
    for number in range(6):
        (app.stack.lake / f"plug-{number}.md").unlink()


@LONG
async def test_a_rolling_restart_under_load_loses_and_repeats_nothing(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 0.3})
    posting = asyncio.create_task(ask_many(app, "rolling"))
    await app.stack.restart("generator")
    session = await posting
    assert await outcomes_of(app, session) == {"answered": MANY}


@pytest.mark.parametrize("stage", [pytest.param("retriever", marks=LONG), "generator"])
async def test_when_a_stage_is_stopped_the_caller_gets_expired_in_time(app: App, stage: str) -> None:
    await app.stack.stop_one(stage)
    session = await ask_many(app, f"deadline-{stage}", 3, time_to_live=timedelta(seconds=10))
    try:
        assert await outcomes_of(app, session, 3) == {"expired": 3}
    finally:
        await app.stack.start_one(stage)


@LONG
async def test_what_expired_while_the_gateway_was_away_is_told_when_it_is_back(app: App) -> None:
    """Also when it expired a second time, in `dead`, before the gateway read it."""

    async def archived() -> int:
        async with httpx.AsyncClient(timeout=300) as admin:
            stats = (await admin.get(f"{app.stack.admin_url}/stats/dead")).raise_for_status().json()
        return int(stats["dead_lettered"])

    before = await archived()
    await app.stack.stop_one("gateway")
    session = await ask_many(app, "deadline-gateway", 3, time_to_live=timedelta(seconds=1))

    async def all_archived() -> bool:
        return await archived() >= before + 3

    await until(all_archived)
    await app.stack.start_one("gateway")
    assert await outcomes_of(app, session, 3) == {"expired": 3}


async def test_a_deadline_in_the_middle_of_a_model_call_ends_it(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 30})
    session = await ask_many(app, "deadline-model", 3, time_to_live=timedelta(seconds=8))
    assert await outcomes_of(app, session, 3) == {"expired": 3}


@LONG
async def test_a_model_call_of_three_locks_is_one_call(app: App) -> None:
    """The lock is renewed all the time, so no other worker begins the same work."""
    await app.fail({"deployment": "*", "kind": "chat", "latency": 3 * LOCK.total_seconds()})
    session = await ask_many(app, "three-locks", 1)
    assert await outcomes_of(app, session, 1) == {"answered": 1}
    assert len(await app.calls("What are the core hours for remote workers? (three-locks 0)")) == 1


async def test_a_model_that_says_429_is_asked_again_when_it_said(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "status": 429, "retry_after": 1, "times": 4})
    session = await ask_many(app, "throttled", 4)
    assert await outcomes_of(app, session, 4) == {"answered": 4}
    assert not [dead for dead in await app.dead() if str(dead.correlation_id).startswith("throttled")]


async def test_the_second_deployment_answers_when_the_first_does_not(app: App) -> None:
    await app.fail({"deployment": "onboarding-4k", "kind": "chat", "status": 500})
    session = await ask_many(app, "failover", 1)
    [answer] = await app.answers(session)
    assert (answer["outcome"], answer["plan"]["deployment"]) == ("answered", "onboarding-4k-north")


async def test_when_no_deployment_answers_there_is_a_clear_end(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "status": 503})
    session = await ask_many(app, "no-model", 1, time_to_live=timedelta(seconds=6))
    [answer] = await app.answers(session)
    # Refused when so much has failed already that the gateway knows it: also a clear end, also to be tried again.
    ends = {("expired", "DeadlineExceeded"), ("refused", "Overloaded")}
    assert (answer["outcome"], answer["code"]) in ends
    assert answer["retryable"]


@LONG
async def test_a_tenant_cannot_spend_more_than_its_tokens(app: App) -> None:
    await app.fail({"deployment": "*", "kind": "chat", "latency": 3})
    body = {"question": "What are the core hours for remote workers?", "cache": "refresh"}
    redis = FailFastRedis(app.stack.redis_url, timeout=30)

    async def ask() -> Any:
        return await app.http.post("/v1/onboarding/ask", json=body, headers=app.key())

    limit = {"scopes": [], "set": {"tokens|tenant|minute": 30_000}, "lasts": 600_000, "change": {"what": "a test"}}
    await change_budget(redis, "tessolund", CHANGE, limit)
    try:
        replies = await asyncio.gather(*(ask() for _ in range(40)))  # over 1,000 tokens each, at the least
        refused = [reply for reply in replies if reply.status_code == 429]
        accepted = [reply for reply in replies if reply.status_code == 202]
        assert len(refused) + len(accepted) == 40
        assert 5 <= len(accepted) <= 35
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        # Of those that there are tokens for, more than can be under way wait for a second.
        assert "BudgetExceeded" in {reply.json()["code"] for reply in refused} <= {"BudgetExceeded", "Overloaded"}
        for reply in accepted:
            outcome = await app.http.get(f"{reply.headers['Location']}?wait=90", headers=app.key())
            # Its call may need more than was estimated: then it waits for the budget.
            assert (outcome.json()["outcome"], outcome.json()["code"]) in {("answered", "Ok"), *LATER}
    finally:
        forget = {"scopes": [], "forget": ["tokens|tenant|minute"], "change": {"what": "a test"}}
        await change_budget(redis, "tessolund", CHANGE, forget)
        await redis.close()


async def test_without_redis_questions_are_answered_all_the_same(app: App) -> None:
    app.stack.kill("redis")
    try:
        session = await ask_many(app, "no-redis", 3)
        assert await outcomes_of(app, session, 3) == {"answered": 3}
    finally:
        await app.stack.start_one("redis")


async def test_without_vectors_a_question_waits_and_is_never_answered_from_nothing(app: App) -> None:
    app.stack.kill("vectors")
    session = await ask_many(app, "no-vectors", 2)
    await asyncio.sleep(2)  # long enough for a first attempt to fail
    await app.stack.start_one("vectors")
    assert await outcomes_of(app, session, 2) == {"answered": 2}


async def test_no_caller_got_a_second_outcome_after_the_outages(app: App) -> None:
    """Whatever was repeated after a kill has come back by now: locks have ended twice."""
    await asyncio.sleep(2 * LOCK.total_seconds())
    async with httpx.AsyncClient(timeout=300) as admin:
        told = (await admin.get(f"{app.stack.admin_url}/stats/answers")).raise_for_status().json()
    assert told["active"] == 0


async def test_a_killed_broker_comes_back_with_every_question(app: App) -> None:
    session = await ask_many(app, "broker-killed", 4)
    await app.hang_up()
    app.stack.kill("broker")
    await app.stack.start_one("broker")
    assert await outcomes_of(app, session, 4) == {"answered": 4}


@LONG
async def test_without_a_broker_http_says_so_and_workers_come_back_with_it(app: App) -> None:
    app.stack.kill("broker")
    body = {"question": "What are the core hours for remote workers?"}

    async def refused() -> Any:
        reply = await app.http.post("/v1/onboarding/ask", json={**body, "cache": "refresh"}, headers=app.key())
        return reply if reply.status_code == 503 else None

    reply = await until(refused)
    assert int(reply.headers["Retry-After"]) >= 1
    await app.stack.start_one("broker")

    async def answered() -> bool:
        reply = await app.http.post("/v1/onboarding/ask?wait=20", json={**body, "cache": "refresh"}, headers=app.key())
        return reply.status_code == 200 and reply.json()["outcome"] == "answered"

    await until(answered)
