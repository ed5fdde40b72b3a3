"""What is kept, counted and charged beside the outcome of a request is true as well."""

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusReceivedMessage
from redis.asyncio import Redis

from tests.support.waiting import until
from tests.system.conftest import App
from tests.system.test_replay import ragbus

pytestmark = pytest.mark.asyncio(loop_scope="session")


UNGUARDED = "ragbus_outcomes_unguarded_total"


async def sentinels(app: App, request: str) -> list[ServiceBusReceivedMessage]:
    """What is left on `outcomes` to wake the gateway for a request."""
    found = await app.peek("outcomes")
    return [message for message in found if str(message.message_id).startswith(f"{request}/deadline")]


@pytest.mark.parametrize("question", ["Where is the notice period written?", "How many stock options do I get?"])
async def test_the_sentinel_of_an_answered_request_is_cancelled(app: App, question: str) -> None:
    asked = datetime.now(UTC)
    answer = await app.ask(question, time_to_live=timedelta(seconds=300))

    async def gone() -> bool:
        return not await sentinels(app, answer["request_id"])

    await until(gone)
    assert datetime.now(UTC) < asked + timedelta(seconds=300), "it has come"


async def test_the_sentinel_of_an_http_request_is_cancelled(app: App) -> None:
    asked = datetime.now(UTC)
    body = {"question": f"What are the core hours for remote workers? ({uuid.uuid4().hex})"}
    said = await app.http.post("/v1/onboarding/ask?wait=60&deadline=300", json=body, headers=app.key())
    assert said.json()["outcome"] == "answered"

    async def gone() -> bool:
        return not await sentinels(app, said.json()["request_id"])

    await until(gone)
    assert datetime.now(UTC) < asked + timedelta(seconds=300), "it has come"


async def late(app: App, question: str, **properties: Any) -> dict[str, Any]:
    """What is kept of a request that the model had no time for: `expired.v1`, as its archive shows it."""
    await app.fail({"kind": "chat", "status": 503, "retry_after": 100})
    body = {"question": question, "use_case": "onboarding"}
    if "http" in properties:
        said = await app.http.post("/v1/onboarding/ask?wait=60&deadline=20", json=body, headers=app.key())
        answer = said.json()
    else:
        session = await app.post(body, time_to_live=timedelta(seconds=20), **properties)
        [answer] = await app.answers(session)
    assert (answer["outcome"], answer["code"]) == ("expired", "DeadlineExceeded")

    async def archived() -> list[ServiceBusReceivedMessage]:
        return [dead for dead in await app.dead() if str(dead.message_id) == f"{answer['request_id']}/expired"]

    [kept] = await until(archived)
    await app.fail()
    return {**json.loads(str(kept)), "kept": kept, "request_id": answer["request_id"], "bytes": len(str(kept))}


async def captured(app: App, folder: Path, request: str) -> Path:
    await ragbus(app, "capture", "dead", "--dead", "--out", str(folder), "--request", request)
    [file] = folder.glob("*.json")  # one message of it is kept, and no other
    return file


async def test_of_an_expired_request_the_ask_is_kept_and_answered_when_it_is_replayed(app: App, tmp_path: Path) -> None:
    name, question = uuid.uuid4().hex, "What are the core hours for remote workers, if I may ask?"
    kept = await late(app, question, reply_to_session_id=f"s-{name}", message_id=name)
    assert (kept["died_on"], kept["reason"]) == ("generate", "DeadlineExceeded")
    assert (kept["request"]["question"], kept["request"]["use_case"]) == (question, "onboarding")
    assert "candidates" not in kept
    assert kept["bytes"] < 1500

    file = await captured(app, tmp_path, kept["request_id"])
    assert "nothing was sent" in await ragbus(app, "replay", str(file), "--to", "local")
    assert "retrieve.v1" in await ragbus(app, "replay", str(file), "--inline", "--rerun")
    await ragbus(app, "replay", str(file), "--to", "local", "--rerun")
    [answer] = await app.answers(f"s-{name}")
    assert (answer["outcome"], answer["request_id"]) == ("answered", kept["request_id"])
    assert answer["message_id"] == f"{kept['request_id']}/reply/{answer['run']}"


