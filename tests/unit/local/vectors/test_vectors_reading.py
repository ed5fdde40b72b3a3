"""Requests become the engine's own, or a refusal; there is no third outcome."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from local.vectors.bodies import decode, encode
from local.vectors.definitions import Definition, describe, read_definition, read_index
from local.vectors.errors import Refusal
from local.vectors.filters import read_filter
from local.vectors.points import (
    read_delete,
    read_delete_payload,
    read_path_id,
    read_set_payload,
    read_upsert,
)
from local.vectors.queries import read_count, read_queries, read_query, read_retrieve, read_scroll

PASSAGES = read_definition(
    {
        "vectors": {"dense": {"size": 2, "distance": "Cosine"}},
        "sparse_vectors": {"words": {"modifier": "idf"}},
    }
)

READERS: dict[str, Callable[[Any], object]] = {
    "collection": read_definition,
    "index": read_index,
    "upsert": lambda body: read_upsert(body, PASSAGES),
    "delete": read_delete,
    "set payload": lambda body: read_set_payload(body, overwrite=False),
    "overwrite payload": lambda body: read_set_payload(body, overwrite=True),
    "delete payload": read_delete_payload,
    "retrieve": read_retrieve,
    "scroll": read_scroll,
    "count": read_count,
    "query": read_query,
    "query batch": read_queries,
}

# Words Qdrant knows, so that arbitrary bodies get past the first gate and deep into the readers.
WORDS = """
    points batch ids vectors payloads id vector payload update_filter update_mode insert_only keys key filter
    must should must_not min_should conditions min_count match value any except text range gt lte values_count
    is_empty is_null has_id has_vector nested limit offset with_payload with_vector include exclude order_by
    direction start_from query prefetch using nearest fusion rrf dbsf k weights score_threshold params exact
    hnsw_ef searches indices values dense words size distance Cosine sparse_vectors modifier idf hnsw_config
    metadata field_name field_schema type keyword is_tenant tokenizer sample random desc
""".split()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(WORDS)
    | st.just("2026-01-01T00:00:00Z")
)
BODIES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)


def refused(read: Callable[[], object]) -> int | None:
    try:
        read()
    except Refusal as refusal:
        return refusal.status
    return None


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS.keys())
@settings(max_examples=60, deadline=None)
@given(body=BODIES)
def test_any_body_is_read_or_refused(reader: Callable[[Any], object], body: Any) -> None:
    assert refused(lambda: reader(body)) in (None, 400)


@given(text=st.text())
def test_any_address_of_a_point_is_read_or_refused(text: str) -> None:
    assert refused(lambda: read_path_id(text)) in (None, 400)


@given(body=BODIES)
def test_what_is_written_can_be_read(body: Any) -> None:
    assert decode(encode(body)) == body


@pytest.mark.parametrize(
    ("reader", "body", "named"),
    [
        ("query", {"quary": [1.0]}, "`quary` in query request"),
        ("query", {"prefetch": {"with_payload": True}}, "`with_payload` in prefetch"),
        ("query", {"query": {"nearest": [1.0], "mmr": {}}}, "`mmr` in query"),
        ("query", {"params": {"quantization": {}}}, "`quantization` in params"),
        ("scroll", {"shard_key": "a"}, "`shard_key` in scroll request"),
        ("count", {"filter": {"must": {"key": "a", "match": {"prefix": "b"}}}}, "`prefix` in match"),
        ("upsert", {"points": [{"id": 1, "vectors": {}}]}, "`vectors` in point"),
        ("collection", {"vectors": {"d": {"size": 1, "distance": "Dot", "datatype": "uint8"}}}, "`datatype`"),
        ("collection", {"sparse_vectors": {"s": {"index": {"datatype": "uint8"}}}}, "`datatype` in sparse index"),
        ("index", {"field_name": "a", "field_schema": {"type": "text", "stemmer": {}}}, "`stemmer` in text index"),
    ],
)
def test_what_is_not_understood_is_named(reader: str, body: Any, named: str) -> None:
    with pytest.raises(Refusal) as refused:
        READERS[reader](body)
    assert "Unsupported" in refused.value.sentence
    assert named in refused.value.sentence


def test_null_is_as_good_as_absent() -> None:
    assert repr(read_filter({"must": None})) == repr(read_filter({}))


def test_one_condition_is_a_list_of_one() -> None:
    condition = {"key": "tenant", "match": {"value": "a"}}
    assert repr(read_filter({"must": condition})) == repr(read_filter({"must": [condition]}))


def test_a_query_returns_no_payload_unless_asked_and_a_scroll_does() -> None:
    assert read_query({}).with_payload is False
    assert read_scroll({}).with_payload is True


def test_ranks_are_fused_with_qdrants_small_constant() -> None:
    fused = read_query({"prefetch": {}, "query": {"fusion": "rrf"}}).query
    assert repr(fused) == repr(read_query({"prefetch": {}, "query": {"rrf": {"k": 2}}}).query)


def test_a_large_upsert_is_written_in_slices() -> None:
    points = [{"id": id_, "vector": {"dense": [1.0, 0.0]}} for id_ in range(1001)]
    assert len(read_upsert({"points": points}, PASSAGES)) == 3


def test_a_collection_shows_what_it_was_created_with() -> None:
    tuned = {"vectors": {}, "hnsw_config": {"m": 0, "payload_m": 16}, "metadata": {"epoch": 3}}
    shown = describe(read_definition(tuned))
    assert shown["hnsw_config"]["m"] == 0
    assert shown["hnsw_config"]["ef_construct"] == 100
    assert shown["metadata"] == {"epoch": 3}


@pytest.mark.parametrize("created", [{}, {"vectors": {}}, {"vectors": None}], ids=str)
def test_a_collection_without_vectors_takes_none(created: dict[str, Any]) -> None:
    definition: Definition = read_definition(created)
    assert (definition.dense, definition.sparse) == ({}, frozenset())
    with pytest.raises(Refusal, match="Not existing vector name"):
        read_upsert({"points": [{"id": 1, "vector": {"no vector": [1.0]}}]}, definition)
