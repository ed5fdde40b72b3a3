"""Use cases as data: callers get access to a use case, never to a raw model."""

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from shared.access.output_schema import check
from shared.contracts.ids import digest
from shared.errors import SettingsError
from shared.settings.base import existing
from shared.settings.budget import Budget
from shared.settings.files import Section, read_yaml

# The names of collections, as use cases and sources give them.
COLLECTION = r"^[a-z][a-z0-9-]{0,62}$"


class Deadline(Section):
    """How long a caller may wait, in seconds."""

    default: float = Field(default=60, gt=0)
    longest: float = Field(default=300, gt=0)

    def allowed(self, asked: timedelta | None) -> timedelta:
        """The time that the caller gets: what it asked for, up to `longest`; `default` if it asked for none."""
        longest = timedelta(seconds=self.longest)
        return min(asked, longest) if asked is not None else min(timedelta(seconds=self.default), longest)


class Retrieval(Section):
    """How passages are searched."""

    candidates: int = Field(default=16, ge=1, le=100, description="ranked passages handed to the generator")
    overfetch: int = Field(default=3, ge=1, le=10, description="times as many are fetched, for the version filter")


class CachePolicy(Section):
    """How long answers are kept, in seconds; 0: not at all."""

    ttl: int = Field(default=3600, ge=0)


class Grounding(StrEnum):
    """What becomes of an answer's sentences that no citation supports; an answer with no citation is withheld."""

    FLAG = "flag"
    """They stay, and `unverified` of the outcome lists them."""
    DROP = "drop"
    """They are taken out."""
    REFUSE = "refuse"
    """The answer is withheld."""


class UseCaseBudget(Budget):
    """What each tenant may spend on a use case, and what becomes of an ask when a budget has nothing left for it."""

    when_spent: Literal["wait", "refuse"] = Field(
        default="wait", description="wait: as long as its deadline allows; refuse: at once, with retry_after"
    )


class UseCase(Section):
    """One thing that callers may ask for."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    description: str = Field(default="", description="for people; has no effect")
    collection: str = Field(pattern=COLLECTION)
    prompt: str = Field(min_length=1, description="the system prompt; the passages and the question are added")
    deployments: tuple[str, ...] = Field(min_length=1, description="deployments of models.yaml that may answer")
    regions: tuple[str, ...] = Field(default=(), description="regions that may receive data; empty: all")
    context_window: int = Field(gt=0, description="maximum tokens of prompt and answer together")
    answer_tokens: int = Field(default=400, gt=0)
    question_tokens: int = Field(default=800, gt=0)
    deadline: Deadline = Deadline()
    retrieval: Retrieval = Retrieval()
    cache: CachePolicy = CachePolicy()
    grounding: Grounding = Field(
        default=Grounding.FLAG, description="sentences without a verified citation: flag, drop, or refuse the answer"
    )
    budget: UseCaseBudget = UseCaseBudget()

    output_schema: dict[str, Any] | None = Field(
        default=None,
        description="a JSON Schema (draft 2020-12, a subset): the answer comes as `data` of this structure",
    )

    @field_validator("output_schema")
    @classmethod
    def _supported(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None:
            check(schema)
        return schema

    @model_validator(mode="after")
    def _keeps_its_structure(self) -> Self:
        if self.output_schema is not None and self.grounding is Grounding.DROP:
            raise ValueError("grounding: nothing can be dropped from a structure; write flag or refuse")
        return self

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.answer_tokens + self.question_tokens >= self.context_window:
            raise ValueError(f"use case {self.name}: answer_tokens + question_tokens leave no room for passages")
        return self

    def version(self) -> str:
        """Changes whenever an answer could change with it; part of every cache key."""
        return digest(self.model_dump_json(exclude={"description", "deadline", "cache", "budget"}))[:12]


def read_use_cases(folder: Path) -> dict[str, UseCase]:
    """Every `*.yaml` in `folder`, by name; raises `SettingsError`."""
    files = sorted(existing(folder, "use cases folder").glob("*.yaml"))
    other = sorted(folder.glob("*.yml"))
    if other:
        raise SettingsError(f"{other[0]}: only *.yaml files are read; rename it to *.yaml")
    found = [read_yaml(file, UseCase, "use case") for file in files]
    if not found:
        raise SettingsError(f"{folder}: the folder has no use case (*.yaml)")
    by_name = {use_case.name: use_case for use_case in found}
    if len(by_name) != len(found):
        raise SettingsError(f"{folder}: two use cases have the same name")
    return by_name
