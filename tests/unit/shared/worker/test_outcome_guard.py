"""The ledger and the guard before an outcome leaves, where nothing else stands behind them; on a real Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.request import Request
from shared.flow.tickets import Tickets
from shared.ledger.ledger import KEEP, Ledger
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.publisher import Publisher
from tests.support.breakable import Breakable
from tests.support.builders import NOW, a_request
from tests.support.memory_bus import MemoryBus
from tests.support.waiting import until
from tests.support.worker import WorkerFixture, an_answer


async def test_what_another_worker_has_sent_meanwhile_is_not_sent_again(redis: FailFastRedis) -> None:
    ledger, request, left = Ledger(redis), a_request(), list[Envelope]()

    async def send(envelope: Envelope) -> None:
        left.append(envelope)

    for number in range(3):
        envelope = to_caller(request, an_answer(request, f"answer {number}"), NOW)
        sent = await OutcomeGuard(ledger).send(envelope, send)
        assert (sent is None) is (number > 0)
    [only] = left
    assert only.message == an_answer(request, "answer 0")


@pytest.mark.parametrize("lost", [False, True], ids=["first", "lost"])
async def test_a_decision_made_just_now_is_the_outcome_that_is_sent(redis: FailFastRedis, lost: bool) -> None:
    """Also of the worker that came second; but not what Redis has of an admission before, when it lost this one."""
    ledger, request, left = Ledger(redis), a_request(), list[Envelope]()

    async def send(envelope: Envelope) -> None:
        left.append(envelope)

    await ledger.decide(request, an_answer(request, "answer 0"))
    again = request.replaced(admission=1, token="t2", recorded=True) if lost else request
    mine = an_answer(again, "answer 1")
    envelope = replace(to_caller(again, mine, NOW), decision=await ledger.decide(again, mine))
    sent = await OutcomeGuard(ledger).send(envelope, send)
    assert sent is not None
    assert sent.guarded is not lost
    [only] = left
    assert only.message == (mine if lost else an_answer(request, "answer 0"))
    entry = await ledger.find(request.request_id)
    assert entry is not None
    assert entry.delivered is not lost


async def test_an_outcome_that_is_stored_late_does_not_replace_the_decided_one(redis: FailFastRedis) -> None:
    ledger, request = Ledger(redis), a_request()
    await ledger.decide(request, an_answer(request, "first"))
    await ledger.store(an_answer(request, "second"), "somebody", "else")
    entry = await ledger.find(request.request_id)
    assert entry is not None
    assert entry.answer == an_answer(request, "first")
    assert (entry.tenant, entry.caller) == (request.tenant, request.caller)


@pytest.mark.parametrize("known", [False, True], ids=["underway", "answered"])
async def test_what_an_earlier_admission_left_behind_is_not_worked_on_and_not_told(
    redis: FailFastRedis, known: bool
) -> None:
    """Its outcome was retryable and told, and the same ask was admitted anew."""
    setup, first = WorkerFixture(redis), a_request(ask_digest="d", token="t1")
    ended = ending(first, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, retryable=True, finished_at=NOW)
    await setup.ledger.decide(first, ended, delivered=True)
    entry = await setup.ledger.bind(first, "t2", NOW)
    anew = first.model_copy(update={"admission": entry.admission, "token": "t2"})
    if known:
        await OutcomeGuard(setup.ledger).send(to_caller(anew, an_answer(anew), NOW), no_queue)
    late = await setup.deliver(first)
    await setup.worker().process(late)
    assert (late.settled, setup.calls, await setup.queued("answers")) == ("completed", [], [])
    assert await OutcomeGuard(setup.ledger).send(to_caller(first, an_answer(first, "late"), NOW), no_queue) is None
    assert await setup.ledger.is_open(first) is False
    assert await setup.ledger.is_open(anew) is not known


@pytest.mark.parametrize(
    ("changes", "other", "left"),
    [
        ({}, "answered", 0),
        ({}, "admitted anew", 0),
        ({"run": "p1"}, "answered", 0),
        ({"ask_digest": "another"}, "answered", 0),
        ({"ask_digest": "another"}, "underway", 1),
    ],
    ids=["told", "past", "a replay", "its id belongs to another", "to another that is under way"],
)
@pytest.mark.parametrize("at", ["its stage", "its outcome"])
async def test_what_ends_without_an_outcome_of_its_own_gives_its_ticket_back(
    redis: FailFastRedis, changes: dict[str, Any], other: str, left: int, at: str
) -> None:
    setup, tickets, first = WorkerFixture(redis), Tickets(redis), a_request(ask_digest="d", token="t1")
    await setup.ledger.accept(first)
    if other != "underway":
        ended = ending(first, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, retryable=True, finished_at=NOW)
        await setup.ledger.decide(first, ended, delivered=True)
    if other == "admitted anew":
        await setup.ledger.bind(first, "t2", NOW)
    request = first.model_copy(update={"reserved_tokens": 1, **changes})
    assert (await tickets.take(request.tenant, [request], NOW)).granted == 1
    outcomes = OutcomeGuard(setup.ledger, tickets=tickets)
    if at == "its stage":
        await setup.worker(outcomes=outcomes).process(await setup.deliver(request))
    else:
        await Publisher(setup.bus, outcomes, make(), setup.clock).send(to_caller(request, an_answer(request), NOW))
    assert setup.calls == []
    assert await redis.run(lambda connection: connection.zcard("ragbus:{flow}:tickets")) == left


async def test_an_admission_that_redis_did_not_say_in_time_gives_back_the_ticket_it_has(redis: FailFastRedis) -> None:
    ledger, tickets, first = Ledger(redis), Tickets(redis), a_request(ask_digest="d", token="t1")
    ended = ending(first, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, retryable=True, finished_at=NOW)
    await ledger.decide(first, ended, delivered=True)
    await ledger.bind(first, "t2", NOW)
    request = first.model_copy(update={"token": "t2", "reserved_tokens": 1})
    await tickets.take(request.tenant, [request], NOW)
    await OutcomeGuard(ledger, tickets=tickets).send(to_caller(request, an_answer(request), NOW), no_queue)
    assert await redis.run(lambda connection: connection.zcard("ragbus:{flow}:tickets")) == 0


async def test_an_outcome_that_is_filed_late_is_not_that_of_a_later_admission(redis: FailFastRedis) -> None:
    ledger, first = Ledger(redis), a_request(ask_digest="d", token="t1")
    ended = ending(first, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, retryable=True, finished_at=NOW)
    await ledger.decide(first, ended, delivered=True)
    await ledger.bind(first, "t2", NOW)
    await ledger.store(an_answer(first), first.tenant, first.caller, ask="d", admission=0)
    entry = await ledger.find(first.request_id)
    assert entry is not None
    assert (entry.answer, entry.admission) == (None, 1)


async def test_work_whose_id_belongs_to_another_question_does_not_get_its_outcome(redis: FailFastRedis) -> None:
    """Redis was away when it was admitted."""
    setup, owner = WorkerFixture(redis), a_request(ask_digest="d")
    await setup.ledger.decide(owner, an_answer(owner), delivered=True)
    other = a_request(ask_digest="e", token="t2")
    for _ in range(2):
        await setup.worker().process(await setup.deliver(other))
        setup.bus._queue("retrieve").seen.clear()
    [reply] = await setup.queued("answers")
    assert (RequestOutcome.decode(reply.body).code, reply.message_id) == (Code.ID_REUSED, "r1/reply/t2")
    assert setup.calls == []
    left = list[Envelope]()

    async def send(envelope: Envelope) -> None:
        left.append(envelope)

    await OutcomeGuard(setup.ledger).send(to_caller(other, an_answer(other, "mine"), NOW), send)
    [told] = left
    assert (told.message_id, told.decide) == ("r1/reply/t2", False)


async def no_queue(envelope: Envelope) -> None:
    """Where nobody reads."""


@pytest.mark.parametrize("how", ["accept", "claim", "cancel", "file", "bind", "unread"])
async def test_every_ledger_entry_expires(redis: FailFastRedis, how: str) -> None:
    ledger, request = Ledger(redis), a_request()
    answer = an_answer(request)
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "accept": lambda: ledger.accept(request),
        "claim": lambda: ledger.decide(request, answer),
        "cancel": lambda: ledger.cancel(request.request_id, request.tenant, request.caller),
        "file": lambda: ledger.store(answer, request.tenant, request.caller),
        "bind": lambda: ledger.bind(request, "t1", NOW),
        "unread": lambda: ledger.unread(request, answer),
    }
    await steps[how]()
    [key] = await redis.run(lambda connection: connection.keys("*"))
    left = await redis.run(lambda connection: connection.ttl(key))
    assert 0 < left <= KEEP.total_seconds()


RECORDED = a_request(recorded=True, ask_digest="d", token="t1")


async def _nothing(_ledger: Ledger) -> None:
    """As after a flush."""


async def _cancelled_only(ledger: Ledger) -> None:
    await ledger.cancel("r1", RECORDED.tenant, RECORDED.caller)


async def _asked_anew(ledger: Ledger) -> None:
    """Of the same ask's other message: the ledger knows nothing of what became of the first."""
    await ledger.bind(RECORDED, "t2", NOW)


