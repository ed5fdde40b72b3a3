"""What the workers expect of a vector store, asked of two that must agree.

`memory` is qdrant-client's own local mode; `http` is `python -m local.vectors` over a real socket,
asked by the same unmodified client. Where they differ the test says so. The second half is about
the process: what it refuses, what it survives, and who may own its files.
"""

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from math import log
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.common.version_check import get_server_version, is_compatible
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")

# Local mode complains in Python's own words.
REFUSED = (UnexpectedResponse, ValueError, KeyError)

# Against hanging; it says nothing about speed.
GUARD = 300.0

UUID_ID = "8d1f4f2e-6e5b-4f0c-9c39-0a3f1f6f7a11"


# -- two engines ------------------------------------------------------------------------------


@contextmanager
def running(data: Path, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the process on `data` until the block ends; yield its address and the process."""
    command = [sys.executable, "-m", "local.vectors", "--data", str(data), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert "ready on " in ready, process.communicate()[1]
        try:
            yield ready.split("ready on ")[1].partition(",")[0], process
        finally:
            process.terminate()
            process.communicate(timeout=GUARD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("vectors")) as (url, _):
        yield url


@pytest.fixture(scope="module")
def http(server: str) -> Iterator[httpx.Client]:
    """The bare protocol, for what the client would not send or show."""
    with httpx.Client(base_url=server, timeout=300) as http:
        yield http


@pytest.fixture(scope="module", params=["memory", "http"])
def client(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    if request.param == "memory":
        client = QdrantClient(":memory:")
    else:
        client = QdrantClient(url=request.getfixturevalue("server"), check_compatibility=False, timeout=300)
    yield client
    client.close()


@pytest.fixture
def name() -> str:
    return f"c-{uuid4()}"


@pytest.fixture
def passages(client: QdrantClient, name: str) -> str:
    """A collection with a dense and a sparse vector, as the indexer makes it; returns its name."""
    client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=2, distance=models.Distance.COSINE)},
        sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    return name


@pytest.fixture
def register(client: QdrantClient, name: str) -> str:
    """A collection without vectors, as the document registry is; returns its name."""
    client.create_collection(name, vectors_config={})
    return name


def payload_point(point_id: int | str, payload: dict[str, Any]) -> models.PointStruct:
    return models.PointStruct(id=point_id, vector={}, payload=payload)


def field(key: str, **condition: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, **condition)


def payloads(client: QdrantClient, collection: str) -> dict[Any, Any]:
    records, _ = client.scroll(collection, limit=1000)
    return {record.id: record.payload for record in records}


# -- collections ------------------------------------------------------------------------------


def test_a_collection_exists_between_its_creation_and_its_deletion(client: QdrantClient, name: str) -> None:
    assert not client.collection_exists(name)
    client.create_collection(name, vectors_config=models.VectorParams(size=3, distance=models.Distance.DOT))
    assert client.collection_exists(name)
    assert name in [collection.name for collection in (client.get_collections()).collections]
    client.delete_collection(name)
    assert not client.collection_exists(name)


def test_a_collection_describes_itself(client: QdrantClient, passages: str) -> None:
    client.upsert(passages, [payload_point(1, {})])
    info = client.get_collection(passages)
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 1
    assert isinstance(info.config.params.vectors, dict)
    assert info.config.params.vectors["dense"].size == 2
    assert info.config.params.vectors["dense"].distance == models.Distance.COSINE
    assert info.config.params.sparse_vectors is not None
    assert info.config.params.sparse_vectors["words"].modifier == models.Modifier.IDF


def test_a_collection_is_created_once(client: QdrantClient, register: str) -> None:
    with pytest.raises(REFUSED, match="already exists"):
        client.create_collection(register, vectors_config={})


def test_an_unknown_collection_is_refused(client: QdrantClient, name: str) -> None:
    with pytest.raises(REFUSED, match=r"(?i)not found"):
        client.count(name)


def test_a_recreated_collection_is_empty(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(1, {})])
    client.delete_collection(register)
    client.create_collection(register, vectors_config={})
    assert (client.count(register)).count == 0


# -- writing ----------------------------------------------------------------------------------


def test_points_come_back_as_they_were_written(client: QdrantClient, passages: str) -> None:
    payload = {"text": "Größe", "n": 2**40, "f": 0.5, "yes": True, "none": None, "deep": {"list": [1, {"a": []}]}}
    client.upsert(
        passages,
        [
            models.PointStruct(
                id=UUID_ID,
                vector={"dense": [0.6, 0.8], "words": models.SparseVector(indices=[7, 3], values=[0.5, 2])},
                payload=payload,
            ),
            models.PointStruct(id=2**63, vector={"dense": [1, 0]}),
        ],
    )
    first, second = client.retrieve(passages, [UUID_ID, 2**63], with_vectors=True)
    assert (first.id, first.payload) == (UUID_ID, payload)
    assert isinstance(first.vector, dict)
    assert first.vector["dense"] == pytest.approx([0.6, 0.8])
    assert first.vector["words"] == models.SparseVector(indices=[3, 7], values=[2, 0.5])
    assert (second.id, second.payload, second.vector) == (2**63, {}, {"dense": [1, 0]})


def test_an_upsert_replaces_the_whole_point(client: QdrantClient, passages: str) -> None:
    words = models.SparseVector(indices=[1], values=[1])
    client.upsert(passages, [models.PointStruct(id=1, vector={"words": words}, payload={"a": 1})])
    client.upsert(passages, [models.PointStruct(id=1, vector={"dense": [1, 0]}, payload={"b": 2})])
    [point] = client.retrieve(passages, [1], with_vectors=True)
    assert (point.payload, point.vector) == ({"b": 2}, {"dense": [1, 0]})


def test_a_batch_of_columns_is_an_upsert(client: QdrantClient, passages: str) -> None:
    client.upsert(passages, models.Batch(ids=[1, 2], vectors={"dense": [[1, 0], [0, 1]]}, payloads=[{}, {"a": 1}]))
    [point] = client.retrieve(passages, [2], with_vectors=True)
    assert (point.payload, point.vector) == ({"a": 1}, {"dense": [0, 1]})


@pytest.mark.parametrize(
    "vector",
    [
        {"dense": [1, 0, 0]},
        {"unknown": [1, 0]},
        {"words": [1, 0]},
        {"dense": models.SparseVector(indices=[1], values=[1])},
        {"words": models.SparseVector(indices=[1, 2], values=[1])},
        {"words": models.SparseVector(indices=[1, 1], values=[1, 2])},
        [1, 0],
    ],
    ids=str,
)
def test_one_bad_point_refuses_the_whole_upsert(client: QdrantClient, passages: str, vector: Any) -> None:
    good = models.PointStruct(id=1, vector={"dense": [1, 0]})
    with pytest.raises((*REFUSED, AssertionError, IndexError)):
        client.upsert(passages, [good, models.PointStruct(id=2, vector=vector)])
    assert (client.count(passages)).count == 0


def test_an_upsert_of_nothing_is_refused(client: QdrantClient, register: str) -> None:
    with pytest.raises(REFUSED, match="Empty update request"):
        client.upsert(register, [])


def test_a_conditional_upsert_changes_what_matches_and_inserts_what_is_new(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(1, {"generation": 1}), payload_point(2, {"generation": 5})])
    client.upsert(
        register,
        [payload_point(id_, {"generation": 3}) for id_ in (1, 2, 3)],
        update_filter=models.Filter(must=[field("generation", range=models.Range(lt=3))]),
    )
    assert payloads(client, register) == {1: {"generation": 3}, 2: {"generation": 5}, 3: {"generation": 3}}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (models.UpdateMode.UPSERT, {1: {"new": True}, 2: {"new": True}}),
        (models.UpdateMode.INSERT_ONLY, {1: {"old": True}, 2: {"new": True}}),
        (models.UpdateMode.UPDATE_ONLY, {1: {"new": True}}),
    ],
)
def test_an_upsert_may_only_insert_or_only_update(
    client: QdrantClient, register: str, mode: models.UpdateMode, expected: dict[int, Any]
) -> None:
    client.upsert(register, [payload_point(1, {"old": True})])
    client.upsert(register, [payload_point(id_, {"new": True}) for id_ in (1, 2)], update_mode=mode)
    assert payloads(client, register) == expected


def test_a_conditional_update_inserts_nothing(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(1, {"generation": 1}), payload_point(2, {"generation": 5})])
    client.upsert(
        register,
        [payload_point(id_, {"generation": 2}) for id_ in (1, 2, 3)],
        update_filter=models.Filter(must=[field("generation", match=value(1))]),
        update_mode=models.UpdateMode.UPDATE_ONLY,
    )
    assert payloads(client, register) == {1: {"generation": 2}, 2: {"generation": 5}}


def test_payload_is_set_replaced_and_deleted(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(1, {"a": 1, "in": {"x": 1}}), payload_point(2, {"a": 2})])
    second = models.Filter(must=[field("a", match=models.MatchValue(value=2))])
    client.set_payload(register, {"b": 1}, points=[1, 2])
    client.set_payload(register, {"y": 2}, points=[1], key="in")
    client.set_payload(register, {"c": 1}, points=second)
    assert payloads(client, register) == {
        1: {"a": 1, "b": 1, "in": {"x": 1, "y": 2}},
        2: {"a": 2, "b": 1, "c": 1},
    }
    client.delete_payload(register, ["b", "in.x"], points=[1])
    client.delete_payload(register, ["b"], points=second)
    assert payloads(client, register) == {1: {"a": 1, "in": {"y": 2}}, 2: {"a": 2, "c": 1}}
    client.overwrite_payload(register, {"d": 1}, points=[1])
    client.overwrite_payload(register, {"e": 1}, points=second)
    assert payloads(client, register) == {1: {"d": 1}, 2: {"e": 1}}


def test_payload_for_a_missing_point_is_refused_after_the_others_have_it(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(1, {})])
    with pytest.raises(REFUSED, match="99"):
        client.set_payload(register, {"a": 1}, points=[99, 1])
    assert payloads(client, register) == {1: {"a": 1}}


def test_points_are_deleted_by_id_and_by_filter(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(id_, {"even": id_ % 2 == 0}) for id_ in range(1, 7)])
    client.delete(register, [1, 99])
    client.delete(register, models.Filter(must=[field("even", match=models.MatchValue(value=True))]))
    assert list(payloads(client, register)) == [3, 5]


# -- filters ----------------------------------------------------------------------------------

CORPUS: dict[int | str, dict[str, Any]] = {
    1: {"tenant": "a", "groups": ["hr", "all"], "n": 1, "ok": True, "text": "annual leave policy"},
    2: {"tenant": "a", "groups": ["it"], "n": 2, "ok": False, "text": "Leave the laptop"},
    3: {"tenant": "b", "groups": [], "n": 3.5, "gone": None, "when": "2026-01-02T10:00:00Z"},
    4: {"tenant": "b", "n": -1, "parts": [{"k": 1, "v": 2}, {"k": 2, "v": 1}], "when": "2026-03-01T00:00:00+02:00"},
    UUID_ID: {"tenant": "c", "n": True, "parts": [{"k": 1, "v": 1}], "uuid": UUID_ID},
}


def value(wanted: Any) -> models.MatchValue:
    return models.MatchValue(value=wanted)


TENANT_A, TENANT_B = field("tenant", match=value("a")), field("tenant", match=value("b"))
GROUPS = models.PayloadField(key="groups")
POSITIVE = field("n", range=models.Range(gt=0))

FILTERS: list[tuple[str, models.Filter, list[Any]]] = [
    ("everything", models.Filter(), [1, 2, 3, 4, UUID_ID]),
    ("a keyword", models.Filter(must=[TENANT_A]), [1, 2]),
    ("a keyword in a list", models.Filter(must=[field("groups", match=value("all"))]), [1]),
    ("a whole number, which true is not", models.Filter(must=[field("n", match=value(1))]), [1]),
    ("true", models.Filter(must=[field("ok", match=value(True))]), [1]),
    ("false", models.Filter(must=[field("ok", match=value(False))]), [2]),
    ("true where others have numbers", models.Filter(must=[field("n", match=value(True))]), [UUID_ID]),
    ("any", models.Filter(must=[field("tenant", match=models.MatchAny(any=["b", "c"]))]), [3, 4, UUID_ID]),
    ("any number", models.Filter(must=[field("n", match=models.MatchAny(any=[2, -1]))]), [2, 4]),
    ("any of nothing", models.Filter(must=[field("tenant", match=models.MatchAny(any=[]))]), []),
    ("except", models.Filter(must=[field("groups", match=models.MatchExcept(**{"except": ["hr"]}))]), [1, 2]),
    ("words", models.Filter(must=[field("text", match=models.MatchText(text="leave policy"))]), [1]),
    ("any word", models.Filter(must=[field("text", match=models.MatchTextAny(text_any="policy laptop"))]), [1, 2]),
    ("a range", models.Filter(must=[field("n", range=models.Range(gte=2, lt=3.5))]), [2]),
    (
        "a range of time",
        models.Filter(must=[field("when", range=models.DatetimeRange(lt=datetime(2026, 3, 1, tzinfo=UTC)))]),
        [3, 4],
    ),
    (
        "empty",
        models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="groups"))]),
        [3, 4, UUID_ID],
    ),
    ("null", models.Filter(must=[models.IsNullCondition(is_null=models.PayloadField(key="gone"))]), [3]),
    ("not empty", models.Filter(must=[field("groups", is_empty=False)]), [1, 2]),
    ("ids", models.Filter(must=[models.HasIdCondition(has_id=[2, UUID_ID, 99])]), [2, UUID_ID]),
    ("how many values", models.Filter(must=[field("groups", values_count=models.ValuesCount(gte=2))]), [1]),
    ("should", models.Filter(should=[TENANT_A, TENANT_B]), [1, 2, 3, 4]),
    ("should nothing in particular", models.Filter(should=[]), [1, 2, 3, 4, UUID_ID]),
    ("must not", models.Filter(must_not=[TENANT_A]), [3, 4, UUID_ID]),
    ("must and should", models.Filter(must=[POSITIVE], should=[TENANT_A, TENANT_B]), [1, 2, 3]),
    ("a lone condition", models.Filter(must=TENANT_A, must_not=field("ok", match=value(True))), [2]),
    (
        "at least two",
        models.Filter(min_should=models.MinShould(conditions=[TENANT_A, TENANT_B, POSITIVE], min_count=2)),
        [1, 2, 3],
    ),
    ("filters in filters", models.Filter(must=[models.Filter(should=[TENANT_A, POSITIVE]), TENANT_B]), [3]),
    (
        "one nested object that satisfies all",
        models.Filter(
            must=[
                models.NestedCondition(
                    nested=models.Nested(
                        key="parts",
                        filter=models.Filter(must=[field("k", match=value(1)), field("v", match=value(1))]),
                    )
                )
            ]
        ),
        [UUID_ID],
    ),
]


def test_filters_find(server: str, name: str) -> None:
    client = QdrantClient(url=server, check_compatibility=False, timeout=300)
    client.create_collection(name, vectors_config={})
    client.upsert(name, [payload_point(id_, payload) for id_, payload in CORPUS.items()])
    found = {said: [record.id for record in client.scroll(name, wanted)[0]] for said, wanted, _ in FILTERS}
    counted = {said: client.count(name, wanted).count for said, wanted, _ in FILTERS}
    assert found == {said: expected for said, _, expected in FILTERS}
    assert counted == {said: len(expected) for said, _, expected in FILTERS}
    client.close()


# -- reading ----------------------------------------------------------------------------------


def test_scrolling_visits_every_point_once(client: QdrantClient, register: str) -> None:
    ids: list[Any] = [*range(1, 6), *sorted(str(UUID(int=n << 64)) for n in range(1, 4))]
    client.upsert(register, [payload_point(id_, {}) for id_ in reversed(ids)])
    visited: list[Any] = []
    offset: Any = None
    while offset is not None or not visited:
        page, offset = client.scroll(register, limit=3, offset=offset)
        visited += [record.id for record in page]
    assert visited == ids


def test_scrolling_may_follow_a_payload_value(client: QdrantClient, register: str) -> None:
    client.create_payload_index(register, "n", models.PayloadSchemaType.INTEGER)
    client.upsert(register, [payload_point(id_, {"n": n}) for id_, n in {1: 5, 2: 7, 3: 6}.items()])
    order = models.OrderBy(key="n", direction=models.Direction.DESC)
    page, offset = client.scroll(register, limit=2, order_by=order)
    assert ([(record.id, record.order_value) for record in page], offset) == ([(2, 7), (3, 6)], None)


def test_only_what_is_asked_for_is_returned(client: QdrantClient, passages: str) -> None:
    words = models.SparseVector(indices=[1], values=[1])
    both: Any = {"dense": [1, 0], "words": words}
    client.upsert(passages, [models.PointStruct(id=1, vector=both, payload={"a": 1, "b": {"c": 2, "d": 3}})])

    def shown(**selectors: Any) -> tuple[Any, Any]:
        [point] = (client.query_points(passages, query=[1.0, 0.0], using="dense", **selectors)).points
        assert (client.retrieve(passages, [1], **selectors))[0].payload == point.payload
        return point.payload, point.vector

    everything = {"a": 1, "b": {"c": 2, "d": 3}}
    assert shown(with_payload=True, with_vectors=True) == (everything, both)
    assert shown(with_payload=False) == (None, None)
    assert shown(with_payload=["b.c"], with_vectors=["words"]) == ({"b": {"c": 2}}, {"words": words})
    assert shown(with_payload=models.PayloadSelectorExclude(exclude=["b"])) == ({"a": 1}, None)


def test_retrieving_keeps_the_order_and_skips_what_is_missing(client: QdrantClient, register: str) -> None:
    client.upsert(register, [payload_point(id_, {}) for id_ in (1, 2, 3)])
    assert [record.id for record in client.retrieve(register, [3, 99, 1])] == [3, 1]


@pytest.fixture
def searched(client: QdrantClient, passages: str) -> str:
    """Four passages: 1 is the dense favourite, 4 the sparse one, 2 is good at both, 3 is another tenant's."""
    rows: list[tuple[int, list[float], list[int], str]] = [
        (1, [1, 0], [9], "a"),
        (2, [0.8, 0.6], [1, 9], "a"),
        (3, [1, 0.001], [1, 2], "b"),
        (4, [0, 1], [1, 2], "a"),
    ]
    client.create_payload_index(passages, "tenant", models.KeywordIndexParams(type="keyword", is_tenant=True))
    client.upsert(
        passages,
        [
            models.PointStruct(
                id=id_,
                vector={"dense": dense, "words": models.SparseVector(indices=words, values=[1.0] * len(words))},
                payload={"tenant": tenant},
            )
            for id_, dense, words, tenant in rows
        ],
    )
    return passages


QUERY_WORDS = models.SparseVector(indices=[1, 2], values=[1, 1])
FOR_A = models.Filter(must=[TENANT_A])


def scores(response: models.QueryResponse) -> dict[Any, Any]:
    return {point.id: pytest.approx(point.score, abs=1e-5) for point in response.points}


def test_dense_search_ranks_by_similarity(client: QdrantClient, searched: str) -> None:
    found = client.query_points(searched, query=[1.0, 0.0], using="dense", query_filter=FOR_A)
    assert list(scores(found).items()) == [(1, 1), (2, 0.8), (4, 0)]
    best = client.query_points(searched, query=[1.0, 0.0], using="dense", query_filter=FOR_A, score_threshold=0.7)
    assert list(scores(best)) == [1, 2]
    second = client.query_points(searched, query=[1.0, 0.0], using="dense", query_filter=FOR_A, limit=1, offset=1)
    assert list(scores(second)) == [2]


def test_sparse_search_weighs_rare_words_more(client: QdrantClient, searched: str) -> None:
    common, rare = (log((4 - n + 0.5) / (n + 0.5) + 1) for n in (3, 2))
    found = client.query_points(searched, query=QUERY_WORDS, using="words")
    assert scores(found) == {3: common + rare, 4: common + rare, 2: common}
    assert [point.id for point in found.points][-1] == 2


def hybrid(**more: Any) -> list[models.Prefetch]:
    return [
        models.Prefetch(query=[1.0, 0.0], using="dense", limit=3, **more),
        models.Prefetch(query=QUERY_WORDS, using="words", limit=3, **more),
    ]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (models.FusionQuery(fusion=models.Fusion.RRF), {2: 1 / 3 + 1 / 3, 4: 1 / 2 + 1 / 4, 1: 1 / 2}),
        (models.RrfQuery(rrf=models.Rrf(k=60)), {2: 1 / 61 + 1 / 61, 4: 1 / 60 + 1 / 62, 1: 1 / 60}),
    ],
    ids=["the default k", "k of 60"],
)
def test_hybrid_search_fuses_ranks(client: QdrantClient, searched: str, query: Any, expected: dict[int, float]) -> None:
    found = client.query_points(searched, prefetch=hybrid(filter=FOR_A), query=query)
    assert scores(found) == expected
    assert [point.id for point in found.points] == sorted(expected, key=lambda id_: -expected[id_])


