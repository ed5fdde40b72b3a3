"""The dialects of the OpenAI protocol: what a request to a deployment contains, and what a refused parameter teaches.

                 the answer's limit      temperature  usage in a stream  vectors
    chat         max_tokens              0            stream_options     base64, `dimensions` sent
    reasoning    max_completion_tokens   none         stream_options     (no embeddings)
    vllm         max_tokens              0            stream_options     base64
    ollama       max_tokens              0            stream_options     floats
    llamacpp     max_tokens              0            stream_options     floats

models.yaml names one of them (`dialect`) and overrides its parts. The sources of the table are on the page
docs/reference/models.md, with a block to copy for each server.

A server that refuses a parameter by name teaches it to the process (`Learned`): the next request goes without, and a
warning says what to write into models.yaml.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from shared.telemetry.logs import get_logger
from shared.text import brief

if TYPE_CHECKING:
    from shared.llm.deployments import Deployment

log = get_logger()


class Preset(StrEnum):
    """A dialect by name."""

    CHAT = "chat"
    REASONING = "reasoning"
    VLLM = "vllm"
    OLLAMA = "ollama"
    LLAMACPP = "llamacpp"


class TokenLimit(StrEnum):
    """The parameter that limits the tokens of an answer."""

    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"

    @property
    def other(self) -> "TokenLimit":
        """The one that a server wants if it refuses this."""
        return TokenLimit.MAX_TOKENS if self is TokenLimit.MAX_COMPLETION_TOKENS else TokenLimit.MAX_COMPLETION_TOKENS


class StructuredOutput(StrEnum):
    """How a server is asked for JSON (`response_format`)."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    NONE = "none"


class Encoding(StrEnum):
    """How vectors travel: base64 is a tenth of the work of decoding floats from JSON."""

    BASE64 = "base64"
    FLOAT = "float"


NOT_SENT: Final = "none"
"""What models.yaml says for a temperature that is not sent."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a deployment accepts; None: the parameter is not sent."""

    token_limit: TokenLimit = TokenLimit.MAX_TOKENS
    temperature: float | None = 0
    top_p: float | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    stream_options: bool = True
    """Whether a stream is asked for its usage."""
    structured_output: StructuredOutput = StructuredOutput.JSON_SCHEMA
    """How it is asked for an answer in a structure; the prompt asks for it, too, and we check it."""
    send_dimensions: bool = False
    """Whether an embedding model is asked for vectors of a length."""
    encoding: Encoding = Encoding.BASE64


PRESETS: Final[Mapping[Preset, Dialect]] = {
    Preset.CHAT: Dialect(send_dimensions=True),
    Preset.REASONING: Dialect(token_limit=TokenLimit.MAX_COMPLETION_TOKENS, temperature=None),
    Preset.VLLM: Dialect(),
    Preset.OLLAMA: Dialect(encoding=Encoding.FLOAT),
    Preset.LLAMACPP: Dialect(encoding=Encoding.FLOAT),
}


# Of deployments that name none, by provider.
DEFAULTS: Final[Mapping[str, Preset]] = {
    "azure": Preset.CHAT,
    "openai": Preset.CHAT,
    "compatible": Preset.VLLM,
}


@dataclass(frozen=True, slots=True)
class Lesson:
    """A parameter that a deployment refuses."""

    parameter: str
    write: str
    """What models.yaml should say instead."""


class Learned:
    """What servers refused since the process began; one object for all calls."""

    def __init__(self) -> None:
        self._refused: dict[str, set[str]] = {}
        self._dialects: dict[str, Dialect] = {}

    def dialect(self, deployment: "Deployment") -> Dialect:
        """The dialect of `deployment`: as models.yaml says, without what it refused."""
        return self._dialects.get(deployment.name) or dialect_of(deployment)

    def lesson(
        self, deployment: "Deployment", sent: Mapping[str, Any], sentence: str, param: str | None = None
    ) -> Lesson | None:
        """What the refusal of a request teaches; None: nothing, and the same request would be refused again.

        `sent`: the arguments of the request; `sentence`: the provider's; `param`: the parameter that it names in a
        field of its own, if it has one. After a lesson, send the request once more with a new body. That ends, as each
        parameter of a deployment is learned once.
        """
        parameter = refused_parameter(sent, sentence, param)
        if parameter is None:
            return None
        lesson = Lesson(parameter, LESSONS[parameter])
        now = self.dialect(deployment)
        if not _sends(now, parameter, sent[parameter]):
            return lesson  # another call learned it while this one was under way
        refused = self._refused.setdefault(deployment.name, set())
        after = _without(now, parameter, refused)
        if after is None:
            return None
        refused.add(parameter)
        self._dialects[deployment.name] = after
        log.warning(
            "model.parameter_refused",
            deployment=deployment.name,
            parameter=parameter,
            write=f"{lesson.write} (deployment {deployment.name} in models.yaml)",
            detail=brief(sentence),
        )
        return lesson


def dialect_of(deployment: "Deployment") -> Dialect:
    """The dialect that models.yaml gives to `deployment`: its preset, or that of its provider, and its own parts."""
    preset = PRESETS[deployment.dialect or DEFAULTS[deployment.provider.value]]
    own = deployment.model_fields_set & {each.name for each in fields(Dialect)}
    return replace(preset, **{name: getattr(deployment, name) for name in own})


