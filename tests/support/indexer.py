"""What an indexer needs, in memory: a lake that remembers versions, and everything else that counts calls."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.indexer.handler import Indexer
from services.indexer.index_writer import IndexWriter
from services.indexer.lakes.port import Blob, Changed, Vanished
from services.indexer.parsing.document import ParsedDocument
from services.indexer.parsing.formats import Limits, read
from services.indexer.parsing.office import Unreadable
from services.indexer.sources import Source, Sources
from services.indexer.storage_event import BlobChanged, Change
from services.indexer.version import VersionFactory
from services.retriever.knowledge import Knowledge
from shared.access.scope import TenantScope
from shared.contracts.generate import Candidate
from shared.embeddings.port import Embedded
from shared.errors import Reason, Unprocessable
from shared.telemetry.metrics import make
from shared.vectors.port import Document, Passages, Query, Registry
from tests.support.memory_vectors import MemoryPassages, MemoryRegistry

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
EMPLOYEES = Source(container="handbook", tenant="larkfield", collection="handbook", groups=("employees",))
MANAGERS = Source(
    container="handbook", prefix="managers/", tenant="larkfield", collection="handbook", groups=("managers",)
)
SOURCES = Sources(sources=(EMPLOYEES, MANAGERS))
EMPLOYEE = TenantScope("larkfield", frozenset({"employees"}))

Hook = Callable[[str], Awaitable[None]]


async def nothing(_: str) -> None:
    """Do nothing at a step."""


class MemoryLake:
    """Containers of blobs. `hook` is called before and after every look, and before every read."""

    def __init__(self) -> None:
        self.blobs_of: dict[str, dict[str, tuple[bytes, str]]] = {"handbook": {}}
        self.hook: Hook = nothing
        self.looks = 0
        self._versions = itertools.count(1)

    def put(self, path: str, text: str | bytes, container: str = "handbook") -> None:
        data = text.encode() if isinstance(text, str) else text
        self.blobs_of[container][path] = (data, f'"{next(self._versions)}"')

    def delete(self, path: str) -> None:
        self.blobs_of["handbook"].pop(path, None)

    def rename(self, old: str, new: str) -> None:
        data, _ = self.blobs_of["handbook"].pop(old)
        self.put(new, data)

    async def head(self, container: str, path: str) -> Blob | None:
        await self.hook("head")
        self.looks += 1
        found = self.blobs_of.get(container, {}).get(path)
        await self.hook("seen")
        return Blob(path, found[1], len(found[0])) if found else None

    async def close(self) -> None:
        pass

    async def read(self, container: str, path: str, if_match: str) -> bytes:
        await self.hook("read")
        found = self.blobs_of.get(container, {}).get(path)
        if found is None:
            raise Vanished(path)
        if found[1] != if_match:
            raise Changed(path)
        return found[0]

    async def blobs(self, container: str, prefix: str = "") -> AsyncIterator[Blob]:
        for path, (data, etag) in sorted(self.blobs_of.get(container, {}).items()):
            if path.startswith(prefix):
                yield Blob(path, etag, len(data))


class DirectParser:
    """Parses in this process."""

    def __init__(self) -> None:
        self.parsed = 0

    async def parse(self, data: bytes, path: str, content_type: str) -> ParsedDocument:
        self.parsed += 1
        try:
            return read(data, path, content_type, Limits())
        except Unreadable as refused:
            raise Unprocessable(Reason.POISON_CONTENT, str(refused)) from refused


class HashEmbedder:
    """Vectors from hashes; counts what it was asked to embed."""

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.fails: Exception | None = None

    async def embed(self, texts: Sequence[str], *, tenant: str, due: datetime | None = None) -> Embedded:
        if self.fails:
            raise self.fails
        self.embedded += texts
        return Embedded([[byte / 255 for byte in hashlib.sha256(text.encode()).digest()[:4]] for text in texts], None)


class Evictions:
    """Records the evictions."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.fails: Exception | None = None
        self.fails_after = 0

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> None:
        if self.fails and len(self.calls) >= self.fails_after:
            raise self.fails
        self.calls.append((path, version))


@dataclass
class World:
    """A lake, an index, and the indexers that keep one like the other."""

    lake: MemoryLake = field(default_factory=MemoryLake)
    passages: MemoryPassages = field(default_factory=MemoryPassages)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    parser: DirectParser = field(default_factory=DirectParser)
    embedder: HashEmbedder = field(default_factory=HashEmbedder)
    evictions: Evictions = field(default_factory=Evictions)
    _builds: "itertools.count[int]" = field(default_factory=itertools.count)

    def versions(self, pipeline: str = "p1") -> VersionFactory:
        return VersionFactory(pipeline, "vectors/4", lambda: NOON, lambda: f"e{next(self._builds)}")

    def indexer(
        self,
        *,
        sources: Sources = SOURCES,
        pipeline: str = "p1",
        passages: Passages | None = None,
        registry: Registry | None = None,
    ) -> Indexer:
        """Make an indexer as a process of its own would have it."""
        return Indexer(
            sources=sources,
            lake=self.lake,
            parser=self.parser,
            registry=registry or self.registry,
            writer=self.writer(passages, registry),
            versions=self.versions(pipeline),
            metrics=make(),
            clock=lambda: NOON,
            most_bytes=100_000,
        )

    def writer(self, passages: Passages | None = None, registry: Registry | None = None) -> IndexWriter:
        """Make what brings new versions into the index."""
        return IndexWriter(
            passages=passages or self.passages,
            registry=registry or self.registry,
            embedder=self.embedder,
            evictor=self.evictions,
            metrics=make(),
        )

    async def entry(self, path: str) -> Document | None:
        """Return what the registry says of a document."""
        found = await self.registry.at("handbook", path)
        return found[0] if found else None

    async def found(self, scope: TenantScope = EMPLOYEE) -> list[Candidate]:
        """Return everything that `scope` can find, in the order of the documents."""
        knowledge = Knowledge(self.passages, self.registry)
        candidates = await knowledge.search(scope, "handbook", Query([1.0, 0.0, 0.0, 0.0], {}), wanted=500, overfetch=2)
        return sorted(candidates, key=lambda candidate: (candidate.path, candidate.start))

    async def texts(self, scope: TenantScope = EMPLOYEE) -> list[str]:
        """Return the texts of everything that `scope` can find."""
        return [candidate.text for candidate in await self.found(scope)]


def changed(path: str, change: Change = Change.WRITTEN, previous: str | None = None) -> BlobChanged:
    """Make a storage event as the handler gets it."""
    return BlobChanged(change=change, container="handbook", path=path, previous_path=previous, occurred_at=NOON)
