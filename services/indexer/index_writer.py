"""Replaces one version of a document by the next.

    put passages ─▶ evict answers ─▶ COMMIT ─▶ evict answers ─▶ collect older passages ─▶ finished
                     └ from here on no answer      └ nor one from passages that were read
                       from older passages is kept   before the commit

The commit is one compare-and-set. Before it the old version is current, after it the new one, also after a crash at any
point. The next event of the document does what a crash left undone.
"""

from collections.abc import Sequence
from typing import Protocol

from shared.embeddings import sparse
from shared.embeddings.port import SharedEmbedder
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.vectors.port import Document, Embedded, Passage, Passages, Registry

log = get_logger()

# Passages that are embedded and stored together; a crash loses the work of one batch at most.
_BATCH = 128


class Evictor(Protocol):
    """A cache of answers that used documents."""

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> object:
        """Evict answers that used `path` before `version`; raises `TryLater` when the cache is unavailable."""


class IndexWriter:
    """Writes versions of documents to the index. Every method raises `TryLater` when a dependency is busy or down."""

    def __init__(
        self, *, passages: Passages, registry: Registry, embedder: SharedEmbedder, evictor: Evictor, metrics: Metrics
    ) -> None:
        self._passages = passages
        self._registry = registry
        self._embedder = embedder
        self._evictor = evictor
        self._metrics = metrics

    async def write(self, entry: Document, passages: Sequence[Passage], *, before: int | None) -> bool:
        """Make `entry` with its passages current, if the document is at version `before` (None: not registered).

        False: another writer was faster, and its version is current.
        """
        embedded = await self._put(entry, passages)
        await self._invalidate(entry)
        if not await self._registry.commit(entry, before):
            await self._passages.discard(entry.collection, entry.id, entry.build_id)
            log.info("document.overtaken", path=entry.path, version=entry.version)
            return False
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
        """Do what follows a commit: evict answers, collect older passages. Idempotent."""
        await self._invalidate(entry)
        await self._passages.collect(entry.collection, entry.id, upto=entry.version, keep=entry.build_id)
        await self._registry.commit(entry.as_finished(), entry.version)

    async def refresh(self, entry: Document) -> bool:
        """Correct an entry without a new version; False if the document changed meanwhile."""
        return await self._registry.commit(entry, entry.version)

    async def _put(self, entry: Document, passages: Sequence[Passage]) -> int:
        """Store passages with their vectors; returns how many had to be embedded."""
        embedded = 0
        for start in range(0, len(passages), _BATCH):
            batch = passages[start : start + _BATCH]
            known = await self._passages.vectors(entry.collection, entry.tenant, {each.digest for each in batch})
            new = [each for each in batch if each.digest not in known]
            if new:
                made = await self._embedder.embed([as_embedded(each) for each in new], tenant=entry.tenant)
                known |= dict(zip((each.digest for each in new), made.vectors, strict=True))
            points = [Embedded(each, known[each.digest], sparse.of_passage(as_embedded(each))) for each in batch]
            await self._passages.put(entry.collection, points)
            embedded += len(new)
        self._metrics.passages_embedded.add(embedded)
        return embedded

    async def _invalidate(self, entry: Document) -> None:
        await self._evictor.invalidate(entry.tenant, entry.collection, entry.path, entry.version)


def as_embedded(passage: Passage) -> str:
    """The text that is embedded and searched by words: the passage under its title and headings."""
    return "\n".join(part for part in (passage.title, passage.section, passage.text) if part)
