"""What `Passages` and `Registry` promise, stated once and kept by every adapter.

memory    our own small one
local     Qdrant's client with its in-process engine
vectors   the same client over HTTP to `local/vectors`, as on the laptop
"""

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from qdrant_client import AsyncQdrantClient

from shared.errors import SettingsError, TryLater
from shared.vectors.port import (
    Document,
    DocumentState,
    Embedded,
    Passage,
    Passages,
    Query,
    Readable,
    Registry,
    document_id,
    stable_id,
)
from shared.vectors.qdrant import connect
from shared.vectors.qdrant_passages import QdrantPassages
from shared.vectors.qdrant_registry import QdrantRegistry
from tests.support.memory_vectors import MemoryPassages, MemoryRegistry

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")

DIMENSIONS = 3
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
EMPLOYEES = frozenset({"employees"})
MANAGERS = frozenset({"managers"})
NORTH, EAST, UP = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


@dataclass(frozen=True)
class Store:
    """Both ports of one adapter, and the registry once more, as another process has it."""

    passages: Passages
    registry: Registry
    elsewhere: Registry


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run the laptop's vector store on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("vectors")
    command = [sys.executable, "-m", "local.vectors", "--data", str(folder), "--port", str(port)]
    with subprocess.Popen(command) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process)
        yield url
        process.terminate()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(6000):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=1)
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
            break
    raise AssertionError(f"the store does not answer (ended: {process.poll()})")


_numbers = itertools.count()


