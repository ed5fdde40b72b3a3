"""What each server refuses, and in which words."""

from typing import Any

import pytest

from local.llm.dialects import DIALECTS, check_chat, check_embeddings
from local.llm.errors import ApiError, Dialect, no_key, too_long, unknown_deployment

OPENAI: list[Dialect] = ["chat", "reasoning"]
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def refused(dialect: Dialect, api_version: str | None = None, **body: Any) -> tuple[str | None, str | None, str] | None:
    """Code, parameter and words of the refusal."""
    try:
        check_chat({"model": "m", "messages": [], **body}, dialect, api_version)
    except ApiError as error:
        return error.code, error.param, error.message
    return None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_every_server_takes_is_not_refused(dialect: Dialect) -> None:
    assert refused(dialect, max_completion_tokens=9, **STREAMED) is None
    assert refused(dialect, seed=7, temperature=None, response_format={"type": "json_object"}) is None


@pytest.mark.parametrize(
    ("dialect", "body", "code", "param", "words"),
    [
        ("reasoning", {"max_tokens": 9}, "unsupported_parameter", "max_tokens", "Use 'max_completion_tokens' instead"),
        ("reasoning", {"temperature": 0}, "unsupported_value", "temperature", "does not support 0 with this model"),
        ("reasoning", {"top_p": 0.5}, "unsupported_parameter", "top_p", "is not supported with this model"),
        ("reasoning", {"reasoning_effort": "most"}, "unsupported_value", "reasoning_effort", "Supported values are"),
        ("chat", {"reasoning_effort": "low"}, None, None, "Unrecognized request argument supplied: reasoning_effort"),
        ("chat", {"top_k": 4}, "unknown_parameter", "top_k", "Unknown parameter: 'top_k'."),
        ("chat", {"temperature": 3}, "decimal_above_max_value", "temperature", "Expected a value <= 2, but got 3"),
        ("chat", {"temperature": -1}, "decimal_below_min_value", "temperature", "Expected a value >= 0, but got -1"),
        ("chat", {"stream_options": {}}, None, "stream_options", "only allowed when 'stream' is enabled"),
        ("vllm", {"stream_options": {}}, None, "stream_options", "can only be defined when `stream=True`"),
        (
            "chat",
            {"stream": True, "stream_options": {"x": 1}},
            "unknown_parameter",
            "stream_options.x",
            "Unknown parameter: 'stream_options.x'.",
        ),
        ("chat", {"max_tokens": 1, "max_completion_tokens": 1}, "invalid_parameter_combination", "max_tokens", "same"),
    ],
)
def test_a_refusal_names_the_parameter(
    dialect: Dialect, body: dict[str, Any], code: str | None, param: str | None, words: str
) -> None:
    found = refused(dialect, **body)
    assert found is not None
    assert found[:2] == (code, param)
    assert words in found[2]


@pytest.mark.parametrize("dialect", ["vllm", "ollama", "llamacpp"])
def test_these_servers_ignore_what_they_do_not_know(dialect: Dialect) -> None:
    assert refused(dialect, max_tokens=9, temperature=0, top_k=4, mirostat=2, reasoning_effort="low") is None


@pytest.mark.parametrize(
    ("dialect", "version", "body", "words"),
    [
        ("chat", "2024-06-01", STREAMED, "Unrecognized request argument supplied: stream_options"),
        ("chat", "2024-06-01", {"max_completion_tokens": 9}, "supplied: max_completion_tokens"),
        ("reasoning", "2024-10-21", {}, "enabled only for api versions 2024-12-01-preview and later"),
    ],
)
def test_an_old_api_version_of_azure_knows_less(
    dialect: Dialect, version: str, body: dict[str, Any], words: str
) -> None:
    found = refused(dialect, version, **body)
    assert found is not None
    assert words in found[2]
    assert refused(dialect, "2024-12-01-preview", **body) is None


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dimensions_are_refused_by_a_model_that_has_one_length(dialect: Dialect) -> None:
    body = {"model": "m", "input": "x", "dimensions": 64}
    check_embeddings(body, dialect, shortens=True)
    if dialect == "llamacpp":
        check_embeddings(body, dialect, shortens=False)
        return
    with pytest.raises(ApiError, match="matryoshka" if dialect == "vllm" else "does not support specifying dimensions"):
        check_embeddings(body, dialect, shortens=False)


def test_every_server_has_its_own_shape_of_an_error() -> None:
    shapes = {dialect: too_long(dialect, 4096, 5000, 400).body(dialect)["error"] for dialect in DIALECTS}
    assert {dialect: (shape["code"], shape["type"]) for dialect, shape in shapes.items()} == {
        "chat": ("context_length_exceeded", "invalid_request_error"),
        "reasoning": ("context_length_exceeded", "invalid_request_error"),
        "vllm": (400, "BadRequestError"),
        "ollama": (None, "invalid_request_error"),
        "llamacpp": (400, "exceed_context_size_error"),
    }
    assert (shapes["llamacpp"]["n_prompt_tokens"], shapes["llamacpp"]["n_ctx"]) == (5000, 4096)
    assert "5000" in shapes["reasoning"]["message"]
    assert "5400" in shapes["chat"]["message"]


@pytest.mark.parametrize("error", [no_key("chat", azure=True), unknown_deployment("m", "chat", azure=True)])
def test_azures_gateway_says_code_and_message_alone(error: ApiError) -> None:
    assert set(error.body(azure=True)["error"]) == {"code", "message"}
