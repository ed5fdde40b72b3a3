"""Makes the versions of documents: registry entry and passages. Pure, given clock and ids."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.indexer.chunk import Chunk
from services.indexer.lakes.port import Blob
from services.indexer.sources import Source
from shared.quoting import plainness
from shared.vectors.port import Document, DocumentState, Passage, stable_id


@dataclass(frozen=True, slots=True)
class VersionFactory:
    """Makes versions. `pipeline`: identifies parser, chunking and embedding; `vectors`: identifies the embedding."""

    pipeline: str
    vectors: str
    clock: Callable[[], datetime]
    new_build_id: Callable[[], str]

    def is_up_to_date(self, entry: Document, source: Source) -> bool:
        """Whether `entry` has this pipeline and the source's readers, so that only new content needs indexing."""
        return entry.is_live and entry.pipeline == self.pipeline and entry.groups == frozenset(source.groups)

    def version(
        self,
        source: Source,
        blob: Blob,
        content_hash: str,
        title: str,
        chunks: Sequence[Chunk],
        before: Document | None,
    ) -> tuple[Document, list[Passage]]:
        """The next version of a document; `before` is its present entry, if any."""
        entry = Document(
            tenant=source.tenant,
            collection=source.collection,
            container=source.container,
            path=blob.path,
            version=before.version + 1 if before else 1,
            build_id=self.new_build_id(),
            state=DocumentState.LIVE,
            groups=frozenset(source.groups),
            etag=blob.etag,
            content_hash=content_hash,
            pipeline=self.pipeline,
            title=title,
            passages=len(chunks),
            updated_at=self.clock(),
        )
        return entry, self._passages(entry, chunks)

    def tombstone(self, entry: Document) -> Document:
        """The next version of a deleted document, without passages."""
        return replace(
            entry,
            version=entry.version + 1,
            build_id=self.new_build_id(),
            state=DocumentState.DELETED,
            etag="",
            content_hash="",
            passages=0,
            updated_at=self.clock(),
            finished=False,
        )

    def _passages(self, entry: Document, chunks: Sequence[Chunk]) -> list[Passage]:
        seen: Counter[str] = Counter()
        made: list[Passage] = []
        for ordinal, chunk in enumerate(chunks):
            words = _digest(entry.title, chunk.section, chunk.text)
            seen[words] += 1
            made.append(
                Passage(
                    # The same words in the same document keep their id through all versions.
                    id=stable_id("passage", entry.id, words, str(seen[words])),
                    document_id=entry.id,
                    build_id=entry.build_id,
                    version=entry.version,
                    tenant=entry.tenant,
                    collection=entry.collection,
                    container=entry.container,
                    path=entry.path,
                    groups=entry.groups,
                    title=entry.title,
                    section=chunk.section,
                    page=chunk.page,
                    start=chunk.start,
                    end=chunk.end,
                    text=chunk.text,
                    tokens=chunk.tokens,
                    ordinal=ordinal,
                    digest=_digest(self.vectors, words),
                    plain=plainness(chunk.text),
                )
            )
        return made


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
