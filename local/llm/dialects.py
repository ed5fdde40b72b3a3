"""What each server refuses in a request, and what it silently ignores. Pure.

    dialect    max_tokens   max_completion_tokens   temperature   unknown parameter   stream_options without stream
    chat       yes          yes                     0 … 2         400                 400
    reasoning  400          yes                     1 only        400                 400
    vllm       yes          yes                     0 …           ignored             400
    ollama     yes          ignored                 yes           ignored             ignored
    llamacpp   yes          yes                     yes           ignored             ignored

Sources: OpenAI's and Azure's words as quoted in public issues (griptape-ai/ComfyUI-Griptape#312, tmc/langchaingo#1355,
SciPhi-AI/R2R#768) and Azure's list of what reasoning models do not support; vLLM's `OpenAIBaseModel` (extra="allow") and
`validate_stream_options`; the fields of Ollama's `ChatCompletionRequest` (openai/openai.go), which has no
`max_completion_tokens`; llama.cpp's tools/server. Dated API versions of Azure: its page of changes from version to version.
"""  # noqa: E501 - a table

from collections.abc import Mapping
from typing import Any, get_args

from local.llm.errors import ApiError, Dialect

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

# https://platform.openai.com/docs/api-reference/chat/create
_CHAT = frozenset(
    """audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages
    metadata modalities model n parallel_tool_calls prediction presence_penalty prompt_cache_key reasoning_effort
    response_format safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
    top_logprobs top_p user verbosity web_search_options data_sources""".split()
)
_EMBEDDINGS = frozenset("input model dimensions encoding_format user".split())
_STREAM_OPTIONS = frozenset({"include_usage", "include_obfuscation"})
# https://learn.microsoft.com/azure/ai-services/openai/how-to/reasoning, "Not supported"
_NOT_FOR_REASONING = ("top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias")
# Azure, 2024-09-01-preview: "max_completion_tokens added", "stream_options & include_usage added"
_SINCE = {"max_completion_tokens": "2024-09-01", "stream_options": "2024-09-01", "reasoning_effort": "2024-12-01"}
_REASONING_SINCE = "2024-12-01"


def check_chat(body: Mapping[str, Any], dialect: Dialect, api_version: str | None) -> None:
    """Raise `ApiError` for a chat request that this server refuses; `api_version`: of Azure's dated API, or None."""
    given = {name: value for name, value in body.items() if value is not None}
    if dialect == "vllm" and "stream_options" in given and not given.get("stream"):
        raise ApiError(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
    if dialect not in ("chat", "reasoning"):
        return
    if api_version is not None:
        _check_version(given, dialect, api_version[:10])
    _check_known(given, _CHAT)
    _check_stream_options(given)
    if "max_tokens" in given and "max_completion_tokens" in given:
        said = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise ApiError(400, said, param="max_tokens", code="invalid_parameter_combination")
    if dialect == "reasoning":
        _check_reasoning(given)
    elif "reasoning_effort" in given:
        raise ApiError(400, "Unrecognized request argument supplied: reasoning_effort")
    if not 0 <= (temperature := given.get("temperature", 1)) <= 2:
        above = (
            "above maximum value. Expected a value <= 2"
            if temperature > 2
            else "below minimum value. Expected a value >= 0"
        )
        code = f"decimal_{'above_max' if temperature > 2 else 'below_min'}_value"
        said = f"Invalid 'temperature': decimal {above}, but got {temperature} instead."
        raise ApiError(400, said, param="temperature", code=code)


def check_embeddings(body: Mapping[str, Any], dialect: Dialect, *, shortens: bool) -> None:
    """Raise `ApiError` for an embeddings request that this server refuses; `shortens`: it takes `dimensions`."""
    given = {name: value for name, value in body.items() if value is not None}
    if dialect in ("chat", "reasoning"):
        _check_known(given, _EMBEDDINGS)
    if "dimensions" in given and not shortens and dialect != "llamacpp":
        said = "This model does not support specifying dimensions."
        if dialect == "vllm":
            said = (
                f'Model "{given.get("model")}" does not support matryoshka representation, changing output dimensions '
            )
            said += "will lead to poor results."
        raise ApiError(400, said)


def _check_version(given: Mapping[str, Any], dialect: Dialect, version: str) -> None:
    if dialect == "reasoning" and version < _REASONING_SINCE:
        said = f"Model {given.get('model')} is enabled only for api versions {_REASONING_SINCE}-preview and later"
        raise ApiError(400, said, code="BadRequest", gateway=True)
    for name, since in _SINCE.items():
        if name in given and version < since:
            raise ApiError(400, f"Unrecognized request argument supplied: {name}")


def _check_known(given: Mapping[str, Any], known: frozenset[str]) -> None:
    if unknown := min(set(given) - known, default=None):
        raise ApiError(400, f"Unknown parameter: '{unknown}'.", param=unknown, code="unknown_parameter")


def _check_stream_options(given: Mapping[str, Any]) -> None:
    options = given.get("stream_options")
    if options is None:
        return
    if not given.get("stream"):
        said = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise ApiError(400, said, param="stream_options")
    if not isinstance(options, Mapping):
        said = "Invalid type for 'stream_options': expected an object."
        raise ApiError(400, said, param="stream_options", code="invalid_type")
    if unknown := min(set(options) - _STREAM_OPTIONS, default=None):
        name = f"stream_options.{unknown}"
        raise ApiError(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")


def _check_reasoning(given: Mapping[str, Any]) -> None:
    unsupported = {"param": "max_tokens", "code": "unsupported_parameter"}
    if "max_tokens" in given:
        said = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise ApiError(400, said, **unsupported)  # type: ignore[arg-type]
    for name in _NOT_FOR_REASONING:
        if name in given:
            said = f"Unsupported parameter: '{name}' is not supported with this model."
            raise ApiError(400, said, param=name, code="unsupported_parameter")
    if given.get("temperature", 1) != 1:
        said = f"Unsupported value: 'temperature' does not support {given['temperature']} with this model. "
        said += "Only the default (1) value is supported."
        raise ApiError(400, said, param="temperature", code="unsupported_value")
    effort = given.get("reasoning_effort", "low")
    if effort not in ("none", "minimal", "low", "medium", "high", "xhigh"):
        said = f"Unsupported value: 'reasoning_effort' does not support '{effort}' with this model. "
        said += "Supported values are: 'minimal', 'low', 'medium', and 'high'."
        raise ApiError(400, said, param="reasoning_effort", code="unsupported_value")
