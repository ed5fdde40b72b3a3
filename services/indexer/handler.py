"""The indexer's story: an event says where to look, the lake says what is there, the index follows.

What an event claims to have happened is not believed. So duplicates, disorder and late events do no harm: the
last look sees the lake as it is.
"""

import asyncio
import hashlib
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime

from services.indexer.chunk import MOST_TOKENS, Chunk, chunk
from services.indexer.index_writer import IndexWriter
from services.indexer.lakes.port import Blob, Changed, Lake, Vanished
from services.indexer.parsing.document import ParsedDocument
from services.indexer.parsing.sandbox import Parser
from services.indexer.sources import Source, Sources
from services.indexer.storage_event import BlobChanged, Change
from services.indexer.version import VersionFactory
from shared.contracts.envelope import Envelope
from shared.errors import Reason, TryLater, Unprocessable
from shared.failpoints import reach
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.text import escaped
from shared.vectors.port import Document, Registry

log = get_logger()

# Every look that is overtaken means that another one succeeded, so a document seldom needs a third.
_LOOKS = 5
# Documents of one directory that are looked at side by side.
_SIDE_BY_SIDE = 4
# Characters that are cut in about 20 ms.
_QUICKLY_CUT = 20_000

Place = tuple[str, str]


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
        maker: VersionFactory,
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
        self._maker = maker
        self._metrics = metrics
        self._clock = clock
        self._most_bytes = most_bytes
        self._passage_tokens = passage_tokens
        self._busy: weakref.WeakValueDictionary[Place, asyncio.Lock] = weakref.WeakValueDictionary()

    async def handle(self, task: Sequence[BlobChanged], attempt: int = 1) -> Sequence[Envelope]:
        """Make the index say what the lake says, in every place that the events name."""
        failures: list[BaseException] = []
        for event in task:
            async for places in self._places(event):
                failures += await self._look_at_all(places)
        if failures:
            raise _worst(failures)
        self._record_lag(task)
        return ()

    async def _places(self, event: BlobChanged) -> AsyncIterator[Sequence[Place]]:
        """Where to look; the new place of something moved before the old one, so that no vector is lost."""
        for path in filter(None, (event.path, event.previous_path)):
            match event.change:
                case Change.WRITTEN | Change.DELETED | Change.RENAMED:
                    yield [(event.container, path)]
                case Change.DIRECTORY_RENAMED | Change.DIRECTORY_DELETED:
                    yield await self._below(event.container, f"{path}/")
                case Change.IGNORED:
                    continue

    async def _below(self, container: str, folder: str) -> Sequence[Place]:
        """Every document below a directory, whether the lake has it or only the index."""
        paths = {blob.path async for blob in self._lake.blobs(container, folder)}
        paths |= {entry.path async for entry in self._registry.entries(container=container, folder=folder)}
        return [(container, path) for path in sorted(paths)]

    async def _look_at_all(self, places: Sequence[Place]) -> list[BaseException]:
        """Look at places side by side; one that fails does not keep the others from being looked at."""
        room = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def look(place: Place) -> None:
            async with room:
                await self._look(*place)

        results = await asyncio.gather(*map(look, places), return_exceptions=True)
        return [result for result in results if result is not None]

    async def _look(self, container: str, path: str) -> None:
        """Look until nothing has moved meanwhile. Within this process one look at a document follows another."""
        async with self._busy.setdefault((container, path), asyncio.Lock()):
            for _ in range(_LOOKS):
                if await self._follow(container, path):
                    return
        raise TryLater(f"{path} keeps changing")

    async def _follow(self, container: str, path: str) -> bool:
        """Follow the lake in one place; False if the document moved under our hands."""
        # The registry before the lake: then a commit on this version rests on a look that is newer than it.
        entries = await self._registry.at(container, path)
        source = self._sources.of(container, path)
        blob = await self._lake.head(container, path) if source else None
        if source is None:
            log.info("document.in_no_source", path=path)
        mine = next((each for each in entries if source and _belongs(each, source)), None)
        reach("indexer.looked")
        followed = [await self._remove(each) for each in entries if each is not mine or blob is None]
        if source and blob:
            followed.append(await self._bring_in(source, blob, mine))
        return all(followed)

    async def _remove(self, entry: Document) -> bool:
        """The lake has it no more, or gives it to somebody else."""
        if entry.is_live:
            tombstone = self._maker.tombstone(entry)
            return await self._writer.write(tombstone, [], before=entry.version)
        return await self._finished(entry)

    async def _bring_in(self, source: Source, blob: Blob, entry: Document | None) -> bool:
        """The lake has it: index it, unless the index says the same already."""
        if entry and self._maker.is_up_to_date(entry, source) and entry.etag == blob.etag:
            return await self._finished(entry)
        if blob.size > self._most_bytes:
            raise _too_large(blob, self._most_bytes)
        try:
            data = await self._lake.read(source.container, blob.path, blob.etag)
        except (Changed, Vanished):
            return False
        reach("indexer.read")
        content_hash = hashlib.sha256(data).hexdigest()
        if entry and self._maker.is_up_to_date(entry, source) and entry.content_hash == content_hash:
            return await self._writer.refresh(replace(entry, etag=blob.etag)) and await self._finished(entry)
        document = await self._parser.parse(data, blob.path, blob.content_type)
        reach("indexer.parsed")
        chunks = await self._cut(document)
        if not chunks:
            log.warning("document.empty", path=blob.path)
        made, passages = self._maker.version(source, blob, content_hash, document.title, chunks, entry)
        return await self._writer.write(made, passages, before=entry.version if entry else None)

    async def _cut(self, document: ParsedDocument) -> list[Chunk]:
        if len(document.text) <= _QUICKLY_CUT:
            return chunk(document, self._passage_tokens)
        # A book takes a second, and meanwhile the locks of all deliveries must be renewed.
        return await asyncio.to_thread(chunk, document, self._passage_tokens)

    async def _finished(self, entry: Document) -> bool:
        """Finish what a crash after the commit left undone."""
        if not entry.finished:
            await self._writer.finish(entry)
        return True

    def _record_lag(self, task: Sequence[BlobChanged]) -> None:
        for occurred_at in filter(None, (event.occurred_at for event in task)):
            self._metrics.index_lag.record(max(0.0, (self._clock() - occurred_at).total_seconds()))


def _worst(failures: Sequence[BaseException]) -> BaseException:
    """A bug first; then what a redelivery may mend, for it will come across the rest again."""
    return min(failures, key=lambda failure: isinstance(failure, TryLater) + 2 * isinstance(failure, Unprocessable))


def _belongs(entry: Document, source: Source) -> bool:
    return (entry.tenant, entry.collection) == (source.tenant, source.collection)


def _too_large(blob: Blob, most: int) -> Unprocessable:
    detail = f"{escaped(blob.path)} cannot be indexed: it has {blob.size:,} bytes, more than the {most:,} that are read"
    return Unprocessable(Reason.POISON_CONTENT, detail)
