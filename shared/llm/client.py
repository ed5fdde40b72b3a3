"""The OpenAI client of a deployment, and the translation of its errors. The SDK is imported with the first client.

`max_retries=0`: the SDK would wait up to two minutes inside the process, while the message's lock runs out and no
budget is checked. The worker decides when to try again.
"""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING

from shared.errors import DependencyDown, Reason, SettingsError, TryLater, Unprocessable
from shared.llm.deployments import Deployment, Provider
from shared.llm.errors import ContextTooLong, ModelRefused
from shared.text import brief

if TYPE_CHECKING:
    import httpx2
    from openai import APIStatusError, AsyncOpenAI

CONNECT = timedelta(seconds=5)
_SCOPE = "https://cognitiveservices.azure.com/.default"
_BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}
_DENIED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}


def make_client(
    deployment: Deployment,
    *,
    timeout: timedelta,
    transport: "httpx2.AsyncBaseTransport | None" = None,
    environment: Mapping[str, str] = os.environ,
) -> "AsyncOpenAI":
    """A client for `deployment` that gives up after `timeout` and never retries; close it when done.

    `transport` carries its HTTP; None: the SDK's own. Raises `SettingsError` when the key is missing.
    """
    from openai import AsyncAzureOpenAI, AsyncOpenAI, Timeout

    from shared.llm.bounded import bounded_client

    limits = Timeout(timeout.total_seconds(), connect=min(CONNECT, timeout).total_seconds())
    key = environment.get(deployment.key_env) if deployment.key_env else None
    if deployment.key_env and not key:
        raise SettingsError(f"{deployment.key_env} is not set; it must have the key of deployment {deployment.name}")
    if deployment.provider is not Provider.AZURE:
        return AsyncOpenAI(
            # Servers that need no key still require the header.
            base_url=deployment.endpoint,
            api_key=key or "none",
            timeout=limits,
            max_retries=0,
            http_client=bounded_client(limits, transport),
        )
    token = None
    if not key:
        from azure.identity.aio import DefaultAzureCredential, get_bearer_token_provider

        token = get_bearer_token_provider(DefaultAzureCredential(), _SCOPE)
    return AsyncAzureOpenAI(
        azure_endpoint=deployment.endpoint,
        api_version=deployment.api_version,
        api_key=key,
        azure_ad_token_provider=token,
        timeout=limits,
        max_retries=0,
        http_client=bounded_client(limits, transport),
    )


def translate(error: Exception) -> Exception:
    """What the SDK's `error` means for the work; raise the result `from` it. A bug is returned unchanged.

    `TryLater` for a throttle, with the wait that the provider asked for; `DependencyDown` when the provider fails;
    `ContextTooLong`, `ModelRefused`, `Unprocessable` when it refuses the request.
    """
    import httpx2
    import openai

    match error:
        case openai.APIConnectionError():  # timeouts are among them
            return DependencyDown(f"the model is unreachable: {brief(str(error))}")
        case openai.APIStatusError():
            return _from_status(error)
        case openai.APIError() | httpx2.HTTPError():
            # Without a status: the provider broke off inside an answer. Reading a stream ourselves, we see what the
            # HTTP client below the SDK says.
            return DependencyDown(f"the model's stream ended with an error: {brief(str(error) or repr(error))}")
        case json.JSONDecodeError():
            # The SDK lets it through: half an answer, or a proxy's error page.
            return DependencyDown("the model's reply is not JSON")
        case _:
            return error


def _from_status(error: "APIStatusError") -> Exception:
    status = error.status_code
    if status in _BUSY or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        kind = TryLater if status in _BUSY else DependencyDown
        return kind(f"the model answered {status}", after=_asked_to_wait(error.response.headers))
    if error.code == "context_length_exceeded":
        return ContextTooLong(f"the prompt does not fit the model: {brief(error.message)}")
    if error.code == "content_filter":
        return ModelRefused("the provider's content filter refused the prompt")
    if status in _DENIED:
        return Unprocessable(
            Reason.UNAUTHORIZED, f"the model refused our credentials ({status}); check key_env in models.yaml"
        )
    # Not the caller's fault: our request is made from the use case and models.yaml.
    return Unprocessable(Reason.MISCONFIGURED, f"the model refused the request ({status}): {brief(error.message)}")


def _asked_to_wait(headers: Mapping[str, str]) -> timedelta:
    """The wait in `Retry-After-Ms` or `Retry-After`; 0 without either."""
    for name, unit in (("retry-after-ms", timedelta(milliseconds=1)), ("retry-after", timedelta(seconds=1))):
        try:
            return max(timedelta(0), float(headers[name]) * unit)
        except (KeyError, ValueError, OverflowError):
            continue  # absent, or a date: then the worker's own wait applies
    return timedelta(0)
