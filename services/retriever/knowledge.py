"""The documents that one caller may read: the only place where a `TenantScope` becomes the store's filter.

    search the store ──▶ ask the registry which build of each document counts ──▶ keep what counts and is readable

The store is asked for more than is wanted, because it also holds builds that do not count: older ones until
they are collected, newer ones while they are written. Rights are checked twice, in the search and again on the
registry's word, which is the newer of the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.access.scope import TenantScope
from shared.contracts.generate import Candidate
from shared.vectors.port import Document, Hit, Passage, Passages, Query, Readable, Registry

# How often one question is searched at most, and how much deeper each time that too little was left.
_LOOKS = 3
_DEEPER = 4


@dataclass(frozen=True, slots=True)
class _Look:
    candidates: list[Candidate]
    retired: frozenset[tuple[str, str]]
    was_all: bool


class Knowledge:
    """Searches documents within a caller's rights."""

    def __init__(self, passages: Passages, registry: Registry) -> None:
        self._passages = passages
        self._registry = registry

    async def search(
        self, scope: TenantScope, collection: str, query: Query, *, wanted: int, overfetch: int
    ) -> list[Candidate]:
        """Passages that `scope` may read, best first: `wanted` or more, if there are enough.

        All of a document's passages are of its one current version.
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
        # After the search, never before it: a hit is judged by what counts now.
        documents = await self._registry.get({hit.passage.document_id for hit in hits})
        return _Look(
            candidates=[_candidate(hit) for hit in hits if _counts(hit.passage, documents, scope)],
            retired=frozenset((p.build_id, p.id) for p in (hit.passage for hit in hits) if _is_retired(p, documents)),
            was_all=len(hits) < limit,
        )


def _counts(passage: Passage, documents: Mapping[str, Document], scope: TenantScope) -> bool:
    document = documents.get(passage.document_id)
    if document is None or not document.is_live or passage.build_id != document.build_id:
        return False
    return scope.may_read(passage.tenant, passage.groups) and scope.may_read(document.tenant, document.groups)


def _is_retired(passage: Passage, documents: Mapping[str, Document]) -> bool:
    document = documents.get(passage.document_id)
    return document is not None and passage.version < document.version


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
        score=hit.score,
    )
