"""The embedding adapter, against a client that only pretends to call out."""

from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from shared.embeddings.openai import BATCH, OpenAIEmbedder
from shared.errors import DependencyDown, SettingsError
from tests.support.builders import a_deployment


class Service:
    """Answers embeddings in reverse order; a vector says which text it is for."""

    def __init__(self, *, length: int = 2, lose: int = 0, error: Exception | None = None, usage: Any = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.embeddings = self
        self._length, self._lose, self._error, self._usage = length, lose, error, usage

    async def create(self, **asked: Any) -> SimpleNamespace:
        self.calls.append(asked)
        if self._error:
            raise self._error
        data = [
            SimpleNamespace(index=n, embedding=[float(text), *[0.0] * (self._length - 1)])
            for n, text in enumerate(asked["input"])
        ]
        answer = SimpleNamespace(data=data[self._lose :][::-1])
        if self._usage is not None:
            answer.usage = self._usage
        return answer


def embedder(service: Any, **changes: Any) -> OpenAIEmbedder:
    return OpenAIEmbedder(service, a_deployment("e", 8000, kind="embedding", dimensions=2, **changes))


async def test_vectors_come_in_the_order_of_the_texts_however_many_there_are() -> None:
    service = Service()
    texts = [str(n) for n in range(2 * BATCH + 1)]
    vectors = (await embedder(service).embed(texts)).vectors
    assert [vector[0] for vector in vectors] == [float(n) for n in range(2 * BATCH + 1)]
    assert [len(call["input"]) for call in service.calls] == [BATCH, BATCH, 1]


async def test_dimensions_are_requested_unless_the_model_cannot_choose() -> None:
    able, unable = Service(), Service()
    await embedder(able).embed(["1"])
    await embedder(unable, send_dimensions=False).embed(["1"])
    assert able.calls[0]["dimensions"] == 2
    assert "dimensions" not in unable.calls[0]


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_an_empty_text_is_refused_before_anything_is_paid(text: str) -> None:
    service = Service()
    with pytest.raises(ValueError, match="empty text"):
        await embedder(service).embed(["1", text])
    assert not service.calls


async def test_errors_of_the_sdk_are_translated_and_kept_as_the_cause() -> None:
    cause = httpx2.ReadError("reset")
    with pytest.raises(DependencyDown, match="reset") as raised:
        await embedder(Service(error=cause)).embed(["1"])
    assert raised.value.__cause__ is cause


async def test_a_reply_without_all_vectors_is_retried() -> None:
    with pytest.raises(DependencyDown, match="1 vectors for 2 texts"):
        await embedder(Service(lose=1)).embed(["1", "2"])


async def test_vectors_of_another_length_than_configured_are_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="3 dimensions"):
        await embedder(Service(length=3)).embed(["1"])


async def test_a_reply_that_the_sdk_cannot_read_is_retried() -> None:
    with pytest.raises(DependencyDown, match="No embedding data received"):
        await embedder(Service(error=ValueError("No embedding data received"))).embed(["1"])


async def test_without_texts_no_call_is_made() -> None:
    service = Service()
    assert (await embedder(service).embed([])).vectors == []
    assert not service.calls


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (SimpleNamespace(prompt_tokens=7, total_tokens=7), 14),
        (SimpleNamespace(prompt_tokens=0, total_tokens=0), None),
        (SimpleNamespace(), None),
        (None, None),
    ],
)
async def test_the_provider_s_token_count_is_returned_and_none_without_one(usage: Any, tokens: int | None) -> None:
    embedded = await embedder(Service(usage=usage)).embed(["1"] * (BATCH + 1))
    assert embedded.tokens == tokens
