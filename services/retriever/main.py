"""Plugs the retriever into a worker and runs it: `python -m services.retriever`."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from services.retriever.build import build
from services.retriever.settings import RetrieverSettings
from shared.bus.port import Received
from shared.cache.answers import AnswerCache
from shared.cache.redis import RedisAway
from shared.contracts.base import check_version
from shared.contracts.queues import GENERATE, RETRIEVE
from shared.contracts.retrieve import RetrievePassages
from shared.worker.plumbing import Parts, internal_identity, run_worker
from shared.worker.worker import Job


class CacheEpochs:
    """The epochs that the answer cache counts; unknown while Redis is away."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache

    async def epoch(self, tenant: str, collection: str) -> int | None:
        """The present epoch of a collection."""
        try:
            return await self._cache.epoch(tenant, collection)
        except RedisAway:
            return None


async def make_jobs(settings: RetrieverSettings, parts: Parts) -> Sequence[Job[RetrievePassages]]:
    """All jobs of this service; raises `SettingsError`."""
    stack = AsyncExitStack()
    retriever = await stack.enter_async_context(build(settings, epochs=CacheEpochs(AnswerCache(parts.redis))))
    parts.closing.append(stack.aclose)
    return [
        Job(
            queue=RETRIEVE,
            decode=decode,
            handle=retriever.handle,
            identify=internal_identity,
            request=lambda task: task.request,
            ahead=(GENERATE,),
        )
    ]


def decode(message: Received) -> RetrievePassages:
    """The task in `message`; raises `Unprocessable`."""
    check_version(message.subject or RetrievePassages.kind, RetrievePassages)
    return RetrievePassages.decode(message.body)


def main() -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("retriever", RetrieverSettings, make_jobs))
