"""The deployments of this server: those of a file; without one, any name works.

deployments:
  - name: small-4k
    context_window: 4096
    tpm: 60000
    rpm: 60
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

DEFAULT_WINDOW = 128_000


@dataclass(frozen=True)
class Deployment:
    """One deployment: window in tokens, tokens and requests per minute; None: unlimited."""

    name: str
    context_window: int = DEFAULT_WINDOW
    tpm: int | None = None
    rpm: int | None = None


@dataclass(frozen=True)
class Deployments:
    """The deployments that exist; `only` None: any name works."""

    only: Mapping[str, Deployment] | None = None

    def find(self, name: str) -> Deployment | None:
        """The deployment of that name, if there is one."""
        return Deployment(name) if self.only is None else self.only.get(name)

    def names(self) -> list[str]:
        """All names, for `/v1/models`."""
        return ["any"] if self.only is None else list(self.only)


def load(path: Path) -> Deployments:
    """The deployments in a YAML or JSON file; raises `OSError`, or `ValueError` that says what is wrong."""
    try:
        return parse(yaml.safe_load(path.read_text("utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"neither YAML nor JSON: {' '.join(str(error).split())}") from error


def parse(content: object) -> Deployments:
    """The deployments in a parsed file; raises `ValueError`."""
    entries = content.get("deployments") if isinstance(content, Mapping) else content
    if not isinstance(entries, list) or not entries:
        raise ValueError("it needs a list called 'deployments'")
    found = [_deployment(entry) for entry in entries]
    names = [deployment.name for deployment in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"deployment {min(twice)!r} is there twice")
    return Deployments({deployment.name: deployment for deployment in found})


def _deployment(entry: object) -> Deployment:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"a deployment needs a name: {entry!r}")
    unknown = set(entry) - {"name", "context_window", "tpm", "rpm"}
    if unknown:
        raise ValueError(f"deployment {entry['name']!r} has an unknown field {min(map(str, unknown))!r}")
    numbers = {field: value for field, value in entry.items() if field != "name" and value is not None}
    for field, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"deployment {entry['name']!r}: {field} must be a whole number above 0, not {value!r}")
    return Deployment(entry["name"], **numbers)