def test_hybrid_search_may_trust_one_leg_more(client: QdrantClient, searched: str) -> None:
    query = models.RrfQuery(rrf=models.Rrf(k=2, weights=[1.0, 5.0]))
    found = client.query_points(searched, prefetch=hybrid(filter=FOR_A), query=query)
    # Qdrant multiplies the rank, not the score: 1 / (rank / weight + k), ranks counted from 1, k from 0.
    assert scores(found) == {
        2: 1 / (2 + 1) + 1 / (2 / 5 + 1),
        4: 1 / (3 + 1) + 1 / (1 / 5 + 1),
        1: 1 / (1 + 1),
    }


def test_hybrid_search_may_fuse_distributions(client: QdrantClient, searched: str) -> None:
    query = models.FusionQuery(fusion=models.Fusion.DBSF)
    found = client.query_points(searched, prefetch=hybrid(filter=FOR_A), query=query, limit=2)
    assert len(found.points) == 2
    assert found.points[0].id == 2


def test_the_outer_filter_holds_for_every_leg(client: QdrantClient, searched: str) -> None:
    query = models.FusionQuery(fusion=models.Fusion.RRF)
    inside = client.query_points(searched, prefetch=hybrid(filter=FOR_A), query=query)
    outside = client.query_points(searched, prefetch=hybrid(), query=query, query_filter=FOR_A)
    assert {point.id for point in outside.points} == {1, 2, 4}
    assert scores(outside) == {point.id: point.score for point in inside.points}