async def test_an_expired_request_of_an_http_caller_is_replayed_without_a_second_outcome_of_its_own(
    app: App, tmp_path: Path
) -> None:
    kept = await late(app, "What are the core hours for remote workers, if that is known?", http=True)
    file = await captured(app, tmp_path, kept["request_id"])
    await ragbus(app, "replay", str(file), "--to", "local", "--rerun")
    address = f"/v1/requests/{kept['request_id']}"

    async def answered() -> bool:
        said = await app.http.get(f"{address}?run=p1&wait=5", headers=app.key())
        return said.status_code == 200 and said.json()["outcome"] == "answered" and said.json()["run"] == "p1"

    await until(answered)
    first = await app.http.get(address, headers=app.key())
    assert first.json()["outcome"] == "expired"


async def test_what_redis_lost_is_not_said_to_have_expired(app: App) -> None:
    """The sentinel of a request that was answered comes when the ledger does not know the request any more."""
    await app.fail({"kind": "chat", "latency": 2.0, "times": 1})
    body = {"question": "Which documents must I bring on my first day at work?"}
    said = await app.http.post("/v1/onboarding/ask?deadline=60", json=body, headers=app.key())
    request = said.json()["request_id"]
    [sentinel] = await sentinels(app, request)
    address = f"/v1/requests/{request}"
    answer = (await app.http.get(f"{address}?wait=60", headers=app.key())).json()
    assert answer["outcome"] == "answered"

    async def filed() -> bool:
        return not [m for m in await app.peek("outcomes") if str(m.message_id) == f"{request}/reply"]

    await until(filed)
    async with Redis.from_url(app.stack.redis_url) as redis:
        assert await redis.delete(f"ragbus:request:{{{request}}}") == 1
    before, unguarded = await outcomes(app), await outcomes(app, UNGUARDED)
    await app.post(
        bytes(b"".join(sentinel.body)), "outcomes", subject="deadline.v1", message_id=f"{request}/deadline.again"
    )

    async def said_unguarded() -> bool:
        return await outcomes(app, UNGUARDED) > unguarded

    await until(said_unguarded)
    assert await outcomes(app) == before
    assert (await app.http.get(address, headers=app.key())).status_code == 404


async def outcomes(app: App, counter: str = "ragbus_outcomes_total") -> float:
    """How many have `expired`, as the gateway counts them."""
    async with httpx.AsyncClient(timeout=300) as client:
        page = (await client.get(f"{app.stack.health_url('gateway')}/metrics")).text
    lines = [line for line in page.splitlines() if line.startswith(f"{counter}{{") and 'outcome="expired"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def test_each_call_is_charged_and_listed_and_nothing_stays_held(app: App) -> None:
    async with Redis.from_url(app.stack.redis_url, decode_responses=True) as redis:

        async def account(name: str) -> list[int]:
            return [int(number) for number in (await redis.hget("ragbus:{tessolund}:budget", name) or "0 0 0").split()]

        async def idle() -> bool:
            return (await account("tokens|tenant"))[0] == 0

        await until(idle)
        before = [(await account(name))[2] for name in ("tokens|tenant", "usd|tenant")]
        answer = await app.ask("How many stock options do new employees of the company receive, if any?")
        await until(idle)
        after = [(await account(name))[2] for name in ("tokens|tenant", "usd|tenant")]
    assert [call["deployment"] for call in answer["calls"]] == ["embeddings", "onboarding-4k"]
    assert [call["result"] for call in answer["calls"]] == ["ok", "ok"]
    usage, cost = answer["usage"], answer["cost"]["amount"]
    assert usage["prompt_tokens"] == sum(call["prompt_tokens"] for call in answer["calls"])
    assert after[0] - before[0] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert after[1] - before[1] == round(cost * 1_000_000) > 0
