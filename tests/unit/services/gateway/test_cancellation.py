"""Cancelling a request, by a message and over HTTP; on a real Redis."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from ops.reference.outcomes import HTTP_CODES
from services.gateway.cancellation import ATTEMPTS
from shared.budget.rules import Amount
from shared.budget.tenant import Reserved, TenantBudget
from shared.contracts.ids import request_id
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.request import Request
from shared.errors import TryLater, Unprocessable
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from tests.support.budget import hold, per_minute
from tests.support.builders import NOW
from tests.support.gateway import Gateway, Web, a_cancel, a_dead, an_ask, asked, cancel, the_answer

REQUEST = request_id("tessolund", "welcome-app", "m1")


@pytest.fixture
def gateway(redis: FailFastRedis) -> Gateway:
    return Gateway(redis)


# -- by a message


async def test_the_outcome_of_a_cancelled_ask_goes_where_its_answer_would_have_gone(gateway: Gateway) -> None:
    request = await asked(gateway, reply_to_session_id="s9", correlation_id="c9")
    [told] = await cancel(gateway)
    assert (told.queue, told.session_id, told.correlation_id) == ("answers", "s9", "c9")
    assert told.message_id == f"{request.request_id}/reply"
    answer = the_answer([told])
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.CANCELLED, Code.CANCELLED, False)
    entry = await gateway.ledger.find(request.request_id)
    assert entry is not None
    assert entry.answer is not None
    assert entry.answer.outcome is Outcome.CANCELLED


async def test_its_tokens_are_given_back_once(gateway: Gateway) -> None:
    await asked(gateway)
    await asked(gateway, message_id="m2")  # 8,000 tokens pay for two
    for _ in range(3):
        await cancel(gateway)
    assert len(await gateway.ask(message_id="m3")) == 2
    assert the_answer(await gateway.ask(message_id="m4")).code is Code.BUDGET_EXCEEDED


async def test_cancelling_twice_gives_the_same_outcome(gateway: Gateway) -> None:
    await asked(gateway)
    first, second = the_answer(await cancel(gateway)), the_answer(await cancel(gateway))
    assert first == second


async def test_an_answer_that_came_first_is_the_outcome(gateway: Gateway) -> None:
    request = await asked(gateway)
    await gateway.ledger.decide(request, ending(request, Outcome.ANSWERED, Code.OK, text="24"))
    assert the_answer(await cancel(gateway)).text == "24"


async def test_an_answer_that_comes_later_is_not_the_outcome(gateway: Gateway) -> None:
    request = await asked(gateway)
    await cancel(gateway)
    late = await gateway.ledger.decide(request, ending(request, Outcome.ANSWERED, Code.OK, text="24"))
    assert late.answer is not None
    assert late.answer.outcome is Outcome.CANCELLED


async def test_an_ask_that_arrives_after_its_cancellation_is_not_worked_on(gateway: Gateway) -> None:
    assert await cancel(gateway) == []
    answer = the_answer(await gateway.ask())
    assert (answer.outcome, answer.request_id) == (Outcome.CANCELLED, REQUEST)
    assert await hold(gateway.budget, 8_000, "all of it") is None


class Interrupted(TenantBudget):
    """While tokens are being reserved, the caller changes its mind."""

    def __init__(self, redis: FailFastRedis) -> None:
        super().__init__(redis, per_minute(8_000), lambda: NOW)
        self.ledger = Ledger(redis)

    async def reserve(self, request: Request, estimate: Amount) -> Reserved:
        await self.ledger.cancel(request.request_id, request.tenant, "welcome-app")
        return await super().reserve(request, estimate)


async def test_an_ask_that_is_cancelled_while_it_is_admitted_is_not_worked_on(redis: FailFastRedis) -> None:
    answer = the_answer(await Gateway(redis, Interrupted(redis)).ask())
    assert answer.outcome is Outcome.CANCELLED
    assert await hold(Gateway(redis).budget, 8_000, "all of it") is None


async def test_a_caller_cannot_cancel_the_request_of_another(gateway: Gateway) -> None:
    request = await asked(gateway)
    assert await cancel(gateway, queue="ask-hr") == []
    entry = await gateway.ledger.find(request.request_id)
    assert entry is not None
    assert entry.is_open


@pytest.mark.parametrize("body", [b"{", b"{}", b'{"message_id": ""}', b'{"message_id": 7}'])
async def test_an_invalid_cancellation_is_dead_lettered_and_ends_no_request(gateway: Gateway, body: bytes) -> None:
    with pytest.raises(Unprocessable):
        await cancel(gateway, body=body)
    dead_message = gateway.dead.decode(a_dead(a_cancel(body=body), "SchemaInvalid", "ask"))
    assert await gateway.dead.handle(dead_message) == []


async def test_an_ask_and_its_cancellation_do_not_share_the_ids_of_their_retries(gateway: Gateway) -> None:
    ask, cancellation = an_ask(), a_cancel(message_id="m1")
    assert gateway.ask_consumer.identify(ask).base_id != gateway.ask_consumer.identify(cancellation).base_id


async def test_without_redis_a_cancellation_is_retried_and_then_dropped() -> None:
    gateway = Gateway(FailFastRedis("redis://127.0.0.1:1/0"))
    for attempt in range(1, ATTEMPTS):
        with pytest.raises(TryLater) as unavailable:
            await cancel(gateway, attempt)
        assert unavailable.value.after >= timedelta(seconds=1)
    assert await cancel(gateway, ATTEMPTS) == []


# -- over HTTP


@pytest.fixture
async def web(gateway: Gateway) -> AsyncIterator[Web]:
    found = Web(gateway)
    yield found
    await found.client.aclose()


async def test_delete_cancels_and_returns_the_outcome(web: Web) -> None:
    request = await web.ask("k1")
    reply = await web.delete(request)
    assert reply.status_code == 200
    assert (reply.json()["outcome"], reply.json()["request_id"]) == ("cancelled", request)
    assert [envelope.queue for envelope in web.sent] == ["outcomes", "retrieve", "outcomes"]  # sentinel, work, outcome
    assert (await web.delete(request)).json() == reply.json()


async def test_delete_cancels_an_ask_from_the_queue(web: Web, gateway: Gateway) -> None:
    request = await asked(gateway)
    assert (await web.delete(request.request_id)).json()["outcome"] == "cancelled"
    assert [envelope.queue for envelope in web.sent] == ["answers"]


async def test_delete_returns_an_answer_that_came_first(web: Web, gateway: Gateway) -> None:
    request = await asked(gateway)
    await gateway.ledger.decide(request, ending(request, Outcome.ANSWERED, Code.OK, text="24"))
    reply = await web.delete(request.request_id)
    assert (reply.status_code, reply.json()["text"]) == (200, "24")


async def test_a_request_of_another_caller_is_not_found(web: Web) -> None:
    request = await web.ask("k1")
    for reply in (await web.delete(request, "hr-portal"), await web.delete("rnothing")):
        assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")
    assert (await web.client.delete(f"/v1/requests/{request}")).status_code == 401
    headers = {"Authorization": "Bearer welcome-app"}
    assert (await web.client.get(f"/v1/requests/{request}", headers=headers)).status_code == 202


async def test_delete_of_an_ask_that_was_cancelled_before_it_arrived_is_accepted(web: Web, gateway: Gateway) -> None:
    await cancel(gateway)
    assert (await web.delete(REQUEST)).status_code == 202


async def test_delete_cancels_while_the_broker_is_unavailable(web: Web) -> None:
    request = await web.ask("k1")
    web.broker_is_down = True
    assert (await web.delete(request)).json()["outcome"] == "cancelled"


async def test_delete_without_redis_says_when_to_try_again() -> None:
    web = Web(Gateway(FailFastRedis("redis://127.0.0.1:1/0")))
    reply = await web.delete("r1")
    assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
    assert int(reply.headers["Retry-After"]) >= 1
    await web.client.aclose()


async def test_a_problem_says_whether_and_when_to_try_again(web: Web) -> None:
    headers = {"Authorization": "Bearer welcome-app"}
    replies = [
        await web.client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers) for _ in range(3)
    ]
    spent = replies[-1]
    assert (spent.status_code, spent.json()["code"], spent.json()["retryable"]) == (429, "BudgetExceeded", True)
    assert spent.json()["retry_after"] == int(spent.headers["Retry-After"]) >= 1
    assert f"ask again in {spent.json()['retry_after']} s" in spent.json()["detail"]
    unknown = await web.client.post("/v1/payroll/ask", json={"question": "How?"}, headers=headers)
    assert (unknown.json()["code"], unknown.json()["retryable"]) == ("UnknownUseCase", False)
    assert "retry_after" not in unknown.json()


async def test_every_code_of_a_problem_is_documented(web: Web) -> None:
    web.broker_is_down = True
    headers = {"Authorization": "Bearer welcome-app"}
    replies = [
        await web.client.get("/nowhere", headers=headers),
        await web.client.put("/v1/requests/r1", headers=headers),
        await web.client.get("/v1/requests/r1", headers=headers),
        await web.client.get("/v1/requests/r1"),
        await web.client.post("/v1/onboarding/ask", headers=headers),
        await web.client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers),
    ]
    assert {reply.status_code for reply in replies} == {404, 405, 401, 422, 503}
    assert {reply.json()["code"] for reply in replies} <= {*map(str, Code), *HTTP_CODES}


async def test_a_message_never_has_the_request_id_of_an_ask_over_http(web: Web, gateway: Gateway) -> None:
    """Whatever the caller calls its messages."""
    over_http = await web.ask("k1")
    by_queue = await asked(gateway, message_id="http/k1", question="Another one?")
    assert by_queue.request_id != over_http


async def test_a_cancel_message_also_cancels_an_ask_over_http(web: Web, gateway: Gateway) -> None:
    over_http = await web.ask("k1")
    by_queue = await asked(gateway, message_id="http/k1", question="Another one?")
    told = await cancel(gateway, body=b'{"message_id": "http/k1"}')
    outcomes = [envelope.message for envelope in told]
    assert [each.request_id for each in outcomes if isinstance(each, RequestOutcome)] == [
        by_queue.request_id,
        over_http,
    ]
    assert [envelope.queue for envelope in told] == ["answers", "outcomes"]
