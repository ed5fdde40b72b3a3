"""The OpenAI client of a deployment. The SDK is imported with the first client.

`max_retries=0`: the SDK would wait up to two minutes inside the process, while the message's lock runs out and no
budget is checked. The worker decides when to try again.
"""

import os
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from shared.errors import SettingsError
from shared.llm.deployments import AZURE_V1, Deployment, Provider

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

Token = Callable[[], Coroutine[Any, Any, str]]
"""Returns a valid access token each time."""
CONNECT = timedelta(seconds=5)
_SCOPE = "https://cognitiveservices.azure.com/.default"


def make_client(
    deployment: Deployment,
    *,
    timeout: timedelta,
    transport: "httpx2.AsyncBaseTransport | None" = None,
    environment: Mapping[str, str] = os.environ,
    identity: Token | None = None,
) -> "AsyncOpenAI":
    """A client for `deployment` that gives up after `timeout` and never retries; close it when done.

    `transport` carries its HTTP; None: `AiohttpTransport`. `identity`: the tokens for Azure where there is no key;
    None: those of the worker's own identity. Raises `SettingsError` when the key is missing.
    """
    from openai import AsyncAzureOpenAI, AsyncOpenAI, Timeout

    from shared.llm.bounded import bounded_client

    limits = Timeout(timeout.total_seconds(), connect=min(CONNECT, timeout).total_seconds())
    key = environment.get(deployment.key_env) if deployment.key_env else None
    if deployment.key_env and not key:
        raise SettingsError(f"{deployment.key_env} is not set; it must have the key of deployment {deployment.name}")
    token = (identity or _own_identity()) if deployment.provider is Provider.AZURE and not key else None
    shared: dict[str, Any] = {
        "timeout": limits,
        "max_retries": 0,
        "default_headers": deployment.headers,
        "http_client": bounded_client(limits, transport),
    }
    if deployment.provider is Provider.AZURE and deployment.api_version != AZURE_V1:
        return AsyncAzureOpenAI(
            azure_endpoint=deployment.address,
            api_version=deployment.api_version,
            api_key=key,
            azure_ad_token_provider=token,
            **shared,
        )
    # Azure's v1 API is OpenAI's with another address, and takes a token in place of the key. Servers that need no key
    # still require the header.
    return AsyncOpenAI(base_url=deployment.address, api_key=key or token or "none", **shared)


def _own_identity() -> Token:
    from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

    return get_bearer_token_provider(DefaultAzureCredential(), _SCOPE)