def test_prefetched_candidates_are_reranked_by_the_outer_query(client: QdrantClient, searched: str) -> None:
    words = models.Prefetch(query=QUERY_WORDS, using="words", limit=10)
    found = client.query_points(searched, prefetch=words, query=[1.0, 0.0], using="dense", query_filter=FOR_A)
    assert [point.id for point in found.points] == [2, 4]


def test_several_queries_are_answered_in_their_order(client: QdrantClient, searched: str) -> None:
    requests = [
        models.QueryRequest(query=query, using="dense", limit=1, filter=FOR_A) for query in ([1.0, 0.0], [0.0, 1.0])
    ]
    answers = client.query_batch_points(searched, requests)
    assert [[point.id for point in answer.points] for answer in answers] == [[1], [4]]


def test_without_a_query_points_come_by_id(client: QdrantClient, searched: str) -> None:
    found = client.query_points(searched, query_filter=FOR_A)
    assert [point.id for point in found.points] == [1, 2, 4]


# -- what only the process promises -----------------------------------------------------------


async def test_of_many_who_compare_and_set_one_wins(server: str, name: str) -> None:
    client = AsyncQdrantClient(url=server, check_compatibility=False, timeout=300)
    await client.create_collection(name, vectors_config={})
    await client.upsert(name, [payload_point(1, {"generation": 1})])
    first = models.Filter(must=[field("generation", match=models.MatchValue(value=1))])

    async def advance(writer: int) -> Any:
        await client.upsert(name, [payload_point(1, {"generation": 2, "writer": writer})], update_filter=first)
        return (await client.retrieve(name, [1]))[0].payload

    seen = await asyncio.gather(*(advance(writer) for writer in range(10)))
    assert all(payload == seen[0] for payload in seen)
    await client.close()


