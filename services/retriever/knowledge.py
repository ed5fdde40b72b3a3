"""The documents that one caller may read: the only place where a `TenantScope` becomes the store's filter.

    search the store ──▶ ask the registry which build of each document is current ──▶ keep what is current and readable

The store is asked for more than is wanted, because it also holds builds that are not current: older ones until
they are collected, newer ones while they are written. Rights are checked twice, in the search and again on the
registry's word, which is the newer of the two.
"""

from dataclasses import dataclass

from shared.access.scope import TenantScope
from shared.contracts.generate import Candidate
from shared.vectors.port import Hit, Passages, Query, Readable, Registry

# Maximum searches for one question, and the factor of the limit after a search that left too few.
_LOOKS = 3
_DEEPER = 4


@dataclass(frozen=True, slots=True)
class _Look:
    """The result of one search: what is readable, (build id, passage id) of retired passages, whether it saw all."""

    candidates: list[Candidate]
    retired: frozenset[tuple[str, str]]
    was_all: bool


class Knowledge:
    """Searches documents within a caller's rights. Both ports raise `TryLater` and `DependencyDown`."""

    def __init__(self, passages: Passages, registry: Registry) -> None:
        self._passages = passages
        self._registry = registry

    async def search(
        self, scope: TenantScope, collection: str, query: Query, *, wanted: int, overfetch: int
    ) -> list[Candidate]:
        """Passages that `scope` may read, best first: `wanted` or more, if there are enough; none for no groups.

        All of a document's passages are of its one current version. The first search asks the store for `wanted` ×
        `overfetch` hits. Raises `TryLater`, `DependencyDown`.
        """
        if not scope.groups:
            return []
        limit, seen = wanted * overfetch, frozenset[tuple[str, str]]()
        look = await self._look(scope, collection, query, limit)
        for _ in range(_LOOKS - 1):
            # A document re-indexed between the search and the registry's answer has dropped out of this look, and
            # the next one finds its new build. Retired passages seen before are merely not collected yet.
            moved = not look.retired <= seen
            seen |= look.retired
            if not moved and (look.was_all or len(look.candidates) >= wanted):
                break
            limit = limit if moved else limit * _DEEPER
            look = await self._look(scope, collection, query, limit)
        return look.candidates

    async def _look(self, scope: TenantScope, collection: str, query: Query, limit: int) -> _Look:
        readable = Readable(scope.tenant, scope.groups)
        hits = await self._passages.search(collection, query, readable, limit)
        # After the search, never before it: a hit is judged by what is current now.
        documents = await self._registry.get({hit.passage.document_id for hit in hits})
        candidates, retired = list[Candidate](), set[tuple[str, str]]()
        for hit in hits:
            passage, document = hit.passage, documents.get(hit.passage.document_id)
            if document is None:
                continue
            if passage.version < document.version:
                retired.add((passage.build_id, passage.id))
            is_current = document.is_live and passage.build_id == document.build_id
            may_read = scope.may_read(passage.tenant, passage.groups) and scope.may_read(
                document.tenant, document.groups
            )
            if is_current and may_read:
                candidates.append(_candidate(hit))
        return _Look(candidates, frozenset(retired), was_all=len(hits) < limit)


def _candidate(hit: Hit) -> Candidate:
    passage = hit.passage
    return Candidate(
        passage_id=passage.id,
        path=passage.path,
        version=passage.version,
        title=passage.title,
        section=passage.section,
        page=passage.page,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        tokens=passage.tokens,
        plain=passage.plain,
        score=hit.score,
    )
