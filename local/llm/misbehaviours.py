"""The ways in which servers are known to misbehave: one table, by name.

Most come from public bug reports: empty choices (langfuse/langfuse#2833), the connection held open after `[DONE]`
(agentscope-ai/agentscope-java#2073), a list as content, `<think>` in it (deepseek-ai/DeepSeek-R1#23), `Retry-After`
as a date (interviewstreet/hiring-agent#386), usage with nulls, HTML with 200 (NEKOparapa/AiNiee#151), `data:` without
data (netease-lcap/wave-agent#1326), events in many lines (SamSaffron/term-llm#454), CR
(kubernetes-sigs/inference-perf#781), no finish reason (anomalyco/opencode#43882), 400 KB in spite of `max_tokens`
(ollama/ollama#18575), "too long" in other words (BerriAI/litellm#15968, #10793; vllm-project/vllm#15465). The others
are their siblings.
"""

import base64
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any, Literal

from local.llm.errors import Json
from local.llm.wire import Completion

Bodies = list[Any]
Vectors = list[list[float]]


@dataclass(frozen=True)
class Instead:
    """A whole response in place of the model's: `body` is JSON, or text as it stands."""

    status: int
    body: Any = ""
    headers: Mapping[str, str | Callable[[], str]] = field(default_factory=dict)
    content_type: str = ""


@dataclass(frozen=True)
class Stop:
    """The response stops after a `share` of its bytes or events; `headers`: whether it begins at all.

    `open`: the connection stays open until the caller closes it. `cut`: it is closed (FIN). `reset`: RST.
    """

    how: Literal["open", "cut", "reset"]
    share: float = 0.5
    headers: bool = True


@dataclass(frozen=True)
class Misbehaviour:
    """How a call goes wrong; a field at its default changes nothing.

    `completion`: changes what the model says. `bodies`: changes the JSON of the whole response, as a list of one, or of
    a stream's chunks. `frames`: changes the bytes of the whole response, or of each event. `vectors`: those of
    embeddings. `pause`: seconds after each frame.
    """

    instead: Instead | None = None
    completion: Callable[[Completion], Completion] | None = None
    bodies: Callable[[Bodies], Bodies] | None = None
    frames: Callable[[list[bytes]], list[bytes]] | None = None
    vectors: Callable[[Vectors], Vectors] | None = None
    stop: Stop | None = None
    pause: float = 0.0
    encoding: str | None = None
    content_type: str | None = None


NONE = Misbehaviour()


# -- how the entries of the table are written


def _instead(status: int, body: Any = "", content_type: str = "", **headers: str | Callable[[], str]) -> Misbehaviour:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Misbehaviour(instead=Instead(status, body, named, content_type))


def _error(
    status: int, message: str, code: Any = None, type_: Any = "invalid_request_error", param: Any = None, **headers: Any
) -> Misbehaviour:
    return _instead(status, _said(message, code, type_, param), **headers)


def _said(message: str, code: Any = None, type_: Any = None, param: Any = None) -> Json:
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def _vllm(message: str) -> Misbehaviour:
    """As vLLM before 0.10 and sglang say it."""
    return _instead(400, {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400})


def _completion(**changes: Any) -> Misbehaviour:
    def changed(completion: Completion) -> Completion:
        found = {name: value(completion.text) if callable(value) else value for name, value in changes.items()}
        return replace(completion, **found)

    return Misbehaviour(completion=changed)


def _each(change: Callable[[Json], Any]) -> Misbehaviour:
    return Misbehaviour(bodies=lambda bodies: [change(body) for body in bodies])


def _message(change: Callable[[Json], Json]) -> Misbehaviour:
    """Change the `message`, or the `delta`, of each choice."""

    def choice(found: Json) -> Json:
        return {name: change(value) if name in ("message", "delta") else value for name, value in found.items()}

    return _choices(choice)


def _choices(change: Callable[[Json], Json]) -> Misbehaviour:
    return _each(lambda body: body | {"choices": [change(choice) for choice in body.get("choices", ())]})


