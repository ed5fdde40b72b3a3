"""Configuration folders for tests: the example's, with other deployments and use cases."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from local.stack.stack import EXAMPLE


def configuration(
    folder: Path,
    deployments: Sequence[Mapping[str, Any]],
    use_cases: Mapping[str, Mapping[str, Any]],
    tenants: Mapping[str, Mapping[str, Any]] | None = None,
    callers: Sequence[Mapping[str, Any]] = (),
    sources: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write a configuration into `folder`, and return it.

    `deployments`: of chat models; the example's embeddings are added. `use_cases`: what each changes in the example's.
    Callers may ask for all of them. `tenants`, `callers`, `sources`: beside the example's; `callers` by what they
    change in its first.
    """
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("handbook", "questions.yaml"))
    models = yaml.safe_load((folder / "models.yaml").read_text("utf-8"))
    embeddings = [each for each in models["deployments"] if each["kind"] == "embedding"]
    chats = [{"kind": "chat", "region": "here", **each} for each in deployments]
    _write(folder / "models.yaml", {"deployments": [*embeddings, *chats]})

    example = yaml.safe_load((folder / "use_cases" / "onboarding.yaml").read_text("utf-8"))
    (folder / "use_cases" / "onboarding.yaml").unlink()
    for name, changes in use_cases.items():
        _write(folder / "use_cases" / f"{name}.yaml", {**example, "regions": [], **changes, "name": name})

    access = yaml.safe_load((folder / "callers.yaml").read_text("utf-8"))
    access["tenants"].update(tenants or {})
    access["callers"] += [{**access["callers"][0], **changes} for changes in callers]
    for caller in access["callers"]:
        caller["use_cases"] = list(use_cases)
    _write(folder / "callers.yaml", access)
    owners = yaml.safe_load((folder / "sources.yaml").read_text("utf-8"))
    owners["sources"] += sources
    _write(folder / "sources.yaml", owners)
    return folder


def _write(file: Path, content: object) -> None:
    file.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
