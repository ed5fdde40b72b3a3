"""A sentinel watches a request until the broker has its outcome, on the bus in memory and a real Redis."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from shared.bus.port import BusUnavailable, Outgoing
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import SENTINEL_DELAY, at_deadline, to_caller, to_retriever
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from shared.telemetry.metrics import make
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.publisher import Publisher, send_in_order
from shared.worker.sentinels import Sentinels
from tests.support.builders import a_request
from tests.support.memory_bus import MemoryBus
from tests.support.waiting import until
from tests.support.worker import an_answer


def soon(**changes: object) -> Request:
    """A request of now, because what is scheduled for the past is due."""
    now = datetime.now(UTC)
    return a_request(accepted_at=now, answer_by=now + timedelta(seconds=60), **changes)


def a_poster(bus: MemoryBus, redis: FailFastRedis) -> Publisher:
    return Publisher(bus, OutcomeGuard(Ledger(redis)), make(), lambda: datetime.now(UTC))


async def enqueue(bus: MemoryBus, redis: FailFastRedis) -> None:
    request = soon()
    await send_in_order([at_deadline(request), to_retriever(request)], a_poster(bus, redis).send)


async def test_the_sentinel_is_scheduled_before_the_work_which_carries_its_number(redis: FailFastRedis) -> None:
    bus = MemoryBus("retrieve", "outcomes")
    await enqueue(bus, redis)
    assert [message.queue for message in bus.sent] == ["outcomes", "retrieve"]
    [sentinel], [work] = await bus.peek("outcomes"), await bus.peek("retrieve")
    request = RetrievePassages.decode(work.body).request
    assert request.sentinel == sentinel.sequence_number
    assert sentinel.scheduled_for == request.answer_by + SENTINEL_DELAY
    assert timedelta(0) < SENTINEL_DELAY < timedelta(seconds=15)  # what is promised to the caller
    assert DeadlinePassed.decode(sentinel.body).request.question == ""


class Deaf(MemoryBus):
    """Takes nothing on `outcomes`."""

    async def schedule(self, message: Outgoing) -> int:
        raise BusUnavailable("outcomes")


async def test_work_without_a_sentinel_is_not_sent(redis: FailFastRedis) -> None:
    bus = Deaf("retrieve", "outcomes")
    with pytest.raises(BusUnavailable):
        await enqueue(bus, redis)
    assert bus.sent == []


async def test_a_sentinel_is_cancelled_once_the_outcome_was_sent(redis: FailFastRedis) -> None:
    bus = MemoryBus("retrieve", "outcomes", "answers")
    await enqueue(bus, redis)
    [work] = await bus.peek("retrieve")
    request = RetrievePassages.decode(work.body).request
    await a_poster(bus, redis).send(to_caller(request, an_answer(request), datetime.now(UTC)))
    assert len(await bus.peek("answers")) == 1

    async def gone() -> bool:
        return not await bus.peek("outcomes")

    await until(gone)


class Counting(MemoryBus):
    def __init__(self, *queues: str, fails: bool = False) -> None:
        super().__init__(*queues)
        self.cancelled: list[Sequence[int]] = []
        self.fails = fails

    async def cancel(self, queue: str, numbers: Sequence[int]) -> None:
        self.cancelled.append(numbers)
        if self.fails:
            self.fails = False
            raise BusUnavailable(queue)


async def test_those_of_a_second_are_cancelled_in_one_operation_and_a_failure_is_forgotten() -> None:
    bus = Counting("outcomes", fails=True)
    sentinels = Sentinels(bus, lambda: datetime.now(UTC), gather=0)
    for number in (1, 2, 3):
        sentinels.cancel(soon(sentinel=number))

    async def tried() -> bool:
        return bool(bus.cancelled)

    await until(tried)
    assert bus.cancelled == [[1, 2, 3]]
    bus.cancelled.clear()
    sentinels.cancel(soon(sentinel=4))
    await until(tried)
    assert bus.cancelled == [[4]]


async def test_one_that_has_come_already_or_is_not_known_is_not_cancelled() -> None:
    bus, over = Counting("outcomes"), datetime.now(UTC) - timedelta(minutes=1)
    sentinels = Sentinels(bus, lambda: datetime.now(UTC), gather=0)
    sentinels.cancel(a_request(sentinel=1, answer_by=over))
    sentinels.cancel(soon())
    sentinels.cancel(soon(sentinel=2))

    async def tried() -> bool:
        return bool(bus.cancelled)

    await until(tried)
    assert bus.cancelled == [[2]]
