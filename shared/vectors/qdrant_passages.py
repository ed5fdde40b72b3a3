"""`Passages` in Qdrant: one collection per knowledge collection, hybrid search through the Query API."""

import dataclasses
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient, models

from shared.errors import SettingsError, TryLater
from shared.vectors.port import Embedded, Hit, Passage, Query, Readable, stable_id
from shared.vectors.qdrant import PAGE, Collections, Missing, Schema, any_of, equals, translated

# Keeps knowledge collections apart from the registry and from whatever else lives in that Qdrant.
PREFIX = "passages-"
DENSE = "dense"
SPARSE = "bm25"
# A request of 64 passages with 3072 dimensions is 4 MB of JSON; the server's limit is 32 MB.
_BATCH = 64

_KEYWORD = models.PayloadSchemaType.KEYWORD
_INDEXES: dict[str, Schema] = {
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "groups": _KEYWORD,
    "document_id": _KEYWORD,
    "build_id": _KEYWORD,
    "digest": _KEYWORD,
    "version": models.PayloadSchemaType.INTEGER,
}


class QdrantPassages:
    """Adapter for Qdrant's REST interface; `dimensions` is the length of the dense vectors."""

    def __init__(self, client: AsyncQdrantClient, dimensions: int) -> None:
        self._client = client
        self._dimensions = dimensions
        self._collections = Collections(client)

    async def put(self, collection: str, passages: Sequence[Embedded]) -> None:
        """See `Passages`. Raises `SettingsError` when the collection has vectors of another length."""
        name = PREFIX + collection
        if await self._collections.ensure(name, lambda: self._create(name), _INDEXES):
            await self._check_dimensions(name)
        for start in range(0, len(passages), _BATCH):
            points = [_to_point(each) for each in passages[start : start + _BATCH]]
            try:
                with translated():
                    await self._client.upsert(name, points, wait=True)
            except Missing as removed:
                self._collections.forget(name)
                raise TryLater(f"the collection {name} was removed a moment ago") from removed

    async def search(self, collection: str, query: Query, readable: Readable, limit: int) -> list[Hit]:
        """See `Passages`."""
        allowed = models.Filter(must=[equals("tenant", readable.tenant), any_of("groups", sorted(readable.groups))])
        legs = [models.Prefetch(query=list(query.dense), using=DENSE, filter=allowed, limit=limit)]
        if query.sparse:
            legs.append(models.Prefetch(query=_to_sparse(query.sparse), using=SPARSE, filter=allowed, limit=limit))
        try:
            with translated():
                found = await self._client.query_points(
                    PREFIX + collection,
                    prefetch=legs,
                    query=models.FusionQuery(fusion=models.Fusion.RRF),
                    query_filter=allowed,
                    limit=limit,
                    with_payload=True,
                )
        except Missing:
            return []
        return [Hit(_to_passage(point.payload or {}), point.score) for point in found.points]

    async def vectors(self, collection: str, tenant: str, digests: Collection[str]) -> dict[str, list[float]]:
        """See `Passages`."""
        known: dict[str, list[float]] = {}
        wanted = sorted(set(digests))
        for start in range(0, len(wanted), PAGE):
            same = models.Filter(must=[equals("tenant", tenant), any_of("digest", wanted[start : start + PAGE])])
            async for point in self._scroll(PREFIX + collection, same):
                vectors = point.vector if isinstance(point.vector, dict) else {}
                known[str((point.payload or {})["digest"])] = list(vectors[DENSE])  # type: ignore[arg-type]
        return known

    async def collect(self, collection: str, document_id: str, *, upto: int, keep: str) -> None:
        """See `Passages`."""
        old = models.FieldCondition(key="version", range=models.Range(lte=upto))
        stale = models.Filter(must=[equals("document_id", document_id), old], must_not=[equals("build_id", keep)])
        await self._delete(PREFIX + collection, stale)

    async def discard(self, collection: str, document_id: str, build_id: str) -> None:
        """See `Passages`."""
        mine = models.Filter(must=[equals("document_id", document_id), equals("build_id", build_id)])
        await self._delete(PREFIX + collection, mine)

    async def _delete(self, name: str, which: models.Filter) -> None:
        try:
            with translated():
                await self._client.delete(name, models.FilterSelector(filter=which), wait=True)
        except Missing:
            return

    async def _scroll(self, name: str, which: models.Filter) -> AsyncIterator[models.Record]:
        """The points that match, each with its digest and its dense vector."""
        offset: Any = None
        while True:
            try:
                with translated():
                    points, offset = await self._client.scroll(
                        name, which, limit=PAGE, offset=offset, with_payload=["digest"], with_vectors=[DENSE]
                    )
            except Missing:
                return
            for point in points:
                yield point
            if offset is None:
                return

    async def _create(self, name: str) -> None:
        await self._client.create_collection(
            name,
            vectors_config={DENSE: models.VectorParams(size=self._dimensions, distance=models.Distance.COSINE)},
            sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            # Every search names one tenant: a graph per tenant instead of one across all of them
            # (qdrant.tech/documentation/guides/multitenancy, "calibrate performance").
            hnsw_config=models.HnswConfigDiff(payload_m=16, m=0),
        )

    async def _check_dimensions(self, name: str) -> None:
        with translated():
            info = await self._client.get_collection(name)
        vectors = info.config.params.vectors
        stored = vectors[DENSE].size if isinstance(vectors, dict) else 0
        if stored != self._dimensions:
            self._collections.forget(name)
            raise SettingsError(
                f"the vectors in collection {name} have {stored} dimensions, "
                f"the embedding deployment makes {self._dimensions}; "
                "choose the deployment it was made with, or another collection"
            )


def _to_point(each: Embedded) -> models.PointStruct:
    passage = each.passage
    fields = {field.name: getattr(passage, field.name) for field in dataclasses.fields(passage)}
    # The build is part of the point's identity: no build can overwrite another's passage.
    return models.PointStruct(
        id=stable_id("point", passage.build_id, passage.id),
        vector={DENSE: list(each.dense), SPARSE: _to_sparse(each.sparse)},
        payload={**fields, "groups": sorted(passage.groups)},
    )


def _to_passage(payload: dict[str, Any]) -> Passage:
    known = {field.name: payload[field.name] for field in dataclasses.fields(Passage) if field.name in payload}
    return Passage(**{**known, "groups": frozenset(payload["groups"])})


def _to_sparse(terms: Mapping[int, float]) -> models.SparseVector:
    ordered = sorted(terms.items())
    return models.SparseVector(indices=[term for term, _ in ordered], values=[weight for _, weight in ordered])
