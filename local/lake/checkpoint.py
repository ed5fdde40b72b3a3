"""The checkpoint: which files were announced already, in one JSON file that is replaced as a whole."""

import json
import os
from dataclasses import astuple, dataclass, field
from pathlib import Path

from local.lake.diff import File

_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The snapshot whose events the queue has, and the last sequencer used."""

    container: str
    sequencer: int = 0
    files: dict[str, File] = field(default_factory=dict)


class Unusable(Exception):
    """The checkpoint cannot be trusted; guessing would lose deletions."""


def load(path: Path, container: str) -> Checkpoint:
    """The checkpoint of the last run, or an empty one; raises `OSError`, or `Unusable` with the fix."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Checkpoint(container)
    except ValueError as error:
        raise Unusable(f"{path} is damaged ({error}); remove it and every file is announced again") from error
    try:
        if content["version"] != _VERSION:
            raise Unusable(f"{path} is of version {content['version']}; remove it and every file is announced again")
        if content["container"] != container:
            raise Unusable(f"{path} belongs to container {content['container']!r}; choose another --checkpoint")
        files = {name: File(*values) for name, values in content["files"].items()}
        return Checkpoint(container, int(content["sequencer"]), files)
    except (KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"{path} is damaged ({error!r}); remove it and every file is announced again") from error


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file in one step: after a kill it is the old one or the new one. Raises `OSError`."""
    content = {
        "version": _VERSION,
        "container": checkpoint.container,
        "sequencer": checkpoint.sequencer,
        "files": {name: astuple(file) for name, file in checkpoint.files.items()},
    }
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        json.dump(content, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)
