"""The client of a deployment, and what the SDK's errors mean to a worker."""

import json
from datetime import timedelta

import httpx2
import openai
import pytest

from shared.errors import DependencyDown, Reason, SettingsError, TryLater, Unprocessable
from shared.llm.client import make_client, translate
from shared.llm.deployments import Deployment, Provider
from shared.llm.errors import ContextTooLong, ModelRefused

REQUEST = httpx2.Request("POST", "https://x.example/chat/completions")
TEN_SECONDS = timedelta(seconds=10)


def deployment(provider: Provider, **more: object) -> Deployment:
    return Deployment.model_validate(
        {
            "name": "d",
            "provider": provider,
            "endpoint": "https://x.example",
            "model": "m",
            "region": "r",
            "context_window": 4000,
            "api_version": "2024-10-21",
            **more,
        }
    )


def status(code: int, *, headers: dict[str, str] | None = None, error: str | None = None) -> openai.APIStatusError:
    response = httpx2.Response(code, headers=headers, request=REQUEST)
    kind = openai.RateLimitError if code == 429 else openai.BadRequestError if code == 400 else openai.APIStatusError
    return kind("refused", response=response, body={"code": error})


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (status(429), 0),
        (status(429, headers={"retry-after": "7"}), 7),
        (status(429, headers={"retry-after": "7", "retry-after-ms": "250"}), 0.25),
        (status(429, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), 0),
        (status(429, headers={"retry-after": "-3"}), 0),
        (status(408), 0),
        (status(409), 0),
    ],
)
def test_a_throttle_means_try_later(error: Exception, after: float) -> None:
    meant = translate(error)
    assert type(meant) is TryLater
    assert meant.after == timedelta(seconds=after)


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (status(500), 0),
        (status(503, headers={"retry-after": "2"}), 2),
        (openai.APITimeoutError(REQUEST), 0),
        (openai.APIConnectionError(request=REQUEST), 0),
        (openai.APIError("broke off", REQUEST, body=None), 0),
        (httpx2.ReadError("reset"), 0),
        (httpx2.RemoteProtocolError("incomplete chunked read"), 0),
        (json.JSONDecodeError("half an answer", "{", 1), 0),
    ],
)
def test_a_model_that_fails_is_down(error: Exception, after: float) -> None:
    meant = translate(error)
    assert type(meant) is DependencyDown
    assert meant.after == timedelta(seconds=after)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (status(400, error="context_length_exceeded"), ContextTooLong, Reason.PAYLOAD_TOO_LARGE),
        (status(400, error="content_filter"), ModelRefused, Reason.POISON_CONTENT),
        (status(400), Unprocessable, Reason.MISCONFIGURED),
        (status(404), Unprocessable, Reason.MISCONFIGURED),
        (status(401), Unprocessable, Reason.UNAUTHORIZED),
    ],
)
def test_errors_that_no_retry_can_fix_are_named(error: Exception, kind: type[Unprocessable], reason: Reason) -> None:
    meant = translate(error)
    assert type(meant) is kind
    assert meant.reason is reason


def test_an_unknown_error_is_not_translated() -> None:
    bug = KeyError("x")
    assert translate(bug) is bug


@pytest.mark.parametrize("provider", list(Provider))
async def test_clients_do_not_retry(provider: Provider) -> None:
    client = make_client(deployment(provider, key_env="KEY"), timeout=TEN_SECONDS, environment={"KEY": "k"})
    assert client.max_retries == 0
    assert client.api_key == "k"
    assert isinstance(client, openai.AsyncAzureOpenAI) is (provider is Provider.AZURE)
    await client.close()


async def test_a_server_that_needs_no_key_gets_none() -> None:
    client = make_client(deployment(Provider.COMPATIBLE), timeout=TEN_SECONDS, environment={})
    assert str(client.base_url).rstrip("/") == "https://x.example"
    await client.close()


def test_a_missing_key_is_named_but_never_shown() -> None:
    with pytest.raises(SettingsError, match="OPENAI_KEY is not set; it must have the key of deployment d"):
        make_client(deployment(Provider.OPENAI, key_env="OPENAI_KEY"), timeout=TEN_SECONDS, environment={})