@pytest.fixture(params=["memory", "local", "vectors"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """Give an empty store of each kind."""
    if request.param == "memory":
        registry = MemoryRegistry()
        yield Store(MemoryPassages(), registry, registry)
        return
    url = request.getfixturevalue("server") if request.param == "vectors" else None
    client = connect(url, patience=timedelta(minutes=5)) if url else AsyncQdrantClient(":memory:")
    name = f"registry{next(_numbers)}"
    yield Store(QdrantPassages(client, DIMENSIONS), QdrantRegistry(client, name), QdrantRegistry(client, name))
    await client.close()


@pytest.fixture
def collection() -> str:
    """Name a collection of this test's own."""
    return f"c{next(_numbers)}"


def passage(collection: str, text: str, **changes: object) -> Passage:
    """Make a passage of `a/leave.md` in its first version, unless the arguments differ."""
    base = Passage(
        id=stable_id("passage", text),
        document_id=document_id("larkfield", collection, "handbook", "a/leave.md"),
        build_id="e1",
        version=1,
        tenant="larkfield",
        collection=collection,
        container="handbook",
        path="a/leave.md",
        groups=EMPLOYEES,
        title="Leave",
        section="Leave > Sick days",
        page=None,
        start=3,
        end=3 + len(text),
        text=text,
        tokens=7,
        ordinal=0,
        digest=f"digest of {text}",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def document(collection: str, version: int = 1, **changes: object) -> Document:
    """Make the registry entry of `a/leave.md`."""
    base = Document(
        tenant="larkfield",
        collection=collection,
        container="handbook",
        path="a/leave.md",
        version=version,
        build_id=f"e{version}",
        state=DocumentState.LIVE,
        groups=EMPLOYEES,
        etag='"1"',
        content_hash="h1",
        pipeline="p1",
        title="Leave",
        passages=2,
        updated_at=NOON,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


async def found(store: Store, collection: str, query: Query, readable: Readable | None = None) -> list[str]:
    """Search and return the texts."""
    hits = await store.passages.search(collection, query, readable or Readable("larkfield", EMPLOYEES), 10)
    return [hit.passage.text for hit in hits]


class TestPassages:
    async def test_a_passage_comes_back_as_it_was_put(self, store: Store, collection: str) -> None:
        one = passage(collection, "Ten days", page=4, groups=EMPLOYEES | MANAGERS)
        await store.passages.put(collection, [Embedded(one, NORTH, {7: 1.5})])
        [hit] = await store.passages.search(collection, Query(NORTH, {7: 1.0}), Readable("larkfield", MANAGERS), 5)
        assert hit.passage == one
        assert hit.score > 0

    async def test_putting_twice_changes_nothing(self, store: Store, collection: str) -> None:
        one = Embedded(passage(collection, "Ten days"), NORTH, {7: 1.5})
        for _ in range(2):
            await store.passages.put(collection, [one])
        assert await found(store, collection, Query(NORTH, {7: 1.0})) == ["Ten days"]

    async def test_a_search_uses_meaning_and_words(self, store: Store, collection: str) -> None:
        await store.passages.put(
            collection,
            [
                Embedded(passage(collection, "neither"), UP, {9: 1.0}),
                Embedded(passage(collection, "meaning"), [0.9, 0.1, 0.0], {8: 1.0}),
                Embedded(passage(collection, "words"), EAST, {7: 0.9}),
                Embedded(passage(collection, "both"), NORTH, {7: 1.0}),
            ],
        )
        texts = await found(store, collection, Query(NORTH, {7: 1.0}))
        assert texts[0] == "both"
        assert set(texts[1:3]) == {"meaning", "words"}

    async def test_a_question_of_stop_words_is_searched_by_meaning(self, store: Store, collection: str) -> None:
        await store.passages.put(collection, [Embedded(passage(collection, "Ten days"), NORTH, {})])
        assert await found(store, collection, Query(NORTH, {})) == ["Ten days"]

    async def test_only_readable_passages_are_found(self, store: Store, collection: str) -> None:
        await store.passages.put(
            collection,
            [
                Embedded(passage(collection, "ours"), NORTH, {7: 1.0}),
                Embedded(passage(collection, "managers'", groups=MANAGERS), NORTH, {7: 1.0}),
                Embedded(passage(collection, "a stranger's", tenant="other"), NORTH, {7: 1.0}),
            ],
        )
        assert await found(store, collection, Query(NORTH, {7: 1.0})) == ["ours"]
        no_groups = Readable("larkfield", frozenset())
        assert await found(store, collection, Query(NORTH, {7: 1.0}), no_groups) == []

    async def test_names_of_tenants_and_groups_are_compared_letter_by_letter(
        self, store: Store, collection: str
    ) -> None:
        names = [
            *'aA ,/{}:%*"\\',
            "a,b",
            "b,a",
            '["a","b"]',
            "null",
            "\n",
            "\0",
            "e\u0301",
            "\u00e9",
            "\u0430",
            "x" * 3000,
        ]
        both = [(tenant, "g") for tenant in names] + [("t", group) for group in names] + [("t", "a"), ("t", "b")]
        await store.passages.put(
            collection,
            [
                Embedded(passage(collection, repr(each), tenant=each[0], groups=frozenset(each[1:])), NORTH, {7: 1.0})
                for each in both
            ],
        )
        for tenant, group in both:
            readable = Readable(tenant, frozenset({group}))
            assert await found(store, collection, Query(NORTH, {7: 1.0}), readable) == [repr((tenant, group))]

    async def test_a_missing_collection_is_empty(self, store: Store, collection: str) -> None:
        assert await found(store, collection, Query(NORTH, {7: 1.0})) == []
        assert await store.passages.vectors(collection, "larkfield", ["x"]) == {}
        await store.passages.collect(collection, "d", upto=9, keep="")
        await store.passages.discard(collection, "d", "e1")

    async def test_builds_do_not_overwrite_each_other(self, store: Store, collection: str) -> None:
        old = passage(collection, "same words", section="old")
        new = replace(old, build_id="e2", version=2, section="new")
        await store.passages.put(collection, [Embedded(old, NORTH, {}), Embedded(new, NORTH, {})])
        hits = await store.passages.search(collection, Query(NORTH, {}), Readable("larkfield", EMPLOYEES), 5)
        assert {hit.passage.section for hit in hits} == {"old", "new"}

    async def test_collect_keeps_the_current_build_and_newer_versions(self, store: Store, collection: str) -> None:
        each = [
            passage(collection, "retired"),
            passage(collection, "lost the race", build_id="e2b", version=2),
            passage(collection, "counts", build_id="e2", version=2),
            passage(collection, "being prepared", build_id="e3", version=3),
            passage(collection, "another document", document_id="d2"),
        ]
        await store.passages.put(collection, [Embedded(one, NORTH, {}) for one in each])
        await store.passages.collect(collection, each[0].document_id, upto=2, keep="e2")
        texts = await found(store, collection, Query(NORTH, {}))
        assert set(texts) == {"counts", "being prepared", "another document"}

    async def test_discard_removes_one_build(self, store: Store, collection: str) -> None:
        mine, theirs = passage(collection, "mine"), passage(collection, "theirs", build_id="e2")
        await store.passages.put(collection, [Embedded(mine, NORTH, {}), Embedded(theirs, NORTH, {})])
        await store.passages.discard(collection, mine.document_id, "e1")
        assert await found(store, collection, Query(NORTH, {})) == ["theirs"]

    async def test_vectors_are_known_by_digest_within_the_tenant(self, store: Store, collection: str) -> None:
        mine, theirs = passage(collection, "mine"), passage(collection, "theirs", tenant="other")
        await store.passages.put(collection, [Embedded(mine, NORTH, {}), Embedded(theirs, EAST, {})])
        wanted = [mine.digest, theirs.digest, "unknown"]
        known = await store.passages.vectors(collection, "larkfield", wanted)
        assert known == {mine.digest: NORTH}

    async def test_more_than_one_page_of_vectors_is_found(self, store: Store, collection: str) -> None:
        many = [passage(collection, f"text {n}") for n in range(600)]
        await store.passages.put(collection, [Embedded(each, NORTH, {}) for each in many])
        known = await store.passages.vectors(collection, "larkfield", [each.digest for each in many])
        assert len(known) == 600


class TestRegistry:
    async def test_the_first_commit_registers(self, store: Store, collection: str) -> None:
        entry = document(collection)
        assert await store.registry.commit(entry, None)
        assert await store.elsewhere.get([entry.id, stable_id("unknown")]) == {entry.id: entry}

    async def test_a_commit_needs_the_expected_version(self, store: Store, collection: str) -> None:
        await store.registry.commit(document(collection), None)
        assert not await store.registry.commit(document(collection, 1, build_id="late"), None)
        assert not await store.registry.commit(document(collection, 6), 5)
        assert await store.registry.commit(document(collection, 2), 1)
        [entry] = (await store.registry.get([document(collection).id])).values()
        assert entry.version == 2

    async def test_a_commit_on_an_unregistered_document_is_refused(self, store: Store, collection: str) -> None:
        assert not await store.registry.commit(document(collection, 2), 1)
        assert await store.registry.get([document(collection).id]) == {}

    @pytest.mark.parametrize("expected", [None, 1])
    async def test_one_of_many_writers_wins(self, store: Store, collection: str, expected: int | None) -> None:
        if expected:
            await store.registry.commit(document(collection), None)
        rivals = [document(collection, 2, build_id=f"rival {n}") for n in range(8)]
        sides = itertools.cycle([store.registry, store.elsewhere])
        committed = await asyncio.gather(
            *(side.commit(each, expected) for side, each in zip(sides, rivals, strict=False))
        )
        [entry] = (await store.registry.get([rivals[0].id])).values()
        assert [each.build_id for each, won in zip(rivals, committed, strict=True) if won] == [entry.build_id]

    async def test_committing_again_after_a_lost_reply_succeeds(self, store: Store, collection: str) -> None:
        entry = document(collection)
        assert await store.registry.commit(entry, None)
        assert await store.registry.commit(entry, None)

    async def test_an_entry_is_refreshed_within_its_version(self, store: Store, collection: str) -> None:
        await store.registry.commit(document(collection), None)
        refreshed = document(collection, etag='"2"').as_finished()
        assert await store.registry.commit(refreshed, 1)
        assert await store.registry.get([refreshed.id]) == {refreshed.id: refreshed}

    async def test_a_blob_is_found_under_every_tenant_and_collection(self, store: Store, collection: str) -> None:
        entries = [document(collection), document(collection, tenant="other")]
        for each in entries:
            await store.registry.commit(each, None)
        await store.registry.commit(document(collection, path="a/else.md"), None)
        at = await store.registry.at("handbook", "a/leave.md")
        assert sorted(each.tenant for each in at) == ["larkfield", "other"]
        assert await store.registry.at("handbook", "nowhere.md") == []

    async def test_entries_are_listed_by_owner_and_by_folder(self, store: Store, collection: str) -> None:
        for path in ("a/1.md", "a/b/2.md", "ab/3.md", "4.md"):
            await store.registry.commit(document(collection, path=path), None)
        await store.registry.commit(document(collection, path="a/5.md", container="elsewhere"), None)
        listed = store.registry.entries(container="handbook", folder="a/")
        assert {each.path async for each in listed} == {"a/1.md", "a/b/2.md"}
        mine = store.registry.entries(tenant="larkfield", collection=collection)
        assert len([each async for each in mine]) == 5
        assert [each async for each in store.registry.entries(tenant="unknown")] == []


class TestQdrant:
    async def test_two_processes_may_create_the_collection_at_once(self, server: str, collection: str) -> None:
        clients = [connect(server, patience=timedelta(minutes=5)) for _ in range(4)]
        one = Embedded(passage(collection, "Ten days"), NORTH, {})
        await asyncio.gather(*(QdrantPassages(each, DIMENSIONS).put(collection, [one]) for each in clients))
        for client in clients:
            await client.close()

    async def test_vectors_of_another_length_are_refused_with_a_sentence(self, server: str, collection: str) -> None:
        client = connect(server, patience=timedelta(minutes=5))
        await QdrantPassages(client, DIMENSIONS).put(collection, [Embedded(passage(collection, "a"), NORTH, {})])
        with pytest.raises(SettingsError, match="3 dimensions"):
            await QdrantPassages(client, 2).put(collection, [Embedded(passage(collection, "b"), [1.0, 0.0], {})])
        store = Store(QdrantPassages(client, 2), MemoryRegistry(), MemoryRegistry())
        with pytest.raises(SettingsError, match="choose the deployment it was made with, or another collection"):
            await found(store, collection, Query([1.0, 0.0], {}))
        await client.close()

    async def test_an_unavailable_store_means_try_later(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            client = connect(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(TryLater):
            await QdrantRegistry(client).get(["x"])
        with pytest.raises(TryLater):
            await found(Store(QdrantPassages(client, 3), MemoryRegistry(), MemoryRegistry()), "c", Query(NORTH, {}))
        await client.close()

    async def test_a_collection_that_was_removed_is_created_again(self, server: str, collection: str) -> None:
        client = connect(server, patience=timedelta(minutes=5))
        passages = QdrantPassages(client, DIMENSIONS)
        one = Embedded(passage(collection, "Ten days"), NORTH, {})
        await passages.put(collection, [one])
        await client.delete_collection(f"passages-{collection}")
        with pytest.raises(TryLater):
            await passages.put(collection, [one])
        await passages.put(collection, [one])
        await client.close()
