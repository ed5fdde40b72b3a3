"""Plugs the retriever into a worker and runs it: `python -m services.retriever`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from services.retriever.build import build
from services.retriever.settings import RetrieverSettings
from shared.access.callers import Callers
from shared.answer_cache import AnswerCache
from shared.budget.tenant import TenantBudget
from shared.bus.port import Received
from shared.contracts.base import check_version
from shared.contracts.envelope import Envelope
from shared.contracts.outcome import RequestOutcome
from shared.contracts.queues import GENERATE, RETRIEVE
from shared.contracts.retrieve import RetrievePassages
from shared.failpoints import reach
from shared.redis import RedisUnavailable
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.ports import Ports, open_ports
from shared.worker.runtime import Service, make_workers, run_worker

Handle = Callable[[RetrievePassages, int], Awaitable[Sequence[Envelope]]]


class CacheEpochs:
    """The epochs that the answer cache counts; unknown while Redis is away."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache

    async def epoch(self, tenant: str, collection: str) -> int | None:
        """The present epoch of a collection."""
        try:
            return await self._cache.epoch(tenant, collection)
        except RedisUnavailable:
            return None


async def compose(settings: RetrieverSettings, ports: Ports) -> Service:
    """The retriever; raises `SettingsError`."""
    budget = TenantBudget(ports.redis, Callers.read(settings.config / "callers.yaml").tokens_per_minute)
    epochs = CacheEpochs(AnswerCache(ports.redis))
    closing = AsyncExitStack()
    retriever = await closing.enter_async_context(
        build(
            settings,
            epochs=epochs,
            charge=budget.charge,
            models=ports.models,
            vectors=ports.vectors,
            clock=ports.clock,
        )
    )
    consumer = Consumer(
        queue=RETRIEVE,
        decode=decode,
        handle=giving_back(retriever.handle, budget),
        identify=internal_identity,
        request=lambda task: task.request,
        shared=True,
        circuit_breaker=True,
        prewarm=(GENERATE,),
    )
    return Service(workers=make_workers([consumer], settings, ports), closing=[closing.aclose])


def giving_back(handle: Handle, budget: TenantBudget) -> Handle:
    """`handle`; when it answers the caller itself, no model is paid and the reserved tokens are given back."""

    async def handled(task: RetrievePassages, attempt: int) -> Sequence[Envelope]:
        envelopes = await handle(task, attempt)
        if any(isinstance(envelope.message, RequestOutcome) for envelope in envelopes):
            await budget.correct(task.request.tenant, task.request.spending, 0)
            reach("retriever.given_back")
        return envelopes

    return handled


def decode(message: Received) -> RetrievePassages:
    """The task in `message`; raises `Unprocessable`."""
    check_version(message.subject or RetrievePassages.kind, RetrievePassages)
    return RetrievePassages.decode(message.body)


def main(open_ports: Callable[[RetrieverSettings, Metrics], Ports] = open_ports) -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("retriever", RetrieverSettings, compose, open_ports))
