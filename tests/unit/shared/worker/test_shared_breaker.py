"""The breaker of a queue, alone and shared by replicas through a real Redis."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from shared.bus.port import Outgoing
from shared.circuit_breaker import CLOSED, BreakerPolicy, BreakerState, asked_to_receive, failed, may_receive, succeeded
from shared.contracts.envelope import Envelope, to_retriever
from shared.contracts.retrieve import RetrievePassages
from shared.errors import DependencyDown, TryLater
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.shared_breaker import LOOK_AGAIN, Circuit, SharedBreaker
from shared.worker.worker import Worker
from tests.support.builders import a_request
from tests.support.memory_bus import MemoryBus, MemoryInbox
from tests.support.ports import wired

RULES = BreakerPolicy(threshold=3, first=4, longest=10, lease=6)
AWAY = "redis://127.0.0.1:1/0"


class Seconds:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


def a_breaker(redis: FailFastRedis, seconds: Seconds) -> SharedBreaker:
    return SharedBreaker(redis, "generate", rules=RULES, clock=seconds, chance=lambda: 0.0)


# -- the states


def test_it_opens_after_the_configured_failures_in_a_row() -> None:
    state = CLOSED
    for _ in range(2):
        state = failed(state, "a", 0, 0, RULES)
        assert may_receive(state, "a")
    state = failed(state, "b", 0, 0, RULES)
    assert not may_receive(state, "a")
    assert state == BreakerState(opened=1, until=4)


def test_a_success_between_begins_the_count_anew() -> None:
    state = failed(failed(CLOSED, "a", 0, 0, RULES), "a", 0, 0, RULES)
    assert failed(succeeded(state), "a", 0, 0, RULES).failures == 1


@pytest.mark.parametrize(("times", "chance", "wait"), [(1, 0, 4), (2, 0, 8), (3, 0, 10), (60, 0, 10), (1, 1, 2)])
def test_waits_double_up_to_the_longest_with_jitter(times: int, chance: float, wait: float) -> None:
    assert RULES.wait(times, chance) == wait


def test_one_worker_probes_when_the_time_has_come_and_no_other() -> None:
    opened = BreakerState(opened=1, until=4)
    assert asked_to_receive(opened, "a", 3.9, RULES) == opened
    probing = asked_to_receive(opened, "a", 4, RULES)
    assert may_receive(probing, "a")
    assert asked_to_receive(probing, "b", 9.9, RULES) == probing
    assert asked_to_receive(probing, "a", 9, RULES).until == 15


def test_a_prober_that_died_is_followed_by_another() -> None:
    probing = asked_to_receive(BreakerState(opened=1, until=4), "a", 4, RULES)
    assert may_receive(asked_to_receive(probing, "b", 10, RULES), "b")


def test_a_failed_probe_opens_it_for_longer_and_others_failures_do_not_matter() -> None:
    probing = asked_to_receive(BreakerState(opened=1, until=4), "a", 4, RULES)
    assert failed(probing, "b", 5, 0, RULES) == probing
    assert failed(probing, "a", 5, 0, RULES) == BreakerState(opened=2, until=13)


# -- shared


async def test_replicas_open_it_together_and_one_of_them_probes(redis: FailFastRedis, seconds: Seconds) -> None:
    breakers = [a_breaker(redis, seconds) for _ in range(3)]
    for breaker in breakers:
        assert await breaker.ask() is Circuit.CLOSED
        await breaker.failed("503")
    seconds.now += LOOK_AGAIN
    assert [await breaker.ask() for breaker in breakers] == [Circuit.OPEN] * 3
    seconds.now += 4
    assert sorted([(await breaker.ask()).name for breaker in breakers]) == ["HALF_OPEN", "OPEN", "OPEN"]


async def test_a_replica_that_starts_during_an_outage_does_not_receive(redis: FailFastRedis, seconds: Seconds) -> None:
    for _ in range(3):
        await a_breaker(redis, seconds).failed("503")
    assert await a_breaker(redis, seconds).ask() is Circuit.OPEN


async def test_a_probe_that_works_lets_every_worker_receive(redis: FailFastRedis, seconds: Seconds) -> None:
    first, second = a_breaker(redis, seconds), a_breaker(redis, seconds)
    for _ in range(3):
        await first.failed("503")
    assert await second.ask() is Circuit.OPEN
    seconds.now += 5
    assert await first.ask() is Circuit.HALF_OPEN
    await first.succeeded()
    assert [await first.ask(), await second.ask()] == [Circuit.CLOSED] * 2


async def test_a_probe_that_takes_long_is_kept(redis: FailFastRedis, seconds: Seconds) -> None:
    first, second = a_breaker(redis, seconds), a_breaker(redis, seconds)
    for _ in range(3):
        await first.failed("503")
    seconds.now += 5
    assert await first.ask() is Circuit.HALF_OPEN
    for _ in range(10):
        seconds.now += 5
        await first.keep()
        assert await second.ask() is Circuit.OPEN


async def test_failures_at_the_same_time_are_all_counted(redis: FailFastRedis, seconds: Seconds) -> None:
    breakers = [a_breaker(redis, seconds) for _ in range(3)]
    await asyncio.gather(*(breaker.failed("503") for breaker in breakers))
    seconds.now += LOOK_AGAIN
    assert await breakers[0].ask() is Circuit.OPEN


async def test_without_redis_each_replica_minds_itself(seconds: Seconds) -> None:
    first, second = a_breaker(FailFastRedis(AWAY), seconds), a_breaker(FailFastRedis(AWAY), seconds)
    for _ in range(3):
        await first.failed("503")
    assert (await first.ask(), await second.ask()) == (Circuit.OPEN, Circuit.CLOSED)
    seconds.now += 5
    assert await first.ask() is Circuit.HALF_OPEN
    await first.succeeded()
    assert await first.ask() is Circuit.CLOSED


async def test_what_another_version_wrote_does_not_stop_anybody(redis: FailFastRedis, seconds: Seconds) -> None:
    await redis.run(lambda r: r.set("ragbus:breaker:generate", '{"state": "open"}'))
    assert await a_breaker(redis, seconds).ask() is Circuit.CLOSED


# -- in the worker


class Listening(MemoryBus):
    """Counts how often an inbox was closed."""

    closed = 0

    def inbox(self, queue: str) -> MemoryInbox:
        bus = self

        class Inbox(MemoryInbox):
            async def close(self) -> None:
                bus.closed += 1

        return Inbox(self, queue)


class Asked(SharedBreaker):
    """Counts how often the worker asked it."""

    asked = 0

    async def ask(self) -> Circuit:
        self.asked += 1
        return await super().ask()


async def test_while_it_is_open_nothing_is_received_and_then_one(redis: FailFastRedis, seconds: Seconds) -> None:
    """Ten messages, three failures: seven are never looked at; then one is, and when that works the rest."""
    bus = Listening("generate")
    for number in range(10):
        envelope = to_retriever(a_request(request_id=f"r{number}"))
        await bus.send(Outgoing("generate", envelope.message.encode(), "retrieve.v1", message_id=f"m{number}"))
    down, handled, breaker = True, 0, Asked(redis, "generate", rules=RULES, clock=seconds, chance=lambda: 0.0)

    async def handle(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        nonlocal handled
        handled += 1
        if down:
            raise DependencyDown("503", after=timedelta(hours=1))
        return []

    worker = Worker(
        consumer=Consumer("generate", lambda message: RetrievePassages.decode(message.body), handle, internal_identity),
        bus=wired(bus),
        outcomes=OutcomeGuard(Ledger(redis)),
        concurrency=1,
        breaker=breaker,
    )
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.run(stopping, timedelta(seconds=5)))
    try:
        while await a_breaker(redis, seconds).ask() is not Circuit.OPEN:
            await asyncio.sleep(0.01)
        asked = breaker.asked
        while breaker.asked < asked + 2:  # the worker has heard that it is open, and has gone on
            await asyncio.sleep(0.01)
        assert bus.closed
        assert handled == 3
        seconds.now += 5
        while handled < 4:
            await asyncio.sleep(0.01)
        down = False
        seconds.now += 10
        while handled < 10:
            await asyncio.sleep(0.01)
    finally:
        stopping.set()
        await running
    assert handled == 10


async def test_a_throttle_is_no_outage(redis: FailFastRedis, seconds: Seconds) -> None:
    bus = MemoryBus("generate")

    async def handle(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        raise TryLater("429", after=timedelta(hours=1))

    worker = Worker(
        consumer=Consumer("generate", lambda message: RetrievePassages.decode(message.body), handle, internal_identity),
        bus=bus,
        outcomes=OutcomeGuard(Ledger(redis)),
        breaker=a_breaker(redis, seconds),
    )
    inbox = bus.inbox("generate")
    for number in range(5):
        body = to_retriever(a_request()).message.encode()
        await bus.send(Outgoing("generate", body, "retrieve.v1", message_id=f"m{number}"))
        delivery = await inbox.receive(timedelta(seconds=1))
        assert delivery is not None
        await worker.process(delivery)
    assert await a_breaker(redis, seconds).ask() is Circuit.CLOSED
