"""How the work on a delivery ends: too late, too large, without its lock, without a receiver, at SIGTERM."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from shared.bus.port import ATTEMPT, MessageTooLarge, Outgoing, QueueFull
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.request import Request
from shared.errors import TryLater
from shared.redis import FailFastRedis
from shared.worker.publisher import FULL
from shared.worker.shared_breaker import Circuit, SharedBreaker
from tests.support.builders import NOW, a_request
from tests.support.memory_bus import LOCK, MemoryBus, MemoryDelivery, MemoryInbox
from tests.support.ports import wired
from tests.support.virtual_time import VirtualTime, in_no_time, virtual_clock
from tests.support.worker import REDIS, WorkerFixture, a_bus, a_worker, an_answer, post


async def take(bus: MemoryBus, **changes: Any) -> MemoryDelivery:
    await post(bus, **changes)
    delivery = await bus.inbox("retrieve").receive(timedelta(0))
    assert delivery is not None
    return wired(delivery)


async def seconds_pass(seconds: float) -> list[Envelope]:
    await asyncio.sleep(seconds)
    return []


# -- too late


def test_work_is_stopped_at_its_deadline_and_says_so() -> None:
    stopped: list[datetime] = []

    async def endless(request: Request) -> list[Envelope]:
        try:
            return await seconds_pass(3600)
        finally:
            stopped.append(virtual_clock())

    async def life() -> str | None:
        bus, due = a_bus(), NOW + timedelta(seconds=90)
        await a_worker(bus, endless).process(await take(bus, answer_by=due))
        assert stopped == [due]
        [dead] = await bus.peek("dead")
        return dead.dead_letter_reason

    assert in_no_time(life()) == "DeadlineExceeded"


# -- without its lock


def test_after_a_pause_longer_than_its_lock_no_retry_is_scheduled_either() -> None:
    async def paused(request: Request) -> list[Envelope]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTime)
        loop.hourglass.passed += LOCK.total_seconds() + 1  # the whole process stands still
        raise TryLater("busy")

    async def life() -> None:
        bus = a_bus()
        delivery = await take(bus)
        await a_worker(bus, paused).process(delivery)
        assert delivery.settled == "left"
        assert [message.message_id for message in bus.sent] == ["r1/retrieve"]

    in_no_time(life())


# -- too large, or nowhere to go


class Full(MemoryBus):
    async def send(self, message: Outgoing) -> None:
        if message.queue == "answers":
            raise QueueFull(message.queue)
        await super().send(message)


async def test_an_answer_that_is_too_large_is_cut_before_it_is_claimed(redis: FailFastRedis) -> None:
    setup, request = WorkerFixture(redis), a_request()
    setup.result = lambda request: [to_caller(request, an_answer(request, "x" * 300_000), NOW)]
    delivery = await setup.deliver(request)
    await setup.worker().process(delivery)
    [reply] = await setup.queued("answers")
    said, entry = RequestOutcome.decode(reply.body), await setup.ledger.find(request.request_id)
    assert delivery.settled == "completed"
    assert (said.outcome, said.truncated) == (Outcome.ANSWERED, True)
    assert entry is not None
    assert (entry.answer, entry.delivered) == (said, True)


class Small(MemoryBus):
    """A namespace that takes less than Service Bus does."""

    async def send(self, message: Outgoing) -> None:
        if len(message.body) > 20_000:
            raise MessageTooLarge(message.queue)
        await super().send(message)


@pytest.mark.parametrize("claimed", [False, True], ids=["new", "claimed by another"])
async def test_an_outcome_that_the_broker_refuses_for_its_size_is_sent_and_kept_as_too_large(
    redis: FailFastRedis, claimed: bool
) -> None:
    setup, request = WorkerFixture(redis), a_request()
    setup.bus = Small("retrieve", "answers", "dead", clock=setup.clock, forward_dead_to="dead")
    setup.result = lambda request: [to_caller(request, an_answer(request, "x" * 30_000), NOW)]
    if claimed:
        await setup.ledger.decide(request, an_answer(request, "x" * 30_000))
    delivery = await setup.deliver(request)
    await setup.worker().process(delivery)
    [reply] = await setup.queued("answers")
    said, entry = RequestOutcome.decode(reply.body), await setup.ledger.find(request.request_id)
    assert delivery.settled == "completed"
    assert (said.outcome, said.code, said.retryable) == (Outcome.FAILED, Code.PAYLOAD_TOO_LARGE, False)
    assert entry is not None
    assert (entry.answer, entry.delivered) == (said, True)


class Brimful(MemoryBus):
    """What it holds has no room for the marks of another attempt."""

    async def send(self, message: Outgoing) -> None:
        if ATTEMPT in message.properties:
            raise MessageTooLarge(message.queue)
        await super().send(message)


async def test_a_message_without_room_for_the_marks_of_a_retry_is_dead_lettered_as_that(redis: FailFastRedis) -> None:
    setup = WorkerFixture(redis)
    setup.bus = Brimful("retrieve", "answers", "dead", clock=setup.clock, forward_dead_to="dead")
    setup.result = lambda _request: TryLater("not now")
    await setup.worker().process(await setup.deliver())
    [dead] = await setup.queued("dead")
    assert dead.dead_letter_reason == "PayloadTooLarge"


async def test_an_answer_for_a_full_queue_comes_later(redis: FailFastRedis) -> None:
    setup = WorkerFixture(redis)
    setup.bus = Full("retrieve", "answers", "dead", clock=setup.clock, forward_dead_to="dead")
    await setup.worker().process(await setup.deliver())
    [copy] = await setup.queued("retrieve")
    assert copy.properties[ATTEMPT] == 2
    assert copy.scheduled_for is not None
    assert copy.scheduled_for >= NOW + FULL


# -- without a receiver


class Moody(MemoryBus):
    """Its receivers fail twice, with errors that no adapter raises."""

    moods = 2

    def inbox(self, queue: str) -> MemoryInbox:
        moody = self

        class Failing(MemoryInbox):
            async def receive(self, wait: timedelta, *, prefetch: int = 0) -> MemoryDelivery | None:
                if moody.moods:
                    moody.moods -= 1
                    raise ArithmeticError("something new")
                return await super().receive(wait, prefetch=prefetch)

        return Failing(self, queue)


def test_a_worker_that_was_cut_off_is_not_ready() -> None:
    """`/readyz` asks for it: a pod that receives nothing must not look well."""

    async def life() -> None:
        bus, stopping, was = a_bus(Moody), asyncio.Event(), []
        worker = a_worker(bus, lambda _request: seconds_pass(0))
        worker.connected.set()
        running = asyncio.create_task(worker.run(stopping, timedelta(seconds=10)))
        for _ in range(2):
            await asyncio.sleep(0.5)
            was.append(worker.connected.is_set())
            await asyncio.sleep(10)
        stopping.set()
        await running
        assert was == [False, True]

    in_no_time(life())


def test_a_receiver_that_fails_in_a_new_way_does_not_end_the_worker() -> None:
    async def life() -> None:
        bus, stopping = a_bus(Moody), asyncio.Event()

        async def last(request: Request) -> list[Envelope]:
            stopping.set()
            return []

        await post(bus)
        await a_worker(bus, last).run(stopping, timedelta(seconds=10))
        assert await bus.peek("retrieve") == []

    in_no_time(life())


# -- at SIGTERM


@pytest.mark.parametrize(("grace", "attempts"), [(10, []), (2, [1])], ids=["fits", "does not fit"])
def test_what_fits_the_grace_period_is_finished_and_the_rest_is_handed_back(grace: float, attempts: list[int]) -> None:
    async def life() -> None:
        bus, stopping = a_bus(), asyncio.Event()

        async def told_to_stop(request: Request) -> list[Envelope]:
            stopping.set()
            return await seconds_pass(5)

        await post(bus)
        await a_worker(bus, told_to_stop).run(stopping, timedelta(seconds=grace))
        assert [message.properties[ATTEMPT] for message in await bus.peek("retrieve")] == attempts

    in_no_time(life())


def test_a_dead_message_is_not_handed_back_as_a_living_one() -> None:
    async def life() -> None:
        bus, stopping = a_bus(), asyncio.Event()

        async def told_to_stop(request: Request) -> list[Envelope]:
            stopping.set()
            return await seconds_pass(3600)

        await post(bus, answer_by=NOW + timedelta(days=1))
        worker = a_worker(bus, told_to_stop, archive=lambda message: ("Crashed", "why"), after_deadline=True)
        await worker.run(stopping, timedelta(seconds=1))
        [there] = await bus.peek("retrieve")
        assert there.message_id == "r1/retrieve"
        assert len(bus.sent) == 1

    in_no_time(life())


# -- well


class Told(SharedBreaker):
    """Counts what it is told."""

    went_well = 0

    async def ask(self) -> Circuit:
        return Circuit.CLOSED

    async def succeeded(self) -> None:
        self.went_well += 1


@pytest.mark.parametrize(
    ("outcome", "code", "times"),
    [
        (Outcome.ANSWERED, Code.OK, 1),
        (Outcome.CANCELLED, Code.CANCELLED, 0),
        (Outcome.REFUSED, Code.OVERLOADED, 0),
        (Outcome.FAILED, Code.NO_MODEL_FITS, 0),
    ],
)
async def test_a_breaker_is_told_of_work_that_went_well_and_not_of_what_was_given_up(
    redis: FailFastRedis, outcome: Outcome, code: Code, times: int
) -> None:
    setup, breaker = WorkerFixture(redis), Told(redis, "retrieve")
    setup.result = lambda request: [to_caller(request, ending(request, outcome, code), NOW)]
    await setup.worker(breaker=breaker).process(await setup.deliver())
    assert breaker.went_well == times


class Probing(SharedBreaker):
    """Lets one through at a time, and counts how often it is told that the probe is under way."""

    kept = 0

    async def ask(self) -> Circuit:
        return Circuit.HALF_OPEN

    async def keep(self) -> None:
        self.kept += 1

    async def succeeded(self) -> None:
        """It was closed by now."""


def test_a_probe_that_takes_long_is_kept_from_being_taken_over() -> None:
    async def life() -> None:
        bus, breaker, stopping = a_bus(), Probing(FailFastRedis(REDIS), "retrieve"), asyncio.Event()

        async def slow(request: Request) -> list[Envelope]:
            await asyncio.sleep(breaker.rules.lease)
            stopping.set()
            return []

        await post(bus)
        worker = a_worker(bus, slow)
        worker.breaker = breaker
        await worker.run(stopping, timedelta(seconds=10))
        assert breaker.kept >= 3

    in_no_time(life())