async def test_queries_are_answered_while_a_large_upsert_is_written(server: str, name: str) -> None:
    client = AsyncQdrantClient(url=server, check_compatibility=False, timeout=300)
    params = models.VectorParams(size=64, distance=models.Distance.COSINE)
    await client.create_collection(name, vectors_config={"dense": params})
    await client.upsert(name, [models.PointStruct(id=1, vector={"dense": [1.0] * 64})])
    many = [models.PointStruct(id=id_, vector={"dense": [id_ % 7 + 1.0] * 64}) for id_ in range(2, 5000)]
    upsert = asyncio.create_task(client.upsert(name, many))
    answers = []
    while not upsert.done():
        answers.append(await client.query_points(name, query=[1.0] * 64, using="dense", limit=1))
    await upsert
    assert answers
    assert all(len(answer.points) == 1 for answer in answers)
    assert (await client.count(name)).count == 4999
    await client.close()


def test_payload_indexes_are_described_and_dropped(server: str, name: str) -> None:
    client = QdrantClient(url=server, check_compatibility=False, timeout=300)
    client.create_collection(name, vectors_config={})
    indexes: dict[str, Any] = {
        "tenant": models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True),
        "text": models.TextIndexParams(
            type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True, min_token_len=2
        ),
    }
    kinds = ["integer", "float", "bool", "datetime", "uuid"]
    for key, params in indexes.items():
        client.create_payload_index(name, key, params)
    for kind in kinds:
        client.create_payload_index(name, kind, models.PayloadSchemaType(kind))
    client.upsert(name, [payload_point(1, {"tenant": "a", "integer": 3})])
    schema = client.get_collection(name).payload_schema
    assert {key: info.data_type.value for key, info in schema.items()} == {
        "tenant": "keyword",
        "text": "text",
        **{kind: kind for kind in kinds},
    }
    assert {key: schema[key].params for key in indexes} == indexes
    assert (schema["tenant"].points, schema["uuid"].points) == (1, 0)
    client.delete_payload_index(name, "tenant")
    assert "tenant" not in client.get_collection(name).payload_schema
    client.close()


