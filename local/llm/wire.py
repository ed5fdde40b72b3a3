"""OpenAI's JSON: chat and embeddings requests, responses, errors. Each `read_…` raises `ApiError`."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from local.llm import limits, tokens

Json = dict[str, Any]
CHUNK_DONE = "data: [DONE]\n\n"


class ApiError(Exception):
    """A response other than 200, in OpenAI's error format."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        type_: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.type = status, code, message, type_
        self.headers = headers or {}

    def body(self) -> Json:
        """The JSON of the response."""
        return {"error": {"message": self.message, "type": self.type, "param": None, "code": self.code}}


@dataclass(frozen=True)
class Chat:
    """The fields of a chat request that this server uses."""

    model: str
    system: tuple[str, ...]
    users: tuple[str, ...]
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    transcript: str


@dataclass(frozen=True)
class Completion:
    """The model's reply and its tokens."""

    id: str
    model: str
    created: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> Json:
        """The `usage` object."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def read_chat(body: Mapping[str, Any], deployment: str | None) -> Chat:
    """A chat request; its model is the `deployment` in the path, if there is one."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "invalid_value", "'messages' must be a list of at least one message.")
    said = [(_role(message), _text(message.get("content"))) for message in messages]
    options = body.get("stream_options")
    return Chat(
        model=deployment or model_of(body),
        system=tuple(text for role, text in said if role in ("system", "developer")),
        users=tuple(text for role, text in said if role == "user"),
        prompt_tokens=tokens.PER_REPLY + sum(tokens.PER_MESSAGE + tokens.count(text) for _, text in said),
        max_tokens=_max_tokens(body),
        stream=body.get("stream") is True,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        transcript="\n".join(f"{role}: {text}" for role, text in said),
    )


def model_of(body: Mapping[str, Any]) -> str:
    """The model that a request names in its body; raises `ApiError`."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "missing_required_parameter", "You must provide a model parameter.")
    return name


def read_inputs(body: Mapping[str, Any]) -> list[str]:
    """The texts of an embeddings request."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid_value", "'input' must be a text or a list of texts (no token numbers here).")
    if not texts or not all(texts) or len(texts) > 2048:
        raise ApiError(400, "invalid_value", "'input' must be 1 to 2048 texts, none of them empty.")
    return texts


def read_dimensions(body: Mapping[str, Any], most: int) -> int:
    """The requested dimensions per vector; `most` if none are requested."""
    wanted = body.get("dimensions")
    if wanted is None:
        return most
    if not _is_count(wanted) or wanted > most:
        raise ApiError(400, "invalid_value", f"'dimensions' must be between 1 and {most}, not {wanted!r}.")
    return int(wanted)


def completion_body(completion: Completion) -> Json:
    """The response without streaming."""
    message = {"role": "assistant", "content": completion.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
    return _envelope(completion, "chat.completion") | {"choices": [choice], "usage": completion.usage}


def chunks(completion: Completion, *, include_usage: bool, azure: bool) -> Iterator[str]:
    """The response as server-sent events; on Azure's paths, as there, the first chunk has no choices."""
    head = _envelope(completion, "chat.completion.chunk")
    usage: Json = {"usage": None} if include_usage else {}
    if azure:
        opening = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
        yield _event(head | opening | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]})
    yield _event(head | _delta({"role": "assistant", "content": ""}) | usage)
    for index, word in enumerate(completion.text.split(" ") if completion.text else ()):
        yield _event(head | _delta({"content": f" {word}" if index else word}) | usage)
    yield _event(head | _delta({}, completion.finish_reason) | usage)
    if include_usage:
        yield _event(head | {"choices": [], "usage": completion.usage})
    yield CHUNK_DONE


def embeddings_body(model: str, vectors: list[Any], used: int) -> Json:
    """The response to an embeddings request."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {
        "object": "list", "data": data, "model": model, "usage": {"prompt_tokens": used, "total_tokens": used}
    }  # fmt: skip


def models_body(names: list[str]) -> Json:
    """The response to `GET /v1/models`."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "local"} for name in names]
    return {"object": "list", "data": data}


def unknown_deployment(name: str, *, azure: bool) -> ApiError:
    """404 in the words of OpenAI or Azure."""
    if azure:
        return ApiError(404, "DeploymentNotFound", f"The API deployment {name!r} for this resource does not exist.")
    return ApiError(404, "model_not_found", f"The model {name!r} does not exist or you do not have access to it.")


def too_long(window: int, prompt: int, completion: int) -> ApiError:
    """400: the request does not fit the context window."""
    return ApiError(
        400,
        "context_length_exceeded",
        f"This model's maximum context length is {window} tokens. However, you requested {prompt + completion} tokens "
        f"({prompt} in the messages, {completion} in the completion). Please reduce the length of the messages or "
        "completion.",
    )


def too_fast(name: str, refused: limits.Refused, state: limits.Limits) -> ApiError:
    """429 with the wait in both headers; the SDK prefers the milliseconds."""
    message = (
        f"Rate limit reached for {name} on {refused.quota} per min: Limit {refused.limit}, Requested "
        f"{refused.requested}. Please try again in {limits.duration(refused.wait)}."
    )
    found = retry_headers(refused.wait) | limits.headers(state)
    return ApiError(429, "rate_limit_exceeded", message, type_=refused.quota, headers=found)


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after` in whole seconds, never less than asked, and `retry-after-ms`."""
    return {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}


def _envelope(completion: Completion, kind: str) -> Json:
    return {
        "id": completion.id,
        "object": kind,
        "created": completion.created,
        "model": completion.model,
        "system_fingerprint": "fp_local",
    }


def _delta(delta: Json, finish_reason: str | None = None) -> Json:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}


def _event(body: Json) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _role(message: object) -> str:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ApiError(400, "invalid_value", "Every message needs a 'role'.")
    return str(message["role"])


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None and not _is_count(value):
            raise ApiError(400, "invalid_value", f"{name!r} must be a whole number above 0, not {value!r}.")
        if value is not None:
            return int(value)
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
