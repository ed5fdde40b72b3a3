"""Qdrant's filter JSON into the engine's filters.

filter     {"must": [c, …], "should": [c, …], "must_not": [c, …], "min_should": {…}}
condition  {"key": k, "match" | "range" | "values_count" | "is_empty" | "is_null": …}
           {"is_empty" | "is_null" | "has_id" | "has_vector" | "nested": …}
           or a filter again
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import qdrant_edge as edge

from local.vectors.bodies import Json, as_list, entry, fields, listed, number
from local.vectors.errors import unsupported, wrong

Condition = Any
PointId = int | UUID | str

_CLAUSES = {"must", "should", "must_not", "min_should"}
_FIELD = {"key", "match", "range", "values_count", "is_empty", "is_null"}
_ELSEWHERE = {"geo_bounding_box", "geo_radius", "geo_polygon"}
_BOUNDS = {"lt", "lte", "gt", "gte"}


def read_filter(body: Json) -> edge.Filter:
    """Read a filter; `{}` matches everything, as an empty clause does."""
    clauses = fields(body, "filter", _CLAUSES)
    return edge.Filter(
        must=_conditions(clauses.get("must")),
        should=_conditions(clauses.get("should")),
        must_not=_conditions(clauses.get("must_not")),
        min_should=_min_should(clauses["min_should"]) if "min_should" in clauses else None,
    )


def read_optional_filter(body: Json) -> edge.Filter | None:
    """Read a filter that may be absent."""
    return None if body is None else read_filter(body)


def read_id(value: Json) -> PointId:
    """Read a point id: a whole number or a UUID."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong(f"a point id is a whole number or a UUID, not {value!r}")
    return value


def read_ids(values: Json) -> list[PointId]:
    """Read a list of point ids."""
    return [read_id(value) for value in listed(values, "the list of point ids")]


def _min_should(body: Json) -> edge.MinShould:
    given = fields(body, "min_should", {"conditions", "min_count"})
    conditions = _conditions(given.get("conditions")) or []
    return edge.MinShould(conditions, number(given, "min_count", 0, least=1))


def _conditions(body: Json) -> list[Condition] | None:
    return None if body is None else [_condition(one) for one in as_list(body)]


def _condition(body: Json) -> Condition:
    if isinstance(body, dict) and "key" in body:
        return _field_condition(body)
    if isinstance(body, dict) and body.keys() <= _CLAUSES:
        return read_filter(body)
    kind, value = entry(body, "condition", _KINDS.keys())
    return _KINDS[kind](value)


def _field_condition(body: Json) -> edge.FieldCondition:
    if geo := body.keys() & _ELSEWHERE:
        raise unsupported(f"the {min(geo)} condition")
    given = fields(body, "condition", _FIELD)
    if len(given) < 2:
        raise wrong(f"the condition on `{given.get('key')}` says nothing")
    return edge.FieldCondition(
        key=given["key"],
        match=_match(given["match"]) if "match" in given else None,
        range=_range(given["range"]) if "range" in given else None,
        values_count=_values_count(given["values_count"]) if "values_count" in given else None,
        is_empty=given.get("is_empty"),
        is_null=given.get("is_null"),
    )


def _match(body: Json) -> Any:
    kind, value = entry(body, "match", _MATCHES.keys())
    return _MATCHES[kind](value)


class _bool:  # noqa: N801
    """A truth value the engine takes for one.

    `MatchValue(True)` becomes the integer 1 in qdrant-edge-py 0.9.0, because it tries integers
    first, and then finds no `true`. What presents itself as `numpy.bool` cannot be taken for a number.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_bool.__name__, _bool.__module__ = "bool_", "numpy"


def _match_value(value: Json) -> edge.MatchValue:
    truth: Any = _bool(value) if isinstance(value, bool) else value
    return edge.MatchValue(truth)


def _variants(values: Json) -> list[Any]:
    if any(isinstance(value, bool) for value in listed(values, "match")):
        raise wrong("match any and except take strings or whole numbers, not true or false")
    return list(values)


def _range(body: Json) -> edge.RangeFloat | edge.RangeDateTime:
    bounds = fields(body, "range", _BOUNDS)
    if bounds and all(isinstance(bound, str) for bound in bounds.values()):
        return edge.RangeDateTime(**bounds)
    return edge.RangeFloat(**bounds)


def _values_count(body: Json) -> edge.ValuesCount:
    return edge.ValuesCount(**fields(body, "values_count", _BOUNDS))


def _nested(body: Json) -> edge.NestedCondition:
    given = fields(body, "nested", {"key", "filter"})
    return edge.NestedCondition(given.get("key", ""), read_filter(given.get("filter")))


def _key(body: Json) -> str:
    return str(entry(body, "condition", {"key"})[1])


_MATCHES: dict[str, Callable[[Json], Any]] = {
    "value": _match_value,
    "any": lambda values: edge.MatchAny(_variants(values)),
    "except": lambda values: edge.MatchExcept(_variants(values)),
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
}

_KINDS: dict[str, Callable[[Json], Condition]] = {
    "is_empty": lambda body: edge.IsEmptyCondition(_key(body)),
    "is_null": lambda body: edge.IsNullCondition(_key(body)),
    "has_id": lambda ids: edge.HasIdCondition(set(read_ids(ids))),
    "has_vector": edge.HasVectorCondition,
    "nested": _nested,
}
