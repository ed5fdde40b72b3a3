"""OpenAI's JSON: chat and embeddings requests and responses. Each `read_…` raises `ApiError`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.llm import tokens
from local.llm.errors import ApiError, Dialect, Json

DONE = b"data: [DONE]\n\n"


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
    text: str | None
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_field: str = "reasoning_content"
    tool_calls: bool = False

    @property
    def usage(self) -> Json:
        """The `usage` object."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }

    @property
    def extras(self) -> Json:
        """What a message holds beside its text."""
        found: Json = {} if self.refusal is None else {"refusal": self.refusal}
        if self.reasoning is not None:
            found[self.reasoning_field] = self.reasoning
        if self.tool_calls:
            function = {"name": "search", "arguments": '{"query": "leave"}'}
            found["tool_calls"] = [{"index": 0, "id": "call_1", "type": "function", "function": function}]
        return found


def read_chat(body: Mapping[str, Any], model: str, dialect: Dialect) -> Chat:
    """A chat request to a deployment called `model`; Ollama has no `max_completion_tokens`."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(
            400, "'messages' must be a list of at least one message.", param="messages", code="invalid_value"
        )
    said = [(_role(message), _text(message.get("content"))) for message in messages]
    options = body.get("stream_options")
    return Chat(
        model=model,
        system=tuple(text for role, text in said if role in ("system", "developer")),
        users=tuple(text for role, text in said if role == "user"),
        prompt_tokens=tokens.PER_REPLY + sum(tokens.PER_MESSAGE + tokens.count(text) for _, text in said),
        max_tokens=_max_tokens(
            body, ("max_tokens",) if dialect == "ollama" else ("max_completion_tokens", "max_tokens")
        ),
        stream=body.get("stream") is True,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        transcript="\n".join(f"{role}: {text}" for role, text in said),
    )


def model_of(body: Mapping[str, Any]) -> str:
    """The model that a request names in its body; raises `ApiError`."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "you must provide a model parameter", param="model", code="missing_required_parameter")
    return name


def read_inputs(body: Mapping[str, Any]) -> list[str]:
    """The texts of an embeddings request."""
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        said = "'input' must be a text or a list of texts (no token numbers here)."
        raise ApiError(400, said, param="input", code="invalid_type")
    if not texts or not all(texts) or len(texts) > 2048:
        said = "'input' must be 1 to 2048 texts, none of them empty."
        raise ApiError(400, said, param="input", code="invalid_value")
    return texts


def read_dimensions(body: Mapping[str, Any], most: int) -> int:
    """The requested dimensions per vector; `most` if none are requested."""
    wanted = body.get("dimensions")
    if wanted is None:
        return most
    if not _is_count(wanted) or wanted > most:
        said = f"'dimensions' must be between 1 and {most}, not {wanted!r}."
        raise ApiError(400, said, param="dimensions", code="invalid_value")
    return int(wanted)


def completion_body(completion: Completion) -> Json:
    """The response without streaming."""
    message = {"role": "assistant", "content": completion.text, "refusal": None} | completion.extras
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": completion.finish_reason}
    return _envelope(completion, "chat.completion") | {"choices": [choice], "usage": completion.usage}


def chunks(completion: Completion, *, include_usage: bool, azure: bool) -> list[Json]:
    """The response as the chunks of a stream; on Azure's paths, as there, the first has no choices."""
    head = _envelope(completion, "chat.completion.chunk")
    usage: Json = {"usage": None} if include_usage else {}
    words = completion.text.split(" ") if completion.text else ()
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    deltas += [completion.extras] if completion.extras else []
    deltas += [{"content": f" {word}" if index else word} for index, word in enumerate(words)]
    found = [head | _delta(delta) | usage for delta in deltas]
    found.append(head | _delta({}, completion.finish_reason) | usage)
    if azure:
        opening = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
        found.insert(0, head | opening | {"prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]})
    if include_usage:
        found.append(head | {"choices": [], "usage": completion.usage})
    return found


def events(bodies: list[Any]) -> list[bytes]:
    """Server-sent events, the last of them `[DONE]`."""
    return [*(f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode() for body in bodies), DONE]


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


def _role(message: object) -> str:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise ApiError(400, "Every message needs a 'role'.", param="messages", code="invalid_value")
    return str(message["role"])


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _max_tokens(body: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = body.get(name)
        if value is not None and not _is_count(value):
            raise ApiError(
                400, f"{name!r} must be a whole number above 0, not {value!r}.", param=name, code="invalid_value"
            )
        if value is not None:
            return int(value)
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
