"""The configuration: deployments, and what goes wrong from the start.

deployments:
  - name: small-4k
    dialect: chat          # chat | reasoning | vllm | ollama | llamacpp
    context_window: 4096   # tokens
    tpm: 60000             # tokens and requests per minute; absent: unlimited
    rpm: 60
    count_refused: true    # whether a refused call costs a request of the minute, as at OpenAI
    shortens: true         # embeddings: whether `dimensions` is accepted
faults:
  - {fault: html-200, probability: 0.1, seed: 7}
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from local.llm import faults
from local.llm.dialects import DIALECTS
from local.llm.errors import Dialect

DEFAULT_WINDOW = 128_000
# As they are called at OpenAI.
_REASONING = re.compile(r"o\d|gpt-5")
_WITHOUT_DIMENSIONS = "text-embedding-ada-002"


@dataclass(frozen=True)
class Deployment:
    """One deployment: what it speaks, window in tokens, tokens and requests per minute; None: unlimited."""

    name: str
    context_window: int = DEFAULT_WINDOW
    tpm: int | None = None
    rpm: int | None = None
    dialect: Dialect = "chat"
    count_refused: bool = True
    shortens: bool = True

    @classmethod
    def named(cls, name: str) -> "Deployment":
        """What a name says when there is no configuration: `o3-mini` reasons, `vllm-small` is vLLM's."""
        found: Dialect = next((dialect for dialect in DIALECTS if name.startswith(dialect)), "chat")
        return cls(
            name,
            dialect="reasoning" if _REASONING.match(name) else found,
            shortens=name != _WITHOUT_DIMENSIONS,
        )


@dataclass(frozen=True)
class Deployments:
    """The deployments that exist; `only` None: any name works."""

    only: Mapping[str, Deployment] | None = None

    def find(self, name: str) -> Deployment | None:
        """The deployment of that name, if there is one."""
        return Deployment.named(name) if self.only is None else self.only.get(name)

    def names(self) -> list[str]:
        """All names, for `/v1/models`."""
        return ["any"] if self.only is None else list(self.only)

    @property
    def dialect(self) -> Dialect:
        """In what an unknown name is refused: the first deployment's."""
        return next((each.dialect for each in (self.only or {}).values()), "chat")


def load(path: Path) -> tuple[Deployments, list[faults.Fault]]:
    """Deployments and faults in a YAML or JSON file; raises `OSError`, or `ValueError` that says what is wrong."""
    try:
        return parse(yaml.safe_load(path.read_text("utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"neither YAML nor JSON: {' '.join(str(error).split())}") from error


def parse(content: object) -> tuple[Deployments, list[faults.Fault]]:
    """What a parsed file says; without `deployments`, any name works. Raises `ValueError`."""
    if not isinstance(content, Mapping) or not content or set(content) - {"deployments", "faults"}:
        raise ValueError("it needs a list called 'deployments', or 'faults', or both, and nothing else")
    rules = faults.parse(content.get("faults", []))
    if "deployments" not in content:
        return Deployments(), rules
    entries = content["deployments"]
    if not isinstance(entries, list) or not entries:
        raise ValueError("'deployments' must be a list of at least one")
    found = [_deployment(entry) for entry in entries]
    names = [deployment.name for deployment in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"deployment {min(twice)!r} is there twice")
    return Deployments({deployment.name: deployment for deployment in found}), rules


def _deployment(entry: object) -> Deployment:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"a deployment needs a name: {entry!r}")
    name = entry["name"]
    if unknown := set(entry) - {field.name for field in fields(Deployment)}:
        raise ValueError(f"deployment {name!r} has an unknown field {min(map(str, unknown))!r}")
    given: dict[str, Any] = {field: value for field, value in entry.items() if value is not None}
    for field, value in given.items():
        if field == "dialect" and value not in DIALECTS:
            raise ValueError(f"deployment {name!r}: dialect must be one of {', '.join(DIALECTS)}, not {value!r}")
        if field in ("count_refused", "shortens") and not isinstance(value, bool):
            raise ValueError(f"deployment {name!r}: {field} must be true or false, not {value!r}")
        if field in ("context_window", "tpm", "rpm") and (type(value) is not int or value < 1):
            raise ValueError(f"deployment {name!r}: {field} must be a whole number above 0, not {value!r}")
    return Deployment(**given)
