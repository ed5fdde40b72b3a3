"""`Registry` in Qdrant: a collection without vectors, compare-and-set by conditional upsert."""

from collections.abc import AsyncIterator, Collection
from typing import Any

from qdrant_client import AsyncQdrantClient, models

from shared.errors import TryLater
from shared.vectors.port import Document
from shared.vectors.qdrant import PAGE, Collections, Missing, Schema, equals, translated

NAME = "documents"

_KEYWORD = models.PayloadSchemaType.KEYWORD
_INDEXES: dict[str, Schema] = {
    "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
    "collection": _KEYWORD,
    "container": _KEYWORD,
    "path": _KEYWORD,
    "folders": _KEYWORD,
    # Asked for by the compare-and-set; a Qdrant in strict mode refuses conditions on fields without an index.
    "version": models.PayloadSchemaType.INTEGER,
}
# With replicas, an entry is written by one leader in order and read from most of them; alone, it costs nothing.
_ORDERED = models.WriteOrdering.STRONG
_MOST = models.ReadConsistencyType.MAJORITY


class QdrantRegistry:
    """Adapter for Qdrant's REST interface; `name` is the collection that holds the registry."""

    def __init__(self, client: AsyncQdrantClient, name: str = NAME) -> None:
        self._client = client
        self._name = name
        self._collections = Collections(client)

    async def get(self, ids: Collection[str]) -> dict[str, Document]:
        """See `Registry`."""
        if not ids:
            return {}
        try:
            with translated():
                points = await self._client.retrieve(self._name, list(ids), with_payload=True, consistency=_MOST)
        except Missing:
            return {}
        return {str(point.id): Document.from_payload(point.payload or {}) for point in points}

    async def at(self, container: str, path: str) -> list[Document]:
        """See `Registry`."""
        which = models.Filter(must=[equals("container", container), equals("path", path)])
        return [document async for document in self._scroll(which)]

    async def entries(
        self,
        *,
        container: str | None = None,
        tenant: str | None = None,
        collection: str | None = None,
        folder: str = "",
    ) -> AsyncIterator[Document]:
        """See `Registry`."""
        asked = {"container": container, "tenant": tenant, "collection": collection, "folders": folder or None}
        which = models.Filter(must=[equals(field, value) for field, value in asked.items() if value is not None])
        async for document in self._scroll(which):
            yield document

    async def commit(self, document: Document, expected: int | None) -> bool:
        """See `Registry`."""
        await self._collections.ensure(
            self._name, lambda: self._client.create_collection(self._name, vectors_config={}), _INDEXES
        )
        condition: dict[str, Any] = (
            {"update_mode": models.UpdateMode.INSERT_ONLY}
            if expected is None
            else {
                "update_filter": models.Filter(must=[equals("version", expected)]),
                "update_mode": models.UpdateMode.UPDATE_ONLY,
            }
        )
        point = models.PointStruct(id=document.id, vector={}, payload=document.payload())
        try:
            with translated():
                await self._client.upsert(self._name, [point], wait=True, ordering=_ORDERED, **condition)
        except Missing as removed:
            self._collections.forget(self._name)
            raise TryLater(f"the collection {self._name} was removed a moment ago") from removed
        # The upsert answers "completed" whether or not its condition held; only the stored build shows which writer
        # won.
        stored = (await self.get([document.id])).get(document.id)
        return stored is not None and stored.build_id == document.build_id

    async def _scroll(self, which: models.Filter) -> AsyncIterator[Document]:
        offset: Any = None
        while True:
            try:
                with translated():
                    points, offset = await self._client.scroll(
                        self._name, which, limit=PAGE, offset=offset, with_payload=True, consistency=_MOST
                    )
            except Missing:
                return
            for point in points:
                yield Document.from_payload(point.payload or {})
            if offset is None:
                return