def _usage(usage: Any) -> Misbehaviour:
    return _each(lambda body: body | {"usage": usage} if body.get("usage") else body)


def _usage_with(**counts: Any) -> Misbehaviour:
    return _each(lambda body: body | {"usage": body["usage"] | counts} if body.get("usage") else body)


def _content(change: Callable[[Any], Any]) -> Misbehaviour:
    return _message(
        lambda message: message | ({"content": change(message["content"])} if message.get("content") else {})
    )


def _frames(change: Callable[[bytes], bytes]) -> Misbehaviour:
    return Misbehaviour(frames=lambda frames: [change(frame) for frame in frames])


def _data(change: Callable[[list[Json]], list[Json]]) -> Misbehaviour:
    """Change the `data` of embeddings."""
    return _each(lambda body: body | {"data": change(body["data"])} if "data" in body else body)


def _vector(change: Callable[[list[float]], list[float]]) -> Misbehaviour:
    return Misbehaviour(vectors=lambda vectors: [change(vector) for vector in vectors])


def _half(text: str) -> str:
    return text[: len(text) // 2]


def _floats(item: Json) -> Json:
    packed = item["embedding"]
    found = struct.unpack(f"<{len(packed) * 3 // 16}f", base64.b64decode(packed)) if isinstance(packed, str) else packed
    return item | {"embedding": list(found)}


def _in(seconds: int) -> Callable[[], str]:
    return lambda: formatdate(time.time() + seconds, usegmt=True)


def _pieces(size: int) -> Callable[[list[bytes]], list[bytes]]:
    def pieces(frames: list[bytes]) -> list[bytes]:
        whole = b"".join(frames)
        return [whole[start : start + size] for start in range(0, len(whole), size)]

    return pieces


def _events(change: Callable[[list[bytes]], list[bytes]]) -> Misbehaviour:
    """Change a stream's events, and leave a body as it is."""
    return Misbehaviour(frames=lambda frames: change(frames) if len(frames) > 1 else frames)


def _chunks(change: Callable[[Bodies], Bodies]) -> Misbehaviour:
    """Change a stream's chunks, and leave a body as it is."""
    return Misbehaviour(bodies=lambda bodies: change(bodies) if len(bodies) > 1 else bodies)


def _before_each(frame: bytes) -> Misbehaviour:
    return _events(lambda frames: [part for found in frames for part in (frame, found)])


_HTML = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Sign in to continue</h1></body></html>"
_BAD_GATEWAY = (
    "<html><head><title>502 Bad Gateway</title></head><body><center><h1>502 Bad Gateway</h1></center></body></html>"
)
_THINKS = "\nThe user asks about this. Passage 1 says so [1].\n"
_DOWN = _said("The server had an error while processing your request. Sorry about that!", None, "server_error")
_SLOW = _said("Rate limit reached for requests", "rate_limit_exceeded", "requests")
_CTX = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5120 tokens. "
_CTX += "Please reduce the length of the messages."
_QUOTA = "You exceeded your current quota, please check your plan and billing details."
_FILTERED = "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
_FILTERED += "Please modify your prompt and retry."
_TOO_FAST = "Rate limit reached for requests per min."
_CTX_VLLM = (
    "You passed 5120 input tokens and requested 400 output tokens. However, the model's context length is only 4096 "
)
_CTX_VLLM += (
    "tokens, resulting in a maximum input length of 3696 tokens. Please reduce the length of the input prompt. "
)
_CTX_VLLM += "(parameter=input_tokens, value=5120)"
_CTX_AZURE = "Input tokens exceed the configured limit of 4096 tokens. Your messages resulted in 5120 tokens."
_CTX_LLAMACPP = {
    "code": 400,
    "message": "request (5120 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 5120,
    "n_ctx": 4096,
}
_CTX_TGI = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5120 `inputs` tokens and "
)
_CTX_TGI += "400 `max_new_tokens`"
_CTX_TOGETHER = "The input (5120 tokens) is longer than the model's context length (4096 tokens)."
_UNSUPPORTED = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)
_EXTRA = "Extra inputs are not permitted"
_ASYNC_FILTER = {"choices": [{"index": 0, "content_filter_offsets": {"check_offset": 44}, "finish_reason": None}]}
_OPEN = {"finish_reason": None}