REFUSALS: list[tuple[str, str, Any, int, str]] = [
    ("GET", "/collections/nowhere", None, 404, "Collection `nowhere` doesn't exist!"),
    ("POST", "/collections/nowhere/points/query", {}, 404, "Collection `nowhere` doesn't exist!"),
    ("PUT", "/collections/{c}", {}, 409, "already exists"),
    ("PUT", "/collections/a:b", {}, 400, "cannot be the name"),
    ("PUT", "/collections/{c}", "{", 400, "Format error in JSON body"),
    ("PUT", "/collections/{c}", "[NaN]", 400, "Format error in JSON body: expected value"),
    ("GET", "/collections/{c}/points/7", None, 404, "Point with id 7"),
    ("GET", "/collections/{c}/points/seven", None, 400, "UUID"),
    ("PUT", "/collections/{c}/points", {"points": [{"id": -1, "vector": {}}]}, 400, "Format error"),
    ("PUT", "/collections/{c}/points", {"points": [{"id": 1, "vector": {"d": ["x", 1]}}]}, 400, "Format error"),
    (
        "PUT",
        "/collections/{c}/points",
        {"points": [{"id": 1, "vector": {"d": [1]}}]},
        400,
        "expected dim: 2, got 1",
    ),
    ("PUT", "/collections/{c}/points", '{"points": [{"id": 1, "vector": {"d": [1e999, 1]}}]}', 400, "finite"),
    ("PUT", "/collections/{c}/points", {"points": [{"id": 1, "payload": []}]}, 400, "payload must be an object"),
    ("POST", "/collections/{c}/points/delete", {"points": []}, 400, "Empty update request"),
    ("POST", "/collections/{c}/points/payload", {"payload": {}, "points": [7]}, 404, "No point with id 7 found"),
    ("POST", "/collections/{c}/points/query", {"query": [1, 2, 3], "using": "d"}, 400, "expected dim: 2, got 3"),
    ("POST", "/collections/{c}/points/query", {"query": [1, 2], "using": "e"}, 400, "Not existing vector name"),
    ("POST", "/collections/{c}/points/query", {"query": {"fusion": "rrf"}}, 400, "without prefetches"),
    ("POST", "/collections/{c}/points/query", {"limit": 0}, 400, "limit must be"),
    ("POST", "/collections/{c}/points/scroll", {"order_by": "n"}, 400, "No range index"),
    ("POST", "/collections/{c}/points/count", {"filter": {"must": [{"key": "a"}]}}, 400, "says nothing"),
    (
        "POST",
        "/collections/{c}/points/count",
        {"filter": {"must": [{"key": "a[", "match": {"value": 1}}]}},
        400,
        "path",
    ),
    # What Qdrant can do and this cannot is named, never ignored.
    ("POST", "/collections/{c}/points/query", {"query": 7, "using": "d"}, 400, "Unsupported by local/vectors"),
    ("POST", "/collections/{c}/points/query", {"query": {"recommend": {}}}, 400, "`recommend` in query"),
    ("POST", "/collections/{c}/points/query", {"lookup_from": {}}, 400, "`lookup_from` in query request"),
    ("POST", "/collections/{c}/points/query", {"query": {"text": "x", "model": "m"}}, 400, "Unsupported"),
    (
        "POST",
        "/collections/{c}/points/count",
        {"filter": {"must": [{"key": "a", "geo_radius": {}}]}},
        400,
        "geo_radius",
    ),
    ("POST", "/collections/{c}/points/count", {"filtr": {}}, 400, "`filtr` in count request"),
    ("PUT", "/collections/other", {"shard_number": 2}, 400, "one node with one shard"),
    ("PUT", "/collections/other", {"quantization_config": {}}, 400, "`quantization_config` in collection"),
    ("PUT", "/collections/{c}/index", {"field_name": "g", "field_schema": "geo"}, 400, "index of type 'geo'"),
    ("POST", "/collections/{c}/facet", {}, 400, "POST /collections/{c}/facet"),
    ("PATCH", "/collections/{c}", {}, 400, "PATCH /collections/{c}"),
]


