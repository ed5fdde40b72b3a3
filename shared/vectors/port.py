"""The index: passages to search, and a registry of the documents whose current build they belong to.

    indexer ──put──▶ passages of build b2 ┐            ┌─ search ─▶ hits of b1 and b2
                     (b1 still answers)   │            │
            ──commit─▶ registry: version 2 is b2 ──────┴─ get ────▶ only hits of b2 are kept
            ──collect▶ passages of b1 are gone

A passage belongs to one *build* of one version of a document and is never changed afterwards; a build is one attempt
to index the document, and `build_id` its unique name. The registry names the current build, in one
compare-and-set on the document's version. So a reader keeps a hit when its build is the registry's and drops it
otherwise: whatever writers do meanwhile, in whatever order they crash, it never sees half a document or two
versions of one.

(Not passages that carry their first and last version: two writers that prepare the same next version would change each
other's passages before either has won.)
"""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1d3c5e-0d4b-5a36-9c55-3d1f7a0c9a11")


def stable_id(*parts: str) -> str:
    """A UUID made from `parts`: always the same, in every process."""
    return str(uuid5(_NAMESPACE, json.dumps(parts, ensure_ascii=False)))


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document in one build. `id` is made from the words, so it is the same in every build.

    `start` and `end` count characters of the document's text; `tokens` is estimated (`count_tokens`).
    """

    id: str
    document_id: str
    build_id: str
    version: int
    tenant: str
    collection: str
    container: str
    path: str
    groups: frozenset[str]
    title: str
    section: str
    page: int | None
    start: int
    end: int
    text: str
    tokens: int
    ordinal: int
    digest: str
    """Of the embedded text and the model that embedded it: equal digests, equal vectors."""
    plain: int = 0
    """The rules by which nothing in the text has to be escaped in a prompt (`shared.quoting.PLAIN`); 0: none."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A passage with its two vectors: meaning (dense) and words (sparse, by term)."""

    passage: Passage
    dense: Sequence[float]
    sparse: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Query:
    """A question as vectors: `dense` of `dimensions` floats; `sparse` is empty when no word is worth searching."""

    dense: Sequence[float]
    sparse: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Readable:
    """What a search may return: one tenant's passages that at least one of `groups` may read."""

    tenant: str
    groups: frozenset[str]


@dataclass(frozen=True, slots=True)
class Hit:
    """A found passage; a larger score is better and comparable only within one search."""

    passage: Passage
    score: float


class DocumentState(StrEnum):
    """Whether the document exists. A deleted one remains as a tombstone, so that versions only grow."""

    LIVE = "live"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Document:
    """The registry's entry: the current build of a document, and what it was made from."""

    tenant: str
    collection: str
    container: str
    path: str
    version: int
    build_id: str
    state: DocumentState
    groups: frozenset[str]
    etag: str
    content_hash: str
    pipeline: str
    title: str
    passages: int
    updated_at: datetime
    finished: bool = False
    """Whether cached answers were evicted for this version and older passages were collected."""

    @property
    def id(self) -> str:
        """The identity of the document through all its versions."""
        return document_id(self.tenant, self.collection, self.container, self.path)

    @property
    def is_live(self) -> bool:
        """Whether the document exists, so that its passages may be read."""
        return self.state is DocumentState.LIVE

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> "Document":
        """The entry that `payload()` wrote; unknown fields are ignored. Raises `KeyError`, `ValueError`."""
        known = {field.name: payload[field.name] for field in fields(cls) if field.name in payload}
        known |= {"state": DocumentState(payload["state"]), "groups": frozenset(payload["groups"])}
        return cls(**{**known, "updated_at": datetime.fromisoformat(payload["updated_at"])})

    def payload(self) -> dict[str, Any]:
        """The entry as JSON, with every folder above its path (`folders`), by which a directory is found."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        text = {"groups": sorted(self.groups), "updated_at": self.updated_at.isoformat()}
        return {**known, **text, "folders": folders_of(self.path)}

    def as_finished(self) -> "Document":
        """The entry after everything that follows a commit is done."""
        return replace(self, finished=True)


def document_id(tenant: str, collection: str, container: str, path: str) -> str:
    """The registry id of a document; equal paths of two tenants are two documents."""
    return stable_id("document", tenant, collection, container, path)


class Passages(Protocol):
    """Searchable passages, in one store per knowledge collection, which is made when it is first written to.

    Raises `TryLater` when the store is busy, `DependencyDown` when it is down.
    """

    async def put(self, collection: str, passages: Sequence[Embedded]) -> None:
        """Store passages durably; putting one again changes nothing.

        Raises `SettingsError` for vectors of another length than the collection's.
        """

    async def search(self, collection: str, query: Query, readable: Readable, limit: int) -> list[Hit]:
        """The best `limit` readable passages by meaning and by words, fused, best first; of *any* build.

        Empty for a collection that does not exist.
        """

    async def vectors(self, collection: str, tenant: str, digests: Collection[str]) -> dict[str, list[float]]:
        """The dense vectors (`dimensions` floats) that `tenant` already has, by digest; unknown digests are left out.

        So the same words are not paid twice.
        """

    async def collect(self, collection: str, document_id: str, *, upto: int, keep: str) -> None:
        """Remove the document's passages of versions up to `upto`, except those of the build `keep`."""

    async def discard(self, collection: str, document_id: str, build_id: str) -> None:
        """Remove the passages of one build: that of an attempt whose commit failed."""


class Registry(Protocol):
    """The documents. Raises `TryLater` when the store is busy, `DependencyDown` when it is down."""

    async def get(self, ids: Collection[str]) -> dict[str, Document]:
        """The entries with these ids, by id; ids without an entry are left out."""

    async def at(self, container: str, path: str) -> list[Document]:
        """Every entry for a blob: more than one when the blob was given to another tenant or collection."""

    def entries(
        self,
        *,
        container: str | None = None,
        tenant: str | None = None,
        collection: str | None = None,
        folder: str = "",
    ) -> AsyncIterator[Document]:
        """All entries that match, in no order; `folder` is a whole directory (`a/b/`) with everything below it."""

    async def commit(self, document: Document, expected: int | None) -> bool:
        """Store the entry if the document is at version `expected` (None: not registered); returns whether it is
        current now.

        Of several writers with the same expectation and different builds, exactly one gets True.
        """


def folders_of(path: str) -> list[str]:
    """Every directory above `path`: `a/b/c.md` is in `a/` and `a/b/`."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) + "/" for n in range(len(parts))]
