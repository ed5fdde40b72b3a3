"""Plugs the retriever together and runs it: `python -m services.retriever`.

What is heavy to import is imported where it is used.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from services.retriever.handler import Budget, Epochs, Retriever
from services.retriever.knowledge import Knowledge
from services.retriever.settings import RetrieverSettings
from shared.access.callers import Callers
from shared.access.limits import Limits
from shared.access.use_cases import read_use_cases
from shared.answer_cache import AnswerCache
from shared.budget.tenant import TenantBudget
from shared.contracts.queues import GENERATE, RETRIEVE
from shared.contracts.retrieve import RetrievePassages
from shared.llm.client import make_client
from shared.llm.deployments import Deployments, ModelKind
from shared.pacing.embedder import PacedEmbedder
from shared.pacing.pacing import Pacing
from shared.redis import RedisUnavailable
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.ports import Ports, open_ports, utc_now
from shared.worker.runtime import Service, make_workers, run_worker

if TYPE_CHECKING:
    import httpx
    import httpx2


class CacheEpochs:
    """The answer cache's epochs; unknown while Redis is unavailable."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache

    async def epoch(self, tenant: str, collection: str) -> int | None:
        """The present epoch of a collection."""
        try:
            return await self._cache.epoch(tenant, collection)
        except RedisUnavailable:
            return None


@asynccontextmanager
async def build(
    settings: RetrieverSettings,
    *,
    epochs: Epochs,
    budget: Budget,
    pacing: Pacing,
    metrics: Metrics | None = None,
    models: "httpx2.AsyncBaseTransport | None" = None,
    vectors: "httpx.AsyncBaseTransport | None" = None,
    clock: Callable[[], datetime] = utc_now,
) -> AsyncIterator[Retriever]:
    """A retriever ready to handle, whose connections close with the context; raises `SettingsError`.

    `models` and `vectors` carry the HTTP to the embedding model and to Qdrant; None: the clients' own transports.
    """
    use_cases = read_use_cases(settings.config / "use_cases")
    deployment = Deployments.read(settings.config / "models.yaml").get(
        settings.embedding_deployment, ModelKind.EMBEDDING
    )

    from shared.embeddings.openai import OpenAIEmbedder
    from shared.vectors.qdrant import connect
    from shared.vectors.qdrant_passages import QdrantPassages
    from shared.vectors.qdrant_registry import QdrantRegistry

    key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    store = connect(settings.qdrant_url, api_key=key, transport=vectors)
    timeout = timedelta(seconds=settings.embedding_timeout)
    model = make_client(deployment, timeout=timeout, transport=models)
    embedder = OpenAIEmbedder(model, deployment, metrics, timeout=timeout)
    try:
        yield Retriever(
            knowledge=Knowledge(QdrantPassages(store, deployment.dimensions), QdrantRegistry(store)),
            embedder=PacedEmbedder(embedder, pacing, deployment, clock),
            deployment=deployment,
            epochs=epochs,
            use_cases=use_cases,
            budget=budget,
            clock=clock,
        )
    finally:
        await model.close()
        await store.close()


async def compose(settings: RetrieverSettings, ports: Ports) -> Service:
    """The retriever; raises `SettingsError`."""
    limits = Limits(Callers.read(settings.config / "callers.yaml"), read_use_cases(settings.config / "use_cases"))
    budget = TenantBudget(ports.redis, limits.of, ports.clock, ports.metrics)
    epochs = CacheEpochs(AnswerCache(ports.redis))
    closing = AsyncExitStack()
    retriever = await closing.enter_async_context(
        build(
            settings,
            epochs=epochs,
            budget=budget,
            pacing=Pacing(ports.redis, ports.metrics),
            metrics=ports.metrics,
            models=ports.models,
            vectors=ports.vectors,
            clock=ports.clock,
        )
    )
    consumer = Consumer(
        queue=RETRIEVE,
        decode=lambda message: RetrievePassages.read(message.subject, message.body),
        handle=retriever.handle,
        identify=internal_identity,
        request=lambda task: task.request,
        shared=True,
        circuit_breaker=True,
        prewarm=(GENERATE,),
    )
    return Service(workers=make_workers([consumer], settings, ports), closing=[closing.aclose])


def main(open_ports: Callable[[RetrieverSettings, Metrics], Ports] = open_ports) -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("retriever", RetrieverSettings, compose, open_ports))
