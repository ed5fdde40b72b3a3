"""`models.yaml`: the deployments that may be called, what they accept, and their limits.

docs/reference/models.md is generated from this file: every key, and a block to copy for each provider.
"""

import os
import re
from collections.abc import Iterator, Mapping
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from shared.errors import SettingsError
from shared.llm.dialect import NOT_SENT, Encoding, Preset, StructuredOutput, TokenLimit
from shared.settings.files import Section, Where, invalid, read_yaml

# The key of the environment in the validation's context.
ENVIRONMENT = "environment"
# ${NAME} or ${NAME:-default}, as in a shell.
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class Provider(StrEnum):
    """How an endpoint is addressed and authenticated."""

    AZURE = "azure"
    OPENAI = "openai"
    COMPATIBLE = "compatible"


class ModelKind(StrEnum):
    """What a deployment does."""

    CHAT = "chat"
    EMBEDDING = "embedding"


AZURE_V1: Final = "v1"
"""The `api_version` of Azure OpenAI's v1 API, which has no dates."""

# Keys without effect for deployments of another kind.
ONLY: Final[Mapping[str, frozenset[str]]] = {
    "chat": frozenset(
        "max_output priority reserved stream timeouts token_limit temperature top_p seed reasoning_effort "
        "reasoning_tokens stream_options structured_output".split()
    ),
    "embedding": frozenset("dimensions send_dimensions encoding".split()),
}
# Headers that the client sets: a second one would take away the key or the meaning of the body.
OUR_HEADERS: Final = {
    **dict.fromkeys(("authorization", "api-key"), "the key is read from the variable in key_env"),
    **dict.fromkeys(
        "accept accept-encoding connection content-encoding content-length content-type expect host te "
        "transfer-encoding upgrade".split(),
        "the HTTP client sets it",
    ),
}
# Parts of a request that have a key of their own or decide what the reply looks like.
OUR_BODY: Final = {
    **dict.fromkeys(("messages", "input", "prompt"), "the prompt is made from the use case"),
    **dict.fromkeys(("model", "temperature", "top_p", "seed", "reasoning_effort"), "write it beside `body`"),
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "the use case's answer_tokens are sent; see token_limit"),
    **dict.fromkeys(("stream", "stream_options"), "write it beside `body`"),
    "dimensions": "write it beside `body`, with send_dimensions",
    "encoding_format": "write `encoding` beside `body`",
    **dict.fromkeys(("n", "best_of"), "one answer is read"),
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), "no tool is called"),
    **dict.fromkeys(("modalities", "audio", "echo"), "the reply would be no answer in text"),
    "response_format": "the use case decides it",
}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VARIABLE_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


class Price(Section):
    """USD per million tokens."""

    input: float = Field(default=0, ge=0, description="of the prompt")
    output: float = Field(default=0, ge=0, description="of the answer, reasoning included")


class Timeouts(Section):
    """The seconds that a call may take."""

    first_token: float | None = Field(
        default=None,
        gt=0,
        description="to the first token of a stream (half of `total` if it is not given); without a "
        "stream, to the response's headers",
    )
    between_tokens: float | None = Field(
        default=None,
        gt=0,
        description="between two tokens of a stream; a quarter of `total` if it is not given",
    )
    total: float | None = Field(default=None, gt=0, description="in all; RAGBUS_MODEL_TIMEOUT if it is not given")


_TEMPERATURE = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"const": NOT_SENT}]}


def _none(value: object) -> object:
    return None if value == NOT_SENT else value


def _as_text(value: object) -> object:
    # YAML reads 2024-10-21 as a date.
    return value.isoformat() if isinstance(value, date) else value


def _a_name(name: str) -> str:
    # Without the value, which may be the key itself.
    if not _VARIABLE_NAME.fullmatch(name):
        raise ValueError("must be the name of an environment variable, such as AZURE_OPENAI_KEY; never the key itself")
    return name