def test_a_refusal_has_a_code_and_a_sentence(http: httpx.Client) -> None:
    http.put("/collections/errors", json={"vectors": {"d": {"size": 2, "distance": "Dot"}}})
    wrong = []
    for verb, path, body, status, words in REFUSALS:
        content = body if isinstance(body, str) or body is None else json.dumps(body)
        response = http.request(verb, path.replace("{c}", "errors"), content=content)
        said = response.json()
        if response.status_code != status or words.replace("{c}", "errors") not in said["status"]["error"]:
            wrong.append((verb, path, body, response.status_code, said))
        assert said["time"] >= 0
    assert wrong == []
    counted = http.post("/collections/errors/points/count", json={}).json()
    assert (counted["result"], counted["status"]) == ({"count": 0}, "ok")


def test_a_body_larger_than_qdrant_takes_is_refused(http: httpx.Client) -> None:
    response = http.put("/collections/errors/points", content=b" " * (33 * 2**20))
    assert response.status_code == 413
    assert "send fewer points" in response.json()["status"]["error"]


def test_the_client_recognises_the_server(server: str, http: httpx.Client) -> None:
    version = get_server_version(server, {}, None, 5)
    assert version is not None
    assert is_compatible(metadata.version("qdrant-client"), version)
    assert [http.get(f"/{probe}").status_code for probe in ("healthz", "livez", "readyz")] == [200] * 3


