"""The indexer: an event says where to look, the lake says what is there, and the index is made to match it.

What an event claims to have happened is not used. So duplicate, reordered and late events do no harm: the last one
finds the lake as it is.
"""

import asyncio
import hashlib
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from services.indexer.chunk import MOST_TOKENS, chunk
from services.indexer.index_writer import IndexWriter
from services.indexer.lakes.port import Blob, Changed, Lake, Vanished
from services.indexer.parsing.sandbox import Parser
from services.indexer.sources import Source, Sources
from services.indexer.storage_event import BlobChanged, Change
from services.indexer.version import VersionFactory
from shared.contracts.envelope import Envelope
from shared.errors import Reason, TryLater, Unprocessable
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.text import escaped
from shared.vectors.port import Document, Registry

log = get_logger()

# Attempts at one document per delivery. A lost attempt means that another writer succeeded, so a third is rare.
_ATTEMPTS = 5
# Documents of one message that are indexed concurrently.
_CONCURRENT = 4
# Characters that are split in about 20 ms; longer texts are split in a thread.
_QUICKLY_SPLIT = 20_000

Place = tuple[str, str]
"""Container and path."""


class Indexer:
    """Handles storage events."""

    def __init__(
        self,
        *,
        sources: Sources,
        lake: Lake,
        parser: Parser,
        registry: Registry,
        writer: IndexWriter,
        versions: VersionFactory,
        metrics: Metrics,
        clock: Callable[[], datetime],
        most_bytes: int,
        passage_tokens: int = MOST_TOKENS,
    ) -> None:
        self._sources = sources
        self._lake = lake
        self._parser = parser
        self._registry = registry
        self._writer = writer
        self._versions = versions
        self._metrics = metrics
        self._clock = clock
        self._most_bytes = most_bytes
        self._passage_tokens = passage_tokens
        self._busy: weakref.WeakValueDictionary[Place, asyncio.Lock] = weakref.WeakValueDictionary()

    async def handle(self, task: Sequence[BlobChanged], attempt: int = 1) -> Sequence[Envelope]:
        """Make the index match the lake at every place that the events name. Returns no messages.

        Raises `TryLater` when the lake, Qdrant, the model or Redis is busy or down, or a document keeps changing;
        `Unprocessable` for a document that cannot be indexed. One failing document does not keep others from the index.
        """
        failures: list[BaseException] = []
        room = asyncio.Semaphore(_CONCURRENT)

        async def converge(place: Place) -> None:
            # One process works on a document once at a time.
            async with room, self._busy.setdefault(place, asyncio.Lock()):
                for _ in range(_ATTEMPTS):
                    if await self._converge_once(*place):
                        return
            raise TryLater(f"{escaped(place[1])} changed again during each of {_ATTEMPTS} attempts to index it")

        for event in task:
            async for places in self._places(event):
                ended = await asyncio.gather(*map(converge, places), return_exceptions=True)
                failures += (failure for failure in ended if failure is not None)
        if failures:
            # A bug first; then what a redelivery can help, because it meets the other failures again.
            raise min(failures, key=lambda each: isinstance(each, TryLater) + 2 * isinstance(each, Unprocessable))
        for occurred_at in (event.occurred_at for event in task if event.occurred_at):
            self._metrics.index_lag.record(max(0.0, (self._clock() - occurred_at).total_seconds()))
        return ()

    async def _places(self, event: BlobChanged) -> AsyncIterator[Sequence[Place]]:
        """Where to look; the new place of a moved document before the old one, so that its vectors are reused."""
        for path in filter(None, (event.path, event.previous_path)):
            match event.change:
                case Change.WRITTEN | Change.DELETED | Change.RENAMED:
                    yield [(event.container, path)]
                case Change.DIRECTORY_RENAMED | Change.DIRECTORY_DELETED:
                    # Every document below it, whether it is in the lake or only in the index.
                    container, folder = event.container, f"{path}/"
                    below = {blob.path async for blob in self._lake.blobs(container, folder)}
                    below |= {entry.path async for entry in self._registry.entries(container=container, folder=folder)}
                    yield [(container, each) for each in sorted(below)]
                case Change.IGNORED:
                    continue

    async def _converge_once(self, container: str, path: str) -> bool:
        """Make the index match the lake at one place; False if the document changed meanwhile."""
        # The registry before the lake: then a commit on this version rests on a newer state of the lake.
        entries = await self._registry.at(container, path)
        source = self._sources.of(container, path)
        blob = await self._lake.head(container, path) if source else None
        if source is None:
            log.info("document.without_source", path=path)
        owner = (source.tenant, source.collection) if source else None
        mine = next((each for each in entries if (each.tenant, each.collection) == owner), None)
        unchanged = True
        for entry in entries:
            if entry is mine and blob is not None:
                continue
            # The lake no longer has it, or `sources.yaml` gives it to another collection.
            if entry.is_live:
                unchanged &= await self._writer.write(self._versions.tombstone(entry), [], before=entry.version)
            else:
                await self._finish(entry)
        if source and blob:
            unchanged &= await self._index(source, blob, mine)
        return unchanged

    async def _index(self, source: Source, blob: Blob, entry: Document | None) -> bool:
        """Index `blob`, unless `entry` matches it; False if the document changed meanwhile. Raises `Unprocessable`."""
        up_to_date = entry if entry and self._versions.is_up_to_date(entry, source) else None
        if up_to_date and up_to_date.etag == blob.etag:
            await self._finish(up_to_date)
            return True
        if blob.size > self._most_bytes:
            size = f"it has {blob.size:,} bytes; the maximum is {self._most_bytes:,}"
            raise Unprocessable(Reason.POISON_CONTENT, f"{escaped(blob.path)} cannot be indexed: {size}")
        try:
            data = await self._lake.read(source.container, blob.path, blob.etag)
        except (Changed, Vanished):
            return False
        content_hash = hashlib.sha256(data).hexdigest()
        if up_to_date and up_to_date.content_hash == content_hash:
            if not await self._writer.refresh(replace(up_to_date, etag=blob.etag)):
                return False
            await self._finish(up_to_date)
            return True
        document = await self._parser.parse(data, blob.path, blob.content_type)
        if len(document.text) <= _QUICKLY_SPLIT:
            chunks = chunk(document, self._passage_tokens)
        else:
            # A book takes a second, and meanwhile the locks of all deliveries must be renewed.
            chunks = await asyncio.to_thread(chunk, document, self._passage_tokens)
        if not chunks:
            log.warning("document.empty", path=blob.path)
        made, passages = self._versions.version(source, blob, content_hash, document.title, chunks, entry)
        return await self._writer.write(made, passages, before=entry.version if entry else None)

    async def _finish(self, entry: Document) -> None:
        """Do what a crash after the commit of `entry` left undone."""
        if not entry.finished:
            await self._writer.finish(entry)