class Deployment(Section):
    """One deployment of a model."""

    name: str = Field(min_length=1, max_length=64, description="what use cases and settings call it")
    kind: ModelKind = Field(default=ModelKind.CHAT, description="what it does")
    provider: Provider = Field(
        description="azure: Azure OpenAI; openai: OpenAI; compatible: vLLM, Ollama, llama.cpp and the like"
    )
    endpoint: str = Field(
        min_length=1,
        description="the address: for azure `https://name.openai.azure.com`, else with its path (`…/v1`); "
        "`${NAME}` and `${NAME:-default}` are replaced from the environment",
    )
    api_version: Annotated[str | None, BeforeValidator(_as_text)] = Field(
        default=None, description="`v1`, or a date such as 2024-10-21 (then the path names the deployment)"
    )
    key_env: Annotated[str | None, AfterValidator(_a_name)] = Field(
        default=None,
        description="the name of the variable with the key; azure without it: the worker's own identity (Entra ID)",
    )
    headers: dict[str, str] = Field(
        default={},
        repr=False,
        description="more HTTP headers, such as a gateway's subscription key; `${NAME}` as in `endpoint`",
    )
    model: str = Field(min_length=1, description="azure: the name of the deployment there; else the name of the model")
    region: str = Field(min_length=1, description="where the data goes; use cases allow or forbid it")
    context_window: int = Field(
        gt=0, description="maximum tokens of prompt and answer together, as the server is set up; embedding: of a text"
    )
    max_output: int | None = Field(
        default=None, gt=0, description="maximum tokens that the model writes, reasoning included; none: no limit"
    )
    price: Price = Field(default=Price(), description="USD per million tokens")
    priority: int = Field(default=100, ge=0, description="the deployment with the smallest number is tried first")
    tokens_per_minute: int | None = Field(
        default=None, gt=0, description="the provider's quota (TPM), or your part of it, for all replicas together"
    )
    requests_per_minute: int | None = Field(
        default=None, gt=0, description="the provider's quota (RPM), or your part of it, for all replicas together"
    )
    reserved: bool = Field(default=False, description="paid for anyway (PTU), so it is tried before others")
    stream: bool = Field(
        default=False,
        description="ask for answers as a stream, so that a server that does not notice a closed connection while it "
        "thinks is stopped at its next token; costs CPU for every token",
    )
    timeouts: Timeouts = Field(default=Timeouts(), description="seconds of a call")
    dialect: Preset | None = Field(
        default=None,
        description="what its requests contain (see Dialects); without it, chat for azure and openai, vllm for "
        "compatible. The keys below override its parts",
    )
    token_limit: TokenLimit | None = Field(default=None, description="the parameter that limits the answer")
    temperature: Annotated[float | None, BeforeValidator(_none), WithJsonSchema(_TEMPERATURE)] = Field(
        default=None, ge=0, le=2, description="a number, or `none`: it is not sent"
    )
    top_p: float | None = Field(default=None, gt=0, le=1, description="not sent without it")
    seed: int | None = Field(default=None, description="not sent without it")
    reasoning_effort: str | None = Field(
        default=None, min_length=1, description="of a reasoning model, such as low; not sent without it"
    )
    reasoning_tokens: int = Field(
        default=0,
        ge=0,
        description="what the model may spend on reasoning: added to the use case's answer_tokens, and paid. "
        "`dialect: reasoning` needs it",
    )
    stream_options: bool | None = Field(default=None, description="whether a stream is asked for its usage")
    structured_output: StructuredOutput | None = Field(
        default=None, description="how it is asked for the structure of a use case with `output_schema`"
    )
    dimensions: int = Field(default=0, gt=0, description="the length of its vectors")
    send_dimensions: bool | None = Field(
        default=None, description="whether the server is asked for this length; some models refuse"
    )
    encoding: Encoding | None = Field(default=None, description="how vectors travel")
    body: dict[str, Any] = Field(default={}, description="more parameters of the request, as the server defines them")

    @field_validator("endpoint")
    @classmethod
    def _an_address(cls, endpoint: str, info: ValidationInfo) -> str:
        endpoint = _completed(endpoint, info)
        if _VARIABLE.search(endpoint):
            return endpoint  # read without an environment, by a process that calls no model
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
            raise ValueError(f"{endpoint!r} is not an http(s) address")
        return endpoint

    @field_validator("headers")
    @classmethod
    def _more_headers(cls, headers: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        completed, findings = {}, []
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                findings.append(((name,), "is not the name of an HTTP header"))
            elif why := OUR_HEADERS.get(name.lower()):
                findings.append(((name,), f"cannot be set here: {why}"))
            try:
                completed[name] = _completed(value, info)
            except ValueError as wrong:
                findings.append(((name,), str(wrong)))
            else:
                if not completed[name].isprintable() or not completed[name].isascii():
                    findings.append(((name,), "must be one line of ASCII characters"))
        if findings:
            raise invalid(findings)
        return completed

    @field_validator("body")
    @classmethod
    def _more_parameters(cls, body: dict[str, Any]) -> dict[str, Any]:
        findings = [((name,), f"cannot be set here: {OUR_BODY[name]}") for name in body if name in OUR_BODY]
        if findings:
            raise invalid(findings)
        return body

    @model_validator(mode="wrap")
    @classmethod
    def _consistent(cls, given: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Together with what is wrong in single keys, what is wrong between them."""
        findings = list(_contradictions(given)) if isinstance(given, Mapping) else []
        try:
            deployment = read(given)
        except ValidationError as wrong:
            raise invalid(findings, wrong) from None
        if findings:
            raise invalid(findings)
        return deployment

    def vector_space(self) -> str:
        """Names the vectors of an embedding deployment: those of two spaces cannot be compared."""
        return f"{self.model}/{self.dimensions}"

    @property
    def address(self) -> str:
        """What the paths of the API are added to; for Azure with dates: the resource, whose paths the client makes."""
        if self.provider is not Provider.AZURE:
            return self.endpoint
        resource = self.endpoint.rstrip("/").removesuffix("/v1").removesuffix("/openai")
        return f"{resource}/openai/v1/" if self.api_version == AZURE_V1 else resource

    def answer_limit(self, wanted: int) -> int:
        """The tokens of an answer, of the `wanted` ones, that `max_output` leaves beside the reasoning."""
        return wanted if self.max_output is None else min(wanted, self.max_output - self.reasoning_tokens)


def _contradictions(given: Mapping[str, Any]) -> Iterator[tuple[Where, str]]:
    """What is wrong between the keys of one deployment, as they are written."""
    given = {name: value for name, value in given.items() if value is not None}
    kind, provider, dialect = given.get("kind", ModelKind.CHAT), given.get("provider"), given.get("dialect")
    for only, names in ONLY.items():
        if kind in tuple(ModelKind) and kind != only:
            yield from (((name,), f"has no effect for kind: {kind}") for name in given if name in names)
    if kind == ModelKind.CHAT:
        yield from _of_chat(given)
    if kind == ModelKind.EMBEDDING and "dimensions" not in given:
        yield ("dimensions",), "is missing (the length of its vectors)"
    if kind == ModelKind.EMBEDDING and isinstance(given.get("price"), Mapping) and "output" in given["price"]:
        yield ("price", "output"), f"has no effect for kind: {kind}"
    if kind == ModelKind.EMBEDDING and dialect == Preset.REASONING:
        yield ("dialect",), "reasoning is a dialect of chat models"
    if provider == Provider.AZURE and "api_version" not in given:
        yield ("api_version",), "is missing (v1, or a date such as 2024-10-21)"
    if provider in (Provider.OPENAI, Provider.COMPATIBLE) and "api_version" in given:
        yield ("api_version",), f"has no effect for provider: {provider}"
    if isinstance(given.get("endpoint"), str):
        yield from _misaddressed(given["endpoint"].rstrip("/"), provider)


def _of_chat(given: Mapping[str, Any]) -> Iterator[tuple[Where, str]]:
    if not given.get("stream", Deployment.model_fields["stream"].default):
        if "stream_options" in given:
            yield ("stream_options",), "has no effect without `stream: true`"
        if isinstance(given.get("timeouts"), Mapping) and "between_tokens" in given["timeouts"]:
            yield ("timeouts", "between_tokens"), "has no effect without `stream: true`"
    reasoning = given.get("reasoning_tokens")
    if reasoning is None and given.get("dialect") == Preset.REASONING:
        yield ("reasoning_tokens",), "is missing (what the model may spend on reasoning beside the answer)"
    for name in ("max_output", "context_window"):
        most = given.get(name)
        if isinstance(reasoning, int) and isinstance(most, int) and reasoning >= most > 0:
            yield ("reasoning_tokens",), f"leaves no token of {name} ({most}) for the answer"


def _misaddressed(endpoint: str, provider: object) -> Iterator[tuple[Where, str]]:
    for tail in ("/chat/completions", "/embeddings"):
        if endpoint.partition("?")[0].endswith(tail):
            yield ("endpoint",), f"ends before {tail}: the client adds it"
            return
    if "?" in endpoint.replace("${", ""):
        yield ("endpoint",), "has no query; the API version has its own key"
    elif provider == Provider.AZURE and "/deployments/" in endpoint:
        yield ("endpoint",), "ends before /openai/deployments: the client adds it, with `model`"
    elif provider == Provider.OPENAI and endpoint.endswith("api.openai.com"):
        yield ("endpoint",), "has a path: https://api.openai.com/v1"


class Deployments(Section):
    """The registry of deployments."""

    deployments: tuple[Deployment, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [each.name for each in self.deployments]
        twice = [position for position, name in enumerate(names) if name in names[:position]]
        if twice:
            raise invalid((("deployments", each, "name"), "another deployment has this name") for each in twice)
        return self

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] = os.environ) -> Self:
        """Read `models.yaml`; raises `SettingsError` with a line for each finding."""
        return read_yaml(path, cls, "models file", {ENVIRONMENT: environment})

    def get(self, name: str, kind: ModelKind) -> Deployment:
        """The deployment called `name`; raises `SettingsError` if it is not there or of another kind."""
        for each in self.deployments:
            if each.name == name and each.kind is kind:
                return each
        known = ", ".join(each.name for each in self.deployments if each.kind is kind) or "none"
        raise SettingsError(f"no {kind} deployment is called {name!r} in the models file (there: {known})")

    def chats(self) -> tuple[Deployment, ...]:
        """The chat deployments by priority, then by name."""
        return tuple(
            sorted((d for d in self.deployments if d.kind is ModelKind.CHAT), key=lambda d: (d.priority, d.name))
        )


def _completed(text: str, info: ValidationInfo) -> str:
    """`text` with `${…}` replaced; raises `ValueError` for a variable that is not set."""
    environment = (info.context or {}).get(ENVIRONMENT)
    if environment is None:
        return text

    def value(found: "re.Match[str]") -> str:
        said = environment.get(found["name"]) or found["default"]
        if not said:
            raise ValueError(f"the environment variable {found['name']} is not set")
        return str(said)

    return _VARIABLE.sub(value, text)
