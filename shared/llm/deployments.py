"""`models.yaml`: the deployments that may be called, with prices and limits.

deployments:
  - name: small-4k                 # what use cases and settings refer to
    provider: azure                # azure | openai | compatible (vLLM, Ollama, the laptop's stand-in)
    endpoint: ${AZURE_OPENAI_ENDPOINT:-http://127.0.0.1:8090}
    api_version: 2024-10-21        # azure only
    model: gpt-4o-mini             # azure: the name of the deployment; else: the name of the model
    kind: chat                     # chat | embedding
    region: swedencentral
    context_window: 4096
    max_output: 1024               # chat only
    price: {input: 0.15, output: 0.60}      # chat only; USD per million tokens
    priority: 1                    # chat only; the deployment with the smallest number is tried first
    stream: true                   # chat only; by default answers are not streamed
    dimensions: 256                # embedding only
    key_env: AZURE_OPENAI_KEY      # the NAME of the variable with the key; azure without it: Entra ID
"""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from shared.errors import SettingsError
from shared.llm.dialect import NOT_SENT, Encoding, Preset, TokenLimit
from shared.settings.files import read_yaml

# ${NAME} or ${NAME:-default}, as in a shell.
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


class Provider(StrEnum):
    """Which dialect of the OpenAI protocol the endpoint speaks."""

    AZURE = "azure"
    OPENAI = "openai"
    COMPATIBLE = "compatible"


class ModelKind(StrEnum):
    """What a deployment does."""

    CHAT = "chat"
    EMBEDDING = "embedding"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Price(_Strict):
    """USD per million tokens."""

    input: float = Field(default=0, ge=0)
    output: float = Field(default=0, ge=0)


class Timeouts(_Strict):
    """The seconds that a call may take; None: as the worker's settings say."""

    first_token: float | None = Field(default=None, gt=0)
    between_tokens: float | None = Field(default=None, gt=0)
    total: float | None = Field(default=None, gt=0)


def _none(value: object) -> object:
    return None if value == NOT_SENT else value


class Deployment(_Strict):
    """One deployment of a model."""

    name: str = Field(min_length=1, max_length=64)
    provider: Provider
    endpoint: str = Field(min_length=1)
    api_version: str | None = None
    model: str = Field(min_length=1)
    kind: ModelKind = ModelKind.CHAT
    region: str = Field(min_length=1)
    context_window: int = Field(gt=0)
    max_output: int | None = Field(default=None, gt=0)
    price: Price = Price()
    priority: int = Field(default=100, ge=0, description="the deployment with the smallest number is tried first")
    stream: bool = Field(
        default=False,
        description="chat only: ask for answers as a stream, so that a server that does not notice a closed connection "
        "while it thinks is stopped at its next token; costs CPU for every token",
    )
    dialect: Preset | None = Field(default=None, description="what its requests contain; see the table of dialects")
    token_limit: TokenLimit | None = None
    temperature: Annotated[float | None, BeforeValidator(_none)] = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = None
    reasoning_effort: str | None = Field(default=None, min_length=1)
    stream_options: bool | None = None
    send_dimensions: bool | None = None
    encoding: Encoding | None = None
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    reasoning_tokens: int = Field(default=0, ge=0)
    reserved: bool = Field(default=False, description="chat only: paid for anyway (PTU), so it is tried before others")
    tokens_per_minute: int | None = Field(default=None, gt=0)
    requests_per_minute: int | None = Field(default=None, gt=0)
    timeouts: Timeouts = Timeouts()
    dimensions: int = Field(default=0, ge=0, description="embedding only: the length of its vectors")
    key_env: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$", description="a name, never the key")

    @field_validator("api_version", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        # YAML reads 2024-10-21 as a date.
        return None if value is None else str(value)

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.kind is ModelKind.EMBEDDING and not self.dimensions:
            raise ValueError(f"{self.name}: an embedding deployment needs dimensions")
        if self.provider is Provider.AZURE and not self.api_version:
            raise ValueError(f"{self.name}: an azure deployment needs api_version")
        return self

    def vector_space(self) -> str:
        """Names the vectors of an embedding deployment: those of two spaces cannot be compared."""
        return f"{self.model}/{self.dimensions}"

    def at(self, environment: Mapping[str, str]) -> Self:
        """The same with `${…}` in the endpoint replaced; raises `SettingsError` if that is not an HTTP address."""
        endpoint = _VARIABLE.sub(lambda found: _value(found, environment, self.name), self.endpoint)
        if urlsplit(endpoint).scheme not in ("http", "https"):
            raise SettingsError(f"{self.name}: endpoint: {endpoint!r} is not an http(s) address")
        # Only the fields that the file names: `ragbus doctor` warns of those without effect.
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).model_validate(given | {"endpoint": endpoint})


class Deployments(_Strict):
    """The registry of deployments."""

    deployments: tuple[Deployment, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [each.name for each in self.deployments]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"deployment {min(twice)} is listed twice")
        return self

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] = os.environ) -> Self:
        """Read `models.yaml`; raises `SettingsError` naming file and field."""
        read = read_yaml(path, cls, "models file")
        try:
            return cls(deployments=tuple(each.at(environment) for each in read.deployments))
        except (SettingsError, ValidationError) as wrong:
            raise SettingsError(f"{path}: {wrong}") from wrong

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


def _value(found: "re.Match[str]", environment: Mapping[str, str], deployment: str) -> str:
    name, default = found["name"], found["default"]
    value = environment.get(name) or default
    if not value:
        raise SettingsError(f"{deployment}: endpoint: the environment variable {name} is not set")
    return value
