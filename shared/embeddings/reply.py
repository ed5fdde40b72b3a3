"""Reads the reply of an embedding model: bytes in, vectors out, each of them checked.

The SDK's own reading is not used: it returns text for an HTML page (and the caller fails on `.data`), raises a bare
`ValueError` for a reply without vectors, and takes NaN, zero vectors, a missing and a repeated index for good. A vector
in the wrong place, or one that no search can compare, would make answers wrong in silence.
"""

import json
import math
import sys
from array import array
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

from shared.embeddings.port import Embedded
from shared.llm.deployments import Deployment
from shared.llm.errors import InvalidReply, ModelMisconfigured
from shared.llm.faults import error_in, error_of, text_of
from shared.text import brief

# What reading a body of another shape can raise.
STRANGE = (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError, IndexError)
# Bytes of a float in JSON, with room; of what surrounds a vector; of a body without vectors.
FLOAT, ITEM, LEAST = 32, 1024, 64 * 1024
# A token is at least a byte; models put some around each text.
AROUND = 16


def most_bytes(texts: Sequence[str], deployment: Deployment) -> int:
    """The largest body that can have the vectors of `texts`."""
    return LEAST + len(texts) * (ITEM + FLOAT * deployment.dimensions)


def vectors_of(body: bytes, texts: Sequence[str], deployment: Deployment) -> Embedded:
    """The vectors of `texts`, in their order, from a 200's `body`.

    Raises a `ModelError`: what the provider's error says, `ModelMisconfigured` when all vectors have another length
    than `dimensions`, `InvalidReply` for anything else but one vector for each text.
    """
    name = deployment.name
    try:
        if body.lstrip()[:1] == b"<":
            page = text_of(body[:16_384].decode("utf-8", "replace"))
            raise InvalidReply(f"{name}: the reply is {page}, not embeddings", sentence=page)
        reply = json.loads(body.removeprefix(b"\xef\xbb\xbf"))
        if error := error_of({"choices": reply.get("data"), **reply}):
            raise error_in(error, name)
        vectors = [_vector(item["embedding"]) for item in _in_order(reply["data"])]
        usage = reply.get("usage") or {}
        tokens = usage.get("prompt_tokens")
    except STRANGE as strange:
        why = f"{name}: the reply has no embeddings: {brief(repr(strange), 200)}"
        raise InvalidReply(why, sentence=brief(body[:200].decode("utf-8", "replace"), 100)) from strange
    if len(vectors) != len(texts):
        raise InvalidReply(f"{name}: the model answered {len(vectors)} vectors for {len(texts)} texts")
    lengths = {len(vector) for vector in vectors}
    if lengths - {deployment.dimensions}:
        if len(lengths) > 1:
            raise InvalidReply(f"{name}: the vectors of one reply have {sorted(lengths)} dimensions")
        why = f"{name} makes vectors of {lengths.pop()} dimensions; models.yaml says {deployment.dimensions}"
        raise ModelMisconfigured(why)
    for number, vector in enumerate(vectors):
        size = math.hypot(*vector)
        if not math.isfinite(size) or size == 0:
            kind = "all zeros" if size == 0 else "not finite"
            raise InvalidReply(f"{name}: the vector of text {number + 1} of {len(texts)} is {kind}")
    most = sum(len(text.encode("utf-8", "replace")) + AROUND for text in texts)
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and 0 < tokens <= most
    return Embedded(vectors, tokens if counted else None)


def _in_order(items: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The items by their index; as they came when none has one. Raises `ValueError` when an index is not what it is."""
    if all(item.get("index") is None for item in items):
        return items
    ordered = sorted(items, key=lambda item: int(item["index"]))
    if [item["index"] for item in ordered] != list(range(len(items))):
        raise ValueError("an index is missing or repeated")
    return ordered


def _vector(value: object) -> list[float]:
    """Floats, or base64 of little-endian 32-bit floats."""
    if isinstance(value, str):
        floats = array("f", b64decode(value, validate=True))
        if sys.byteorder == "big":
            floats.byteswap()
        return floats.tolist()
    if not isinstance(value, list) or not all(type(each) in (float, int) for each in value):
        raise TypeError("an embedding is not a list of numbers")
    return [float(each) for each in value]
