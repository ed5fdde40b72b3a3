"""A worker on the Service Bus adapter, with the real SDK against the local broker."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from servicebus_local.testing import LocalBus

from shared.bus.port import Outgoing
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.contracts.envelope import Envelope
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.worker import Worker

PATIENCE = 30.0

MESSAGES = 90
# By then the worker has found its work quick, and has messages fetched ahead.
STOP_AFTER = 40


class Note(NamedTuple):
    message_id: str


async def test_a_worker_that_is_stopped_leaves_no_message_locked_and_none_with_a_count() -> None:
    """It works quickly, so that it prefetches; what it has not worked on at SIGTERM is as if it had never been here.

    It goes back at once, although the last piece of work takes longer.
    """
    done: list[str] = []
    stopping = asyncio.Event()

    async def handle(note: Note, _attempt: int) -> Sequence[Envelope]:
        done.append(note.message_id)
        if len(done) == STOP_AFTER:
            stopping.set()
            await broker.wait_until(lambda: [each.state for each in broker.messages("work")].count("locked") == 1)
        return []

    async with LocalBus("work") as broker:
        bus = ServiceBus(ServiceBusAddress(broker.connection_string))
        numbers = range(MESSAGES)
        await asyncio.gather(*(bus.send(Outgoing("work", b"{}", "x", message_id=f"m{n}")) for n in numbers))
        consumer = Consumer("work", lambda message: Note(message.message_id or ""), handle, internal_identity)
        # Never asked: this work belongs to no request.
        outcomes = OutcomeGuard(Ledger(FailFastRedis("redis://127.0.0.1:1/0")))
        async with asyncio.timeout(PATIENCE * 4):
            await Worker(consumer, bus, outcomes, concurrency=8).run(stopping, timedelta(seconds=PATIENCE))
            await broker.wait_until(lambda: {each.state for each in broker.messages("work")} == {"active"})
        await bus.close()
        left = broker.messages("work")
    assert len(done) == len(set(done))
    assert set(done) | {str(each.message_id) for each in left} == {f"m{n}" for n in numbers}
    assert len(done) + len(left) == MESSAGES
    assert {each.delivery_count for each in left} == {0}
    assert broker.record.check() == []
