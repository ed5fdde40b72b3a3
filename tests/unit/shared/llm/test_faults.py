"""Whose fault a provider's error is, in the words of many providers."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import openai
import pytest

from shared.errors import DependencyDown, Reason, TryLater, Unprocessable
from shared.llm.errors import (
    ContextTooLong,
    Fault,
    InvalidReply,
    ModelDown,
    ModelError,
    ModelMisconfigured,
    ModelRefused,
    Throttled,
)
from shared.llm.faults import LONGEST_WAIT, SENTENCE, error_in, redacted, said, translate, wait_asked
from tests.support.builders import a_deployment

REQUEST = httpx2.Request("POST", "https://x.example/chat/completions")
D = a_deployment("d", 4000)
CLIENT = openai.AsyncOpenAI(api_key="k", base_url="https://x.example")


def status(code: int, body: Any = None, headers: dict[str, str] | None = None) -> openai.APIStatusError:
    """As the SDK makes it: it unwraps `error`, and keeps a body that is not JSON as text."""
    text = body if isinstance(body, str) else json.dumps(body if body is not None else {})
    return CLIENT._make_status_error_from_response(httpx2.Response(code, headers=headers, text=text, request=REQUEST))


def meant(error: Exception) -> ModelError:
    found = translate(error, D)
    assert isinstance(found, ModelError)
    return found


def openai_says(message: str, code: str | int | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


TOO_LONG: list[tuple[int, Any]] = [
    (400, openai_says("any words", "context_length_exceeded")),
    (400, openai_says("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.")),
    (400, openai_says("Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000.")),
    (400, openai_says("Your input exceeds the context window of this model. Please adjust your input and try again.")),
    (400, openai_says("Invalid 'messages[1].content': string too long.", "string_above_max_length")),
    (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400}),
    (400, openai_says("The decoder prompt (length 9000) is longer than the maximum model length of 4096.", 400)),
    (400, openai_says("'max_tokens' is too large: 1024. This model's maximum context length is 2048 tokens.", 400)),
    (400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it"}}),
    (400, {"error": {"code": 400, "message": "words", "type": "exceed_context_size_error", "n_ctx": 256}}),
    (400, openai_says("request (4390 tokens) exceeds the available context size (4096 tokens)", 400)),
    (500, {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}),
    (500, {"error": {"code": 500, "message": "input is too large to process. increase the physical batch size"}}),
    (500, openai_says("Requested tokens (2285) exceed context window of 2048")),
    (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 4292."}),
    (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}),
    (400, openai_says("because the input token count is 40000 but model only supports up to 32768.")),
    (422, {"detail": "Prompt has too many tokens (300000 > 262144)"}),
    (400, {"errors": [{"message": "the number of input tokens 9000 cannot exceed the total tokens limit 8192"}]}),
    (413, openai_says("Request body too large for gpt-5 model. Max size: 4000 tokens.", "tokens_limit_reached")),
    (400, openai_says("输入长度超过模型最大上下文长度 32768", "InvalidParameter")),
    (400, {"object": "error", "message": "The input (61709 tokens) is longer than the model's context length (40960 "
                                         "tokens).", "type": "BadRequestError", "param": None, "code": 400}),
    (400, openai_says("Requested token count exceeds the model's maximum context length of 8192 tokens.", 400)),
    (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000",
           "error_type": "validation"}),
    (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1200"}),
    (400, {"error": "the input length exceeds the context length"}),
    (400, {"error": {"message": "prompt too long; exceeded max context length by 7 tokens"}}),
    (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. The number of tokens to keep "
                    "from the initial prompt is greater than the context length."}),
    (400, openai_says("prompt is too long: 210000 tokens > 200000 maximum")),
    (400, openai_says("input length and `max_tokens` exceed context limit: 190000 + 16000 > 200000")),
    (400, openai_says("The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).")),
    (400, openai_says("Input is too long for requested model.")),
    (400, openai_says("This model's maximum prompt length is 131072 but the request contains 200000 tokens.")),
    (400, openai_says("Invalid request: Your request exceeded model token limit: 262144")),
    (400, openai_says("prompt token count of 65204 exceeds the limit of 64000")),
    (400, openai_says("Please reduce the length of the messages or completion.")),
    (413, openai_says("Request too large for model `m`: your message is too long")),
    (429, openai_says("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 40000. The input "
                      "or output tokens must be reduced in order to run successfully.", "rate_limit_exceeded")),
]  # fmt: skip

EXTRA_INPUT = {
    "detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted", "input": "secret"}]
}
PAGE = "<html><head><title>413 Request Entity Too Large</title></head></html>"
CONFIGURATION: list[tuple[int, Any]] = [
    (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}}),
    (404, {"error": "model 'llama3' not found"}),
    (404, {"detail": "Not Found"}),
    (404, {"statusCode": 404, "message": "Resource not found"}),
    (401, openai_says("Incorrect API key provided", "invalid_api_key")),
    (403, {"error": {"code": "AuthenticationTypeDisabled", "message": "Key based authentication is disabled"}}),
    (402, openai_says("Insufficient Balance", "invalid_request_error")),
    (429, openai_says("You exceeded your current quota, please check your plan", "insufficient_quota")),
    (429, openai_says("You exceeded your current quota", None, "insufficient_quota")),
    (400, openai_says("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                      "'max_completion_tokens' instead.", "unsupported_parameter")),
    (400, openai_says("Unsupported value: 'temperature' does not support 0.0 with this model.", "unsupported_value")),
    (400, openai_says("max_tokens is too large: 5000. This model supports at most 4096 completion tokens")),
    (422, EXTRA_INPUT),
    (413, PAGE),
    (405, ""),
    (400, ""),
    (501, {"error": {"code": 501, "message": "This server does not support embeddings. Start it with `--embeddings`"}}),
]  # fmt: skip

REFUSED: list[tuple[int, Any]] = [
    (400, {"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content "
                                "management policy.", "code": "content_filter", "status": 400,
                     "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, {"error": {"message": "words", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, openai_says("Invalid prompt: your prompt was flagged as potentially violating our usage policy.")),
    (400, openai_says("words", "content_policy_violation")),
]  # fmt: skip

THROTTLED: list[tuple[int, Any]] = [
    (429, openai_says("Rate limit reached for m on tokens per min (TPM): Limit 1, Used 1, Requested 1", "rate_limit_"
                      "exceeded", "tokens")),
    (429, {"error": {"code": "429", "message": "Requests have exceeded token rate limit of your current OpenAI S0 "
                                               "pricing tier. Please retry after 8 seconds."}}),
    (429, {"error": {"code": 429, "message": "You exceeded your current quota", "status": "RESOURCE_EXHAUSTED"}}),
    (429, "<html><title>Too Many Requests</title></html>"),
    (408, ""),
    (409, ""),
]  # fmt: skip

DOWN: list[tuple[int, Any]] = [
    (500, openai_says("The server had an error while processing your request", None, "server_error")),
    (502, "<html><title>502 Bad Gateway</title></html>"),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
]


@pytest.mark.parametrize(
    ("fault", "kind", "code", "body"),
    [
        (fault, kind, code, body)
        for fault, kind, cases in (
            (Fault.TOO_LONG, ContextTooLong, TOO_LONG),
            (Fault.CONFIGURATION, ModelMisconfigured, CONFIGURATION),
            (Fault.REFUSED, ModelRefused, REFUSED),
            (Fault.THROTTLED, Throttled, THROTTLED),
            (Fault.DOWN, ModelDown, DOWN),
        )
        for code, body in cases
    ],
)
def test_an_error_has_the_class_that_its_status_code_and_sentence_mean(
    fault: Fault, kind: type[Exception], code: int, body: Any
) -> None:
    found = meant(status(code, body))
    assert found.fault is fault
    assert type(found) is kind


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Fault.TOO_LONG, openai_says("maximum context length is 10 tokens", 400)["error"]),
        (Fault.TOO_LONG, {"code": "context_length_exceeded", "message": ""}),
        (Fault.THROTTLED, {"code": 429, "message": "slow down"}),
        (Fault.THROTTLED, {"code": "rate_limit_exceeded", "message": "slow down"}),
        (Fault.CONFIGURATION, {"code": "insufficient_quota", "message": "You exceeded your current quota"}),
        (Fault.CONFIGURATION, {"type": "invalid_request_error", "message": "no such parameter"}),
        (Fault.CONFIGURATION, {"code": 404, "message": "no such model"}),
        (Fault.REFUSED, {"code": "content_filter", "message": "filtered"}),
        (Fault.DOWN, {"message": "overloaded", "type": "server_error"}),
        (Fault.DOWN, "overloaded"),
        (Fault.DOWN, {"code": 503}),
        (Fault.DOWN, True),
        (Fault.DOWN, [[[[[[[[[[["deep"]]]]]]]]]]]),
    ],
)
def test_an_error_inside_a_200_has_the_same_class(fault: Fault, body: object) -> None:
    found = error_in(body, "d")
    assert found.fault is fault


@pytest.mark.parametrize(
    ("code", "sentence", "word"),
    [
        (403, "You have exceeded your monthly included credits for Inference Providers.", "the account"),
        (403, "Your quota is used up", "the account"),
        (403, "Billing is not enabled for this project", "the account"),
        (402, "Insufficient Balance", "the account"),
        (402, "", "the account"),
        (403, "Country, region, or territory not supported", "key_env"),
        (401, "Incorrect API key provided; manage billing at https://x.example", "key_env"),
        (400, "max_tokens exceeds your plan", "models.yaml"),
    ],
)
def test_what_is_not_paid_for_is_not_blamed_on_the_key(code: int, sentence: str, word: str) -> None:
    found = meant(status(code, openai_says(sentence)))
    assert found.fault is Fault.CONFIGURATION
    assert word in str(found)
    assert ("key_env" in str(found)) is (word == "key_env")


def test_the_classes_lead_to_what_the_worker_does_next() -> None:
    assert issubclass(Throttled, TryLater)
    assert not issubclass(Throttled, DependencyDown)
    assert issubclass(ModelDown, DependencyDown)
    assert issubclass(InvalidReply, ModelDown)
    assert all(issubclass(each, Unprocessable) for each in (ModelMisconfigured, ContextTooLong, ModelRefused))
    for code in (401, 404):
        found = meant(status(code))
        assert isinstance(found, ModelMisconfigured)
        assert found.reason is Reason.MISCONFIGURED


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (status(404, {"error": "model 'llama3' not found"}), "model 'llama3' not found"),
        (status(429, openai_says("You exceeded your current quota", "insufficient_quota")), "exceeded your current"),
        (status(422, EXTRA_INPUT), "stream_options: Extra inputs are not permitted"),
        (status(413, PAGE), "an HTML page, '413 Request Entity Too Large'"),
        (status(502, "<p>the <b>upstream</b> is away"), "an HTML page, 'the upstream is away'"),
        (status(503, "upstream connect error"), "upstream connect error"),
        (httpx2.ReadError(""), "ReadError"),
        (httpx2.RemoteProtocolError("incomplete chunked read"), "incomplete chunked read"),
    ],
)
def test_the_provider_s_own_sentence_is_kept(error: Exception, sentence: str) -> None:
    found = meant(error)
    assert sentence in found.sentence
    assert sentence in str(found)
    assert str(found).split(": ", 2)[-1]
    assert "'input'" not in str(found)
    assert "secret" not in str(found)


def test_a_parameter_that_is_refused_is_named() -> None:
    refused = meant(status(400, {"error": {"message": "no", "param": "temperature", "code": "unsupported_value"}}))
    assert isinstance(refused, ModelMisconfigured)
    assert (refused.status, refused.param) == (400, "temperature")
    refused = meant(status(422, EXTRA_INPUT))
    assert isinstance(refused, ModelMisconfigured)
    assert refused.param == "stream_options"


@pytest.mark.parametrize(
    "error",
    [
        openai.APITimeoutError(REQUEST),
        openai.APIConnectionError(request=REQUEST),
        openai.APIError("broke off", REQUEST, body=None),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("incomplete chunked read"),
        json.JSONDecodeError("half an answer", "{", 1),
    ],
)
def test_a_connection_that_fails_is_the_model_being_down(error: Exception) -> None:
    assert meant(error).fault is Fault.DOWN


def test_a_bug_is_not_translated() -> None:
    bug = KeyError("x")
    assert translate(bug, D) is bug


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "Incorrect API key provided: sk-abcDEF*****wxyz. See the docs.",
            "Incorrect API key provided: … See the docs.",
        ),
        ("header Authorization: Bearer abc.def-ghi is wrong", "header Authorization: Bearer … is wrong"),
        ("api-key: 0123456789abcdef is wrong", "api-key: … is wrong"),
        ("key 0123456789abcdef0123456789abcdef", "key …"),
        ("GET https://x.example/a/b?sig=abc&se=1 failed", "GET https://x.example/a/b?… failed"),
        ("at https://user:pass@x.example/", "at https://…@x.example/"),
        (
            "[{'loc': ('body', 'x'), 'msg': 'no', 'input': 'my question'}]",
            "[{'loc': ('body', 'x'), 'msg': 'no', 'input': …",
        ),
        ("owner jane.doe@example.com", "owner …@…"),
        ("token eyJhbGciOi.eyJzdWIi.abc", "token …"),
        ("access_token=a1b2c3d4e5 is wrong", "access_token=… is wrong"),
        (
            "too many tokens: total number 4292, max tokens: 4096",
            "too many tokens: total number 4292, max tokens: 4096",
        ),
        ("maximum context length is 4096 tokens", "maximum context length is 4096 tokens"),
        (
            "'max_tokens' or 'max_completion_tokens' is too large",
            "'max_tokens' or 'max_completion_tokens' is too large",
        ),
    ],
)
def test_secrets_are_left_out_of_a_sentence(text: str, kept: str) -> None:
    assert redacted(text) == kept


def test_a_long_sentence_is_shortened() -> None:
    assert len(redacted("words " * 10_000)) <= SENTENCE + 2


NOW = datetime(2026, 10, 21, 7, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "-1e999"}, 0),
        ({"retry-after": "1e999"}, LONGEST_WAIT.total_seconds()),
        ({"retry-after": "1" + "0" * 30}, LONGEST_WAIT.total_seconds()),
        ({"retry-after-ms": "inf", "retry-after": "3"}, LONGEST_WAIT.total_seconds()),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:00:08 GMT"}, 8),
        ({"retry-after": "Wed, 21 Oct 2026 06:59:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2026 07:10:00 GMT", "date": "Wed, 21 Oct 2026 07:09:00 GMT"}, 60),
        ({"retry-after": "Wednesday, 21-Oct-26 07:00:08 GMT"}, 8),
        ({"retry-after": "Wed, 99 Oct 2026 07:00:08 GMT"}, 0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], after: float) -> None:
    assert wait_asked(headers, NOW) == timedelta(seconds=after)


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": "1790000000"},
        {"retry-after": "99999999999"},
        {"retry-after-ms": "1e15"},
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"},
    ],
)
def test_no_wait_is_longer_than_a_day(headers: dict[str, str]) -> None:
    """It stops all replicas, and must be a date that exists."""
    assert wait_asked(headers, NOW) == timedelta(days=1)


@pytest.mark.parametrize("code", [429, 503])
def test_the_wait_is_passed_on(code: int) -> None:
    found = meant(status(code, headers={"retry-after": "7"}))
    assert isinstance(found, TryLater)
    assert found.after == timedelta(seconds=7)


@pytest.mark.parametrize(
    "page",
    ["<title>" * 100_000, "<title" * 100_000, "<title>" + "<script " * 100_000 + "</title>", "<" * 500_000],
    ids=["titles", "beginnings", "scripts", "brackets"],
)
def test_an_odd_page_of_any_size_does_not_hold_up_the_worker(page: str) -> None:
    """Minutes, before; pytest's time-out is the guard."""
    assert said(page).sentence.startswith("an HTML page")


@pytest.mark.parametrize("before", range(250, 310, 6))
def test_a_key_at_the_cut_is_not_shown_in_part(before: int) -> None:
    key = "0f3c9b7d5a1e" * 7
    assert key[:6] not in redacted("x " * (before // 2) + key)


@pytest.mark.parametrize(
    ("sentence", "secret"),
    [
        ("Authorization: ApiKey abcdefgh is unknown", "abcdefgh"),
        ("AKIAIOSFODNN7EXAMPLE may not invoke the model", "IOSFODNN7"),
        ("Invalid API key 'tgp_v1_abcDEF1234567890'", "abcDEF"),
        ("nvapi-abcdefghijkl is not a key", "abcdefghijkl"),
    ],
)
def test_keys_of_other_providers_are_not_shown(sentence: str, secret: str) -> None:
    assert secret not in redacted(sentence)
