"""Callers of messages that expired in `dead` are told, once; on a real Redis."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.gateway.expired_dead_letters import PAGE, ExpiredDeadLetterScan
from shared.bus.port import ORIGIN, RUN, Received
from shared.contracts.envelope import Envelope
from shared.contracts.expired import ExpiredRequest
from shared.contracts.outcome import Outcome, RequestOutcome
from shared.contracts.retrieve import RetrievePassages
from shared.ledger.ledger import KEEP
from shared.redis import FailFastRedis, RedisUnavailable
from shared.telemetry.metrics import make
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.publisher import Publisher, Send
from tests.support.builders import NOW, a_request
from tests.support.gateway import Gateway, a_dead, an_ask
from tests.support.memory_bus import MemoryBus
from tests.support.ports import wired


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
        self.redis, self.gateway, self.archive = redis, Gateway(redis), Archive()
        self.bus = MemoryBus("answers")
        self.publisher = Publisher(wired(self.bus), OutcomeGuard(self.gateway.ledger), make(), lambda: NOW)
        self.scan = self.scan_that_sends_by(self.publisher.send)

    def scan_that_sends_by(self, send: Send) -> ExpiredDeadLetterScan:
        return ExpiredDeadLetterScan(
            bus=self.archive,
            dead_letters=self.gateway.dead,
            ledger=self.gateway.ledger,
            redis=self.redis,
            send=send,
            clock=lambda: NOW,
        )

    async def told(self) -> list[Outcome]:
        return [RequestOutcome.decode(message.body).outcome for message in await self.bus.peek("answers")]


@pytest.fixture
def setup(redis: FailFastRedis) -> ArchiveFixture:
    return ArchiveFixture(redis)


async def test_the_caller_of_a_message_that_expired_in_dead_is_told(setup: ArchiveFixture) -> None:
    setup.archive.put("m1")
    assert await setup.scan.once() == 1
    assert await setup.told() == [Outcome.EXPIRED]


async def test_an_archived_ask_is_not_told_again(setup: ArchiveFixture) -> None:
    kept = ExpiredRequest(request=a_request(), died_on="generate", reason="TTLExpiredException")
    setup.archive.put("r1/expired", body=kept.encode(), subject="expired.v1", dead_letter_source=None)
    assert await setup.scan.once() == 0
    assert await setup.told() == []


@pytest.mark.parametrize("known", [True, False])
async def test_the_scan_skips_admitted_work_that_redis_has_lost(setup: ArchiveFixture, known: bool) -> None:
    request = a_request(recorded=True)
    if known:
        await setup.gateway.ledger.accept(request)
    body = RetrievePassages(request=request).encode()
    setup.archive.put("r1/retrieve", body=body, subject="retrieve.v1", dead_letter_source="retrieve")
    assert await setup.scan.once() == int(known)


@pytest.mark.parametrize(
    "again",
    [{"enqueued_sequence_number": 1}, {"properties": {RUN: "p1", ORIGIN: "m1"}}],
    ids=["the same ask", "an operator's replay"],
)
async def test_a_caller_is_not_told_again_by_a_copy_of_its_ask(setup: ArchiveFixture, again: dict[str, Any]) -> None:
    setup.archive.put("m1")
    await setup.scan.once()
    setup.bus._queue("answers").seen.clear()  # even if the broker forgot
    setup.archive.put("m1", **again)
    assert await setup.scan.once() == 0
    assert len(await setup.told()) == 1


async def test_the_scan_skips_dead_letters_that_did_not_expire(setup: ArchiveFixture) -> None:
    setup.archive.put("m1", reason="SchemaInvalid")
    assert await setup.scan.once() == 0


async def test_the_scan_skips_messages_older_than_the_ledgers_memory(setup: ArchiveFixture) -> None:
    setup.archive.put("m1", enqueued_at=NOW - KEEP - timedelta(seconds=1))
    assert await setup.scan.once() == 0


async def test_a_large_archive_is_scanned_once(setup: ArchiveFixture) -> None:
    for number in range(2 * PAGE + 3):
        setup.archive.put(f"m{number}")
    assert await setup.scan.once() == 2 * PAGE + 3
    looked = setup.archive.peeks
    assert await setup.scan.once() == 0
    assert setup.archive.peeks == looked + 1


async def test_a_message_of_an_unknown_caller_does_not_stop_the_scan(setup: ArchiveFixture) -> None:
    setup.archive.put("m1", dead_letter_source="ask-elsewhere")
    setup.archive.put("m2")
    assert await setup.scan.once() == 1


async def test_a_bug_with_one_message_does_not_stop_the_scan(setup: ArchiveFixture) -> None:
    bugs = iter([ZeroDivisionError("a bug")])

    async def send(envelope: Envelope) -> None:
        for bug in bugs:
            raise bug
        await setup.publisher.send(envelope)

    scan = setup.scan_that_sends_by(send)
    setup.archive.put("m1")
    setup.archive.put("m2")
    with capture_logs() as logged:
        assert await scan.once() == 1
        assert await scan.once() == 0
    assert [each["event"] for each in logged].count("dead.outcome_not_sent") == 1
    assert await setup.told() == [Outcome.EXPIRED]


async def test_without_redis_no_caller_is_told() -> None:
    setup = ArchiveFixture(FailFastRedis("redis://127.0.0.1:1/0"))
    setup.archive.put("m1")
    with pytest.raises(RedisUnavailable):
        await setup.scan.once()
    assert await setup.told() == []
