"""What was already announced, kept in one JSON file that is replaced as a whole."""

import json
import os
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from local.lake.diff import File

_VERSION = 1


@dataclass(frozen=True)
class State:
    """The snapshot that the queue knows about, and the last sequencer used."""

    container: str
    sequencer: int = 0
    files: dict[str, File] = field(default_factory=dict)


class Unusable(Exception):
    """The state cannot be trusted; guessing would lose deletions."""


def load(path: Path, container: str) -> State:
    """The state left by the last run, or an empty one."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return State(container)
    except ValueError as error:
        raise Unusable(f"{path} is damaged ({error}); remove it and every file is announced anew") from error
    return _checked(document, path, container)


def save(path: Path, state: State) -> None:
    """Replace the file at once: after a kill it is the old one or the new one, never half of one."""
    document = {
        "version": _VERSION,
        "container": state.container,
        "sequencer": state.sequencer,
        "files": {name: astuple(file) for name, file in state.files.items()},
    }
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        json.dump(document, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def _checked(document: Any, path: Path, container: str) -> State:
    try:
        if document["version"] != _VERSION:
            raise Unusable(f"{path} is of version {document['version']}; remove it and every file is announced anew")
        if document["container"] != container:
            raise Unusable(f"{path} belongs to container {document['container']!r}; choose another --state")
        files = {name: File(*values) for name, values in document["files"].items()}
        return State(container, int(document["sequencer"]), files)
    except (KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"{path} is damaged ({error!r}); remove it and every file is announced anew") from error
