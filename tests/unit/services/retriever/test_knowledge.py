"""Searches through a scope: rights, builds, and how deep a search goes."""

from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from services.retriever.knowledge import Knowledge
from shared.access.scope import TenantScope
from shared.vectors.port import Document, DocumentState, Embedded, Hit, Passage, Query, Readable, stable_id
from tests.support.memory_vectors import MemoryPassages, MemoryRegistry

ANYTHING = Query([1.0, 0.0], {})
TENANTS = ["larkfield", "heron", "", "larkfield "]
GROUPS = ["employees", "managers", "*", ""]


def document(tenant: str = "larkfield", path: str = "a.md", version: int = 1, **changes: object) -> Document:
    base = Document(
        tenant=tenant,
        collection="c",
        container="handbook",
        path=path,
        version=version,
        build_id=f"e{version}",
        state=DocumentState.LIVE,
        groups=frozenset({"employees"}),
        etag="",
        content_hash="",
        pipeline="",
        title="",
        passages=1,
        updated_at=datetime(2026, 5, 4, tzinfo=UTC),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def passage(entry: Document, text: str = "text", **changes: object) -> Embedded:
    base = Passage(
        id=stable_id(text),
        document_id=entry.id,
        build_id=entry.build_id,
        version=entry.version,
        tenant=entry.tenant,
        collection=entry.collection,
        container=entry.container,
        path=entry.path,
        groups=entry.groups,
        title="",
        section="",
        page=None,
        start=0,
        end=4,
        text=text,
        tokens=1,
        ordinal=0,
        digest="",
    )
    return Embedded(replace(base, **changes), [1.0, 0.0], {})  # type: ignore[arg-type]


class Counting(MemoryPassages):
    """Remembers how deep it was searched."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    async def search(self, collection: str, query: Query, readable: Readable, limit: int) -> list[Hit]:
        self.limits.append(limit)
        return await super().search(collection, query, readable, limit)


async def search(
    passages: MemoryPassages, registry: MemoryRegistry, scope: TenantScope, wanted: int = 10, overfetch: int = 3
) -> list[str]:
    knowledge = Knowledge(passages, registry)
    found = await knowledge.search(scope, "c", ANYTHING, wanted=wanted, overfetch=overfetch)
    return [candidate.text for candidate in found]


EMPLOYEE = TenantScope("larkfield", frozenset({"employees"}))


async def test_a_caller_without_groups_causes_no_search() -> None:
    passages = Counting()
    assert await search(passages, MemoryRegistry(), TenantScope("larkfield", frozenset())) == []
    assert passages.limits == []


async def test_the_rights_in_the_registry_override_those_of_a_passage() -> None:
    passages, registry = MemoryPassages(), MemoryRegistry()
    entry = document()
    await passages.put("c", [passage(entry)])
    await registry.commit(entry, None)
    assert await search(passages, registry, EMPLOYEE) == ["text"]
    # Rights were removed, and the passages do not have that yet.
    await registry.commit(document(version=1, groups=frozenset({"managers"})), 1)
    assert await search(passages, registry, EMPLOYEE) == []


async def test_passages_of_an_unregistered_or_deleted_document_are_dropped() -> None:
    passages, registry = MemoryPassages(), MemoryRegistry()
    entry = document()
    await passages.put("c", [passage(entry)])
    assert await search(passages, registry, EMPLOYEE) == []
    await registry.commit(replace(entry, state=DocumentState.DELETED), None)
    assert await search(passages, registry, EMPLOYEE) == []


async def test_it_searches_deeper_when_too_many_hits_are_dropped() -> None:
    passages, registry = Counting(), MemoryRegistry()
    entry = document()
    await registry.commit(entry, None)
    unfinished = [passage(entry, f"unfinished {n}", build_id="e2", version=2) for n in range(20)]
    await passages.put("c", [*unfinished, *(passage(entry, f"text {n}") for n in range(3))])
    assert len(await search(passages, registry, EMPLOYEE, wanted=3, overfetch=2)) == 3
    assert passages.limits == [6, 24]


async def test_it_does_not_search_deeper_than_the_collection() -> None:
    passages, registry = Counting(), MemoryRegistry()
    entry = document()
    await registry.commit(entry, None)
    await passages.put("c", [passage(entry)])
    assert await search(passages, registry, EMPLOYEE) == ["text"]
    assert passages.limits == [30]


async def test_retired_passages_that_are_not_collected_cost_one_more_search() -> None:
    passages, registry = Counting(), MemoryRegistry()
    entry = document(version=2)
    await registry.commit(entry, None)
    await passages.put("c", [passage(entry), passage(entry, "left over", build_id="e1", version=1)])
    assert await search(passages, registry, EMPLOYEE, wanted=1) == ["text"]
    assert passages.limits == [3, 3]


class Committing(MemoryRegistry):
    """A registry in which another process commits during a search."""

    def __init__(self, passages: MemoryPassages) -> None:
        super().__init__()
        self.passages = passages
        self.coming: Document | None = None

    async def get(self, ids: Collection[str]) -> dict[str, Document]:
        if self.coming:
            entry, self.coming = self.coming, None
            await self.passages.put("c", [passage(entry, "new")])
            await self.commit(entry, 1)
            await self.passages.collect("c", entry.id, upto=2, keep="e2")
        return await super().get(ids)


async def test_a_document_that_changes_during_the_search_is_found_in_its_new_version() -> None:
    passages = Counting()
    registry = Committing(passages)
    await passages.put("c", [passage(document(), "old")])
    await registry.commit(document(), None)
    registry.coming = document(version=2)
    assert await search(passages, registry, EMPLOYEE) == ["new"]


GROUP_SETS = st.frozensets(st.sampled_from(GROUPS), max_size=3)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TENANTS), GROUP_SETS, GROUP_SETS, st.booleans()), max_size=8),
    st.sampled_from([tenant for tenant in TENANTS if tenant]),
    GROUP_SETS,
)
async def test_a_search_never_returns_what_the_scope_may_not_read(
    owned: list[tuple[str, frozenset[str], frozenset[str], bool]], tenant: str, groups: frozenset[str]
) -> None:
    """Whatever tenants, groups and half-updated rights there are: only passages with a group in common."""
    passages, registry = MemoryPassages(), MemoryRegistry()
    allowed = set()
    for number, (owner, said, stored, live) in enumerate(owned):
        entry = document(
            owner, f"{number}.md", groups=said, state=DocumentState.LIVE if live else DocumentState.DELETED
        )
        await registry.commit(entry, None)
        await passages.put("c", [passage(entry, f"text {number}", groups=stored)])
        if owner == tenant and live and groups & said and groups & stored:
            allowed.add(f"text {number}")
    assert set(await search(passages, registry, TenantScope(tenant, groups))) == allowed