def upsert_until_the_server_dies(url: str, collection: str, acknowledged: list[int], enough: threading.Event) -> None:
    """Write points in order, noting each one that is acknowledged."""
    client = QdrantClient(url=url, check_compatibility=False, timeout=300)
    with suppress(ResponseHandlingException):
        for id_ in count(acknowledged[-1] + 1):
            point = models.PointStruct(id=id_, vector={"dense": [id_, 1]}, payload={"n": id_})
            client.upsert(collection, [point])
            acknowledged.append(id_)
            if id_ % 30 == 0:
                enough.set()
    client.close()


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, name: str) -> None:
    acknowledged, enough = [0], threading.Event()
    with running(tmp_path) as (url, process):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        params = models.VectorParams(size=2, distance=models.Distance.DOT)
        client.create_collection(name, vectors_config={"dense": params})
        client.create_payload_index(name, "n", models.PayloadSchemaType.INTEGER)
        with pytest.raises(UnexpectedResponse):  # a refused write must not trouble the reload
            client.set_payload(name, {"n": 0}, points=[10**6])
        client.close()
        process.kill()
    for _ in range(2):
        with running(tmp_path) as (url, process):
            arguments = (url, name, acknowledged, enough)
            writer = threading.Thread(target=upsert_until_the_server_dies, args=arguments)
            writer.start()
            assert enough.wait(timeout=GUARD)
            process.kill()
            writer.join()
            enough.clear()
    with running(tmp_path) as (url, _):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        records, _ = client.scroll(name, limit=10_000, with_vectors=True)
        found = {record.id: (record.payload, record.vector) for record in records}
        for id_ in acknowledged[1:]:
            assert found[id_] == ({"n": id_}, {"dense": [id_, 1]})
        assert len(found) <= len(acknowledged[1:]) + 2  # one write per kill was under way
        assert client.get_collection(name).payload_schema["n"].points == len(found)
        client.close()


