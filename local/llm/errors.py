"""Refusals, in the words and the shape of the server that a deployment pretends to be.

chat, reasoning   {"error": {"message", "type", "param", "code"}}               api.openai.com, and Azure's models
Azure's gateway   {"error": {"code", "message"}}                                401, 404 and 429 on Azure's paths
vllm              {"error": {"message", "type", "param", "code": 400}}          vllm/entrypoints/openai/engine/protocol.py
ollama            {"error": {"message", "type", "param": null, "code": null}}   ollama/openai/openai.go, NewError
llamacpp          {"error": {"code": 400, "message", "type", …}}                llama.cpp/tools/server, format_error_response
"""  # noqa: E501 - a table

import math
from typing import Any, Literal

from local.llm import limits

Json = dict[str, Any]
Dialect = Literal["chat", "reasoning", "vllm", "ollama", "llamacpp"]

_VLLM_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 429: "TooManyRequestsError"}
_OLLAMA_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
_LLAMACPP_TYPES = {401: "authentication_error", 404: "not_found_error", 501: "not_supported_error"}
_LLAMACPP_TYPES |= {400: "invalid_request_error", 503: "unavailable_error"}


class ApiError(Exception):
    """A response other than 200. `gateway`: on Azure's paths, Azure's gateway says it, not the model."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        type_: str = "invalid_request_error",
        param: str | None = None,
        headers: dict[str, str] | None = None,
        gateway: bool = False,
        **more: object,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.type, self.param = status, message, code, type_, param
        self.headers, self.gateway, self.more = headers or {}, gateway, more

    def body(self, dialect: Dialect = "chat", *, azure: bool = False) -> Json:
        """The JSON of the response."""
        found: Json
        match dialect:
            case "vllm":
                kind = _VLLM_TYPES.get(self.status, "InternalServerError")
                found = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
            case "ollama":
                kind = _OLLAMA_TYPES.get(self.status, "api_error")
                found = {"message": self.message, "type": kind, "param": None, "code": None}
            case "llamacpp":
                kind = _LLAMACPP_TYPES.get(self.status, "server_error")
                found = {"code": self.status, "message": self.message, "type": kind} | self.more
            case _ if azure and self.gateway:
                found = {"code": self.code, "message": self.message}
            case _:
                found = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": found}


def no_key(dialect: Dialect, *, azure: bool) -> ApiError:
    """401."""
    if azure:
        said = "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key "
        said += "for an active subscription and use a correct regional API endpoint for your resource."
        return ApiError(401, said, code="401", gateway=True)
    said = {"vllm": "Unauthorized", "llamacpp": "Invalid API Key"}.get(
        dialect, "You didn't provide an API key. You need to provide your API key in an Authorization header."
    )
    return ApiError(401, said, code="invalid_api_key")


def unknown_deployment(name: str, dialect: Dialect, *, azure: bool) -> ApiError:
    """404."""
    if azure:
        said = "The API deployment for this resource does not exist. If you created the deployment within the last 5 "
        return ApiError(
            404, said + "minutes, please wait a moment and try again.", code="DeploymentNotFound", gateway=True
        )
    said = {
        "vllm": f"The model `{name}` does not exist.",
        "ollama": f'model "{name}" not found, try pulling it first',
    }.get(dialect, f"The model `{name}` does not exist or you do not have access to it.")
    return ApiError(404, said, code="model_not_found", param="model")


def too_long(dialect: Dialect, window: int, prompt: int, completion: int) -> ApiError:
    """400: the request does not fit the context window (tokens)."""
    code = "context_length_exceeded"
    if dialect == "llamacpp":
        said = f"request ({prompt} tokens) exceeds the available context size ({window} tokens), try increasing it"
        error = ApiError(400, said, n_prompt_tokens=prompt, n_ctx=window)
        error.more["type"] = "exceed_context_size_error"
        return error
    if dialect == "reasoning":
        said = (
            f"Input tokens exceed the configured limit of {window} tokens. Your messages resulted in {prompt} tokens. "
        )
        return ApiError(400, said + "Please reduce the length of the messages.", code=code, param="messages")
    said = (
        f"This model's maximum context length is {window} tokens. However, you requested {prompt + completion} tokens "
        f"({prompt} in the messages, {completion} in the completion). Please reduce the length of the messages or "
        "completion."
    )
    return ApiError(400, said, code=code, param="messages")


def too_fast(name: str, refused: limits.Refused, state: limits.Limits, *, azure: bool) -> ApiError:
    """429 with the wait in both headers; the SDK prefers the milliseconds."""
    headers = retry_headers(refused.wait) | limits.headers(state)
    if azure:
        kind = {"requests": "call", "tokens": "token"}[refused.quota]
        said = f"Your requests to {name} have exceeded the {kind} rate limit of your current pricing tier. "
        said += f"Please retry after {math.ceil(refused.wait)} seconds."
        return ApiError(429, said, code="RateLimitReached", headers=headers, gateway=True)
    said = (
        f"Rate limit reached for {name} on {refused.quota} per min: Limit {refused.limit}, Requested "
        f"{refused.requested}. Please try again in {limits.duration(refused.wait)}."
    )
    return ApiError(429, said, code="rate_limit_exceeded", type_=refused.quota, headers=headers)


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, never less than asked, and `retry-after-ms`."""
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
