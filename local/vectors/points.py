"""Qdrant's JSON of points to the engine's operations, and the engine's points to JSON.

Each `read_…` raises `Refusal` for a body that is not valid.
"""

from collections.abc import Iterator
from typing import Any

import qdrant_edge as edge

from local.vectors.bodies import Json, fields, listed
from local.vectors.definitions import Definition
from local.vectors.errors import reading, wrong
from local.vectors.filters import PointId, read_filter, read_id, read_ids, read_optional_filter
from local.vectors.vectors import read_vectors

Operation = edge.UpdateOperation

# The engine holds the interpreter while it writes: 500 points of 384 numbers take it about 20 ms,
# so a large upsert is written in slices and queries get in between.
_SLICE = 500

_MODES = {
    "upsert": edge.UpdateMode.Upsert,
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}


@reading()
def read_upsert(body: Json, definition: Definition) -> list[Operation]:
    """The operations of an upsert, conditional or not; every point is checked before the first is written."""
    given = fields(body, "upsert", {"points", "batch", "update_filter", "update_mode"})
    mode = given.get("update_mode", "upsert")
    if mode not in _MODES:
        raise wrong(f"update_mode must be one of {', '.join(_MODES)}, not {mode!r}")
    condition = read_optional_filter(given.get("update_filter"))
    bodies = _from_batch(given["batch"]) if "batch" in given else listed(given.get("points"), "points")
    points = [_point(point, definition) for point in bodies]
    if not points:
        raise wrong("Empty update request")
    slices = (points[start : start + _SLICE] for start in range(0, len(points), _SLICE))
    return [Operation.upsert_points(slice_, condition, _MODES[mode]) for slice_ in slices]


@reading()
def read_delete(body: Json) -> Operation:
    """The operation that deletes points by id or by filter."""
    given = fields(body, "delete request", {"points", "filter"})
    chosen = _chosen(given)
    if isinstance(chosen, edge.Filter):
        return Operation.delete_points_by_filter(chosen)
    return Operation.delete_points(chosen)


@reading()
def read_set_payload(body: Json, *, overwrite: bool) -> Operation:
    """The operation that sets payload fields; with `overwrite` it replaces the whole payload."""
    given = fields(body, "payload request", {"payload", "points", "filter", "key"})
    chosen, payload, key = _chosen(given), _payload(given.get("payload")), given.get("key")
    if isinstance(chosen, edge.Filter):
        by_filter = Operation.overwrite_payload_by_filter if overwrite else Operation.set_payload_by_filter
        return by_filter(chosen, payload, key)
    by_id = Operation.overwrite_payload if overwrite else Operation.set_payload
    return by_id(chosen, payload, key)


@reading()
def read_delete_payload(body: Json) -> Operation:
    """The operation that deletes payload fields."""
    given = fields(body, "payload request", {"keys", "points", "filter"})
    chosen, keys = _chosen(given), listed(given.get("keys"), "keys")
    if isinstance(chosen, edge.Filter):
        return Operation.delete_payload_by_filter(chosen, keys)
    return Operation.delete_payload(chosen, keys)


@reading()
def read_path_id(text: str) -> PointId:
    """The point id in a URL."""
    point_id: PointId = int(text) if text.isdecimal() else text
    edge.HasIdCondition({point_id})  # the engine judges what is a UUID
    return point_id


def write_point(point: edge.ScoredPoint | edge.Record) -> dict[str, Json]:
    """A point as JSON; fields that the request did not select are left out."""
    shown: dict[str, Json] = {"id": write_id(point.id)}
    if isinstance(point, edge.ScoredPoint):
        shown |= {"version": point.version, "score": point.score}
    if point.payload is not None:
        shown["payload"] = point.payload
    if point.vector is not None:
        shown["vector"] = _write_vector(point.vector)
    if point.order_value is not None:
        shown["order_value"] = point.order_value
    return shown


def write_id(point_id: Any) -> int | str:
    """A point id as JSON; the engine returns UUIDs as objects."""
    return point_id if isinstance(point_id, int) else str(point_id)


def _point(body: Json, definition: Definition) -> edge.Point:
    given = fields(body, "point", {"id", "vector", "payload"})
    vector: Any = read_vectors(given.get("vector", {}), definition)
    return edge.Point(read_id(given.get("id")), vector, _payload(given.get("payload", {})))


def _payload(body: Json) -> dict[str, Json]:
    if not isinstance(body, dict):
        raise wrong(f"a payload must be an object, not {type(body).__name__}")
    return body


def _from_batch(body: Json) -> Iterator[dict[str, Json]]:
    """Points from columns of ids, vectors and payloads, all of one length."""
    given = fields(body, "batch", {"ids", "vectors", "payloads"})
    ids, vectors = listed(given.get("ids"), "ids"), given.get("vectors", [])
    payloads: list[Json] = given.get("payloads", [{}] * len(ids))
    columns: dict[str, list[Json]] = vectors if isinstance(vectors, dict) else {"": vectors}
    if any(len(column) != len(ids) for column in (payloads, *columns.values())):
        raise wrong("ids, vectors and payloads of a batch must have the same length")
    for row, point_id in enumerate(ids):
        named = {name: column[row] for name, column in columns.items()}
        yield {"id": point_id, "vector": named, "payload": payloads[row]}


def _chosen(given: dict[str, Json]) -> edge.Filter | list[PointId]:
    """The selected points, by id or by filter."""
    if ("points" in given) == ("filter" in given):
        raise wrong("choose points either by `points` or by `filter`")
    if "filter" in given:
        return read_filter(given["filter"])
    ids = read_ids(given["points"])
    if not ids:
        raise wrong("Empty update request")
    return ids


def _write_vector(vector: Any) -> Json:
    if isinstance(vector, dict):
        return {name: _write_vector(named) for name, named in vector.items()}
    if isinstance(vector, edge.SparseVector):
        return {"indices": vector.indices, "values": vector.values}
    return vector