def test_a_second_owner_is_refused_and_the_first_unharmed(tmp_path: Path, name: str) -> None:
    with running(tmp_path) as (url, first):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        client.create_collection(name, vectors_config={})
        client.upsert(name, [payload_point(1, {})])
        command = [sys.executable, "-m", "local.vectors", "--data", str(tmp_path), "--port", "0"]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.count("\n") == 1
        assert f"in use by process {first.pid}" in second.stderr
        client.upsert(name, [payload_point(2, {})])
        client.close()
        first.terminate()
        assert first.wait(timeout=GUARD) == 0
    with running(tmp_path) as (url, _):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        assert client.count(name).count == 2
        client.close()


def test_a_taken_port_is_reported_in_one_line(server: str, tmp_path: Path) -> None:
    port = server.rpartition(":")[2]
    command = [sys.executable, "-m", "local.vectors", "--data", str(tmp_path), "--port", port]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    why = os.strerror(errno.EADDRINUSE)
    assert refused.returncode == 1
    assert refused.stderr == f"vectors: cannot listen on 127.0.0.1:{port} ({why}); choose another --port\n"


def test_sigterm_ends_it_cleanly_and_everything_is_there_again(tmp_path: Path, name: str) -> None:
    odd_name = f"Größe {name}"
    with running(tmp_path) as (url, process):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        client.create_collection(
            odd_name,
            vectors_config={},
            sparse_vectors_config={"words": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
        before = client.get_collection(odd_name).config
        client.upsert(odd_name, [models.PointStruct(id=1, vector={"words": QUERY_WORDS}, payload={"a": 1})])
        process.terminate()
        assert process.wait(timeout=GUARD) == 0
        client.close()
    with running(tmp_path) as (url, _):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        assert client.get_collection(odd_name).config == before
        assert client.query_points(odd_name, query=QUERY_WORDS, using="words").points[0].payload == {"a": 1}
        client.delete_collection(odd_name)
        client.close()
    with running(tmp_path) as (url, _):
        client = QdrantClient(url=url, check_compatibility=False, timeout=300)
        assert client.get_collections().collections == []
        client.close()


def test_a_request_that_is_addressed_to_another_name_is_refused(http: httpx.Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        refused = http.post("/collections/c/points/delete", json={"filter": {}}, headers=headers)
        assert (refused.status_code, "127.0.0.1" in refused.text) == (403, True)
    assert http.get("/collections").status_code == 200
