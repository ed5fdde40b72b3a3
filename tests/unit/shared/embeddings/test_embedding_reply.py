"""What is made of an embedding model's reply, of any kind."""

import json
from array import array
from base64 import b64encode
from typing import Any

import pytest

from shared.embeddings.reply import vectors_of
from shared.llm.errors import Fault, InvalidReply, ModelError, ModelMisconfigured
from tests.support.builders import a_deployment

E = a_deployment("e", 8000, kind="embedding", dimensions=2)
TEXTS = ("one", "two", "three")
VECTORS = [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]]


def items(vectors: list[Any]) -> list[dict[str, Any]]:
    return [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(vectors)]


def base64(vector: list[float]) -> str:
    return b64encode(array("f", vector).tobytes()).decode()


def read(reply: Any) -> tuple[list[list[float]], int | None]:
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    embedded = vectors_of(body, TEXTS, E)
    return embedded.vectors, embedded.tokens


@pytest.mark.parametrize(
    "data",
    [
        items(VECTORS),
        items([base64(vector) for vector in VECTORS]),
        items([VECTORS[0], base64(VECTORS[1]), VECTORS[2]]),
        items(VECTORS)[::-1],
        [items(VECTORS)[n] for n in (1, 2, 0)],
        [{"embedding": vector} for vector in VECTORS],
    ],
    ids=["floats", "base64", "mixed", "backwards", "shuffled", "no index"],
)
def test_vectors_are_in_the_order_of_the_texts(data: list[dict[str, Any]]) -> None:
    assert read({"data": data, "usage": {"prompt_tokens": 7}, "message": "hello"}) == (VECTORS, 7)


def test_a_byte_order_mark_is_ignored() -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps({"data": items(VECTORS)}).encode()) == (VECTORS, None)


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 7}, 7),
        ({"prompt_tokens": 0}, None),
        ({"prompt_tokens": -1}, None),
        ({"prompt_tokens": 10**9}, None),
        ({"prompt_tokens": "7"}, None),
        ({"prompt_tokens": True}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_count_that_cannot_be_is_none(usage: Any, tokens: int | None) -> None:
    assert read({"data": items(VECTORS), "usage": usage}) == (VECTORS, tokens)


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (b"<html><title>Sign in</title></html>", "an HTML page, 'Sign in'"),
        (b"", "no embeddings"),
        (b"not JSON", "no embeddings"),
        (b"[" * 100_000, "no embeddings"),
        ([], "no embeddings"),
        ({}, "no embeddings"),
        ({"data": None}, "no embeddings"),
        ({"data": {"0": 1}}, "no embeddings"),
        ({"data": []}, "0 vectors for 3 texts"),
        ({"data": items(VECTORS[:2])}, "2 vectors for 3 texts"),
        ({"data": items([*VECTORS, VECTORS[0]])}, "4 vectors for 3 texts"),
        ({"data": [{**item, "index": 0} for item in items(VECTORS)]}, "missing or repeated"),
        ({"data": [*items(VECTORS)[:2], {"index": 7, "embedding": VECTORS[2]}]}, "missing or repeated"),
        ({"data": [*items(VECTORS)[:2], {"embedding": VECTORS[2]}]}, "no embeddings"),
        ({"data": items([*VECTORS[:2], [1.0]])}, "have [1, 2] dimensions"),
        ({"data": items([*VECTORS[:2], None])}, "not a list of numbers"),
        ({"data": items([*VECTORS[:2], ["1", "2"]])}, "not a list of numbers"),
        ({"data": items([*VECTORS[:2], [True, 1.0]])}, "not a list of numbers"),
        ({"data": items([*VECTORS[:2], [float("nan"), 1.0]])}, "text 3 of 3 is not finite"),
        ({"data": items([*VECTORS[:2], [float("inf"), 1.0]])}, "text 3 of 3 is not finite"),
        ({"data": items([VECTORS[0], [0.0, 0], VECTORS[2]])}, "text 2 of 3 is all zeros"),
        ({"data": items([base64([float("nan"), 1.0]), *VECTORS[1:]])}, "text 1 of 3 is not finite"),
        ({"data": items(["AAA", *VECTORS[1:]])}, "no embeddings"),
        ({"data": items(["not base64!", *VECTORS[1:]])}, "no embeddings"),
        (b'{"data": [{"index": 0, "embedding": [1e999, 1]}]}', "1 vectors for 3 texts"),
    ],
)
def test_what_is_no_vector_for_each_text_is_the_provider_s_failure(reply: Any, word: str) -> None:
    with pytest.raises(InvalidReply) as failure:
        read(reply)
    assert word in str(failure.value)
    assert failure.value.fault is Fault.DOWN


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        ({"error": {"message": "overloaded"}}, Fault.DOWN),
        ({"error": {"message": "slow down", "code": 429}}, Fault.THROTTLED),
        ({"error": {"message": "maximum context length is 8 tokens", "code": 400}}, Fault.TOO_LONG),
        ({"object": "error", "message": "no such model", "code": 404}, Fault.CONFIGURATION),
        ({"error": {"message": "no", "code": "insufficient_quota"}}, Fault.CONFIGURATION),
    ],
)
def test_an_error_inside_a_200_has_its_fault(error: Any, fault: Fault) -> None:
    with pytest.raises(ModelError) as failure:
        read(error)
    assert failure.value.fault is fault


def test_vectors_of_another_length_are_the_operators_to_mend() -> None:
    with pytest.raises(ModelMisconfigured, match=r"3 dimensions; models\.yaml says 2"):
        read({"data": items([[1.0, 2.0, 3.0]] * 3)})
