"""Guarantees over hours, which are virtual: locks, retries, archives and sentinels."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from services.gateway.outcome_consumer import OutcomeConsumer
from services.gateway.waiters import Waiters
from shared.bus.port import ANSWER_BY, ENQUEUED_AT, ORIGIN, BusUnavailable, LockLost, Outgoing, Received
from shared.contracts.envelope import Envelope, at_deadline, to_retriever
from shared.contracts.ids import MAX_ID
from shared.contracts.outcome import ModelCall, Outcome, RequestOutcome
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.ledger.ledger import Entry, Ledger
from shared.redis import FailFastRedis
from shared.worker.consumer import ArchiveInPlace, Consumer
from shared.worker.lease import Lease, holding
from shared.worker.outbox import Identity, handed_back, internal_identity, outgoing, retry_copy
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.shared_breaker import Circuit, SharedBreaker
from shared.worker.worker import Worker
from tests.support.builders import NOW, a_request
from tests.support.memory_bus import LOCK, MemoryBus, MemoryDelivery, MemoryInbox
from tests.support.ports import wired
from tests.support.virtual_time import in_no_time, virtual_clock
from tests.support.worker import WorkerFixture, an_answer


async def a_delivery(bus: MemoryBus) -> MemoryDelivery:
    envelope = to_retriever(a_request())
    await bus.send(Outgoing("retrieve", envelope.message.encode(), "retrieve.v1", message_id=envelope.message_id))
    delivery = await bus.inbox("retrieve").receive(timedelta(0))
    assert delivery is not None
    return wired(delivery)


# -- the lock


def test_work_of_many_times_the_lock_is_still_ours_at_the_end() -> None:
    async def life() -> None:
        delivery = await a_delivery(MemoryBus("retrieve", clock=virtual_clock))

        async def work(lease: Lease) -> None:
            await asyncio.sleep(5.5 * LOCK.total_seconds())
            lease.check()

        await holding(delivery, work, virtual_clock)
        await delivery.complete()

    in_no_time(life())


class Stuttering(MemoryDelivery):
    """Every other renewal fails."""

    tried = 0

    async def renew(self) -> datetime:
        self.tried += 1
        if self.tried % 2:
            raise BusUnavailable("not now")
        return await super().renew()


def test_a_renewal_that_fails_is_tried_again() -> None:
    async def life() -> None:
        bus = MemoryBus("retrieve", clock=virtual_clock)
        delivery = wired(Stuttering(bus, "retrieve", (await a_delivery(bus))._held))
        await holding(delivery, lambda _: asyncio.sleep(3 * LOCK.total_seconds()), virtual_clock)
        await delivery.complete()

    in_no_time(life())


class Lost(MemoryDelivery):
    async def renew(self) -> datetime:
        raise LockLost("another worker has it")


def test_within_a_second_of_hearing_that_the_lock_is_lost_the_work_has_stopped() -> None:
    stopped = 0.0

    async def life() -> None:
        bus = MemoryBus("retrieve", clock=virtual_clock)
        delivery = wired(Lost(bus, "retrieve", (await a_delivery(bus))._held))

        async def work(_lease: Lease) -> None:
            nonlocal stopped
            try:
                await asyncio.sleep(3600)
            finally:
                stopped = asyncio.get_running_loop().time()

        with pytest.raises(LockLost):
            await holding(delivery, work, virtual_clock)

    in_no_time(life())
    assert stopped <= LOCK.total_seconds() / 3 + 1


# -- back-pressure


class Closed(SharedBreaker):
    """What the work needs is down all the time."""

    asked = 0

    async def ask(self) -> Circuit:
        self.asked += 1
        return Circuit.OPEN


class Watched(MemoryBus):
    """Counts the receives."""

    looks = 0

    def inbox(self, queue: str) -> MemoryInbox:
        watched = self

        class Counting(MemoryInbox):
            async def receive(self, wait: timedelta, *, prefetch: int = 0) -> MemoryDelivery | None:
                watched.looks += 1
                return await super().receive(wait, prefetch=prefetch)

        return Counting(self, queue)


def test_while_a_dependency_is_down_nothing_is_received() -> None:
    async def life() -> None:
        bus, breaker, stopping = (
            Watched("retrieve", clock=virtual_clock),
            Closed(FailFastRedis("redis://"), "retrieve"),
            asyncio.Event(),
        )
        envelope = to_retriever(a_request())
        await bus.send(Outgoing("retrieve", envelope.message.encode(), "retrieve.v1"))
        worker = Worker(
            a_consumer(), bus, OutcomeGuard(Ledger(FailFastRedis("redis://"))), breaker=breaker, clock=virtual_clock
        )
        running = asyncio.create_task(worker.run(stopping, timedelta(0)))
        while breaker.asked < 60:
            await asyncio.sleep(1)
        assert bus.looks == 0
        [waiting] = await bus.peek("retrieve")
        assert waiting.delivery_count == 0
        stopping.set()
        await running

    in_no_time(life())


def a_consumer(**changes: Any) -> Consumer[RetrievePassages]:
    async def nothing(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        return []

    return Consumer(
        "retrieve", lambda message: RetrievePassages.decode(message.body), nothing, internal_identity, **changes
    )


# -- copies


def test_a_copy_is_the_same_request_with_the_same_deadline_and_the_same_beginning() -> None:
    first, due = NOW - timedelta(seconds=5), NOW + timedelta(seconds=30)
    theirs = {"their-own": "kept"}
    ask = Received("ask", b"{}", "ask.v1", "m1", enqueued_at=first, sequence_number=7, properties=theirs)
    identity = Identity("r1/ask", origin="m1", deadline=due)
    for copy in (retry_copy(ask, identity, NOW), handed_back(ask, identity, NOW)):
        marks = (copy.properties[ORIGIN], copy.properties[ANSWER_BY], copy.properties[ENQUEUED_AT])
        assert marks == ("m1", due.isoformat(), first.isoformat())
        assert copy.properties["their-own"] == "kept"
        assert copy.time_to_live == timedelta(seconds=30)
        again = Received("ask", copy.body, message_id=copy.message_id, enqueued_at=NOW, properties=copy.properties)
        assert retry_copy(again, identity, NOW).properties[ENQUEUED_AT] == first.isoformat()


# -- outcomes


@pytest.fixture
def setup(redis: FailFastRedis) -> WorkerFixture:
    return WorkerFixture(redis)


async def test_an_outcome_that_was_not_sent_is_sent_by_the_next_worker(setup: WorkerFixture) -> None:
    class Away(MemoryBus):
        async def send(self, message: Outgoing) -> None:
            raise BusUnavailable(message.queue)

    delivery = await setup.deliver()
    await setup.worker(bus=Away()).process(delivery)
    assert delivery.settled == "left"
    setup.clock.now += LOCK
    await setup.worker().process(await setup.take("retrieve"))
    [reply] = await setup.queued("answers")
    assert RequestOutcome.decode(reply.body).text == "24 days"
    assert len(setup.calls) == 1


LATE = NOW + timedelta(seconds=65)


class Overtaken(OutcomeGuard):
    """The answer is claimed just after the look into the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._book = ledger

    async def known(self, request: Request) -> Entry | None:
        entry = await super().known(request)
        await self._book.decide(request, an_answer(request))
        return entry


