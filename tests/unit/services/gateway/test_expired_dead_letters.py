"""Callers of what expired in `dead` are told, once; on a real Redis."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.gateway.expired_dead_letters import PAGE, ExpiredDeadLetterScan
from shared.bus.port import ORIGIN, RUN, Received
from shared.contracts.expired import ExpiredRequest
from shared.contracts.outcome import Outcome, RequestOutcome
from shared.contracts.retrieve import RetrievePassages
from shared.ledger.ledger import KEEP
from shared.redis import FailFastRedis, RedisUnavailable
from shared.telemetry.metrics import make
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.publisher import Publisher
from tests.support.builders import NOW, a_request
from tests.support.gateway import Gateway, a_dead, an_ask
from tests.support.memory_bus import MemoryBus


class Archive:
    """`dead/$DeadLetterQueue`, as a broker lets it be peeked."""

    def __init__(self) -> None:
        self.messages: list[Received] = []
        self.peeks = 0

    async def peek(self, queue: str, *, dead: bool = False, after: int = 0, limit: int = 100) -> Sequence[Received]:
        assert (queue, dead) == ("dead", True)
        self.peeks += 1
        return [message for message in self.messages if message.sequence_number > after][:limit]

    def put(self, message_id: str, reason: str = "TTLExpiredException", **changes: Any) -> None:
        message = a_dead(an_ask(message_id=message_id), reason, "ask")
        self.messages.append(replace(message, sequence_number=len(self.messages) + 1, **changes))


class ArchiveFixture:
    def __init__(self, redis: FailFastRedis) -> None:
        self.gateway, self.archive = Gateway(redis), Archive()
        self.bus = MemoryBus("answers")
        publisher = Publisher(self.bus, OutcomeGuard(self.gateway.ledger), make(), lambda: NOW)
        self.sweep = ExpiredDeadLetterScan(
            bus=self.archive,
            dead_letters=self.gateway.dead,
            ledger=self.gateway.ledger,
            redis=redis,
            send=publisher.send,
            clock=lambda: NOW,
        )

    async def told(self) -> list[Outcome]:
        return [RequestOutcome.decode(message.body).outcome for message in await self.bus.peek("answers")]


@pytest.fixture
def setup(redis: FailFastRedis) -> ArchiveFixture:
    return ArchiveFixture(redis)


async def test_what_expired_there_is_told(setup: ArchiveFixture) -> None:
    setup.archive.put("m1")
    assert await setup.sweep.once() == 1
    assert await setup.told() == [Outcome.EXPIRED]


async def test_what_is_kept_of_an_expired_request_is_not_told_again(setup: ArchiveFixture) -> None:
    kept = ExpiredRequest(request=a_request(), died_on="generate", reason="TTLExpiredException")
    setup.archive.put("r1/expired", body=kept.encode(), subject="expired.v1", dead_letter_source=None)
    assert await setup.sweep.once() == 0
    assert await setup.told() == []


@pytest.mark.parametrize("known", [True, False])
async def test_admitted_work_that_redis_has_lost_was_told_by_its_sentinel(setup: ArchiveFixture, known: bool) -> None:
    request = a_request(recorded=True)
    if known:
        await setup.gateway.ledger.accept(request)
    body = RetrievePassages(request=request).encode()
    setup.archive.put("r1/retrieve", body=body, subject="retrieve.v1", dead_letter_source="retrieve")
    assert await setup.sweep.once() == int(known)


@pytest.mark.parametrize(
    "again",
    [{"enqueued_sequence_number": 1}, {"properties": {RUN: "p1", ORIGIN: "m1"}}],
    ids=["the same ask", "an operator's replay"],
)
async def test_what_was_told_before_is_not_told_again(setup: ArchiveFixture, again: dict[str, Any]) -> None:
    setup.archive.put("m1")
    await setup.sweep.once()
    setup.bus._queue("answers").seen.clear()  # even if the broker forgot
    setup.archive.put("m1", **again)
    assert await setup.sweep.once() == 0
    assert len(await setup.told()) == 1


async def test_what_died_of_something_else_was_told_by_the_worker(setup: ArchiveFixture) -> None:
    setup.archive.put("m1", reason="SchemaInvalid")
    assert await setup.sweep.once() == 0


async def test_what_is_so_old_that_its_outcome_is_forgotten_is_left_alone(setup: ArchiveFixture) -> None:
    setup.archive.put("m1", enqueued_at=NOW - KEEP - timedelta(seconds=1))
    assert await setup.sweep.once() == 0


async def test_a_large_archive_is_looked_through_once(setup: ArchiveFixture) -> None:
    for number in range(2 * PAGE + 3):
        setup.archive.put(f"m{number}")
    assert await setup.sweep.once() == 2 * PAGE + 3
    looked = setup.archive.peeks
    assert await setup.sweep.once() == 0
    assert setup.archive.peeks == looked + 1


async def test_one_that_cannot_be_told_does_not_hide_the_others(setup: ArchiveFixture) -> None:
    setup.archive.put("m1", dead_letter_source="nobody's")
    setup.archive.put("m2")
    assert await setup.sweep.once() == 1


async def test_while_redis_is_away_nobody_is_told_twice_for_it(setup: ArchiveFixture) -> None:
    away = ArchiveFixture(FailFastRedis("redis://127.0.0.1:1/0"))
    away.archive.put("m1")
    with pytest.raises(RedisUnavailable):
        await away.sweep.once()
    assert await away.told() == []
