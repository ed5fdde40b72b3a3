"""Vectors as they travel, checked against the collection before the engine sees them.

The engine writes an operation to its log before it finds out that a vector is malformed: half a
batch stays applied, and a sparse vector with fewer values than indices panics, at every reload
again. So a write is checked here first, as a whole.
"""

import qdrant_edge as edge

from local.vectors.bodies import Json, fields
from local.vectors.definitions import Definition
from local.vectors.errors import unsupported, wrong

_LARGEST = 3.4e38

Named = list[float] | edge.SparseVector


def read_vectors(body: Json, definition: Definition) -> dict[str, Named]:
    """The vectors of a point by name, "" for the unnamed one; raises `Refusal` when one does not fit `definition`."""
    read: dict[str, Named] = {}
    for name, vector in (body if isinstance(body, dict) else {"": body}).items():
        if name in definition.sparse:
            if not isinstance(vector, dict):
                raise wrong(f"`{name}` is sparse: it takes indices and values")
            read[name] = _sparse(vector)
            continue
        if name not in definition.dense:
            raise wrong(f"Not existing vector name error: {name}")
        read[name] = dense = _dense(vector)
        if len(dense) != definition.dense[name]:
            raise wrong(f"Vector dimension error: expected dim: {definition.dense[name]}, got {len(dense)}")
    return read


def read_query_vector(body: Json) -> Named:
    """The vector that a query searches near; raises `Refusal`."""
    if isinstance(body, list):
        return _dense(body)
    if isinstance(body, dict):
        return _sparse(body)
    raise unsupported("a query by the id of a point; send its vector")


def _dense(vector: Json) -> list[float]:
    if not isinstance(vector, list) or not vector:
        raise unsupported("a dense vector that is not a list of numbers, such as text to be embedded here")
    if isinstance(vector[0], list):
        raise unsupported("multivectors")
    _require_finite(vector)
    return vector


def _sparse(body: Json) -> edge.SparseVector:
    if body.keys() & {"text", "image", "object"}:
        raise unsupported("text or images to be embedded here; send vectors")
    given = fields(body, "sparse vector", {"indices", "values"})
    indices, values = given.get("indices", []), given.get("values", [])
    if len(indices) != len(values):
        raise wrong(f"a sparse vector has {len(indices)} indices and {len(values)} values")
    if len(set(indices)) != len(indices):
        raise wrong("the indices of a sparse vector must be unique")
    _require_finite(values)
    return edge.SparseVector(indices, values)


def _require_finite(values: list[float]) -> None:
    # One sum tells: if a part is infinite, not a number or too large for the engine, so is the sum.
    if not -_LARGEST < sum(values) < _LARGEST:
        raise wrong("a vector must hold finite 32-bit numbers")
