"""What a collection and a payload index are defined to be: Qdrant's JSON to the engine, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import qdrant_edge as edge

from local.vectors.bodies import Json, fields, number
from local.vectors.errors import reading, unsupported, wrong

# The engine refuses a shard without any vector; a collection without vectors hides this one.
_HIDDEN = "no vector"

# Tuning never changes an answer here, because every search is exact; it is kept and shown again.
_TUNING = {"hnsw_config", "optimizers_config", "on_disk_payload"}
_COLLECTION = {"vectors", "sparse_vectors", "metadata", *_TUNING}
_ONE_NODE = {"shard_number", "replication_factor", "write_consistency_factor"}
_DENSE = {"size", "distance", "on_disk", "hnsw_config"}
_SPARSE = {"index", "modifier"}
_SPARSE_INDEX = {"on_disk", "full_scan_threshold"}

_DISTANCES = {
    "Cosine": edge.Distance.Cosine,
    "Dot": edge.Distance.Dot,
    "Euclid": edge.Distance.Euclid,
    "Manhattan": edge.Distance.Manhattan,
}
_MODIFIERS = {"none": None, "idf": edge.Modifier.Idf}


@dataclass(frozen=True)
class Definition:
    """A collection as it was created.

    `created`: the request, kept to be shown and reloaded. `dense`: dimensions by vector name. `sparse`: names.
    """

    created: dict[str, Json]
    dense: dict[str, int]
    sparse: frozenset[str]
    config: edge.EdgeConfig


@reading()
def read_definition(body: Json) -> Definition:
    """The definition in the request that creates a collection; raises `Refusal`."""
    given = fields(body, "collection", _COLLECTION | _ONE_NODE)
    for name in _ONE_NODE & given.keys():
        if given[name] != 1:
            raise unsupported(f"`{name}` {given[name]}: this is one node with one shard")
    for name in ("hnsw_config", "optimizers_config", "metadata", "sparse_vectors"):
        if not isinstance(given.get(name, {}), dict):
            raise wrong(f"{name} must be an object")
    dense, sparse = given.get("vectors", {}), given.get("sparse_vectors", {})
    if not isinstance(dense, dict):
        raise wrong("vectors must be an object")
    # Parameters without a name are those of the unnamed vector.
    by_name = {"": dense} if isinstance(dense.get("size"), int) else dense
    vectors = {name: _dense(params) for name, params in by_name.items()}
    config = edge.EdgeConfig(
        vectors=vectors or (None if sparse else {_HIDDEN: edge.EdgeVectorParams(1, edge.Distance.Dot)}),
        sparse_vectors={name: _sparse(params) for name, params in sparse.items()} or None,
    )
    sizes = {name: params.size for name, params in vectors.items()}
    return Definition(given, sizes, frozenset(sparse), config)


def describe(definition: Definition) -> dict[str, Json]:
    """The `config` of a collection as Qdrant returns it, defaults included."""
    created = definition.created
    return {
        "params": {
            "vectors": created.get("vectors", {}),
            **({"sparse_vectors": created["sparse_vectors"]} if definition.sparse else {}),
            "shard_number": 1,
            "replication_factor": 1,
            "write_consistency_factor": 1,
            "on_disk_payload": created.get("on_disk_payload", True),
        },
        "hnsw_config": {
            "m": 16,
            "ef_construct": 100,
            "full_scan_threshold": 10_000,
            **created.get("hnsw_config", {}),
        },
        "optimizer_config": {
            "default_segment_number": 0,
            "flush_interval_sec": 5,
            **created.get("optimizers_config", {}),
        },
        **({"metadata": created["metadata"]} if "metadata" in created else {}),
    }


@reading()
def read_index(body: Json) -> edge.UpdateOperation:
    """The operation that creates the payload index of the request; raises `Refusal`."""
    given = fields(body, "payload index", {"field_name", "field_schema"})
    schema = given.get("field_schema")
    if schema is None:
        raise unsupported("a payload index whose type is left to be guessed; send `field_schema`")
    params = {"type": schema} if isinstance(schema, str) else schema
    kind: Json = params.get("type") if isinstance(params, dict) else None
    if kind not in _INDEXES:
        raise unsupported(f"a payload index of type {kind!r}")
    make, known = _INDEXES[kind]
    options = fields(params, f"{kind} index", known | {"type"})
    del options["type"]
    if (tokenizer := options.get("tokenizer")) is not None:
        if tokenizer not in _TOKENIZERS:
            raise unsupported(f"the tokenizer {tokenizer!r}")
        options["tokenizer"] = _TOKENIZERS[tokenizer]
    return edge.UpdateOperation.create_field_index(given.get("field_name", ""), make(**options))


def describe_index(info: "edge.PayloadIndexInfo") -> dict[str, Json]:
    """The `payload_schema` entry of an index as Qdrant returns it."""
    kind = _label(info.data_type)
    known = _INDEXES[kind][1]
    given = {name: getattr(info.params, name) for name in known if getattr(info.params, name) is not None}
    if "tokenizer" in given:
        given["tokenizer"] = _label(given["tokenizer"])
    return {"data_type": kind, "params": {"type": kind, **given}, "points": info.points}


def _dense(body: Json) -> edge.EdgeVectorParams:
    given = fields(body, "vector parameters", _DENSE)
    distance = given.get("distance")
    if distance not in _DISTANCES:
        raise wrong(f"distance must be one of {', '.join(_DISTANCES)}, not {distance!r}")
    return edge.EdgeVectorParams(number(given, "size", 0, least=1), _DISTANCES[distance])


def _sparse(body: Json) -> edge.EdgeSparseVectorParams:
    given = fields(body, "sparse vector parameters", _SPARSE)
    fields(given.get("index", {}), "sparse index", _SPARSE_INDEX)
    modifier = given.get("modifier", "none")
    if modifier not in _MODIFIERS:
        raise wrong(f"modifier must be none or idf, not {modifier!r}")
    return edge.EdgeSparseVectorParams(modifier=_MODIFIERS[modifier])


def _label(value: object) -> str:
    """Return `keyword` for `PayloadSchemaType.Keyword`; the engine's enums have no names."""
    return repr(value).rpartition(".")[2].lower()


_TOKENIZERS = {
    "word": edge.TokenizerType.Word,
    "whitespace": edge.TokenizerType.Whitespace,
    "prefix": edge.TokenizerType.Prefix,
    "multilingual": edge.TokenizerType.Multilingual,
}

_EVERY = {"on_disk", "enable_hnsw"}
_INDEXES: Mapping[str, tuple[Any, set[str]]] = {
    "keyword": (edge.KeywordIndexParams, {"is_tenant", *_EVERY}),
    "integer": (edge.IntegerIndexParams, {"lookup", "range", "is_principal", *_EVERY}),
    "float": (edge.FloatIndexParams, {"is_principal", *_EVERY}),
    "datetime": (edge.DatetimeIndexParams, {"is_principal", *_EVERY}),
    "uuid": (edge.UuidIndexParams, {"is_tenant", *_EVERY}),
    "bool": (edge.BoolIndexParams, _EVERY),
    "text": (
        edge.TextIndexParams,
        {
            "tokenizer",
            "min_token_len",
            "max_token_len",
            "lowercase",
            "ascii_folding",
            "phrase_matching",
            *_EVERY,
        },
    ),
}