def body(
    deployment: "Deployment",
    messages: Sequence[Mapping[str, str]],
    answer_tokens: int,
    stream: bool,
    *,
    learned: Learned | None = None,
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of `chat.completions.create` for one call.

    `answer_tokens`: the limit of everything that the model writes, its reasoning included. `learned`: what this process
    knows of refusals. `schema`: the JSON Schema of the answer.
    """
    dialect = learned.dialect(deployment) if learned else dialect_of(deployment)
    optional = {name: getattr(dialect, name) for name in ("temperature", "top_p", "seed", "reasoning_effort")}
    arguments: dict[str, Any] = {
        "model": deployment.model,
        "messages": messages,
        dialect.token_limit.value: answer_tokens,
        **{name: value for name, value in optional.items() if value is not None},
    }
    if schema is not None and dialect.structured_output is StructuredOutput.JSON_SCHEMA:
        # OpenAI's "Structured outputs"; vLLM, llama.cpp's server and Ollama take the same.
        named = {"name": "answer", "schema": schema, "strict": True}
        arguments["response_format"] = {"type": "json_schema", "json_schema": named}
    elif schema is not None and dialect.structured_output is StructuredOutput.JSON_OBJECT:
        arguments["response_format"] = {"type": "json_object"}
    if stream:
        arguments["stream"] = True
        if dialect.stream_options:
            arguments["stream_options"] = {"include_usage": True}
    if deployment.body:
        arguments["extra_body"] = dict(deployment.body)
    return arguments


def embedding_body(deployment: "Deployment", texts: Sequence[str], *, learned: Learned | None = None) -> dict[str, Any]:
    """The arguments of `embeddings.create` for `texts`."""
    dialect = learned.dialect(deployment) if learned else dialect_of(deployment)
    arguments: dict[str, Any] = {
        "model": deployment.model,
        "input": list(texts),
        "encoding_format": dialect.encoding.value,
    }
    if dialect.send_dimensions:
        arguments["dimensions"] = deployment.dimensions
    if deployment.body:
        arguments["extra_body"] = dict(deployment.body)
    return arguments


# What can be left out or replaced, and what models.yaml says then.
LESSONS: Final[Mapping[str, str]] = {
    "max_tokens": "token_limit: max_completion_tokens",
    "max_completion_tokens": "token_limit: max_tokens",
    "temperature": "temperature: none",
    "top_p": "no top_p",
    "seed": "no seed",
    "reasoning_effort": "no reasoning_effort",
    "stream_options": "stream_options: false",
    "response_format": "structured_output: none",
    "dimensions": "send_dimensions: false",
    "encoding_format": "encoding: float",
}

# How servers say that they do not take a parameter: OpenAI and Azure ("Unsupported parameter", "does not support 0 with
# this model", "Unrecognized request argument supplied", "Unknown parameter"), vLLM and Mistral (pydantic's
# extra_forbidden), Groq ("is unsupported"), Gemini ("Unknown name"), Ollama ("does not support thinking"), Text
# Embeddings Inference ("unknown variant"), Anthropic ("is deprecated for this model"). A value out of range is another
# matter ("max_tokens is too large").
_REFUSED = re.compile(
    r"unsupported|not supported|(?:does|do) ?n[o']t support|n[o']t permitted|n[o']t allowed|extra_forbidden"
    r"|extra (?:inputs|fields|field)|unrecogni[sz]ed|unknown|unexpected|deprecated|unsupportedparams"
    r"|only .{1,40} (?:is|are) supported",
    re.IGNORECASE,
)
# Where pydantic says which field it means; the rest of its text repeats the whole input.
_LOCATION = re.compile(r"""['"]?loc['"]?\s*:\s*[\[(]\s*['"]body['"]\s*,\s*['"](\w+)['"]""")
# Ollama calls it by what it does.
_ALSO = {"reasoning_effort": r"think(?:ing)?\b"}


def refused_parameter(sent: Iterable[str], sentence: str, param: str | None = None) -> str | None:
    """Which of the parameters `sent` a server refuses in `sentence`; None: none, or it does not say."""
    if not _REFUSED.search(sentence):
        return None
    named: list[str] = [each for each in (param, *_LOCATION.findall(sentence)) if each]
    sent = [name for name in sent if name in LESSONS]
    for name in named:
        whole = name.partition(".")[0]  # stream_options.include_usage
        if whole in sent:
            return whole
    if named:
        return None
    found = [(mention.start(), name) for name in sent if (mention := _mention(name).search(sentence))]
    return min(found)[1] if found else None


def _mention(name: str) -> re.Pattern[str]:
    spelt = name.replace("_", "[_ ]?")
    return re.compile(rf"\b(?:{spelt}\b|{_ALSO.get(name, '(?!)')})", re.IGNORECASE)


def _sends(dialect: Dialect, parameter: str, value: Any) -> bool:
    """Whether a request in `dialect` has `parameter` with this `value`."""
    match parameter:
        case "max_tokens" | "max_completion_tokens":
            return dialect.token_limit.value == parameter
        case "stream_options":
            return dialect.stream_options
        case "response_format":
            return bool(dialect.structured_output.value == value["type"])
        case "dimensions":
            return dialect.send_dimensions
        case "encoding_format":
            return bool(dialect.encoding.value == value)
        case _:
            return getattr(dialect, parameter) is not None


def _without(dialect: Dialect, parameter: str, refused: set[str]) -> Dialect | None:
    """`dialect` without `parameter`; None: it cannot go without, as what would replace it is `refused` too."""
    match parameter:
        case "max_tokens" | "max_completion_tokens":
            other = TokenLimit(parameter).other
            return None if other.value in refused else replace(dialect, token_limit=other)
        case "stream_options":
            return replace(dialect, stream_options=False)
        case "response_format":
            return replace(dialect, structured_output=StructuredOutput.NONE)
        case "dimensions":
            return replace(dialect, send_dimensions=False)
        case "encoding_format":
            return None if dialect.encoding is Encoding.FLOAT else replace(dialect, encoding=Encoding.FLOAT)
        case _:
            gone: dict[str, Any] = {parameter: None}
            return replace(dialect, **gone)
