"""An id belongs to its question, and its outcome to every ask of it; on a real Redis, by queue and over HTTP."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from services.gateway.expired_dead_letters import ExpiredDeadLetterScan
from services.gateway.waiters import HttpOutcome
from shared.answer_cache import CachePartition
from shared.budget.tenant import TenantBudget
from shared.bus.port import FIRST_NUMBER, ORIGIN, Delivery, Outgoing, Received
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.ids import ask_token, request_id
from shared.contracts.outcome import Citation, Code, Outcome, RequestOutcome, ending
from shared.contracts.queues import DEAD
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.errors import TryLater
from shared.ledger.ledger import Entry
from shared.ledger.states import LedgerState
from shared.redis import FailFastRedis, RedisUnavailable
from shared.telemetry.metrics import make
from shared.worker.outbox import handed_back, retry_copy
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.publisher import Publisher
from shared.worker.worker import Worker
from tests.support.breakable import Breakable
from tests.support.budget import a_budget, hold, spend
from tests.support.builders import NOW, a_request
from tests.support.gateway import Gateway, Web, a_dead, an_ask, cancel, the_answer
from tests.support.memory_bus import MemoryBus

REQUEST = request_id("tessolund", "welcome-app", "m1")
FIRST: dict[str, Any] = {"reply_to_session_id": "s1", "sequence_number": 7}
REPEAT: dict[str, Any] = {"reply_to_session_id": "s2", "sequence_number": 8, "correlation_id": "c2"}
LONG = "word " * 4_000
TICKETS = "ragbus:{flow}:tickets"


class SendingGateway(Gateway):
    """A gateway whose envelopes leave."""

    def __init__(self, redis: FailFastRedis, budget: TenantBudget | None = None) -> None:
        super().__init__(redis, budget)
        queues = ("answers", "outcomes", "retrieve", "ask", DEAD)
        self.bus = MemoryBus(*queues, clock=self.clock, forward_dead_to=DEAD)
        self.publisher = Publisher(self.bus, OutcomeGuard(self.ledger, self.clock), make(), self.clock)
        self.scan = ExpiredDeadLetterScan(
            bus=self.bus,
            dead_letters=self.dead,
            ledger=self.ledger,
            redis=redis,
            send=self.publisher.send,
            clock=self.clock,
        )

    async def take(self, **changes: Any) -> Sequence[Envelope]:
        """An ask comes in, and what it leads to is sent."""
        envelopes = await self.ask(**changes)
        for envelope in envelopes:
            await self.publisher.send(envelope)
        return envelopes

    async def work(self, **changes: Any) -> Request:
        """The request that an ask became."""
        request = (await self.take(**changes))[1].request
        assert request is not None
        return request

    async def finish(self, request: Request, **changes: Any) -> None:
        """A worker sends the outcome of `request`."""
        given: dict[str, Any] = {"outcome": Outcome.ANSWERED, "code": Code.OK, "finished_at": self.now, **changes}
        await self.publisher.send(to_caller(request, ending(request, **given), self.now))

    async def dies(self, message: Received, reason: str) -> Sequence[Envelope]:
        """A message of a caller is dead-lettered, and what is told is sent."""
        envelopes = await self.dead.handle(self.dead.decode(a_dead(message, reason, "ask")))
        for envelope in envelopes:
            await self.publisher.send(envelope)
        return envelopes

    async def comes(self, session: str, body: bytes = b'{"question": "How?"}') -> Delivery:
        """An ask as its queue delivers it."""
        ask: dict[str, Any] = {"subject": "ask.v1", "message_id": "m1", "reply_to_session_id": session}
        self.bus._queue("ask").seen.clear()  # a minute later
        await self.bus.send(Outgoing("ask", body, **ask))
        delivery = await self.bus.inbox("ask").receive(timedelta(0))
        assert delivery is not None
        return delivery

    async def look_after_the_dead(self) -> None:
        """The gateway works until `dead` is empty."""
        outcomes = OutcomeGuard(self.ledger, self.clock)
        worker = Worker(self.dead.consumer(), self.bus, outcomes, clock=self.clock)
        while (delivery := await self.bus.inbox(DEAD).receive(timedelta(0))) is not None:
            await worker.process(delivery)

    async def expire_the_dead(self) -> None:
        """What is in `dead` expires there, before the gateway has looked at it."""
        while (delivery := await self.bus.inbox(DEAD).receive(timedelta(0))) is not None:
            await delivery.dead_letter("TTLExpiredException", "it expired again")

    async def heard(self, session: str) -> list[tuple[str | None, RequestOutcome]]:
        """What came in a session: message ids and outcomes."""
        replies = await self.bus.peek("answers")
        return [(each.message_id, RequestOutcome.decode(each.body)) for each in replies if each.session_id == session]

    async def entry(self) -> Entry:
        found = await self.ledger.find(REQUEST)
        assert found is not None
        return found


@pytest.fixture
def gateway(redis: FailFastRedis) -> SendingGateway:
    return SendingGateway(redis)


def token_of(message: Received) -> str:
    return ask_token(message.reply_to_session_id, message.sequence_number, message.body)


async def cached(gateway: SendingGateway) -> None:
    request = await gateway.work(message_id="earlier", sequence_number=1)
    assert request.cache_key is not None
    cited = Citation(marker=1, path="d.md", version=1, title="t", start=0, end=1, quote="q", score=1)
    answer = ending(request, Outcome.ANSWERED, Code.OK, text="24", citations=(cited,))
    await gateway.cache.store(CachePartition("tessolund", "handbook"), request.cache_key, answer, epoch=0, ttl=60)


async def first_from_the_cache(gateway: SendingGateway) -> None:
    await cached(gateway)
    await gateway.take(**FIRST)


async def first_refused(gateway: SendingGateway) -> None:
    body = json.dumps({"question": "How?", "use_case": "travel"}).encode()
    await gateway.take(body=body, **FIRST)


async def first_too_long(gateway: SendingGateway) -> None:
    await gateway.take(question=LONG[:7_900], **FIRST)


async def first_over_budget(gateway: SendingGateway) -> None:
    for number in range(2):
        await gateway.take(message_id=f"other-{number}", sequence_number=number)
    await gateway.take(**FIRST)


async def first_too_late(gateway: SendingGateway) -> None:
    await gateway.take(enqueued_at=NOW - timedelta(minutes=9), **FIRST)


async def first_cancelled(gateway: SendingGateway) -> None:
    await cancel(gateway)
    await gateway.take(**FIRST)


async def first_in_progress(gateway: SendingGateway) -> None:
    await gateway.take(**FIRST)


async def first_answered(gateway: SendingGateway) -> None:
    await gateway.finish(await gateway.work(**FIRST))


async def first_expired_unseen(gateway: SendingGateway) -> None:
    await gateway.dies(an_ask(**FIRST), "TTLExpiredException")


@pytest.mark.parametrize(
    "first",
    [
        first_from_the_cache,
        first_refused,
        first_too_long,
        first_over_budget,
        first_too_late,
        first_cancelled,
        first_in_progress,
        first_answered,
        first_expired_unseen,
    ],
)
@pytest.mark.parametrize(
    "other",
    [
        {"question": "Why?"},
        {"question": "How?", "cache": "refresh"},
        {"question": "How?", "use_case": "holiday"},
        {"question": "How?", "conversation": [{"role": "user", "text": "In Portugal."}]},
    ],
    ids=["question", "cache", "use case", "conversation"],
)
async def test_another_question_under_a_used_id_is_refused_whatever_the_state_of_the_first(
    gateway: SendingGateway, first: Callable[[SendingGateway], Awaitable[None]], other: dict[str, Any]
) -> None:
    await first(gateway)
    before, heard = await gateway.entry(), await gateway.heard("s1")
    second = an_ask(body=json.dumps(other).encode(), **REPEAT)
    await gateway.take(body=second.body, **REPEAT)
    [(message_id, answer)] = await gateway.heard("s2")
    assert (answer.outcome, answer.code, answer.retryable) == (Outcome.REFUSED, Code.ID_REUSED, False)
    assert message_id == f"{REQUEST}/reply/{token_of(second)}"
    assert (await gateway.entry(), await gateway.heard("s1")) == (before, heard)


@pytest.mark.parametrize(
    "first", [first_from_the_cache, first_cancelled, first_answered], ids=["cached", "cancelled", "answered"]
)
async def test_a_repeat_gets_the_outcome_in_its_own_session(
    gateway: SendingGateway, first: Callable[[SendingGateway], Awaitable[None]]
) -> None:
    await first(gateway)
    [(message_id, outcome)] = await gateway.heard("s1")
    assert message_id == f"{REQUEST}/reply"
    for _ in range(2):  # the repeat may be delivered twice as well
        await gateway.take(**REPEAT)
    assert await gateway.heard("s2") == [(f"{REQUEST}/reply/{token_of(an_ask(**REPEAT))}", outcome)]
    [reply] = [each for each in await gateway.bus.peek("answers") if each.session_id == "s2"]
    assert reply.correlation_id == "c2"  # as any reply, it answers the message that asked
    await gateway.take(**{**REPEAT, "sequence_number": 9, "reply_to_session_id": "s3"})
    assert [answer for _, answer in await gateway.heard("s3")] == [outcome]


@pytest.mark.parametrize("copy", ["redelivered", "retried", "handed back"])
async def test_the_same_ask_delivered_again_is_sent_no_second_copy(gateway: SendingGateway, copy: str) -> None:
    await gateway.finish(await gateway.work(**FIRST))
    gateway.bus._queue("answers").seen.clear()  # even if the broker forgot
    message = an_ask(**FIRST)
    identity = gateway.ask_consumer.identify(message)
    sent = retry_copy(message, identity, NOW) if copy == "retried" else handed_back(message, identity, NOW)
    changes: dict[str, Any] = {"message_id": sent.message_id, "properties": sent.properties, "sequence_number": 99}
    await gateway.take(**{**FIRST, **(changes if copy != "redelivered" else {})})
    assert len(await gateway.heard("s1")) == 1


async def test_a_repeat_waits_for_the_outcome_of_the_first(gateway: SendingGateway) -> None:
    request = await gateway.work(**FIRST)
    with pytest.raises(TryLater):
        await gateway.take(**REPEAT)
    assert [each.message_id for each in await gateway.bus.peek("retrieve")] == [f"{REQUEST}/retrieve"]
    await gateway.finish(request)
    message = an_ask(**REPEAT)
    copy = retry_copy(message, gateway.ask_consumer.identify(message), NOW)
    await gateway.take(
        **{**REPEAT, "message_id": copy.message_id, "properties": copy.properties, "sequence_number": 31}
    )
    assert [name for name, _ in await gateway.heard("s2")] == [f"{REQUEST}/reply/{token_of(message)}"]


def test_a_repeat_is_retried_under_ids_of_its_own(redis: FailFastRedis) -> None:
    """The queue would take its retry for that of the first, and drop it."""
    ask_consumer = SendingGateway(redis).ask_consumer
    first, repeat = (retry_copy(each, ask_consumer.identify(each), NOW) for each in (an_ask(**FIRST), an_ask(**REPEAT)))
    assert first.message_id != repeat.message_id
    assert (repeat.properties[ORIGIN], repeat.properties[FIRST_NUMBER]) == ("m1", "8")


async def test_only_the_sender_of_a_late_repeat_is_told_that_it_expired(gateway: SendingGateway) -> None:
    request = await gateway.work(**FIRST)
    gateway.now += timedelta(seconds=31)
    late = {**REPEAT, "time_to_live": timedelta(seconds=30)}
    await gateway.take(**late)
    [(_, answer)] = await gateway.heard("s2")
    assert (answer.outcome, answer.retryable) == (Outcome.EXPIRED, True)
    assert (await gateway.entry()).is_open
    await gateway.finish(request, text="24")
    assert [answer.text for _, answer in await gateway.heard("s1")] == ["24"]


@pytest.mark.parametrize("reason", ["TTLExpiredException", "MaxDeliveryCountExceeded", "DeadlineExceeded"])
async def test_only_the_sender_of_a_dead_repeat_is_told_and_no_tokens_are_given_back(
    gateway: SendingGateway, reason: str
) -> None:
    request = await gateway.work(**FIRST)
    await gateway.work(message_id="m2", sequence_number=3)  # 8,000 tokens pay for two
    await gateway.dies(an_ask(**REPEAT), reason)
    [(message_id, _)] = await gateway.heard("s2")
    assert message_id == f"{REQUEST}/reply/{token_of(an_ask(**REPEAT))}"
    assert (await gateway.entry()).is_open
    assert await hold(gateway.budget, 4_000, "another") is not None
    await gateway.finish(request, text="24")
    assert [answer.text for _, answer in await gateway.heard("s1")] == ["24"]


# -- asks that die before they are looked at


async def first_decided(gateway: SendingGateway) -> None:
    request = await gateway.work(**FIRST)
    answered = ending(request, Outcome.ANSWERED, Code.OK, finished_at=gateway.now, text="24")
    await gateway.ledger.decide(request, answered)


async def first_overloaded(gateway: SendingGateway) -> None:
    given = {"outcome": Outcome.REFUSED, "code": Code.OVERLOADED, "retryable": True, "retry_after": 5.0}
    await gateway.finish(await gateway.work(**FIRST), **given)


async def first_admitted_again(gateway: SendingGateway) -> None:
    await first_overloaded(gateway)
    gateway.now += timedelta(seconds=5)
    await gateway.work(**{**REPEAT, "reply_to_session_id": "s3"})


@pytest.mark.parametrize(
    ("first", "body", "code"),
    [
        (first_answered, b'{"question": "How?"}', Code.OK),
        (first_decided, b'{"question": "How?"}', Code.OK),
        (first_overloaded, b'{"question": "How?"}', Code.OVERLOADED),
        (first_cancelled, b'{"question": "How?"}', Code.CANCELLED),
        (first_admitted_again, b'{"question": "How?"}', Code.DEADLINE_EXCEEDED),
        (first_in_progress, b'{"question": "How?"}', Code.DEADLINE_EXCEEDED),
        (first_answered, b"{not json", Code.DEADLINE_EXCEEDED),
        (first_answered, b'{"question": "Why?"}', Code.ID_REUSED),
        (first_in_progress, b'{"question": "Why?"}', Code.ID_REUSED),
    ],
)
@pytest.mark.parametrize("by", ["worker", "scan"])
async def test_a_repeat_dead_lettered_unread_gets_the_outcome_or_its_failure_in_its_own_session(
    gateway: SendingGateway, first: Callable[[SendingGateway], Awaitable[None]], body: bytes, code: Code, by: str
) -> None:
    await first(gateway)
    before, heard = await gateway.entry(), await gateway.heard("s1")
    repeat = await gateway.comes("s2", body)
    await repeat.dead_letter("TTLExpiredException", "it expired")
    if by == "worker":
        await gateway.look_after_the_dead()
    else:
        await gateway.expire_the_dead()
        await gateway.scan.once()
    [(message_id, answer)] = await gateway.heard("s2")
    assert (message_id, answer.code) == (f"{REQUEST}/reply/{token_of(repeat.message)}", code)
    assert (await gateway.entry(), await gateway.heard("s1")) == (before, heard)
    await gateway.scan.once()  # it is in the archive now, told
    assert len(await gateway.heard("s2")) == 1


async def test_a_repeat_dead_lettered_after_the_retry_time_ends_an_admission_of_its_own(
    gateway: SendingGateway,
) -> None:
    await first_overloaded(gateway)
    gateway.now += timedelta(seconds=5)
    await (await gateway.comes("s2")).dead_letter("TTLExpiredException", "it expired")
    await gateway.look_after_the_dead()
    assert [answer.code for _, answer in await gateway.heard("s2")] == [Code.DEADLINE_EXCEEDED]
    assert ((await gateway.entry()).admission, len(await gateway.heard("s1"))) == (1, 1)


@pytest.mark.parametrize("done", ["delivered", "decided", "admitted again"])
async def test_an_admitted_ask_that_is_dead_lettered_gets_its_outcome_once(gateway: SendingGateway, done: str) -> None:
    ask = await gateway.comes("s1")
    _, work = await gateway.ask_consumer.handle(gateway.ask_consumer.decode(ask.message))
    assert work.request is not None
    code = Code.OVERLOADED if done == "admitted again" else Code.OK
    outcome = Outcome.REFUSED if done == "admitted again" else Outcome.ANSWERED
    given: dict[str, Any] = {"retryable": done == "admitted again", "finished_at": gateway.now}
    if done == "decided":
        await gateway.ledger.decide(work.request, ending(work.request, outcome, code, **given))
    else:
        await gateway.finish(work.request, outcome=outcome, code=code, **given)
    if done == "admitted again":
        await gateway.work(**REPEAT)
    gateway.bus._queue("answers").seen.clear()  # even if the broker forgot
    await ask.dead_letter("MaxDeliveryCountExceeded", "it came back too often")
    await gateway.look_after_the_dead()
    assert [(name, answer.code) for name, answer in await gateway.heard("s1")] == [(f"{REQUEST}/reply", code)]
    assert (await gateway.entry()).answer is None or (await gateway.entry()).delivered


async def test_a_cancelled_ask_dead_lettered_unread_gets_cancelled(gateway: SendingGateway) -> None:
    await cancel(gateway)
    await (await gateway.comes("s1")).dead_letter("TTLExpiredException", "it expired")
    await gateway.look_after_the_dead()
    assert [answer.code for _, answer in await gateway.heard("s1")] == [Code.CANCELLED]


async def test_the_ticket_of_a_dead_lettered_ask_is_given_back(gateway: SendingGateway, redis: FailFastRedis) -> None:
    ask = await gateway.comes("s1")
    await gateway.ask_consumer.handle(gateway.ask_consumer.decode(ask.message))
    assert await redis.run(lambda connection: connection.zcard(TICKETS)) == 1
    await ask.dead_letter("MaxDeliveryCountExceeded", "its gateway died each time")
    await gateway.look_after_the_dead()
    assert await redis.run(lambda connection: connection.zcard(TICKETS)) == 0


# -- outcomes that are not final


async def test_a_repeat_gets_a_retryable_refusal_again_until_the_retry_time(gateway: SendingGateway) -> None:
    await first_over_budget(gateway)
    [(_, refusal)] = await gateway.heard("s1")
    assert refusal.retry_after is not None
    gateway.now += timedelta(seconds=10)
    await gateway.take(**REPEAT)
    [(_, again)] = await gateway.heard("s2")
    assert (again.code, again.request_id) == (Code.BUDGET_EXCEEDED, refusal.request_id)
    assert again.retry_after == pytest.approx(refusal.retry_after - 10)


async def refused_and_admitted_again(gateway: SendingGateway) -> Request:
    """The request of the second admission."""
    await first_over_budget(gateway)
    [(_, refusal)] = await gateway.heard("s1")
    await gateway.budget.give_back(a_request(request_id=request_id("tessolund", "welcome-app", "other-0")))
    gateway.now += timedelta(seconds=refusal.retry_after or 0)
    return await gateway.work(**REPEAT)


async def test_after_the_retry_time_the_same_ask_is_admitted_under_new_ids(gateway: SendingGateway) -> None:
    request = await refused_and_admitted_again(gateway)
    token = token_of(an_ask(**REPEAT))
    assert (request.admission, request.token, request.spending) == (1, token, f"{REQUEST}/a1")
    sent = [each.message_id for each in gateway.bus.sent if str(each.message_id).startswith(REQUEST)]
    assert sent[0] == f"{REQUEST}/reply"
    assert sent[1:] == [f"{REQUEST}/deadline.{int(request.answer_by.timestamp())}/a1", f"{REQUEST}/retrieve/a1"]
    await gateway.finish(request, text="24")
    assert [(name, answer.text) for name, answer in await gateway.heard("s2")] == [(f"{REQUEST}/reply/{token}", "24")]
    assert len(await gateway.heard("s1")) == 1


async def test_messages_of_an_earlier_admission_change_nothing(gateway: SendingGateway) -> None:
    request = await refused_and_admitted_again(gateway)
    old = request.model_copy(update={"admission": 0, "token": "", "answer_by": request.answer_by})
    await gateway.finish(old, text="late")
    assert await gateway.outcomes.handle(DeadlinePassed(request=old)) == []
    await gateway.take(**FIRST)  # its redelivery
    assert len(await gateway.heard("s1")) == 1
    assert (await gateway.entry()).is_open
    await gateway.finish(request, text="24")
    assert [answer.text for _, answer in await gateway.heard("s2")] == ["24"]


async def test_a_redelivered_ask_of_an_earlier_admission_is_not_admitted_again(gateway: SendingGateway) -> None:
    """It is a redelivery, however late, and was answered."""
    request = await refused_and_admitted_again(gateway)
    await gateway.finish(request, outcome=Outcome.EXPIRED, code=Code.DEADLINE_EXCEEDED, retryable=True)
    assert await gateway.take(**FIRST) == []
    assert (await gateway.entry()).admission == 1


async def test_an_ask_of_a_later_admission_is_the_same_request_when_redelivered(gateway: SendingGateway) -> None:
    request = await refused_and_admitted_again(gateway)
    assert await gateway.work(**REPEAT) == request


async def first_expired_in_progress(gateway: SendingGateway) -> None:
    given = {"outcome": Outcome.EXPIRED, "code": Code.DEADLINE_EXCEEDED, "retryable": True}
    await gateway.finish(await gateway.work(**FIRST), **given)


@pytest.mark.parametrize("first", [first_expired_in_progress, first_too_late, first_expired_unseen])
async def test_an_expired_ask_can_be_repeated_at_once(
    gateway: SendingGateway, first: Callable[[SendingGateway], Awaitable[None]]
) -> None:
    await first(gateway)
    assert [answer.code for _, answer in await gateway.heard("s1")] == [Code.DEADLINE_EXCEEDED]
    assert (await gateway.work(**REPEAT)).admission == 1


async def test_a_refusal_that_is_not_retryable_is_final(gateway: SendingGateway) -> None:
    await first_refused(gateway)
    gateway.now += timedelta(hours=1)
    body = json.dumps({"question": "How?", "use_case": "travel"}).encode()
    await gateway.take(body=body, **REPEAT)
    assert [answer.code for _, answer in await gateway.heard("s2")] == [Code.UNKNOWN_USE_CASE]
    assert (await gateway.entry()).admission == 0


@pytest.mark.parametrize("first", [first_over_budget, first_answered], ids=["retryable", "final"])
async def test_an_operators_replay_of_an_ask_with_an_outcome_changes_nothing(
    gateway: SendingGateway, first: Callable[[SendingGateway], Awaitable[None]]
) -> None:
    await first(gateway)
    gateway.now += timedelta(minutes=5)
    before = await gateway.entry()
    replay = {**REPEAT, "properties": {"ragbus-run": "p1", ORIGIN: "m1"}, "message_id": "x"}
    assert await gateway.take(**replay) == []
    assert await gateway.entry() == before


# -- what cannot be read

BROKEN: dict[str, Any] = {**FIRST, "body": b"{not json"}


async def test_only_the_sender_of_an_unreadable_ask_is_told_and_a_corrected_one_gets_the_id(
    gateway: SendingGateway,
) -> None:
    await gateway.dies(an_ask(**BROKEN), "SchemaInvalid")
    [(message_id, answer)] = await gateway.heard("s1")
    assert (message_id, answer.code) == (f"{REQUEST}/reply/{token_of(an_ask(**BROKEN))}", Code.SCHEMA_INVALID)
    assert (await gateway.entry()).state is LedgerState.UNREAD
    await gateway.finish(await gateway.work(**REPEAT), text="24")
    assert [(name, answer.text) for name, answer in await gateway.heard("s2")] == [(f"{REQUEST}/reply", "24")]


async def test_an_unreadable_repeat_does_not_end_the_request_in_progress(gateway: SendingGateway) -> None:
    request = await gateway.work(**FIRST)
    await gateway.dies(an_ask(**{**REPEAT, "body": b"{not json"}), "SchemaInvalid")
    assert [answer.code for _, answer in await gateway.heard("s2")] == [Code.SCHEMA_INVALID]
    await gateway.finish(request, text="24")
    assert [answer.text for _, answer in await gateway.heard("s1")] == ["24"]


@pytest.mark.parametrize(
    ("body", "dies_of"),
    [
        (b"{not json", "SchemaInvalid"),
        (b'{"question": "How?"}', None),
        (b'{"question": "How?"}', "TTLExpiredException"),
    ],
    ids=["as it was", "mended", "mended and too late"],
)
async def test_an_operators_replay_of_an_unreadable_ask_changes_nothing(
    gateway: SendingGateway, body: bytes, dies_of: str | None
) -> None:
    await gateway.dies(an_ask(**BROKEN), "SchemaInvalid")
    before = await gateway.entry()
    replay = {**FIRST, "body": body, "properties": {"ragbus-run": "p1", ORIGIN: "m1"}, "message_id": "x"}
    assert await (gateway.dies(an_ask(**replay), dies_of) if dies_of else gateway.take(**replay)) == []
    assert await gateway.entry() == before


# -- several at once, and without Redis


async def test_one_of_several_concurrent_questions_gets_the_id(gateway: SendingGateway) -> None:
    asks = [
        an_ask(question=f"{'How' if number % 2 else 'Why'}?", reply_to_session_id=f"s{number}", sequence_number=number)
        for number in range(8)
    ]
    taken = await asyncio.gather(
        *(gateway.ask_consumer.handle(gateway.ask_consumer.decode(ask)) for ask in asks), return_exceptions=True
    )
    waiting = [each for each in taken if isinstance(each, TryLater)]
    work = [each for each in taken if not isinstance(each, BaseException) and len(each) == 2]
    reused = [each for each in taken if not isinstance(each, BaseException) and len(each) == 1]
    assert (len(work), len(waiting), len(reused)) == (1, 3, 4)
    assert {the_answer(each).code for each in reused} == {Code.ID_REUSED}


async def test_without_redis_only_the_reply_queue_drops_a_second_outcome() -> None:
    redis = FailFastRedis("redis://127.0.0.1:1/0")
    gateway = SendingGateway(redis, a_budget(redis, 80_000))
    first, repeat = await gateway.ask(**FIRST), await gateway.ask(**REPEAT)
    assert [each.message_id for each in first] == [each.message_id for each in repeat]


class Redis(Breakable):
    """Away at the first step of an admission."""

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        if self.cut and "ragbus:request" in keys[0]:
            self.cut = False
            raise RedisUnavailable("cut")
        return await super().script(source, keys, args)

    def _only_whole(self) -> None:
        pass


async def test_a_redis_that_comes_back_during_an_admission_binds_the_id(redis_url: str) -> None:
    redis = Redis(redis_url, timeout=60)
    await redis.run(lambda connection: connection.flushall())
    gateway = SendingGateway(redis)
    await first_in_progress(gateway)
    redis.cut = True
    await gateway.take(**{**REPEAT, "question": "Why?"})
    assert [answer.code for _, answer in await gateway.heard("s2")] == [Code.ID_REUSED]
    redis.cut = True
    with pytest.raises(TryLater):
        await gateway.take(**{**REPEAT, "sequence_number": 9})
    await redis.close()


class LateRedis(FailFastRedis):
    """Runs the next scripts, of which the answers come too late."""

    late = 0

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        answer = await super().script(source, keys, args)
        if self.late > 0:
            self.late -= 1
            raise RedisUnavailable("no answer within 0.08 s")
        return answer


@pytest.mark.parametrize("late", [1, 99], ids=["the bind alone", "and all that comes after it"])
async def test_an_ask_whose_new_admission_redis_confirmed_too_late_gets_its_outcome(redis_url: str, late: int) -> None:
    redis = LateRedis(redis_url, timeout=60)
    gateway = SendingGateway(redis)
    await gateway.finish(await gateway.work(**FIRST), outcome=Outcome.REFUSED, code=Code.OVERLOADED, retryable=True)
    gateway.now += timedelta(seconds=5)
    redis.late = late
    envelopes = await gateway.take(**REPEAT)
    redis.late = 0
    work = envelopes[-1].request
    assert work is not None
    assert await gateway.ledger.is_open(work)
    await gateway.finish(work, text="24")
    assert [answer.text for _, answer in await gateway.heard("s2")] == ["24"]
    await gateway.take(**{**REPEAT, "sequence_number": 9, "reply_to_session_id": "s3"})
    assert [answer.text for _, answer in await gateway.heard("s3")] == ["24"]
    await redis.close()


# -- over HTTP


@pytest.fixture
async def web(gateway: SendingGateway) -> AsyncIterator[Web]:
    found = Web(gateway)
    yield found
    await found.client.aclose()


async def post(
    web: Web, question: str = "How?", key: str | None = "k1", use_case: str = "onboarding", wait: float = 0
) -> httpx.Response:
    headers = {"Authorization": "Bearer welcome-app"} | ({"Idempotency-Key": key} if key else {})
    url = f"/v1/{use_case}/ask?wait={wait}"
    return await web.client.post(url, json={"question": question}, headers=headers)


async def test_eight_concurrent_asks_with_four_questions_and_one_key_are_one_request(web: Web) -> None:
    questions = [f"Question {number % 4}?" for number in range(8)]
    replies = await asyncio.gather(*(post(web, question) for question in questions))
    by_status = Counter(reply.status_code for reply in replies)
    assert by_status == {202: 2, 422: 6}
    assert {reply.json()["code"] for reply in replies if reply.status_code == 422} == {"IdReused"}
    assert len({question for question, reply in zip(questions, replies, strict=True) if reply.status_code == 202}) == 1
    assert len({envelope.message_id for envelope in web.sent if envelope.queue == "retrieve"}) == 1


@pytest.mark.parametrize(
    ("first", "status", "code"),
    [
        ({"use_case": "holiday"}, 404, "UnknownUseCase"),
        ({"question": LONG[:7_900]}, 422, "QuestionTooLong"),
    ],
)
async def test_a_refusal_over_http_is_the_same_when_repeated(
    web: Web, first: dict[str, Any], status: int, code: str
) -> None:
    for _ in range(2):
        reply = await post(web, **first)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
    other = await post(web, "Another question?")
    assert (other.status_code, other.json()["code"]) == (422, "IdReused")
    assert "under a new id" in other.json()["detail"]


async def test_a_retryable_refusal_over_http_counts_down_and_is_then_admitted(
    web: Web, gateway: SendingGateway
) -> None:
    for number in range(2):
        assert (await post(web, key=f"other-{number}")).status_code == 202
    first = await post(web)
    gateway.now += timedelta(seconds=10)
    again = await post(web)
    assert (first.status_code, again.status_code) == (429, 429)
    assert int(again.headers["Retry-After"]) == int(first.headers["Retry-After"]) - 10
    gateway.now += timedelta(seconds=int(again.headers["Retry-After"]))
    other = request_id("tessolund", "welcome-app", "http/other-0", "http")
    await gateway.budget.give_back(a_request(request_id=other))
    reply = await post(web)
    assert reply.status_code == 202
    assert web.sent[-1].message_id == f"{reply.json()['request_id']}/retrieve/a1"


async def test_a_repeat_that_would_be_refused_now_does_not_end_the_request_in_progress(
    web: Web, gateway: SendingGateway
) -> None:
    first = await post(web)
    await spend(gateway.budget, 100_000)
    await gateway.budget.give_back(a_request(request_id=first.json()["request_id"]))
    again = await post(web)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    sent = [(each.message_id, each.message) for each in web.sent]
    assert sent[2:] == sent[:2]


async def test_a_repeat_refused_during_the_first_admission_decides_nothing(web: Web, gateway: SendingGateway) -> None:
    """The first waits for its turn, say, and the repeat does not wait so long."""
    first = await post(web)
    work = web.sent[1].request
    assert work is not None
    await gateway.ledger.forget(work, work.token)
    await gateway.ledger.bind(work, work.token, gateway.now)
    await spend(gateway.budget, 100_000)
    await gateway.budget.give_back(a_request(request_id=first.json()["request_id"]))
    assert (await post(web)).status_code == 429
    entry = await gateway.ledger.find(first.json()["request_id"])
    assert entry is not None
    assert (entry.state, entry.token) == (LedgerState.BOUND, work.token)


async def test_a_refusal_without_a_key_is_not_stored(web: Web, redis: FailFastRedis) -> None:
    assert (await post(web, use_case="holiday", key=None)).status_code == 404
    assert await redis.run(lambda connection: connection.keys("ragbus:request:*")) == []


async def test_an_answer_from_the_cache_belongs_to_its_question(web: Web, gateway: SendingGateway) -> None:
    await cached(gateway)
    first, again, other = await post(web), await post(web), await post(web, "Why?")
    assert (first.status_code, again.json(), other.status_code) == (200, first.json(), 422)
    assert (await post(web, use_case="travel")).status_code == 422


async def test_an_ask_that_was_not_enqueued_keeps_its_id(web: Web) -> None:
    """The broker may have taken it all the same; under the same ids another question would get its answer."""
    web.broker_is_down = True
    assert (await post(web)).status_code == 503
    web.broker_is_down = False
    assert (await post(web, "Why?")).status_code == 422
    assert (await post(web)).status_code == 202


async def test_a_waiting_caller_never_gets_the_outcome_of_an_earlier_admission(gateway: SendingGateway) -> None:
    answer = ending(a_request(), Outcome.EXPIRED, Code.DEADLINE_EXCEEDED)
    waiting = gateway.waiters.join(answer.request_id, 1)
    gateway.waiters.tell(HttpOutcome(answer, "tessolund", "welcome-app"))
    assert not waiting.done()
    gateway.waiters.tell(HttpOutcome(answer, "tessolund", "welcome-app", admission=1))
    assert (await waiting).answer.outcome is Outcome.EXPIRED


async def test_without_redis_no_caller_gets_the_answer_to_another_question() -> None:
    redis = FailFastRedis("redis://127.0.0.1:1/0")
    gateway = SendingGateway(redis, a_budget(redis, 80_000))
    web = Web(gateway)
    asking = [asyncio.create_task(post(web, question, wait=30)) for question in ("How?", "How?", "Why?")]
    while sum(map(len, gateway.waiters._waiting.values())) < len(asking):
        await asyncio.sleep(0.01)
    works = [each.message for each in web.sent if isinstance(each.message, RetrievePassages)]
    [first] = {work.request.ask_digest for work in works if work.request.question == "How?"}
    answer = ending(works[0].request, Outcome.ANSWERED, Code.OK)
    gateway.waiters.tell(HttpOutcome(answer, "tessolund", "welcome-app", first))
    replies = await asyncio.gather(*asking)
    assert [reply.status_code for reply in replies] == [200, 200, 422]
    assert replies[2].json()["code"] == "IdReused"
    await web.client.aclose()
