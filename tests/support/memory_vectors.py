"""Both ports in memory: small, exact and slow. For unit tests and for reading what the ports promise."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

from shared.vectors.port import Document, Embedded, Hit, Query, Readable, folders_of

# Reciprocal rank fusion with Qdrant's own constant, 1 / (2 + rank): what one leg puts first is near the top.
# On the handbook's 71 questions it found the passage among eight every time; the literature's 60 missed four.
_RRF_K = 2


class MemoryPassages:
    """`Passages` as a dictionary; the two legs of a search are sorted lists."""

    def __init__(self) -> None:
        self._stores: dict[str, dict[tuple[str, str], Embedded]] = {}

    async def put(self, collection: str, passages: Sequence[Embedded]) -> None:
        """See `Passages`."""
        store = self._stores.setdefault(collection, {})
        store.update({(each.passage.build_id, each.passage.id): each for each in passages})

    async def search(self, collection: str, query: Query, readable: Readable, limit: int) -> list[Hit]:
        """See `Passages`."""
        everything = list(self._stores.get(collection, {}).values())
        seen = [each for each in everything if _is_readable(each, readable)]
        by_words = _by_words(seen, query.sparse, _rarity(everything))
        legs = (_by_meaning(seen, query.dense)[:limit], by_words[:limit])
        return _fuse(legs, limit)

    async def vectors(self, collection: str, tenant: str, digests: Collection[str]) -> dict[str, list[float]]:
        """See `Passages`."""
        stored = self._stores.get(collection, {}).values()
        mine = [each for each in stored if each.passage.tenant == tenant and each.passage.digest in digests]
        return {each.passage.digest: list(each.dense) for each in mine}

    async def collect(self, collection: str, document_id: str, *, upto: int, keep: str) -> None:
        """See `Passages`."""
        for key, each in list(self._stores.get(collection, {}).items()):
            passage = each.passage
            if passage.document_id == document_id and passage.version <= upto and passage.build_id != keep:
                del self._stores[collection][key]

    async def discard(self, collection: str, document_id: str, build_id: str) -> None:
        """See `Passages`."""
        for key, each in list(self._stores.get(collection, {}).items()):
            if (each.passage.document_id, each.passage.build_id) == (document_id, build_id):
                del self._stores[collection][key]


class MemoryRegistry:
    """`Registry` as a dictionary."""

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}

    async def get(self, ids: Collection[str]) -> dict[str, Document]:
        """See `Registry`."""
        return {each: self._documents[each] for each in ids if each in self._documents}

    async def at(self, container: str, path: str) -> list[Document]:
        """See `Registry`."""
        return [each for each in self._documents.values() if (each.container, each.path) == (container, path)]

    async def entries(
        self,
        *,
        container: str | None = None,
        tenant: str | None = None,
        collection: str | None = None,
        folder: str = "",
    ) -> AsyncIterator[Document]:
        """See `Registry`."""
        for each in list(self._documents.values()):
            asked = ((container, each.container), (tenant, each.tenant), (collection, each.collection))
            if all(want in (None, has) for want, has in asked) and (not folder or folder in folders_of(each.path)):
                yield each

    async def commit(self, document: Document, expected: int | None) -> bool:
        """See `Registry`."""
        now = self._documents.get(document.id)
        if (now.version if now else None) != expected:
            return now is not None and now.build_id == document.build_id
        self._documents[document.id] = document
        return True


def _is_readable(each: Embedded, readable: Readable) -> bool:
    return each.passage.tenant == readable.tenant and not readable.groups.isdisjoint(each.passage.groups)


def _by_meaning(seen: list[Embedded], dense: Sequence[float]) -> list[Embedded]:
    return sorted(seen, key=lambda each: -_cosine(each.dense, dense))


def _by_words(seen: list[Embedded], terms: Mapping[int, float], rarity: Mapping[int, float]) -> list[Embedded]:
    def score(each: Embedded) -> float:
        return sum(weight * each.sparse.get(term, 0.0) * rarity.get(term, 0.0) for term, weight in terms.items())

    return sorted((each for each in seen if score(each) > 0), key=lambda each: -score(each))


def _rarity(everything: list[Embedded]) -> dict[int, float]:
    count = Counter(term for each in everything for term in each.sparse)
    total = len(everything)
    return {term: math.log(1 + (total - n + 0.5) / (n + 0.5)) for term, n in count.items()}


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / length if length else 0.0


def _fuse(legs: Sequence[list[Embedded]], limit: int) -> list[Hit]:
    scores: dict[tuple[str, str], float] = {}
    found: dict[tuple[str, str], Embedded] = {}
    for leg in legs:
        for rank, each in enumerate(leg):
            key = (each.passage.build_id, each.passage.id)
            scores[key] = scores.get(key, 0.0) + 1 / (_RRF_K + rank)
            found[key] = each
    best = sorted(scores, key=lambda key: -scores[key])[:limit]
    return [Hit(found[key].passage, scores[key]) for key in best]
