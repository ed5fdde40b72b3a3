"""How a new version of a document becomes the one that counts, and the old one goes.

    put passages ─▶ tell the caches ─▶ COMMIT ─▶ tell the caches ─▶ collect older passages ─▶ finished
                     └ no answer from older passages      └ nor from what was read before the commit
                       is kept from here on

The commit is one compare-and-set. Before it nothing of the new version counts, after it nothing of the old one;
a crash anywhere leaves either, and what was left undone is done when the document is looked at again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from shared.embeddings import sparse
from shared.embeddings.port import Embedder
from shared.failpoints import reach
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.vectors.port import Document, Embedded, Passage, Passages, Registry

log = get_logger()
T = TypeVar("T")

# Passages that are embedded and stored together: progress that a crash does not lose.
_BATCH = 128


class Evictor(Protocol):
    """The caches that hold answers made of documents."""

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> object:
        """Forget answers made of `path` before `version`; raises `TryLater` if nobody can be told."""


class IndexWriter:
    """Brings new versions of documents into the index."""

    def __init__(
        self, *, passages: Passages, registry: Registry, embedder: Embedder, evictor: Evictor, metrics: Metrics
    ) -> None:
        self._passages = passages
        self._registry = registry
        self._embedder = embedder
        self._evictor = evictor
        self._metrics = metrics

    async def write(self, entry: Document, passages: Sequence[Passage], *, before: int | None) -> bool:
        """Make `entry` with its passages count, if the document still is at version `before`.

        False: another writer was quicker, and what counts is that writer's.
        """
        embedded = await self._put(entry, passages)
        await self._invalidate(entry)
        reach("indexer.committing")
        if not await self._registry.commit(entry, before):
            await self._passages.discard(entry.collection, entry.id, entry.build_id)
            log.info("document.overtaken", path=entry.path, version=entry.version)
            return False
        reach("indexer.committed")
        await self.finish(entry)
        log.info(
            "document.indexed" if entry.is_live else "document.removed",
            path=entry.path,
            version=entry.version,
            passages=len(passages),
            embedded=embedded,
        )
        return True

    async def finish(self, entry: Document) -> None:
        """Do what follows a commit. Doing it again does no harm."""
        await self._invalidate(entry)
        reach("indexer.evicted")
        await self._passages.collect(entry.collection, entry.id, upto=entry.version, keep=entry.build_id)
        reach("indexer.collected")
        await self._registry.commit(entry.as_finished(), entry.version)

    async def refresh(self, entry: Document) -> bool:
        """Correct an entry without a new version."""
        return await self._registry.commit(entry, entry.version)

    async def _put(self, entry: Document, passages: Sequence[Passage]) -> int:
        """Store passages with their vectors; says how many had to be embedded."""
        bought = 0
        for batch in _batches(passages, _BATCH):
            known = await self._passages.vectors(entry.collection, entry.tenant, {each.digest for each in batch})
            new = [each for each in batch if each.digest not in known]
            vectors = (await self._embedder.embed([as_embedded(each) for each in new])).vectors if new else []
            known |= dict(zip((each.digest for each in new), vectors, strict=True))
            reach("indexer.embedded")
            await self._passages.put(entry.collection, [_with_vectors(each, known) for each in batch])
            reach("indexer.stored")
            bought += len(new)
        self._metrics.passages_embedded.add(bought)
        return bought

    async def _invalidate(self, entry: Document) -> None:
        await self._evictor.invalidate(entry.tenant, entry.collection, entry.path, entry.version)


def as_embedded(passage: Passage) -> str:
    """What is embedded and searched by words: a passage means more under its headings."""
    return "\n".join(part for part in (passage.title, passage.section, passage.text) if part)


def _with_vectors(passage: Passage, dense: Mapping[str, list[float]]) -> Embedded:
    return Embedded(passage, dense[passage.digest], sparse.of_passage(as_embedded(passage)))


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
