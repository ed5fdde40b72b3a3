"""What arrives at a server for each block of docs/reference/models.md, sent by the real SDK over a real socket.

The paths, headers and parameters are those of the providers' own pages:

- Azure OpenAI v1: learn.microsoft.com/azure/ai-foundry/openai/latest ("POST {endpoint}/openai/v1/chat/completions",
  `api-version` not required, `Authorization: Bearer`), reasoning models: …/openai/how-to/reasoning (only
  `max_completion_tokens`; `temperature`, `top_p` and others are not supported)
- Azure OpenAI with dates: learn.microsoft.com/azure/ai-services/openai/reference ("POST …/openai/deployments/
  {deployment-id}/chat/completions?api-version={api-version}", `api-key`)
- OpenAI: platform.openai.com/docs/api-reference/chat/create (`max_tokens` deprecated, and not compatible with o-series
  models), …/embeddings/create (`dimensions` only in text-embedding-3 and later)
- vLLM: docs.vllm.ai/en/stable/serving/openai_compatible_server (extra parameters in the body; `dimensions` only for
  Matryoshka models)
- Ollama: docs.ollama.com/api/openai-compatibility (the lists "Supported request fields")
- llama.cpp: github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.generator.chat import Chat
from shared.embeddings.openai import OpenAIEmbedder
from shared.llm.client import make_client
from shared.llm.deployments import Deployment, Deployments, ModelKind
from shared.llm.dialect import body as chat_body
from shared.llm.errors import ModelMisconfigured
from shared.telemetry.metrics import configure
from tests.support.odd_provider import DONE, OddProvider, body, chunk, status, stream, usage, whole

BLOCKS = Path(__file__).parents[2] / "examples/models"
LONG = timedelta(seconds=300)
MESSAGES = ({"role": "system", "content": "Answer."}, {"role": "user", "content": "How many days?"})
ANSWER = 300
KEYS = ("AZURE_OPENAI_KEY", "OPENAI_API_KEY", "VLLM_KEY")
AZURE_PATH = "/openai/deployments/{}?api-version=2024-10-21"
BEARER, API_KEY, NO_KEY = ("authorization", "Bearer k-1"), ("api-key", "k-1"), ("authorization", "Bearer none")


def sampled(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": ANSWER, "temperature": 0, **more}


# By block and deployment: the path, the header with the key, and the body without messages or input.
DOCUMENTED: dict[tuple[str, str], tuple[str, tuple[str, str], dict[str, Any]]] = {
    ("azure-v1", "gpt-4-1"): ("/openai/v1/chat/completions", BEARER, sampled("gpt-4.1")),
    ("azure-v1", "gpt-5-mini"): (
        "/openai/v1/chat/completions",
        BEARER,
        {"model": "gpt-5-mini", "max_completion_tokens": ANSWER, "reasoning_effort": "low"},
    ),
    ("azure-v1", "embeddings"): (
        "/openai/v1/embeddings",
        BEARER,
        {"model": "text-embedding-3-small", "dimensions": 512, "encoding_format": "base64"},
    ),
    ("azure-dated", "gpt-4o"): (AZURE_PATH.format("gpt-4o/chat/completions"), API_KEY, sampled("gpt-4o")),
    ("azure-dated", "embeddings"): (
        AZURE_PATH.format("text-embedding-ada-002/embeddings"),
        API_KEY,
        {"model": "text-embedding-ada-002", "encoding_format": "base64"},
    ),
    ("openai", "gpt-4-1-mini"): (
        "/v1/chat/completions",
        BEARER,
        {"model": "gpt-4.1-mini", "max_completion_tokens": ANSWER, "temperature": 0},
    ),
    ("openai", "gpt-5-mini"): (
        "/v1/chat/completions",
        BEARER,
        {"model": "gpt-5-mini", "max_completion_tokens": ANSWER, "reasoning_effort": "low"},
    ),
    ("openai", "embeddings"): (
        "/v1/embeddings",
        BEARER,
        {"model": "text-embedding-3-small", "dimensions": 512, "encoding_format": "base64"},
    ),
    ("vllm", "qwen3-8b"): (
        "/v1/chat/completions",
        BEARER,
        sampled("Qwen/Qwen3-8B", seed=7, chat_template_kwargs={"enable_thinking": False}),
    ),
    ("vllm", "embeddings"): ("/v1/embeddings", BEARER, {"model": "BAAI/bge-m3", "encoding_format": "base64"}),
    ("ollama", "llama3-1-8b"): ("/v1/chat/completions", NO_KEY, sampled("llama3.1:8b")),
    ("ollama", "embeddings"): ("/v1/embeddings", NO_KEY, {"model": "nomic-embed-text", "encoding_format": "float"}),
    ("llamacpp", "own-8k"): (
        "/v1/chat/completions",
        NO_KEY,
        sampled("own", stream=True, stream_options={"include_usage": True}),
    ),
    ("llamacpp", "embeddings"): ("/v1/embeddings", NO_KEY, {"model": "own", "encoding_format": "float"}),
}
STREAMED = stream(chunk("Five."), chunk("", "stop"), usage(), DONE)


@pytest.fixture
async def provider(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OddProvider]:
    """A server that answers as it is asked; every key is k-1."""
    for name in KEYS:
        monkeypatch.setenv(name, "k-1")
    async with OddProvider(answer) as running:
        yield running


def answer(asked: dict[str, Any]) -> Any:
    """What a server answers that takes everything."""
    if "input" in asked:
        vectors = [{"index": n, "embedding": [1.0] * 4} for n, _ in enumerate(asked["input"])]
        return body({"data": vectors, "usage": {"prompt_tokens": 3}})
    return STREAMED if asked.get("stream") else whole("Five.")


def read(block: str, provider: OddProvider) -> Deployments:
    """A block of the page, with its endpoints at `provider`."""
    other = ("OPENAI_BASE", "VLLM_ENDPOINT", "OLLAMA_ENDPOINT", "LLAMACPP_ENDPOINT")
    embeddings = ("VLLM_EMBEDDINGS_ENDPOINT", "LLAMACPP_EMBEDDINGS_ENDPOINT")
    there = dict.fromkeys((*other, *embeddings), provider.url)
    return Deployments.read(BLOCKS / f"{block}.yaml", {**there, "AZURE_OPENAI_ENDPOINT": provider.origin})


async def never() -> None:
    await asyncio.Event().wait()


async def ask(*deployments: Deployment, times: int = 1) -> list[str]:
    """Ask chat deployments, each `times` times in one process."""
    chat = Chat(LONG, configure("test"))
    try:
        return [
            (await chat.complete(each, MESSAGES, answer_tokens=ANSWER, within=LONG, cancelled=never)).text
            for each in deployments
            for _ in range(times)
        ]
    finally:
        await chat.close()


async def embed(deployment: Deployment, times: int = 1) -> None:
    client = make_client(deployment, timeout=LONG)
    embedder = OpenAIEmbedder(client, deployment.model_copy(update={"dimensions": 4}))
    try:
        for _ in range(times):
            await embedder.embed(["one", "two"])
    finally:
        await client.close()


def test_every_deployment_of_every_block_is_in_the_table() -> None:
    anywhere = {"AZURE_OPENAI_ENDPOINT": "https://x.example"}
    there = {
        (file.stem, each.name)
        for file in BLOCKS.glob("*.yaml")
        for each in Deployments.read(file, anywhere).deployments
    }
    assert there == set(DOCUMENTED)


@pytest.mark.parametrize(("block", "name"), list(DOCUMENTED), ids="-".join)
async def test_a_block_sends_what_its_server_documents(provider: OddProvider, block: str, name: str) -> None:
    path, (header, key), documented = DOCUMENTED[block, name]
    [deployment] = [each for each in read(block, provider).deployments if each.name == name]
    if deployment.kind is ModelKind.EMBEDDING:
        await embed(deployment)
        # The length that is asked for; the server here makes vectors of four.
        documented = {**documented, **({"dimensions": 4} if "dimensions" in documented else {})}
    else:
        assert await ask(deployment) == ["Five."]
    [asked], [taken], [headers] = provider.asked, provider.paths, provider.headers
    assert taken == path
    assert headers[header] == key
    content = {"input": ["one", "two"]} if "input" in asked else {"messages": list(MESSAGES)}
    assert asked == {**documented, **content}


def refusing(*refusals: tuple[str, Any]) -> Any:
    """A server that refuses each of these parameters while a request has it, the first one first."""

    def answered(asked: dict[str, Any]) -> Any:
        said = next((said for parameter, said in refusals if parameter in asked), None)
        return status(400, said) if said is not None else answer(asked)

    return answered


def unsupported(parameter: str, **more: Any) -> tuple[str, Any]:
    """As OpenAI and Azure refuse a parameter."""
    said = f"Unsupported parameter: '{parameter}' is not supported with this model."
    return parameter, {"error": {"message": said, "param": parameter, "code": "unsupported_parameter", **more}}


EXTRA = [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]


async def test_refused_parameters_are_each_learned_once_and_named_for_models_yaml(provider: OddProvider) -> None:
    provider.answers = [
        refusing(unsupported("max_tokens"), unsupported("temperature"), ("stream_options", {"detail": EXTRA}))
    ]
    [deployment] = read("llamacpp", provider).chats()
    with capture_logs() as logs:
        assert await ask(deployment, times=2) == ["Five.", "Five."]
    # Three refusals, and then every call is right at once.
    assert len(provider.asked) == 5
    assert {*provider.asked[-1]} == {"model", "messages", "max_completion_tokens", "stream"}
    warned = [each for each in logs if each["event"] == "model.parameter_refused"]
    assert [each["log_level"] for each in warned] == ["warning"] * 3
    lines = ("token_limit: max_completion_tokens", "temperature: none", "stream_options: false")
    assert [each["write"] for each in warned] == [f"{line} (deployment own-8k in models.yaml)" for line in lines]


async def test_a_refusal_of_what_is_not_sent_teaches_nothing(provider: OddProvider) -> None:
    provider.answers = [status(400, unsupported("logit_bias")[1])]
    with pytest.raises(ModelMisconfigured, match="logit_bias"):
        await ask(*read("azure-dated", provider).chats())
    assert len(provider.asked) == 1


async def test_a_server_that_refuses_everything_is_asked_once_per_parameter(provider: OddProvider) -> None:
    names = ("max_tokens", "max_completion_tokens", "temperature")
    provider.answers = [refusing(*map(unsupported, names), unsupported("messages"))]
    with pytest.raises(ModelMisconfigured):
        await ask(*read("azure-dated", provider).chats())
    assert len(provider.asked) == 2


async def test_an_embedding_model_that_refuses_dimensions_and_base64_is_asked_without(provider: OddProvider) -> None:
    refused = {"error": {"message": "This model does not support specifying dimensions.", "code": None, "param": None}}
    provider.answers = [refusing(("dimensions", refused))]
    [deployment] = [each for each in read("openai", provider).deployments if each.kind is ModelKind.EMBEDDING]
    await embed(deployment, times=2)
    assert ["dimensions" in asked for asked in provider.asked] == [True, False, False]


@pytest.mark.parametrize("version", ["v1", "2024-10-21"])
async def test_azure_without_a_key_gets_the_workers_token(provider: OddProvider, version: str) -> None:
    given = read("azure-v1", provider).chats()[0].model_copy(update={"api_version": version, "key_env": None})
    fresh = iter(["t-1", "t-2"])

    async def token() -> str:
        return next(fresh)

    async with make_client(given, timeout=LONG, identity=token) as client:
        for _ in range(2):
            await client.chat.completions.create(**chat_body(given, MESSAGES, ANSWER, False))
    assert [headers["authorization"] for headers in provider.headers] == ["Bearer t-1", "Bearer t-2"]
    assert not any("api-key" in headers for headers in provider.headers)


@pytest.mark.parametrize("block", ["azure-v1", "azure-dated", "openai"])
async def test_more_headers_and_parameters_are_sent_with_chats_and_embeddings(
    provider: OddProvider, block: str
) -> None:
    more = {"headers": {"Ocp-Apim-Subscription-Key": "s-1"}, "body": {"user": "ragbus"}}
    [embedding] = [each for each in read(block, provider).deployments if each.kind is ModelKind.EMBEDDING]
    await ask(read(block, provider).chats()[0].model_copy(update=more))
    await embed(embedding.model_copy(update=more))
    assert [headers["ocp-apim-subscription-key"] for headers in provider.headers] == ["s-1"] * 2
    assert [asked["user"] for asked in provider.asked] == ["ragbus"] * 2
