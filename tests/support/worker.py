"""A worker on the bus in memory and a real Redis."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from shared.bus.port import Outgoing, Received
from shared.contracts.envelope import Envelope, to_caller, to_retriever
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.ledger.ledger import Entry, Ledger
from shared.redis import FailFastRedis
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.worker import Worker
from tests.support.builders import NOW, a_request
from tests.support.memory_bus import MemoryBus, MemoryDelivery
from tests.support.ports import wired
from tests.support.virtual_time import virtual_clock

REDIS = "redis://127.0.0.1:1/0"


Handle = Callable[[Request], Awaitable[Sequence[Envelope]]]


class NoLedger(OutcomeGuard):
    """Knows no outcome and uses no socket: in virtual time there are none."""

    def __init__(self) -> None:
        super().__init__(Ledger(FailFastRedis(REDIS)))

    async def known(self, request: Request) -> Entry | None:
        return None


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


class WorkerFixture:
    """A worker on `retrieve`, and what it needs."""

    def __init__(self, redis: FailFastRedis) -> None:
        self.clock = Clock()
        self.bus = MemoryBus("retrieve", "generate", "answers", "dead", clock=self.clock, forward_dead_to="dead")
        self.ledger = Ledger(redis)
        self.calls: list[tuple[Request, int]] = []
        self.result: Any = lambda request: [to_caller(request, an_answer(request), self.clock())]

    def worker(self, **changes: Any) -> Worker[RetrievePassages]:
        consumer = Consumer(
            queue="retrieve",
            decode=lambda message: RetrievePassages.decode(message.body),
            handle=self._handle,
            identify=internal_identity,
            request=lambda task: task.request,
        )
        given = {"outcomes": OutcomeGuard(self.ledger), **changes}
        bus = wired(given.pop("bus", self.bus))
        return Worker(consumer=consumer, bus=bus, clock=wired(self.clock), chance=lambda: 0.5, **given)

    async def deliver(self, request: Request | None = None, body: bytes | None = None) -> MemoryDelivery:
        request = request or a_request()
        envelope = to_retriever(request)
        await self.bus.send(
            Outgoing("retrieve", body or envelope.message.encode(), "retrieve.v1", message_id=envelope.message_id)
        )
        return await self.take("retrieve")

    async def take(self, queue: str) -> MemoryDelivery:
        delivery = await self.bus.inbox(queue).receive(timedelta(seconds=1))
        assert delivery is not None
        return wired(delivery)

    async def queued(self, queue: str) -> list[Received]:
        return list(await self.bus.peek(queue))

    async def _handle(self, task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        self.calls.append((task.request, attempt))
        result = self.result(task.request)
        if isinstance(result, BaseException):
            raise result
        return list(result)


def an_answer(request: Request, text: str = "24 days") -> RequestOutcome:
    return ending(request, Outcome.ANSWERED, Code.OK, text=text)


def a_bus(kind: type[MemoryBus] = MemoryBus) -> MemoryBus:
    return kind("retrieve", "dead", clock=virtual_clock, forward_dead_to="dead")


def a_worker(bus: MemoryBus, handle: Handle, **consumer: Any) -> Worker[RetrievePassages]:
    async def taken(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        return await handle(task.request)

    whole: Consumer[RetrievePassages] = Consumer(
        "retrieve",
        lambda message: RetrievePassages.decode(message.body),
        taken,
        internal_identity,
        lambda task: task.request,
        **consumer,
    )
    return Worker(whole, wired(bus), NoLedger(), clock=wired(virtual_clock), chance=lambda: 0.5)


async def post(bus: MemoryBus, **changes: Any) -> None:
    envelope = to_retriever(a_request(**changes))
    await bus.send(Outgoing("retrieve", envelope.message.encode(), "retrieve.v1", message_id=envelope.message_id))
