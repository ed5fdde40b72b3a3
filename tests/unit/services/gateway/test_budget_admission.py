"""What admission reserves, whether an ask waits for its budget, and what HTTP says of it; on a real Redis."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from services.gateway.estimate import FIRST_GUESS, Estimates
from shared.access.use_cases import UseCase
from shared.budget.rules import Amount
from shared.bus.port import Received
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.outcome import Code, ModelCall
from shared.contracts.request import Turn
from shared.contracts.retrieve import RetrievePassages
from shared.errors import TryLater
from shared.llm.tokens import PER_MESSAGE, count_tokens
from shared.redis import FailFastRedis
from tests.support.budget import spend
from tests.support.builders import NOW, a_deployment, a_request, a_use_case
from tests.support.gateway import USE_CASES, Gateway, Web, a_dead, asked, cancel, the_answer

WAITING = {"onboarding": a_use_case(budget={"when_spent": "wait"})}
CHEAP = a_deployment("small", 4_000, priority=1, price={"input": 1.0, "output": 2.0})
DEAR = a_deployment("other", 9_000, priority=2, price={"input": 10.0, "output": 20.0})
EMBEDDING = a_deployment("e", 8_191, kind="embedding", dimensions=2, price={"input": 0.5})


@pytest.fixture
def waiting(redis: FailFastRedis) -> Gateway:
    return Gateway(redis, use_cases=WAITING)


# -- the estimate


def fixed(use_case: UseCase) -> int:
    request = a_request()
    return sum(count_tokens(text) + PER_MESSAGE for text in (use_case.prompt, request.question))


@pytest.mark.parametrize("passages", [None, 300, 100_000])
def test_an_estimate_is_made_of_question_conversation_passages_and_answer(passages: int | None) -> None:
    use_case, request = a_use_case(), a_request()
    room = 4_000 - 400 - fixed(use_case)
    expected = int(room * FIRST_GUESS) if passages is None else min(room, passages)
    searched = count_tokens(request.question)
    found = Estimates([DEAR, CHEAP, EMBEDDING]).of(request, use_case, passages)
    prompt = fixed(use_case) + expected
    assert found == Amount(prompt + 400 + searched, prompt + 800 + -(-searched // 2))


def test_a_conversation_makes_an_ask_larger_and_never_larger_than_the_window() -> None:
    estimates, use_case = Estimates([CHEAP, EMBEDDING]), a_use_case()
    turns = (Turn(role="user", text="And in Spain?"), Turn(role="assistant", text="Twenty-two."))
    longer = estimates.of(a_request(conversation=turns), use_case, 300).tokens
    assert longer > estimates.of(a_request(), use_case, 300).tokens
    full = estimates.of(a_request(conversation=turns), use_case, 100_000).tokens
    assert full <= 4_000 + count_tokens("Twenty-two.\nHow many days of annual leave do I get?")


def test_a_use_case_of_unknown_deployments_is_estimated_by_its_window() -> None:
    found = Estimates([]).of(a_request(), a_use_case(), 300)
    assert (found.tokens > 700, found.usd) == (True, 0)


# -- waiting


async def test_an_ask_whose_deadline_allows_it_waits_for_its_budget(waiting: Gateway) -> None:
    await asked(waiting, message_id="m1")
    await asked(waiting, message_id="m2")  # 8,000 tokens pay for two
    with pytest.raises(TryLater) as later:
        await waiting.ask(message_id="m3")
    assert timedelta(seconds=20) < later.value.after <= timedelta(seconds=30)  # 4,000 at 8,000 a minute
    await cancel(waiting, message_id="m1")
    assert len(await waiting.ask(message_id="m3")) == 2


async def test_an_ask_that_could_not_be_answered_in_time_does_not_wait(waiting: Gateway) -> None:
    await spend(waiting.budget, 8_000)
    answer = the_answer(await waiting.ask(time_to_live=timedelta(seconds=20)))
    assert (answer.code, answer.retryable) == (Code.BUDGET_EXCEEDED, True)


async def test_an_ask_over_http_waits_no_longer_than_its_caller(waiting: Gateway) -> None:
    web = Web(waiting)
    await spend(waiting.budget, 8_000)
    headers = {"Authorization": "Bearer welcome-app"}
    reply = await web.client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (429, "BudgetExceeded")
    await web.client.aclose()


async def test_an_ask_over_http_is_held_until_its_budget_has_room(redis: FailFastRedis) -> None:
    gateway = Gateway(redis, use_cases=WAITING)
    web = Web(gateway)
    await spend(gateway.budget, 4_040)  # 40 tokens come back in 0.3 s
    headers = {"Authorization": "Bearer welcome-app"}
    reply = await web.client.post("/v1/onboarding/ask?wait=1", json={"question": "How?"}, headers=headers)
    assert reply.status_code == 202
    assert [envelope.queue for envelope in web.sent] == ["outcomes", "retrieve"]
    await web.client.aclose()


# -- over HTTP


@pytest.fixture
async def web(redis: FailFastRedis) -> AsyncIterator[Web]:
    found = Web(Gateway(redis, use_cases=USE_CASES))
    yield found
    await found.client.aclose()


async def test_http_says_what_is_left_in_the_fields_of_the_draft(web: Web) -> None:
    headers = {"Authorization": "Bearer welcome-app"}
    replies = [
        await web.client.post("/v1/onboarding/ask", json={"question": question}, headers=headers)
        for question in ("How?", "Why?", "When?")
    ]
    assert [reply.status_code for reply in replies] == [202, 202, 429]
    for reply in replies:
        assert reply.headers["RateLimit-Policy"] == '"tenant-tokens-minute";q=8000;w=60;qu="tokens"'
    assert replies[0].headers["RateLimit"] == '"tenant-tokens-minute";r=4000;t=30'
    assert replies[2].headers["RateLimit"].startswith('"tenant-tokens-minute";r=')
    assert 0 < int(replies[2].headers["Retry-After"]) <= 30


async def test_without_redis_http_says_nothing_of_what_is_left() -> None:
    web = Web(Gateway(FailFastRedis("redis://127.0.0.1:1/0")))
    headers = {"Authorization": "Bearer welcome-app"}
    reply = await web.client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers)
    assert reply.status_code == 202
    assert "RateLimit" not in reply.headers
    await web.client.aclose()


# -- what was paid for is in every outcome


async def test_a_cancelled_request_lists_the_calls_that_were_made_for_it(waiting: Gateway) -> None:
    request = await asked(waiting)
    call = ModelCall(deployment="embeddings", prompt_tokens=9, cost=0.000001)
    await waiting.budget.settle(request, "c1", call, Amount(9, 1))
    answer = the_answer(await cancel(waiting))
    assert answer.calls == (call,)
    assert (answer.usage.prompt_tokens, answer.cost.amount) == (9, 0.000001)
    assert waiting.now == NOW


async def test_an_expired_request_lists_the_calls_that_were_made_for_it(waiting: Gateway) -> None:
    request = await asked(waiting)
    call = ModelCall(deployment="small", prompt_tokens=900, cost=0.0009, result="down", estimated=True)
    await waiting.budget.settle(request, "c1", call, Amount(900, 900))
    waiting.now = request.answer_by + timedelta(seconds=2)
    answer = the_answer(await waiting.outcomes.handle(DeadlinePassed(request=request.without_question())))
    assert (answer.code, answer.calls, answer.cost.amount) == (Code.DEADLINE_EXCEEDED, (call,), 0.0009)
    assert answer.usage.estimated


async def test_a_request_whose_work_was_dead_lettered_lists_the_calls_that_were_made_for_it(waiting: Gateway) -> None:
    request = await asked(waiting)
    call = ModelCall(deployment="small", prompt_tokens=900, cost=0.0009, result="down")
    await waiting.budget.settle(request, "c1", call, Amount(900, 900))
    work = Received(
        queue="retrieve",
        body=RetrievePassages(request=request).encode(),
        subject="retrieve.v1",
        message_id="x",
        enqueued_at=NOW,
        sequence_number=9,
    )
    dead = waiting.dead.decode(a_dead(work, "Crashed", "retrieve"))
    assert the_answer(await waiting.dead.handle(dead)).calls == (call,)
