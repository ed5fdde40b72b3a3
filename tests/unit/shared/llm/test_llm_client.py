"""The client of a deployment."""

from datetime import timedelta

import openai
import pytest

from shared.errors import SettingsError
from shared.llm.client import make_client
from shared.llm.deployments import Deployment, Provider

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
            **({"api_version": "2024-10-21"} if provider is Provider.AZURE else {}),
            **more,
        }
    )


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
