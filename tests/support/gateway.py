"""The gateway without its queues and its web server, on a real Redis."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import httpx

from services.gateway.ask_consumer import AskConsumer
from services.gateway.cancellation import Cancellation
from services.gateway.dead_letter_consumer import DeadLetterConsumer
from services.gateway.held_asks import HeldAsks
from services.gateway.http import make_app
from services.gateway.http_endpoint import HttpEndpoint
from services.gateway.intake import Intake
from services.gateway.outcome_consumer import OutcomeConsumer
from services.gateway.waiters import Waiters
from shared.access.callers import Callers, hash_key
from shared.access.limits import Limits
from shared.access.use_cases import UseCase
from shared.answer_cache import AnswerCache
from shared.budget.rules import Amount
from shared.budget.tenant import TenantBudget
from shared.bus.port import BusUnavailable, Received
from shared.contracts.envelope import Envelope
from shared.contracts.outcome import RequestOutcome
from shared.contracts.request import Request
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make
from tests.support.builders import NOW, a_use_case

CALLERS = Callers.model_validate(
    {
        "tenants": {"tessolund": {"tokens_per_minute": 8000}},
        "callers": [
            {
                "name": name,
                "tenant": "tessolund",
                "groups": groups,
                "use_cases": ["onboarding"],
                "queue": queue,
                "reply_queues": [replies],
            }
            for name, groups, queue, replies in (
                ("welcome-app", ["employees"], "ask", "answers"),
                ("hr-portal", ["employees", "managers"], "ask-hr", "answers-hr"),
                ("comma-app", ["employees,managers"], "ask-comma", "answers-comma"),
            )
        ],
    }
)

USE_CASES = {"onboarding": a_use_case(budget={"when_spent": "refuse"})}


class Gateway:
    def __init__(
        self,
        redis: FailFastRedis,
        budget: TenantBudget | None = None,
        use_cases: Mapping[str, UseCase] = USE_CASES,
    ) -> None:
        self.now = NOW
        self.ledger, self.cache = Ledger(redis), AnswerCache(redis)
        self.budget = budget or TenantBudget(redis, Limits(CALLERS, use_cases).of, self.clock)
        self.tickets = Tickets(redis)
        held = HeldAsks(self.tickets, lambda: NOW)
        self.intake = Intake(
            use_cases=use_cases,
            ledger=self.ledger,
            cache=self.cache,
            cache_secret="s",
            models_version="1",
            budget=self.budget,
            # A whole window: 8,000 tokens a minute pay for two asks.
            estimate=lambda _request, use_case, _passages: Amount(use_case.context_window),
            held=held,
            metrics=make(),
            clock=self.clock,
        )
        self.cancelling = Cancellation(self.ledger, self.budget.give_back, self.clock)
        self.ask_consumer = AskConsumer(CALLERS, self.intake, self.cancelling, self.clock)
        self.dead = DeadLetterConsumer(self.ask_consumer, self.ledger, self.budget.give_back, held.release, self.clock)
        self.waiters = Waiters()
        self.outcomes = OutcomeConsumer(self.ledger, self.waiters, self.budget.give_back, self.clock)

    def clock(self) -> datetime:
        return self.now

    async def ask(self, **changes: Any) -> Sequence[Envelope]:
        return await self.ask_consumer.handle(self.ask_consumer.decode(an_ask(**changes)))


def an_ask(question: str = "How?", body: bytes | None = None, **changes: Any) -> Received:
    given = {"queue": "ask", "subject": "ask.v1", "message_id": "m1", "enqueued_at": NOW, "sequence_number": 7}
    return Received(body=body or json.dumps({"question": question}).encode(), **{**given, **changes})


def the_answer(envelopes: Sequence[Envelope]) -> RequestOutcome:
    [envelope] = envelopes
    assert isinstance(envelope.message, RequestOutcome)
    return envelope.message


def a_dead(message: Received, reason: str, source: str) -> Received:
    return replace(
        message, queue="dead", dead_letter_reason=reason, dead_letter_description="why", dead_letter_source=source
    )


def a_cancel(message_id: str = "m1", body: bytes | None = None, **changes: Any) -> Received:
    given = {"queue": "ask", "subject": "cancel.v1", "message_id": "c1", "enqueued_at": NOW, "sequence_number": 8}
    return Received(body=body or json.dumps({"message_id": message_id}).encode(), **{**given, **changes})


async def cancel(gateway: Gateway, attempt: int = 1, **changes: Any) -> list[Envelope]:
    return list(await gateway.ask_consumer.handle(gateway.ask_consumer.decode(a_cancel(**changes)), attempt))


async def asked(gateway: Gateway, **changes: Any) -> Request:
    request = (await gateway.ask(**changes))[1].request
    assert request is not None
    return request


class Web:
    """The HTTP endpoint, and what it sends."""

    def __init__(self, gateway: Gateway) -> None:
        self.sent: list[Envelope] = []
        self.broker_is_down = False
        endpoint = HttpEndpoint(
            callers=Callers(
                tenants=CALLERS.tenants,
                callers=tuple(c.model_copy(update={"api_keys": (hash_key(c.name),)}) for c in CALLERS.callers),
            ),
            intake=gateway.intake,
            cancelling=gateway.cancelling,
            ledger=gateway.ledger,
            waiters=gateway.waiters,
            send=self.send,
            connected=lambda: True,
            clock=gateway.clock,
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(make_app(endpoint)), base_url="http://gateway")

    async def send(self, envelope: Envelope) -> None:
        if self.broker_is_down:
            raise BusUnavailable("the broker is down")
        self.sent.append(envelope)

    async def delete(self, request: str, caller: str = "welcome-app") -> httpx.Response:
        return await self.client.delete(f"/v1/requests/{request}", headers={"Authorization": f"Bearer {caller}"})

    async def ask(self, key: str) -> str:
        headers = {"Authorization": "Bearer welcome-app", "Idempotency-Key": key}
        reply = await self.client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers)
        return str(reply.json()["request_id"])
