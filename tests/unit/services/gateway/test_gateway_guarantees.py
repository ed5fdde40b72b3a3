"""What the gateway promises whatever the broker, the clock and the body of an ask say."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from services.gateway.main import compose
from services.gateway.settings import GatewaySettings
from shared.access.use_cases import read_use_cases
from shared.bus.port import ENQUEUED_AT
from shared.contracts.ids import request_id
from shared.contracts.queues import LOCK
from shared.errors import SettingsError, TryLater
from shared.ledger.states import LedgerState
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make
from shared.worker.ports import Ports
from shared.worker.retry import Retry, after_failure
from tests.support.budget import hold
from tests.support.builders import NOW
from tests.support.gateway import Gateway, Web, an_ask
from tests.support.memory_bus import MemoryBus

CONFIG = Path(__file__).parents[4] / "examples" / "onboarding"
SKEW = 30.0


SETTINGS = {
    "servicebus_connection_string": "Endpoint=sb://localhost;UseDevelopmentEmulator=true;",
    "config": CONFIG,
    "cache_secret": "a secret of this test",
}


async def queues_served(window: float) -> int:
    """Of a gateway that believes in this duplicate window (seconds)."""
    redis = FailFastRedis("redis://127.0.0.1:1/0")
    settings = GatewaySettings.model_validate({**SETTINGS, "duplicate_window": window, "clock_skew": SKEW})
    return len((await compose(settings, Ports(bus=MemoryBus(), redis=redis, metrics=make()))).workers)


async def test_a_duplicate_window_shorter_than_the_longest_life_of_a_request_is_refused() -> None:
    longest = max(use_case.deadline.longest for use_case in read_use_cases(CONFIG / "use_cases").values())
    shortest = longest + LOCK.total_seconds() + SKEW
    assert await queues_served(shortest) > 0
    with pytest.raises(SettingsError, match="RAGBUS_DUPLICATE_WINDOW"):
        await queues_served(shortest - 1)


async def test_a_body_cannot_say_whose_request_it_is(redis: FailFastRedis) -> None:
    claims = {"tenant": "other-company", "caller": "hr-portal", "groups": ["managers"], "request_id": "r1"}
    envelopes = await Gateway(redis).ask(body=json.dumps({"question": "How?", **claims}).encode())
    assert {(sent.request.tenant, sent.request.caller) for sent in envelopes if sent.request is not None} == {
        ("tessolund", "welcome-app")
    }
    identity = request_id("tessolund", "welcome-app", "m1")
    assert all(sent.message_id.startswith(f"{identity}/") for sent in envelopes)


async def test_an_ask_that_was_not_enqueued_is_not_accepted_and_costs_nothing(redis: FailFastRedis) -> None:
    gateway = Gateway(redis)
    web = Web(gateway)
    web.broker_is_down = True
    headers = {"Authorization": "Bearer welcome-app", "Idempotency-Key": "k1"}
    for _ in range(3):  # 8,000 tokens would pay for two
        reply = await web.client.post("/v1/onboarding/ask", json={"question": "How?"}, headers=headers)
        assert (reply.status_code, reply.headers["content-type"]) == (503, "application/problem+json")
        assert int(reply.headers["Retry-After"]) >= 1
    entry = await gateway.ledger.find(request_id("tessolund", "welcome-app", "http/k1", "http"))
    assert entry is not None
    assert (entry.state, entry.request) == (LedgerState.BOUND, None)
    assert await hold(gateway.budget, 8_000, "all of it") is None
    await web.client.aclose()


async def test_a_retry_of_an_ask_has_no_more_time_than_the_ask_had(redis: FailFastRedis) -> None:
    gateway, first = Gateway(redis), NOW - timedelta(seconds=50)
    work = (await gateway.ask(properties={ENQUEUED_AT: first.isoformat()}))[1].request
    assert work is not None
    assert work.answer_by == first + timedelta(seconds=60)


async def test_a_repeat_checks_for_the_outcome_every_few_seconds_until_its_deadline() -> None:
    """An ask without a time to live has no deadline that its worker knows; the gateway ends it."""
    redis = FailFastRedis("redis://127.0.0.1:1/0")
    settings = GatewaySettings.model_validate(SETTINGS)
    composed = await compose(settings, Ports(bus=MemoryBus(), redis=redis, metrics=make()))
    [policy] = [worker.policy for worker in composed.workers if worker.consumer.queue == "ask"]
    longest = max(use_case.deadline.longest for use_case in read_use_cases(CONFIG / "use_cases").values())
    waited = timedelta(0)
    for attempt in range(1, 1_000):
        decision = after_failure(
            TryLater("underway"), attempt=attempt, now=NOW, deadline=None, policy=policy, chance=0.5
        )
        assert isinstance(decision, Retry)
        assert decision.at - NOW <= timedelta(seconds=5)
        waited += decision.at - NOW
    assert waited > timedelta(seconds=longest)


async def test_the_time_to_live_of_an_ask_limits_its_retries(redis: FailFastRedis) -> None:
    identity = Gateway(redis).ask_consumer.identify(an_ask(time_to_live=timedelta(seconds=30)))
    assert identity.deadline == NOW + timedelta(seconds=30)