@pytest.mark.parametrize("when", ["before", "just before", "never"])
async def test_a_sentinel_does_not_tell_expired_to_a_caller_who_has_an_answer(redis: FailFastRedis, when: str) -> None:
    ledger, request, bus = Ledger(redis), a_request(), MemoryBus("outcomes", "answers", clock=lambda: LATE)
    if when == "before":
        await ledger.decide(request, an_answer(request))
    await bus.send(outgoing(at_deadline(request), NOW))
    delivery = await bus.inbox("outcomes").receive(timedelta(0))
    assert delivery is not None
    outcomes = Overtaken(ledger) if when == "just before" else OutcomeGuard(ledger)
    await Worker(sentinels(ledger), bus, outcomes, clock=lambda: LATE).process(delivery)
    [reply] = await bus.peek("answers")
    expected = Outcome.EXPIRED if when == "never" else Outcome.ANSWERED
    assert RequestOutcome.decode(reply.body).outcome is expected


def sentinels(ledger: Ledger) -> Consumer[Any]:
    async def give_back(request: Request) -> Sequence[ModelCall]:
        return []  # there is no budget

    outcomes = OutcomeConsumer(ledger, Waiters(), give_back, lambda: LATE)
    return Consumer(
        "outcomes", outcomes.decode, outcomes.handle, internal_identity, lambda task: task.request, after_deadline=True
    )


# -- ids


@pytest.mark.parametrize("length", [1, 96, 97, 125, 128])
def test_a_dead_ask_of_any_id_can_be_tried_again(length: int) -> None:
    """On `dead` it has its caller's id, and the broker takes 128 characters."""
    dead, other = (
        Received("dead", b"{}", message_id=end.rjust(length, "x"), sequence_number=2**63 - 1) for end in "ab"
    )
    copies = [
        copy(message, internal_identity(message), NOW)
        for copy in (retry_copy, handed_back)
        for message in (dead, other)
    ]
    ids = [copy.message_id or "" for copy in copies]
    assert len({*ids}) == 4
    assert all(0 < len(each) <= MAX_ID for each in ids)


# -- the archive


async def test_a_dead_message_is_archived_with_what_it_died_of_and_not_completed(redis: FailFastRedis) -> None:
    bus = MemoryBus("retrieve")

    def archive(task: RetrievePassages, _known: Entry | None) -> ArchiveInPlace:
        return ArchiveInPlace("Crashed", f"it was {task.request.request_id}")

    consumer = a_consumer(archive=archive)
    await Worker(consumer, bus, OutcomeGuard(Ledger(redis))).process(await a_delivery(bus))
    [archived] = await bus.peek("retrieve", dead=True)
    assert (archived.dead_letter_reason, archived.dead_letter_description) == ("Crashed", "it was r1")
    assert await bus.peek("retrieve") == []
