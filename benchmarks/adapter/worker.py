"""Our lane: the whole worker, with all that a service has but Redis and a model.

Locks are kept, deadlines watched, and every hop is logged, counted and traced.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from benchmarks.adapter.stages import Load, Stage
from shared.bus.port import Received
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.contracts.base import Message
from shared.contracts.envelope import Envelope
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from shared.telemetry import logs, metrics, traces
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.runtime import tune_garbage_collection
from shared.worker.worker import Worker

GRACE = timedelta(seconds=5)


class Note(Message):
    """1 KB of text."""

    kind = "note.v1"
    text: str


class Task(NamedTuple):
    """A note under the id it came with."""

    message_id: str
    note: Note


async def run(connection_string: str, load: Load) -> None:
    """Run all stages in this process."""
    logs.configure("bench", "json", "info")
    traces.configure("bench")
    counted = metrics.configure("bench")
    # Never asked: the work of this pipeline belongs to no request, so there are no outcomes.
    outcomes = OutcomeGuard(Ledger(FailFastRedis("redis://127.0.0.1:1/0")))
    bus = ServiceBus(ServiceBusAddress(connection_string))
    workers = [
        Worker(consumer=_consumer(stage, load), bus=bus, outcomes=outcomes, concurrency=load.slots, metrics=counted)
        for stage in load.path
    ]
    tune_garbage_collection()
    await asyncio.gather(*(worker.run(asyncio.Event(), GRACE) for worker in workers))


def _consumer(stage: Stage, load: Load) -> Consumer[Task]:
    async def handle(task: Task, _attempt: int) -> Sequence[Envelope]:
        await load.handle()
        return [Envelope(stage.target, task.message_id, task.note, correlation_id=task.message_id)]

    return Consumer(stage.source, decode=_decode, handle=handle, identify=internal_identity, prewarm=(stage.target,))


def _decode(received: Received) -> Task:
    return Task(received.message_id or "", Note.decode(received.body))
