"""The steps of one delivery, on the bus in memory and a real Redis."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from shared.bus.port import ATTEMPT, BusUnavailable, LockLost, Outgoing
from shared.contracts.envelope import Envelope, to_caller, to_retriever
from shared.contracts.outcome import RequestOutcome
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.errors import OverQuota, Reason, TryLater, Unprocessable
from shared.ledger.ledger import Entry, Ledger
from shared.redis import FailFastRedis
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity, life
from shared.worker.outcome_guard import OutcomeGuard
from tests.support.builders import NOW, a_request
from tests.support.memory_bus import MemoryBus, MemoryDelivery
from tests.support.ports import wired
from tests.support.worker import WorkerFixture, an_answer


@pytest.fixture
def setup(redis: FailFastRedis) -> WorkerFixture:
    return WorkerFixture(redis)


async def test_the_result_is_sent_and_then_the_delivery_completed(setup: WorkerFixture) -> None:
    delivery = await setup.deliver()
    await setup.worker().process(delivery)
    [reply] = await setup.queued("answers")
    assert (reply.message_id, reply.session_id, reply.correlation_id) == ("r1/reply", "s1", "c1")
    assert delivery.settled == "completed"


async def test_nothing_is_completed_that_was_not_sent(setup: WorkerFixture) -> None:
    delivery = await setup.deliver()

    class Away(MemoryBus):
        async def send(self, message: Outgoing) -> None:
            raise BusUnavailable(message.queue)

    await setup.worker(bus=Away()).process(delivery)
    assert delivery.settled == "left"


async def test_a_redelivered_message_sends_no_second_outcome(setup: WorkerFixture) -> None:
    await setup.worker().process(await setup.deliver())
    setup.bus._queue("retrieve").seen.clear()
    setup.bus._queue("answers").seen.clear()  # even if the broker forgot
    await setup.worker().process(await setup.deliver())
    assert len(await setup.queued("answers")) == 1
    assert len(setup.calls) == 1


async def test_an_outcome_decided_by_a_worker_that_died_is_sent(setup: WorkerFixture) -> None:
    request = a_request()
    await setup.ledger.decide(request, an_answer(request, "from before"))
    await setup.worker().process(await setup.deliver(request))
    [reply] = await setup.queued("answers")
    assert RequestOutcome.decode(reply.body).text == "from before"
    assert setup.calls == []


async def test_the_first_outcome_that_is_decided_wins(setup: WorkerFixture) -> None:
    request = a_request()

    def lose_the_race(request: Request) -> list[Envelope]:
        return [to_caller(request, an_answer(request, "late"), NOW)]

    setup.result = lose_the_race
    delivery = await setup.deliver(request)

    class Slow(OutcomeGuard):
        """Looks before anybody has claimed, and is overtaken afterwards: the race, made certain."""

        async def known(self, request: Request) -> Entry | None:
            await setup.ledger.decide(request, an_answer(request, "first"))
            return None

    known = setup.worker(outcomes=Slow(setup.ledger))
    await known.process(delivery)
    [reply] = await setup.queued("answers")
    assert RequestOutcome.decode(reply.body).text == "first"


async def test_work_for_later_becomes_a_scheduled_copy_under_a_new_id(setup: WorkerFixture) -> None:
    setup.result = lambda _request: TryLater("429", after=timedelta(seconds=5))
    delivery = await setup.deliver()
    await setup.worker().process(delivery)
    [copy] = await setup.queued("retrieve")
    assert copy.message_id == "r1/retrieve/r1"
    assert copy.properties[ATTEMPT] == 2
    assert copy.scheduled_for == NOW + timedelta(seconds=5.5)  # half of a second's jitter
    assert delivery.settled == "completed"


async def test_work_over_a_quota_comes_back_at_its_turn_and_no_attempt_is_counted(setup: WorkerFixture) -> None:
    setup.result = lambda _request: OverQuota("full", after=timedelta(seconds=5))
    delivery = await setup.deliver()
    await setup.worker().process(delivery)
    [copy] = await setup.queued("retrieve")
    assert copy.message_id == f"r1/retrieve/r0.{delivery.message.sequence_number}"
    assert copy.properties[ATTEMPT] == 1
    assert copy.scheduled_for == NOW + timedelta(seconds=5)
    assert delivery.settled == "completed"
    setup.clock.now += timedelta(seconds=6)
    again = await setup.bus.inbox("retrieve").receive(timedelta(0))
    assert again is not None
    await setup.worker().process(again)
    assert [attempt for _, attempt in setup.calls] == [1, 1]
    [second] = await setup.queued("retrieve")
    assert second.message_id != copy.message_id


async def test_a_redelivered_message_stays_hidden_until_its_time(setup: WorkerFixture) -> None:
    setup.result = lambda _request: TryLater("429", after=timedelta(seconds=5))
    await setup.worker().process(await setup.deliver())
    inbox = setup.bus.inbox("retrieve")
    assert await inbox.receive(timedelta(0)) is None
    setup.clock.now += timedelta(seconds=6)
    again = await inbox.receive(timedelta(0))
    assert again is not None
    await setup.worker().process(again)
    assert [attempt for _, attempt in setup.calls] == [1, 2]
    assert [message.message_id for message in await setup.queued("retrieve")] == ["r1/retrieve/r2"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Unprocessable(Reason.PAYLOAD_TOO_LARGE, "too much"), "PayloadTooLarge"),
        (ZeroDivisionError("a bug"), "Crashed"),
    ],
)
async def test_what_no_redelivery_can_help_is_dead_lettered_at_the_first(
    setup: WorkerFixture, failure: Exception, reason: str
) -> None:
    setup.result = lambda _request: failure
    await setup.worker().process(await setup.deliver())
    [dead] = await setup.queued("dead")
    assert (dead.dead_letter_reason, dead.dead_letter_source, dead.delivery_count) == (reason, "retrieve", 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\xff\xfe", "PoisonContent"),
        (b"{", "SchemaInvalid"),
        (b"[" * 100_000, "PoisonContent"),
        (b'{"request": ' + b'{"a":' * 80 + b"1" + b"}" * 80 + b"}", "PoisonContent"),
        (b'{"request": {"question": "\\ud800"}}', "PoisonContent"),
        (b"{}", "SchemaInvalid"),
        (b"null", "SchemaInvalid"),
        (b"\x00" * 100, "SchemaInvalid"),
    ],
)
async def test_poison_is_dead_lettered_and_the_worker_goes_on(setup: WorkerFixture, body: bytes, reason: str) -> None:
    await setup.worker().process(await setup.deliver(body=body))
    [dead] = await setup.queued("dead")
    assert dead.dead_letter_reason == reason
    assert dead.dead_letter_description
    assert setup.calls == []


async def test_late_work_is_not_done(setup: WorkerFixture) -> None:
    request = a_request(answer_by=NOW - timedelta(seconds=1))
    await setup.worker().process(await setup.deliver(request))
    [dead] = await setup.queued("dead")
    assert dead.dead_letter_reason == "DeadlineExceeded"
    assert setup.calls == []


async def test_work_stops_when_its_lock_is_lost(setup: WorkerFixture) -> None:
    delivery = await setup.deliver()
    cancelled = asyncio.Event()

    async def endless(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return []

    class Lost(MemoryDelivery):
        async def renew(self) -> datetime:
            raise LockLost("gone")

        @property
        def locked_until(self) -> datetime:
            return setup.clock() + timedelta(milliseconds=30)

    lost = Lost(setup.bus, "retrieve", delivery._held)
    worker = setup.worker()
    worker.consumer = Consumer("retrieve", worker.consumer.decode, endless, internal_identity, worker.consumer.request)
    await asyncio.wait_for(worker.process(lost), 300)
    assert cancelled.is_set()
    assert lost.settled == "left"
    assert await setup.queued("answers") == []


async def test_after_a_pause_longer_than_its_lock_a_process_sends_nothing(setup: WorkerFixture) -> None:
    """The machine stood still, and so did the renewals, so no failed renewal reported the loss."""
    delivery = await setup.deliver()

    class Short(MemoryDelivery):
        @property
        def locked_until(self) -> datetime:
            return setup.clock() + timedelta(milliseconds=500)

        async def renew(self) -> datetime:
            return self.locked_until

    async def paused(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        time.sleep(0.6)  # noqa: ASYNC251 - the whole process stands still
        return [to_caller(task.request, an_answer(task.request), setup.clock())]

    short = Short(setup.bus, "retrieve", delivery._held)
    worker = setup.worker()
    worker.consumer = Consumer("retrieve", worker.consumer.decode, paused, internal_identity, worker.consumer.request)
    await asyncio.wait_for(worker.process(short), 300)
    assert short.settled == "left"
    assert await setup.queued("answers") == []


async def test_what_does_not_fit_the_grace_period_is_handed_back_with_the_same_attempt(setup: WorkerFixture) -> None:
    started, stopping = asyncio.Event(), asyncio.Event()

    async def endless(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        started.set()
        await asyncio.sleep(3600)
        return []

    envelope = to_retriever(a_request())
    await setup.bus.send(Outgoing("retrieve", envelope.message.encode(), "retrieve.v1", message_id=envelope.message_id))
    worker = setup.worker()
    worker.consumer = Consumer("retrieve", worker.consumer.decode, endless, internal_identity, worker.consumer.request)
    running = asyncio.create_task(worker.run(stopping, timedelta(seconds=0.05)))
    await asyncio.wait_for(started.wait(), 300)
    stopping.set()
    await asyncio.wait_for(running, 300)
    [copy] = await setup.queued("retrieve")
    assert copy.properties[ATTEMPT] == 1
    assert copy.delivery_count == 0
    assert copy.message_id is not None
    assert copy.message_id.startswith("r1/retrieve/r0.")


async def test_in_flight_work_is_bounded(setup: WorkerFixture) -> None:
    most, now, release = 0, 0, asyncio.Event()

    async def counting(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await release.wait()
        now -= 1
        return []

    for number in range(6):
        envelope = to_retriever(a_request(request_id=f"r{number}"))
        await setup.bus.send(
            Outgoing("retrieve", envelope.message.encode(), "retrieve.v1", message_id=envelope.message_id)
        )
    worker = setup.worker(concurrency=2)
    worker.consumer = Consumer("retrieve", worker.consumer.decode, counting, internal_identity, worker.consumer.request)
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.run(stopping, timedelta(seconds=5)))
    while now < 2:
        await asyncio.sleep(0.01)
    for _ in range(30):  # time for a third to be let in
        await asyncio.sleep(0.01)
    assert worker.in_flight == 2
    release.set()
    while await setup.queued("retrieve"):
        await asyncio.sleep(0.01)
    stopping.set()
    await running
    assert most == 2


async def test_what_its_workers_may_have_died_of_is_worked_on_alone(setup: WorkerFixture) -> None:
    """Three of four came back three times; each of them has the worker for itself, whatever was there before it."""
    for number in range(4):
        envelope = to_retriever(a_request(request_id=f"r{number}"))
        await setup.bus.send(
            Outgoing("retrieve", envelope.message.encode(), "retrieve.v1", message_id=envelope.message_id)
        )
        if number == 2:
            for _ in range(3):  # by workers that died
                for _ in range(3):
                    await setup.take("retrieve")
                setup.clock.now += timedelta(seconds=61)
    seen: dict[str, set[str]] = {}
    now: set[str] = set()

    async def noting(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        me = task.request.request_id
        now.add(me)
        await asyncio.sleep(0.05)  # time for another to begin
        seen[me] = set(now)
        now.remove(me)
        return []

    worker = setup.worker()
    worker.consumer = Consumer("retrieve", worker.consumer.decode, noting, internal_identity)
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.run(stopping, timedelta(seconds=5)))
    while len(seen) < 4:
        await asyncio.sleep(0.01)
    stopping.set()
    await running
    assert [seen[f"r{number}"] for number in range(3)] == [{"r0"}, {"r1"}, {"r2"}]


async def test_what_its_workers_may_have_died_of_waits_for_what_is_in_flight(setup: WorkerFixture) -> None:
    """It was there before, and may take longer than a lock: both are renewed meanwhile."""
    suspect, other = to_retriever(a_request(request_id="r1")), to_retriever(a_request(request_id="r2"))
    await setup.bus.send(Outgoing("retrieve", suspect.message.encode(), "retrieve.v1", message_id="m1"))
    for _ in range(2):  # by workers that died
        await setup.take("retrieve")
        setup.clock.now += timedelta(seconds=61)
    await setup.take("retrieve")
    setup.clock.now += timedelta(seconds=40)
    await setup.bus.send(Outgoing("retrieve", other.message.encode(), "retrieve.v1", message_id="m2"))
    begun: list[str] = []
    release = asyncio.Event()

    async def noting(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        begun.append(task.request.request_id)
        if task.request.request_id == "r2":
            await release.wait()
        return []

    worker = setup.worker()
    worker.consumer = Consumer("retrieve", worker.consumer.decode, noting, internal_identity)
    stopping = asyncio.Event()
    running = asyncio.create_task(worker.run(stopping, timedelta(seconds=5)))
    while not begun:
        await asyncio.sleep(0.01)
    setup.clock.now += timedelta(seconds=21)  # the third lock ends, and r2's does not
    while worker.in_flight < 2 and len(begun) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # time for one that does not wait
    assert begun == ["r2"]
    release.set()
    while len(begun) < 2:
        await asyncio.sleep(0.01)
    stopping.set()
    await running


async def test_without_redis_the_outcome_is_sent_all_the_same(setup: WorkerFixture) -> None:
    setup.ledger = Ledger(wired(FailFastRedis("redis://127.0.0.1:1/0")))
    delivery = await setup.deliver()
    await setup.worker().process(delivery)
    assert len(await setup.queued("answers")) == 1
    assert delivery.settled == "completed"


@pytest.mark.parametrize(("left", "lives"), [(59.1, 60), (59.0, 59), (0.2, 1), (-5, 1), (9e9, 14 * 86_400)])
def test_a_message_never_dies_before_its_deadline(left: float, lives: int) -> None:
    """The SDK would cut the fraction of a second off."""
    assert life(NOW, NOW + timedelta(seconds=left)) == timedelta(seconds=lives)