MISBEHAVIOURS: dict[str, Misbehaviour] = {
    # -- 200, but not a completion
    "html-200": _instead(200, _HTML, "text/html"),
    "html-as-json": _instead(200, _HTML, "application/json"),
    "empty-200": _instead(200, "", "application/json"),
    "null-200": _instead(200, "null", "application/json"),
    "list-200": _instead(200, "[]", "application/json"),
    "string-200": _instead(200, '"ok"', "application/json"),
    "broken-json": Misbehaviour(
        frames=lambda frames: [b'data: {"id": "chatcmpl-\n\n' if len(frames) > 1 else b'{"id": "']
    ),
    "error-200": Misbehaviour(bodies=lambda bodies: [_DOWN]),
    "error-429-200": Misbehaviour(bodies=lambda bodies: [_SLOW]),
    "error-ctx-200": Misbehaviour(bodies=lambda bodies: [_said(_CTX, "context_length_exceeded")]),
    "error-detail-200": Misbehaviour(bodies=lambda bodies: [{"detail": "Internal Server Error"}]),
    "error-mid": Misbehaviour(bodies=lambda bodies: [*bodies[: len(bodies) // 2], _DOWN]),
    "error-after": _chunks(lambda chunks: [*chunks, _DOWN]),
    "choices-empty": _each(lambda body: body | {"choices": []}),
    "choices-null": _each(lambda body: body | {"choices": None}),
    "choices-missing": _each(lambda body: {name: body[name] for name in body if name != "choices"}),
    "choices-object": _each(lambda body: body | {"choices": {"0": body["choices"]}}),
    "message-null": _choices(
        lambda choice: {name: None if name in ("message", "delta") else choice[name] for name in choice}
    ),
    "two-choices": _each(lambda body: body | {"choices": [c | {"index": i} for c in body["choices"] for i in (0, 1)]}),
    "index-missing": _choices(lambda choice: {name: choice[name] for name in choice if name != "index"}),
    # -- content
    "content-parts": _content(lambda text: [{"type": "text", "text": text}]),
    "content-number": _content(lambda text: 7),
    "content-null": _completion(text=None),
    "empty-stop": _completion(text="", finish_reason="stop"),
    "length": _completion(text=_half, finish_reason="length"),
    "length-empty": _completion(text="", reasoning=_THINKS, finish_reason="length"),
    "no-finish": _choices(lambda choice: choice | _OPEN),
    "odd-finish": _completion(finish_reason="end_turn"),
    "refusal": _completion(text=None, refusal="I'm sorry, but I can't assist with that request."),
    "cf-prompt": _instead(400, _said(_FILTERED, "content_filter", None, "prompt")),
    "cf-partial": _completion(text=_half, finish_reason="content_filter"),
    "cf-empty": _completion(text="", finish_reason="content_filter"),
    "tool-calls": _completion(text=None, tool_calls=True, finish_reason="tool_calls"),
    "think-tags": _completion(text=lambda text: f"<think>{_THINKS}</think>\n\n{text}"),
    "thinking-tags": _completion(text=lambda text: f"<thinking>{_THINKS}</thinking>{text}"),
    "think-no-opening": _completion(text=lambda text: f"{_THINKS}</think>\n\n{text}"),
    "think-unclosed": _completion(text=f"<think>{_THINKS}", finish_reason="length"),
    "think-empty": _completion(text=lambda text: f"<think>\n\n</think>\n\n{text}"),
    "reasoning-content": _completion(reasoning=_THINKS),
    "reasoning": _completion(reasoning=_THINKS, reasoning_field="reasoning"),
    "giant": _completion(text=lambda text: f"{text} " * (400_000 // (len(text) + 1))),
    "text-after-finish": _chunks(lambda chunks: [*chunks, chunks[1]]),
    "extra-fields": _message(lambda message: message | {"annotations": [], "audio": None, "x_new": {"a": [1]}}),
    "text-plain": Misbehaviour(content_type="text/plain; charset=utf-8"),
    "surrogate-half": _frames(lambda frame: frame.replace(b'"content": "', b'"content": "\\ud83d', 1)),
    "invalid-utf8": _frames(lambda frame: frame.replace(b'"content": "', b'"content": "\xff', 1)),
    # -- usage
    "no-usage": _each(lambda body: {name: body[name] for name in body if name != "usage"}),
    "usage-null": _usage(None),
    "usage-null-field": _usage_with(completion_tokens=None, total_tokens=None),
    "usage-null-first": _chunks(lambda chunks: [chunks[0] | {"usage": {"prompt_tokens": None}}, *chunks]),
    "usage-strings": _usage({"prompt_tokens": "1000", "completion_tokens": "20", "total_tokens": "1020"}),
    "usage-negative": _usage({"prompt_tokens": -5, "completion_tokens": -1, "total_tokens": -6}),
    "usage-huge": _usage({"prompt_tokens": 10**9, "completion_tokens": 10**9, "total_tokens": 2 * 10**9}),
    "usage-zero": _usage({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    "usage-float": _usage({"prompt_tokens": 10.5, "completion_tokens": 2.0, "total_tokens": 12.5}),
    # -- server-sent events
    "async-filter": _chunks(lambda chunks: [*chunks, _ASYNC_FILTER]),
    "sse-empty-data": _before_each(b"data:\n\n"),
    "sse-comments": _before_each(b": keep-alive\n\nevent: message\nid: 7\nretry: 5\n"),
    "sse-multiline": _frames(lambda frame: frame.replace(b"data: {", b"data: {\ndata: ", 1)),
    "sse-cr": _frames(lambda frame: frame.replace(b"\n", b"\r")),
    "sse-crlf": _frames(lambda frame: frame.replace(b"\n", b"\r\n")),
    "sse-no-space": _frames(lambda frame: frame.replace(b"data: ", b"data:", 1)),
    "sse-bom": _events(lambda events: [b"\xef\xbb\xbf", *events]),
    "sse-split": Misbehaviour(frames=_pieces(7)),
    "sse-lump": Misbehaviour(frames=_pieces(1_000_000)),
    "no-done": _events(lambda events: events[:-1]),
    "done-only": _events(lambda events: events[-1:]),
    "gzip": Misbehaviour(encoding="gzip"),
    # -- the connection
    "hang": Misbehaviour(stop=Stop("open", 0.0, headers=False)),
    "hang-headers": Misbehaviour(stop=Stop("open", 0.0)),
    "hang-mid": Misbehaviour(stop=Stop("open", 0.5)),
    "done-hang": Misbehaviour(stop=Stop("open", 1.0)),
    "drip": Misbehaviour(pause=2.0),
    "cut": Misbehaviour(stop=Stop("cut", 0.0)),
    "cut-mid": Misbehaviour(stop=Stop("cut", 0.5)),
    "reset": Misbehaviour(stop=Stop("reset", 0.0, headers=False)),
    "reset-mid": Misbehaviour(stop=Stop("reset", 0.5)),
    "reset-after": Misbehaviour(stop=Stop("reset", 1.0)),
    # -- a proxy or the operator
    "302-login": _instead(302, "", location="https://login.example/?next=/v1"),
    "401": _error(401, "Incorrect API key provided: sk-abc***xyz.", "invalid_api_key"),
    "401-azure": _instead(401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}),
    "403-html": _instead(403, _HTML, "text/html"),
    "404-deployment": _instead(
        404,
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}},
    ),
    "404-model": _error(404, "The model `gpt-9` does not exist or you do not have access to it.", "model_not_found"),
    "404-ollama": _instead(404, {"error": 'model "llama9" not found, try pulling it first'}),
    "404-html": _instead(404, _HTML, "text/html"),
    "413-html": _instead(413, "<html><body><h1>413 Request Entity Too Large</h1></body></html>", "text/html"),
    "422-vllm": _instead(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": _EXTRA}]}),
    "422-tgi": _instead(422, {"error": "Template error: unknown role", "error_type": "template_error"}),
    "500": _instead(500, _DOWN),
    "502-html": _instead(502, _BAD_GATEWAY, "text/html"),
    "503-after": _instead(503, _said("The engine is currently overloaded", None, "server_error"), retry_after="3"),
    "503-loading": _instead(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
    "504-html": _instead(504, _BAD_GATEWAY.replace("502 Bad Gateway", "504 Gateway Time-out"), "text/html"),
    # -- too fast, or out of money
    "429-plain": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests"),
    "429-seconds": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after="2"),
    "429-ms": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after_ms="2500"),
    "429-date": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after=_in(8)),
    "429-date-far": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after=_in(600)),
    "429-date-past": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after=_in(-60)),
    "429-huge": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after="86400"),
    "429-garbage": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after="soon"),
    "429-negative": _error(429, _TOO_FAST, "rate_limit_exceeded", "requests", retry_after="-3"),
    "429-reset": _error(
        429,
        _TOO_FAST,
        "rate_limit_exceeded",
        "requests",
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_requests="4s",
    ),
    "429-azure": _instead(
        429, {"error": {"code": "429", "message": "Requests have exceeded the token rate limit."}}, retry_after="2"
    ),
    "429-html": _instead(429, _HTML, "text/html"),
    "429-quota": _error(429, _QUOTA, "insufficient_quota", "insufficient_quota"),
    "402-credit": _error(402, "Insufficient credits. Add more using your account page.", 402, None),
    # -- a parameter that this server does not take
    "max-tokens-400": _error(400, _UNSUPPORTED, "unsupported_parameter", param="max_tokens"),
    "temperature-400": _error(400, _TEMPERATURE, "unsupported_value", param="temperature"),
    "stream-options-400": _error(400, "Unrecognized request argument supplied: stream_options"),
    "stream-options-vllm": _vllm(f"[{{'loc': ('body', 'stream_options'), 'msg': '{_EXTRA}'}}]"),
    "dimensions-400": _error(400, "This model does not support specifying dimensions."),
    "base64-400": _error(400, "encoding_format: only 'float' is supported", param="encoding_format"),
    # -- too long, in the words of each
    "ctx": _error(400, _CTX, "context_length_exceeded", param="messages"),
    "ctx-azure": _error(400, _CTX_AZURE),
    "ctx-vllm": _vllm(_CTX),
    "ctx-vllm-new": _error(400, _CTX_VLLM, 400, "BadRequestError", "input_tokens"),
    "ctx-llamacpp": _instead(400, {"error": _CTX_LLAMACPP}),
    "ctx-sglang": _vllm("Requested token count exceeds the model's maximum context length of 4096 tokens."),
    "ctx-tgi": _instead(422, {"error": _CTX_TGI, "error_type": "validation"}),
    "ctx-ollama": _error(400, "the input length exceeds the context length"),
    "ctx-together": _error(400, _CTX_TOGETHER),
    # -- embeddings
    "emb-shuffled": _data(lambda data: data[1:] + data[:1]),
    "emb-index-missing": _data(lambda data: [{name: item[name] for name in item if name != "index"} for item in data]),
    "emb-index-twice": _data(lambda data: [item | {"index": 0} for item in data]),
    "emb-one-missing": _data(lambda data: data[:-1]),
    "emb-one-more": _data(lambda data: [*data, data[-1] | {"index": len(data)}]),
    "emb-data-null": _each(lambda body: body | {"data": None}),
    "emb-floats": _data(lambda data: [_floats(item) for item in data]),
    "emb-base64-odd": _data(
        lambda data: [i | {"embedding": i["embedding"][:-3]} if i["embedding"] else i for i in data]
    ),
    "emb-nan": _vector(lambda vector: [float("nan"), *vector[1:]]),
    "emb-infinite": _vector(lambda vector: [float("inf"), *vector[1:]]),
    "emb-zeros": _vector(lambda vector: [0.0] * len(vector)),
    "emb-short": _vector(lambda vector: vector[: len(vector) // 2]),
    "emb-long": _vector(lambda vector: vector + vector),
    "emb-empty": _vector(lambda vector: []),
}
