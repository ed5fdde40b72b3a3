"""A request by `posted` is the one that the SDK's own method sends; only the answer is left to us."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import openai
import pytest

from shared.llm.client import make_client
from shared.llm.deployments import Deployment
from shared.llm.post import CHAT, EMBEDDINGS, posted

MESSAGES = ({"role": "system", "content": "Answer."}, {"role": "user", "content": "Wie viele Tage, £ 3 … 🙂?"})
ASKED: dict[str, Any] = {
    "model": "m",
    "messages": MESSAGES,
    "max_completion_tokens": 100,
    "temperature": 0,
    "reasoning_effort": "low",
    "extra_body": {"chat_template_kwargs": {"thinking": False}, "seed": 3},
    "extra_headers": {"x-tenant": "one"},
}
STREAMED = {**ASKED, "stream": True, "stream_options": {"include_usage": True}}


class Wire(httpx2.AsyncBaseTransport):
    """Answers every request alike and keeps them."""

    def __init__(self, status: int = 200, body: bytes = b"{}") -> None:
        self.requests: list[httpx2.Request] = []
        self.answer = status, body
        self.closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        status, body = self.answer
        return httpx2.Response(status, stream=Body(self, body))


class Body(httpx2.AsyncByteStream):
    def __init__(self, wire: Wire, body: bytes) -> None:
        self.wire = wire
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body

    async def aclose(self) -> None:
        self.wire.closed = True


def client(wire: Wire, provider: str) -> openai.AsyncOpenAI:
    deployment = Deployment.model_validate(
        {
            "name": "d",
            "provider": provider,
            "endpoint": "https://x.example/v1",
            "model": "m",
            "region": "r",
            "context_window": 4000,
            "key_env": "KEY",
            **({"api_version": "2024-10-21"} if provider == "azure" else {}),
        }
    )
    return make_client(deployment, timeout=timedelta(seconds=10), transport=wire, environment={"KEY": "k"})


@pytest.mark.parametrize("provider", ["azure", "openai", "compatible"])
@pytest.mark.parametrize("asked", [ASKED, STREAMED], ids=["whole", "streamed"])
async def test_a_chat_request_is_the_one_that_the_sdk_sends(provider: str, asked: dict[str, Any]) -> None:
    wire = Wire()
    async with client(wire, provider) as model:
        async with model.chat.completions.with_streaming_response.create(**asked):
            pass
        async with posted(model, CHAT, asked):
            pass
    theirs, ours = wire.requests
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    assert json.loads(ours.read()) == json.loads(theirs.read())
    # How the SDK is to hand over the answer is for its own use.
    told_itself = {"x-stainless-raw-response"}
    assert set(ours.headers.multi_items()) == {
        (name, value) for name, value in theirs.headers.multi_items() if name not in told_itself
    }
    assert ours.extensions["timeout"] == theirs.extensions["timeout"]


@pytest.mark.parametrize("encoding", ["base64", "float"])
async def test_an_embeddings_request_is_the_one_that_the_sdk_sends(encoding: str) -> None:
    asked: dict[str, Any] = {"model": "m", "input": ["one", "two"], "dimensions": 256, "encoding_format": encoding}
    wire = Wire()
    async with client(wire, "azure") as model:
        async with model.embeddings.with_streaming_response.create(**asked):
            pass
        async with posted(model, EMBEDDINGS, asked):
            pass
    theirs, ours = wire.requests
    assert ours.url == theirs.url
    assert json.loads(ours.read()) == json.loads(theirs.read())


async def test_the_body_is_left_to_the_reader_and_closed() -> None:
    wire = Wire(body=b"not what the SDK would accept")
    async with client(wire, "openai") as model:
        async with posted(model, CHAT, ASKED) as response:
            assert not response.is_stream_consumed
            assert not wire.closed
        assert wire.closed


async def test_a_refusal_is_the_error_of_the_sdk() -> None:
    wire = Wire(429, b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}')
    async with client(wire, "azure") as model:
        with pytest.raises(openai.RateLimitError, match="slow down") as refused:
            async with posted(model, CHAT, ASKED):
                pytest.fail("there is no response")
    assert refused.value.code == "rate_limit_exceeded"
    assert len(wire.requests) == 1