async def _earlier(ledger: Ledger) -> None:
    await ledger.accept(RECORDED)


async def _accepted(ledger: Ledger) -> None:
    await ledger.accept(RECORDED)


async def _bound(ledger: Ledger) -> None:
    await ledger.bind(RECORDED, RECORDED.token, NOW)


@pytest.mark.parametrize(
    ("before", "request_", "guarded"),
    [
        (_nothing, RECORDED, False),
        (_cancelled_only, RECORDED, False),
        (_asked_anew, RECORDED, False),
        (_earlier, RECORDED.model_copy(update={"admission": 1}), False),
        (_accepted, RECORDED, True),
        (_bound, RECORDED, True),
        (_nothing, a_request(), True),
    ],
    ids=["flushed", "only cancelled", "only bound anew", "an earlier admission", "accepted", "bound", "never admitted"],
)
async def test_what_the_ledger_has_lost_is_neither_claimed_nor_counted_as_an_outcome(
    redis: FailFastRedis, before: Callable[[Ledger], Awaitable[None]], request_: Request, guarded: bool
) -> None:
    ledger, bus = Ledger(redis), MemoryBus("answers")
    await before(ledger)
    answer = an_answer(request_)
    with counting() as counted:
        publisher = Publisher(bus, OutcomeGuard(ledger), counted.metrics, lambda: NOW)
        await publisher.send(to_caller(request_, answer, NOW))
        assert counted.of("ragbus.outcomes") == int(guarded)
        assert counted.of("ragbus.outcomes_unguarded") == int(not guarded)
    assert len(await bus.peek("answers")) == 1
    entry = await ledger.find("r1")
    stored = entry.answer if entry is not None else None
    assert stored == (answer if guarded else None)


