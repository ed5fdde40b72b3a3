"""Questions through the whole system to llama.cpp's own server. What its tiny model says is not judged."""

import json
import uuid
from typing import Any

import pytest

from shared.contracts.ids import request_id
from tests.selfhosted.conftest import ANSWER, LONG_ANSWER, WINDOW, LlamaServer
from tests.support.waiting import until
from tests.system.conftest import App
from tests.system.test_replay import ragbus

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def ask(app: App, use_case: str) -> dict[str, Any]:
    """Ask a question that no cache knows, and wait for its outcome."""
    question = f"What are the core hours for remote workers? ({uuid.uuid4().hex})"
    session = await app.post({"question": question, "use_case": use_case})
    [outcome] = await app.answers(session)
    return outcome


async def metered(app: App, llama: LlamaServer, use_case: str) -> tuple[dict[str, Any], tuple[int, int]]:
    """An outcome, and the tokens that the server counted for it."""
    before = await llama.tokens()
    outcome = await ask(app, use_case)
    after = await llama.tokens()
    return outcome, (after[0] - before[0], after[1] - before[1])


@pytest.mark.parametrize("use_case", ["whole", "streamed"])
async def test_a_question_is_answered_and_charged_as_the_server_counted(
    app: App, llama: LlamaServer, use_case: str
) -> None:
    outcome, (prompt, completion) = await metered(app, llama, use_case)
    assert outcome["outcome"] in ("answered", "no_answer")
    [call] = calls(outcome)
    assert (call["deployment"], call["result"], call["estimated"]) == (use_case, "ok", False)
    assert (call["prompt_tokens"], call["completion_tokens"]) == (prompt, completion)
    assert 0 < completion <= ANSWER
    assert call["cost"] == pytest.approx((prompt * 1.0 + completion * 2.0) / 1_000_000)


@pytest.mark.long
async def test_the_budget_is_charged_what_the_server_counted(app: App, llama: LlamaServer) -> None:
    before = await spent(app)
    outcome, (prompt, completion) = await metered(app, llama, "whole")
    after = await spent(app)
    embedded = sum(call["prompt_tokens"] for call in outcome["calls"] if call["deployment"] == "embeddings")
    assert after["tokens"] - before["tokens"] == prompt + completion + embedded
    assert after["usd"] - before["usd"] == pytest.approx((prompt * 1.0 + completion * 2.0) / 1_000_000, abs=1e-6)


@pytest.mark.long
async def test_a_prompt_that_the_server_calls_too_long_is_made_smaller_once(app: App, llama: LlamaServer) -> None:
    outcome, (prompt, completion) = await metered(app, llama, "overflow")
    assert outcome["outcome"] in ("answered", "no_answer")
    assert llama.log.read_text().count("exceeds the available context size") == 1
    # Of the larger prompt the server worked on nothing.
    assert 0 < prompt + completion <= WINDOW
    assert [
        (call["prompt_tokens"], call["completion_tokens"]) for call in calls(outcome) if call["result"] == "ok"
    ] == [(prompt, completion)]


@pytest.mark.long
async def test_a_dead_deployment_leaves_its_work_to_the_next(app: App, llama: LlamaServer) -> None:
    outcome, tokens = await metered(app, llama, "failover")
    assert outcome["outcome"] in ("answered", "no_answer")
    assert outcome["plan"]["deployment"] == "alive"
    assert (outcome["usage"]["prompt_tokens"], outcome["usage"]["completion_tokens"]) == tokens


@pytest.mark.long
async def test_an_answer_that_is_cancelled_makes_the_server_free(app: App, llama: LlamaServer) -> None:
    message_id = uuid.uuid4().hex
    body = {"question": f"What are the core hours? ({message_id})", "use_case": "endless"}
    session = await app.post(body, message_id=message_id)
    before = await llama.tokens()

    async def speaks() -> bool:
        return any(token["n_decoded"] > 0 for slot in await llama.slots() for token in slot.get("next_token", ()))

    await until(speaks)
    request = request_id("tessolund", "welcome-app", message_id)
    told = await app.http.delete(f"/v1/requests/{request}", headers=app.key())
    assert (told.status_code, told.json()["outcome"]) == (200, "cancelled")
    [outcome] = await app.answers(session)
    assert outcome["outcome"] == "cancelled"

    async def free() -> bool:
        return not await llama.busy()

    await until(free)
    assert (await llama.tokens())[1] - before[1] < LONG_ANSWER


async def spent(app: App) -> dict[str, float]:
    """What the tenant has spent today, in tokens and in dollars, with what the server counted beyond our estimates.

    Nothing is held for a call that goes on.
    """
    # What it says to people follows what it prints.
    shown, _ = json.JSONDecoder().raw_decode(await ragbus(app, "budget", "show", "tessolund", "--json"))
    today = {each["unit"]: each for each in shown["limits"] if each["window"] == "day" and each["scope"] == "tenant"}
    assert all(each["held"] == 0 for each in today.values())
    return {unit: each["spent"] + each["overrun"] for unit, each in today.items()}


def calls(outcome: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls of chat models that an outcome lists."""
    return [call for call in outcome["calls"] if call["deployment"] != "embeddings"]
