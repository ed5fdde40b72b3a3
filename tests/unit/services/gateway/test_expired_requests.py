"""What is kept of a request that was late, and how it is admitted anew; on the bus in memory and a real Redis."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from services.gateway.replay_consumer import ReplayConsumer
from shared.bus.port import Received
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope, to_archive, to_generator
from shared.contracts.expired import ExpiredRequest, ReplayRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import request_id
from shared.contracts.outcome import Code, Outcome, RequestOutcome, cancelled, ending
from shared.contracts.queues import DEAD, GENERATE, OUTCOMES, RETRIEVE
from shared.contracts.request import ReplyTo, Request
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Reason, Unprocessable
from shared.redis import FailFastRedis
from shared.worker.outbox import outgoing
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.worker import Worker
from tests.support.builders import NOW, a_candidate, a_request
from tests.support.gateway import CALLERS, Gateway, Web
from tests.support.memory_bus import MemoryBus

LATE = NOW + timedelta(seconds=60)
LATE_REASONS = (Reason.DEADLINE_EXCEEDED, Reason.TTL_EXPIRED)


def admitted(**changes: Any) -> Request:
    given = {
        "recorded": True,
        "reserved_tokens": 4000,
        "cache_key": "k",
        "sentinel": 3,
        "ask_digest": "d",
        "token": "t",
    }
    return a_request(**{**given, **changes})


class ExpiringWork:
    """Work that dies on its queue, and the gateway that looks after it."""

    def __init__(self, redis: FailFastRedis) -> None:
        self.gateway = Gateway(redis)
        self.bus = MemoryBus(*(RETRIEVE, GENERATE, OUTCOMES, DEAD, "answers"), clock=lambda: LATE, forward_dead_to=DEAD)

    async def die(self, envelope: Envelope, reason: str = Reason.DEADLINE_EXCEEDED) -> None:
        await self.bus.send(outgoing(envelope, NOW))
        delivery = await self.bus.inbox(envelope.queue).receive(timedelta(seconds=1))
        assert delivery is not None
        await delivery.dead_letter(reason, "no time was left")

    async def look(self) -> list[Received]:
        """Let the gateway work until `dead` is empty; what is in the archive then."""
        worker = Worker(self.gateway.dead.consumer(), self.bus, OutcomeGuard(self.gateway.ledger), clock=lambda: LATE)
        while (delivery := await self.bus.inbox(DEAD).receive(timedelta(0))) is not None:
            await worker.process(delivery)
        return list(await self.bus.peek(DEAD, dead=True))

    async def told(self) -> list[Outcome]:
        return [RequestOutcome.decode(message.body).outcome for message in await self.bus.peek("answers")]


@pytest.fixture
def expiring(redis: FailFastRedis) -> ExpiringWork:
    return ExpiringWork(redis)


def work(request: Request) -> Envelope:
    return to_generator(GenerateAnswer(request=request, candidates=tuple(a_candidate(n) for n in range(1, 13))))


@pytest.mark.parametrize("reason", LATE_REASONS)
async def test_late_work_is_archived_as_its_ask_without_passages(expiring: ExpiringWork, reason: str) -> None:
    await expiring.gateway.ledger.accept(admitted())
    await expiring.die(work(admitted()), reason)
    [archived] = await expiring.look()
    assert await expiring.told() == [Outcome.EXPIRED]
    assert (archived.subject, archived.message_id) == ("expired.v1", "r1/expired")
    assert (archived.dead_letter_reason, archived.dead_letter_description) == (reason, "no time was left")
    kept = ExpiredRequest.decode(archived.body)
    assert (kept.died_on, kept.reason, kept.request) == (GENERATE, reason, a_request())
    assert b"annual leave per year" not in archived.body
    assert len(archived.body) < 1_000


async def test_late_work_is_archived_after_its_sentinel_has_told_the_caller(expiring: ExpiringWork) -> None:
    await expiring.gateway.ledger.accept(admitted())
    await expiring.gateway.ledger.decide(admitted(), ending(admitted(), Outcome.EXPIRED, Code.DEADLINE_EXCEEDED))
    await expiring.gateway.ledger.mark_delivered(admitted())
    await expiring.die(work(admitted()))
    assert [archived.message_id for archived in await expiring.look()] == ["r1/expired"]
    assert await expiring.told() == []


@pytest.mark.parametrize(
    "answer",
    [ending(a_request(), Outcome.ANSWERED, Code.OK, text="21 days"), cancelled(a_request(), NOW)],
    ids=["answered", "cancelled"],
)
async def test_late_work_of_a_request_with_another_outcome_is_not_archived(
    expiring: ExpiringWork, answer: RequestOutcome
) -> None:
    await expiring.gateway.ledger.accept(admitted())
    await expiring.gateway.ledger.decide(admitted(), answer)
    await expiring.gateway.ledger.mark_delivered(admitted())
    await expiring.die(work(admitted()))
    assert await expiring.look() == []


async def test_a_dead_sentinel_tells_the_caller_and_is_not_archived(expiring: ExpiringWork) -> None:
    await expiring.gateway.ledger.accept(admitted())
    sentinel = DeadlinePassed(request=admitted().without_question())
    await expiring.die(Envelope(OUTCOMES, "r1/deadline", sentinel, "c1", request=admitted()))
    assert await expiring.look() == []
    assert await expiring.told() == [Outcome.EXPIRED]


@pytest.mark.parametrize("reason", [Reason.CRASHED, Reason.MAX_DELIVERY_COUNT, Reason.RETRIES_EXHAUSTED])
async def test_work_with_any_other_reason_is_archived_unchanged(expiring: ExpiringWork, reason: str) -> None:
    await expiring.gateway.ledger.accept(admitted())
    await expiring.die(work(admitted()), reason)
    [archived] = await expiring.look()
    assert archived.body == work(admitted()).message.encode()
    assert archived.dead_letter_reason == reason


async def test_a_rerun_and_its_request_are_archived_under_different_ids(expiring: ExpiringWork) -> None:
    for request in (admitted(), admitted(run="p1", rerun=True), admitted(admission=1)):
        await expiring.die(work(request))
    kept = {archived.message_id for archived in await expiring.look()}
    assert kept == {"r1/expired", "r1/expired/p1", "r1/expired/a1"}


async def test_an_archived_ask_forged_by_a_caller_is_read_as_an_ask(expiring: ExpiringWork) -> None:
    forged = ExpiredRequest(request=a_request(), died_on=GENERATE, reason="Crashed")
    message = Received(
        DEAD, forged.encode(), "expired.v1", "m1", dead_letter_source="ask", dead_letter_reason="Crashed"
    )
    dead_message = expiring.gateway.dead.decode(message)
    assert dead_message.request is not None
    assert dead_message.request.request_id == request_id("tessolund", "welcome-app", "m1")


# -- replayed


def replays(redis: FailFastRedis) -> ReplayConsumer:
    return ReplayConsumer(CALLERS, Gateway(redis).ask_consumer)


def a_replay(**changes: Any) -> Received:
    request = a_request(**{"groups": ("former-group",), "run": "p1", "rerun": True, **changes})
    life = timedelta(seconds=45)
    body = ReplayRequest(request=request).encode()
    return Received(OUTCOMES, body, "replay.v1", "r1/replay/p1", enqueued_at=NOW, time_to_live=life, sequence_number=5)


async def replayed(redis: FailFastRedis, **changes: Any) -> Sequence[Envelope]:
    consumer = replays(redis)
    return await consumer.handle(consumer.decode(a_replay(**changes)))


async def test_a_replay_is_admitted_again_with_the_rights_of_today(redis: FailFastRedis) -> None:
    sentinel, asked = await replayed(redis)
    assert (sentinel.queue, asked.queue, asked.message_id) == (OUTCOMES, RETRIEVE, "r1/retrieve/p1")
    assert isinstance(asked.message, RetrievePassages)
    request = asked.message.request
    assert (request.request_id, request.run, request.rerun) == ("r1", "p1", True)
    assert (request.question, request.use_case) == (a_request().question, "onboarding")
    assert request.groups == ("employees",)
    assert (request.reply_to, request.correlation_id) == (a_request().reply_to, "c1")
    assert request.answer_by == NOW + timedelta(seconds=45)
    assert request.cache_key is not None


async def test_a_replay_for_an_http_caller_is_answered_over_http(redis: FailFastRedis) -> None:
    address = ReplyTo(queue=OUTCOMES, session="r1")
    _, asked = await replayed(redis, reply_to=address)
    assert asked.request is not None
    assert asked.request.reply_to == address


async def test_the_location_of_a_rerun_leads_to_its_outcome(redis: FailFastRedis) -> None:
    gateway, key = Gateway(redis), {"Authorization": "Bearer welcome-app"}
    web = Web(gateway)
    _, asked = await replayed(redis, reply_to=ReplyTo(queue=OUTCOMES, session="r1"))
    pending = await web.client.get("/v1/requests/r1?run=p1", headers=key)
    assert (pending.status_code, pending.json()["request_id"]) == (202, "r1")
    again = await web.client.get(pending.headers["Location"], headers=key)
    assert (again.status_code, again.headers["Location"]) == (202, pending.headers["Location"])
    assert asked.request is not None
    await gateway.ledger.decide(asked.request, ending(asked.request, Outcome.ANSWERED, Code.OK))
    done = await web.client.get(pending.headers["Location"], headers=key)
    assert (done.status_code, done.json()["run"]) == (200, "p1")
    assert done.headers["Location"] == pending.headers["Location"]


async def test_without_rerun_a_replay_changes_nothing(redis: FailFastRedis) -> None:
    assert await replayed(redis, rerun=False) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caller": "left-the-company"}, Reason.UNAUTHORIZED),
        ({"run": "p1/reply"}, Reason.SCHEMA_INVALID),
        ({"run": ""}, Reason.SCHEMA_INVALID),
        ({"question": " "}, Reason.SCHEMA_INVALID),
    ],
)
async def test_a_replay_that_cannot_be_admitted_is_refused(
    redis: FailFastRedis, changes: dict[str, Any], reason: Reason
) -> None:
    with pytest.raises(Unprocessable) as refused:
        await replayed(redis, **changes)
    assert refused.value.reason is reason


async def test_a_replay_for_a_caller_that_has_no_reply_queue_any_more_is_refused(redis: FailFastRedis) -> None:
    over_http = CALLERS.model_copy(
        update={
            "callers": tuple(each.model_copy(update={"queue": None, "reply_queues": ()}) for each in CALLERS.callers)
        }
    )
    consumer = ReplayConsumer(over_http, Gateway(redis).ask_consumer)
    with pytest.raises(Unprocessable, match="no longer gives welcome-app a reply queue"):
        await consumer.handle(consumer.decode(a_replay()))
    address = ReplyTo(queue=OUTCOMES, session="r1")
    assert len(await consumer.handle(consumer.decode(a_replay(reply_to=address)))) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"use_case": "gone"}, Code.UNKNOWN_USE_CASE),
        ({"reply_to": ReplyTo(queue="answers-hr", session="s1")}, Code.REPLY_TO_NOT_ALLOWED),
    ],
)
async def test_what_is_not_allowed_today_is_the_outcome_of_the_run(
    redis: FailFastRedis, changes: dict[str, Any], code: Code
) -> None:
    [refused] = await replayed(redis, **changes)
    assert isinstance(refused.message, RequestOutcome)
    assert (refused.message.code, refused.message_id, refused.message.run) == (code, "r1/reply/p1", "p1")


async def test_a_dead_replay_is_told_as_the_outcome_of_its_run(expiring: ExpiringWork) -> None:
    for rerun in (True, False):
        request = a_request(run="p1", rerun=rerun)
        await expiring.die(
            Envelope(OUTCOMES, f"r1/replay/{rerun}", ReplayRequest(request=request), "c1"), "Unauthorized"
        )
    assert len(await expiring.look()) == 2
    [told] = await expiring.bus.peek("answers")
    assert told.message_id == "r1/reply/p1"


def test_the_archived_copy_always_has_the_same_id() -> None:
    kept = ExpiredRequest(request=a_request(), died_on=RETRIEVE, reason=Reason.TTL_EXPIRED)
    assert json.loads(to_archive(kept).message.encode())["died_on"] == RETRIEVE
    assert {to_archive(kept).message_id for _ in range(2)} == {"r1/expired"}