async def test_without_redis_no_outcome_is_counted_as_certain() -> None:
    away, bus = Ledger(FailFastRedis("redis://127.0.0.1:1/0")), MemoryBus("answers")
    with counting() as counted:
        publisher = Publisher(bus, OutcomeGuard(away), counted.metrics, lambda: NOW)
        await publisher.send(to_caller(RECORDED, an_answer(RECORDED), NOW))
        assert (counted.of("ragbus.outcomes"), counted.of("ragbus.outcomes_unguarded")) == (0, 1)
    assert len(await bus.peek("answers")) == 1


@pytest.mark.parametrize("flushed", [False, True])
async def test_what_was_sent_without_redis_is_recorded_when_it_is_back(redis_url: str, flushed: bool) -> None:
    redis, bus = Breakable(redis_url, timeout=60), MemoryBus("answers")
    ledger = Ledger(redis)
    await ledger.accept(RECORDED)
    redis.cut = True
    outcomes = OutcomeGuard(ledger, again=0.01)
    await Publisher(bus, outcomes, make(), lambda: NOW).send(to_caller(RECORDED, an_answer(RECORDED), NOW))
    redis.cut = False
    if flushed:
        await redis.run(lambda client: client.flushall())

    async def noted() -> bool:
        return not any(task.get_name() == "outcomes: not noted yet" for task in asyncio.all_tasks())

    await until(noted)
    entry = await ledger.find("r1")
    assert (entry is None) is flushed
    if entry is not None:
        assert (entry.answer, entry.delivered) == (an_answer(RECORDED), True)
    await redis.close()


async def test_an_outcome_that_arrives_for_an_http_caller_is_filed_whatever_was_lost(redis: FailFastRedis) -> None:
    ledger = Ledger(redis)
    await ledger.store(an_answer(RECORDED), RECORDED.tenant, RECORDED.caller)
    claimed = await ledger.decide(RECORDED, an_answer(RECORDED, "another"))
    assert not claimed.is_lost(RECORDED)
    assert claimed.answer == an_answer(RECORDED)


class Counted:
    """The counters of a worker, in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])
        self.metrics = make(self.provider)

    def of(self, name: str) -> int:
        """What the counter of this name has counted in all."""
        read: Any = self._reader.get_metrics_data()
        scopes = [scope for resource in (read.resource_metrics if read else ()) for scope in resource.scope_metrics]
        points = [
            p for scope in scopes for metric in scope.metrics if metric.name == name for p in metric.data.data_points
        ]
        return sum(int(point.value) for point in points)


@contextmanager
def counting() -> Iterator[Counted]:
    counted = Counted()
    try:
        yield counted
    finally:
        counted.provider.shutdown()
