"""Plugs the indexer into a worker and runs it: `python -m services.indexer`."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

from services.indexer.build import build
from services.indexer.events import read_events
from services.indexer.settings import IndexerSettings
from services.indexer.storage_event import BlobChanged
from shared.answer_cache import AnswerCache
from shared.bus.port import ORIGIN, Received
from shared.contracts.ids import digest
from shared.contracts.queues import BLOB_EVENTS
from shared.errors import TryLater
from shared.redis import RedisUnavailable
from shared.worker.consumer import Consumer
from shared.worker.outbox import Identity
from shared.worker.runtime import Runtime, run_worker

# Nobody waits for a document as one waits for an answer: an outage of a day is waited out (a minute at a time).
ATTEMPTS = 1_500
WAIT_FOR_REDIS = timedelta(seconds=2)


class CacheEvictor:
    """Tells the answer cache; indexing waits while it cannot be told."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> int:
        """Evict what used `path` below `version`; raises `TryLater`."""
        try:
            return await self._cache.invalidate(tenant, collection, path, version)
        except RedisUnavailable as away:
            raise TryLater(f"the answer cache cannot be told: {away}", after=WAIT_FOR_REDIS) from away


async def make_consumers(settings: IndexerSettings, runtime: Runtime) -> Sequence[Consumer[Sequence[BlobChanged]]]:
    """All consumers of this service; raises `SettingsError`."""
    stack = AsyncExitStack()
    evictor = CacheEvictor(AnswerCache(runtime.redis))
    indexer = await stack.enter_async_context(build(settings, evictor=evictor, metrics=runtime.metrics))
    runtime.closing.append(stack.aclose)
    return [
        Consumer(
            queue=BLOB_EVENTS,
            decode=lambda message: read_events(message.body),
            handle=indexer.handle,
            identify=identify,
            circuit_breaker=True,
            attempts=ATTEMPTS,
        )
    ]


def identify(message: Received) -> Identity:
    """Event Grid's ids may be as long as ours may be, so retries build on a digest of them."""
    origin = str(message.properties.get(ORIGIN) or message.message_id or message.sequence_number)
    return Identity("e" + digest(message.queue, origin), origin)


def main() -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("indexer", IndexerSettings, make_consumers))
