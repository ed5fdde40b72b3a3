"""Qdrant's query, scroll, retrieve and count JSON into the engine's requests. Each `read_…` raises `Refusal`.

A query is a tree: each prefetch finds candidates with its own vector, filter and limit, and the
query above them ranks or fuses what they found.
"""

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from local.vectors.bodies import Json, as_list, entry, fields, listed, number
from local.vectors.errors import reading, wrong
from local.vectors.filters import read_filter, read_id, read_ids, read_optional_filter
from local.vectors.vectors import read_query_vector

_STEP = {"prefetch", "query", "using", "filter", "params", "score_threshold", "limit"}
_SELECTORS = {"with_payload", "with_vector"}
_PARAMS = {"hnsw_ef", "exact", "indexed_only"}
_RRF_K = 2  # Qdrant's own default, small on purpose; the literature's is 60
_LIMIT = 10


@reading()
def read_query(body: Json) -> edge.QueryRequest:
    """Read one query."""
    given = fields(body, "query request", _STEP | _SELECTORS | {"offset"})
    return edge.QueryRequest(
        **_step(given),
        offset=number(given, "offset", 0),
        **_selectors(given, payload=False),
    )


@reading()
def read_queries(body: Json) -> list[edge.QueryRequest]:
    """Read a batch of queries."""
    given = fields(body, "query batch", {"searches"})
    return [read_query(one) for one in listed(given.get("searches"), "searches")]


@reading()
def read_scroll(body: Json) -> edge.ScrollRequest:
    """Read a request for a page of points, by id or by a payload value."""
    given = fields(body, "scroll request", {"offset", "limit", "filter", "order_by", *_SELECTORS})
    if "offset" in given and "order_by" in given:
        raise wrong("offset is not supported together with order_by; use start_from")
    return edge.ScrollRequest(
        offset=read_id(given["offset"]) if "offset" in given else None,
        limit=number(given, "limit", _LIMIT, least=1),
        filter=read_optional_filter(given.get("filter")),
        order_by=_order_by(given["order_by"]) if "order_by" in given else None,
        **_selectors(given, payload=True),
    )


@reading()
def read_retrieve(body: Json) -> dict[str, Any]:
    """Read a request for points by id, as the arguments of `EdgeShard.retrieve`."""
    given = fields(body, "point request", {"ids", *_SELECTORS})
    return {"point_ids": read_ids(given.get("ids")), **_selectors(given, payload=True)}


@reading()
def read_count(body: Json) -> edge.CountRequest:
    """Read a count; it is always exact."""
    given = fields(body, "count request", {"filter", "exact"})
    return edge.CountRequest(exact=True, filter=read_optional_filter(given.get("filter")))


def _step(given: dict[str, Json]) -> dict[str, Any]:
    """The arguments that a query and a prefetch have in common."""
    return {
        "prefetches": [
            edge.Prefetch(**_step(fields(body, "prefetch", _STEP))) for body in as_list(given.get("prefetch", []))
        ],
        "query": _query(given["query"], given.get("using")) if "query" in given else None,
        "filter": read_filter(given["filter"]) if "filter" in given else None,
        "params": edge.SearchParams(**fields(given["params"], "params", _PARAMS)) if "params" in given else None,
        "score_threshold": given.get("score_threshold"),
        "limit": number(given, "limit", _LIMIT, least=1),
    }


def _query(body: Json, using: str | None) -> Any:
    if not isinstance(body, dict) or "indices" in body:
        return edge.Query.Nearest(read_query_vector(body), using)
    kind, value = entry(body, "query", {"nearest", *_QUERIES})
    if kind == "nearest":
        return edge.Query.Nearest(read_query_vector(value), using)
    return _QUERIES[kind](value)


def _fusion(name: Json) -> Any:
    match name:
        case "rrf":
            return edge.Fusion.Rrf(k=_RRF_K)
        case "dbsf":
            return edge.Fusion.Dbsf()
    raise wrong(f"fusion must be rrf or dbsf, not {name!r}")


def _rrf(body: Json) -> Any:
    given = fields(body, "rrf", {"k", "weights"})
    return edge.Fusion.Rrf(k=number(given, "k", _RRF_K, least=1), weights=given.get("weights"))


def _order_by(body: Json) -> edge.OrderBy:
    given = fields({"key": body} if isinstance(body, str) else body, "order_by", {"key", "direction", "start_from"})
    direction = given.get("direction", "asc")
    if direction not in _DIRECTIONS:
        raise wrong(f"direction must be asc or desc, not {direction!r}")
    return edge.OrderBy(given.get("key", ""), _DIRECTIONS[direction], given.get("start_from"))


def _sample(name: Json) -> edge.Sample:
    if name != "random":
        raise wrong(f"sample must be random, not {name!r}")
    return edge.Sample.Random


def _selectors(given: dict[str, Json], *, payload: bool) -> dict[str, Any]:
    """What to return of each point; `payload`: whether Qdrant returns the payload by default."""
    selected = given.get("with_payload", payload)
    if isinstance(selected, list):
        selected = edge.PayloadSelector.Include(selected)
    elif not isinstance(selected, bool):
        kind, keys = entry(selected, "with_payload", {"include", "exclude"})
        selected = edge.PayloadSelector.Include(keys) if kind == "include" else edge.PayloadSelector.Exclude(keys)
    return {"with_payload": selected, "with_vector": given.get("with_vector", False)}


_DIRECTIONS = {"asc": edge.Direction.Asc, "desc": edge.Direction.Desc}
_QUERIES: dict[str, Callable[[Json], Any]] = {
    "fusion": _fusion,
    "rrf": _rrf,
    "order_by": _order_by,
    "sample": _sample,
}
