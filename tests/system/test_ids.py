"""An id belongs to its question, and its outcome to every ask of it; through the front door of the running system."""

import asyncio
import uuid
from collections import Counter
from datetime import timedelta
from typing import Any

import httpx
import pytest

from shared.contracts.ids import request_id
from tests.system.conftest import INGRESS_WINDOWS, App

pytestmark = pytest.mark.asyncio(loop_scope="session")

DOOR = "ask-hr"  # its queue forgets ids within a second; see `INGRESS_WINDOWS`
TOPICS = ("a laptop", "the VPN", "a receipt", "the badge")


async def post(app: App, question: str, key: str, use_case: str = "onboarding") -> httpx.Response:
    headers = {**app.key(DOOR), "Idempotency-Key": key}
    url = f"/v1/{use_case}/ask"
    return await app.http.post(url, json={"question": question}, params={"wait": 60}, headers=headers)


async def ask(app: App, message_id: str, body: Any, **properties: Any) -> dict[str, Any]:
    """Ask on the queue, in a session of its own; once it has forgotten the id, if that was sent before."""
    await asyncio.sleep(INGRESS_WINDOWS[DOOR].total_seconds() * 1.2)
    session = await app.post(body, queue=DOOR, message_id=message_id, **properties)
    [answer] = await app.answers(session, queue="answers-hr")
    return answer


def of_the_door(message_id: str) -> str:
    return request_id("tessolund", "hr-portal", message_id)


async def test_of_eight_at_once_with_one_key_and_four_questions_one_question_is_answered(app: App) -> None:
    key = uuid.uuid4().hex
    questions = [f"What does the handbook say about {topic}? ({key})" for topic in TOPICS]
    replies = await asyncio.gather(*(post(app, question, key) for question in questions * 2))
    statuses = Counter((question, reply.status_code) for question, reply in zip(questions * 2, replies, strict=True))
    [winner] = [question for question, status in statuses if status == 200]
    assert statuses == {(winner, 200): 2} | {(question, 422): 2 for question in questions if question != winner}
    first, again = (reply.json() for reply in replies if reply.status_code == 200)
    assert first == again
    assert {reply.json()["code"] for reply in replies if reply.status_code == 422} == {"IdReused"}
    assert [len(await app.calls(question)) for question in questions] == [question == winner for question in questions]
    assert (await post(app, winner, key)).json() == first
    assert (await post(app, winner, key, use_case="travel")).json()["code"] == "IdReused"


async def test_a_key_whose_first_answer_was_cached_or_refused_belongs_to_its_question(app: App) -> None:
    question, run = "How long is the notice period during probation?", uuid.uuid4().hex
    await post(app, question, f"{run}-to-be-cached")
    first = await post(app, question, f"{run}-cached")
    assert first.json()["cache"] == "hit"
    assert (await post(app, question, f"{run}-cached")).json() == first.json()
    refused = await post(app, question, f"{run}-refused", use_case="travel")
    assert (refused.status_code, refused.json()["code"]) == (404, "UnknownUseCase")
    assert (await post(app, question, f"{run}-refused", use_case="travel")).json() == refused.json()
    for key in (f"{run}-cached", f"{run}-refused"):
        other = await post(app, "When is lunch?", key)
        assert (other.status_code, other.json()["code"]) == (422, "IdReused")


async def test_an_app_that_comes_back_gets_its_outcome_again_and_another_question_does_not(app: App) -> None:
    name = uuid.uuid4().hex
    question = {"question": f"What are the core hours for remote workers? ({name})", "use_case": "onboarding"}
    first = await ask(app, name, question)
    again = await ask(app, name, question)
    other = await ask(app, name, {"question": "When is lunch?", "use_case": "onboarding"})
    assert (first["outcome"], first["message_id"]) == ("answered", f"{of_the_door(name)}/reply")
    ids = {each["message_id"] for each in (first, again, other)}
    assert len(ids) == 3
    assert all(each.startswith(first["message_id"]) for each in ids)
    assert {**again, "message_id": ""} == {**first, "message_id": ""}
    assert (other["outcome"], other["code"], other["retryable"]) == ("refused", "IdReused", False)
    assert len(await app.calls(question["question"])) == 1


async def test_what_ended_for_now_is_asked_again_under_its_id(app: App) -> None:
    name = uuid.uuid4().hex
    question = {"question": f"What are the core hours for remote workers? ({name})", "use_case": "onboarding"}
    await app.fail({"deployment": "*", "kind": "chat", "latency": 30})
    first = await ask(app, name, question, time_to_live=timedelta(seconds=2))
    assert first["retryable"]
    await app.fail()
    await asyncio.sleep(first.get("retry_after", 0))
    again = await ask(app, name, question)
    assert (again["outcome"], again["request_id"]) == ("answered", first["request_id"])
    assert again["message_id"].startswith(f"{first['message_id']}/")
    kept = await app.http.get(f"/v1/requests/{first['request_id']}", headers=app.key(DOOR))
    assert kept.json()["outcome"] == "answered"


async def test_what_could_not_be_read_is_corrected_under_its_id(app: App) -> None:
    name = uuid.uuid4().hex
    broken = await ask(app, name, b"{not json")
    assert (broken["outcome"], broken["request_id"]) == ("failed", of_the_door(name))
    corrected = await ask(app, name, {"question": "When does the working day start?", "use_case": "onboarding"})
    assert corrected["outcome"] == "answered"
    assert corrected["message_id"] == f"{of_the_door(name)}/reply" != broken["message_id"]
