"""Builds the indexer's worker and runs it: `python -m services.indexer`."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from services.indexer.build import build, open_lake
from services.indexer.events import read_events
from services.indexer.lakes.port import Lake
from services.indexer.settings import IndexerSettings
from services.indexer.sources import Sources
from shared.answer_cache import AnswerCache
from shared.bus.port import ORIGIN, Received
from shared.contracts.ids import digest
from shared.contracts.queues import BLOB_EVENTS
from shared.errors import TryLater
from shared.pacing.pacing import Pacing
from shared.redis import RedisUnavailable
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.outbox import Identity
from shared.worker.ports import Ports
from shared.worker.ports import open_ports as open_common_ports
from shared.worker.runtime import Service, make_workers, run_worker

# No caller waits for a document, so retries survive an outage of a day (at one minute each).
ATTEMPTS = 1_500
WAIT_FOR_REDIS = timedelta(seconds=2)


class CacheEvictor:
    """Evicts cached answers; indexing is retried while Redis is unavailable."""

    def __init__(self, cache: AnswerCache) -> None:
        self._cache = cache

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> int:
        """Evict answers that used `path` below `version`; returns how many. Raises `TryLater`."""
        try:
            return await self._cache.invalidate(tenant, collection, path, version)
        except RedisUnavailable as unavailable:
            raise TryLater(f"cached answers cannot be evicted: {unavailable}", after=WAIT_FOR_REDIS) from unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexerPorts(Ports):
    """The indexer also reads the lake."""

    lake: Lake


def open_ports(settings: IndexerSettings, metrics: Metrics) -> IndexerPorts:
    """The real ports, which connect at their first use. Raises `SettingsError`."""
    common = open_common_ports(settings, metrics)
    lake = open_lake(settings, Sources.read(settings.config / "sources.yaml"))
    return IndexerPorts(bus=common.bus, redis=common.redis, metrics=metrics, lake=lake)


async def compose(settings: IndexerSettings, ports: IndexerPorts) -> Service:
    """The indexer; raises `SettingsError`."""
    closing = AsyncExitStack()
    closing.push_async_callback(ports.lake.close)
    indexer = await closing.enter_async_context(
        build(
            settings,
            lake=ports.lake,
            evictor=CacheEvictor(AnswerCache(ports.redis)),
            metrics=ports.metrics,
            pacing=Pacing(ports.redis, ports.metrics),
            models=ports.models,
            vectors=ports.vectors,
            clock=ports.clock,
        )
    )
    consumer = Consumer(
        queue=BLOB_EVENTS,
        decode=lambda message: read_events(message.body),
        handle=indexer.handle,
        identify=identify,
        circuit_breaker=True,
        attempts=ATTEMPTS,
    )
    return Service(workers=make_workers([consumer], settings, ports), closing=[closing.aclose])


def identify(message: Received) -> Identity:
    """The identity of an event. Its message id is digested, because a retry's id adds to it and has at most 128."""
    origin = str(message.properties.get(ORIGIN) or message.message_id or message.sequence_number)
    return Identity("e" + digest(message.queue, origin), origin)


def main(open_ports: Callable[[IndexerSettings, Metrics], IndexerPorts] = open_ports) -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("indexer", IndexerSettings, compose, open_ports))
