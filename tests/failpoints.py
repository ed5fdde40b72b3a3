"""Traps at failpoints: a worker dies (SIGKILL) where a test says.

The test makes a file, `{folder}/{service}/{point}` (`set_trap`). The worker that comes to the point takes the file
away and kills itself. So a trap snaps once, whatever is restarted meanwhile, and can be set while it runs.
`RAGBUS_FAILPOINTS` names the folder. Only the fork server of the tests (`tests/support/fork_server.py`), which starts
real workers and is in no image, looks at it.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from shared import failpoints

FOLDER = "RAGBUS_FAILPOINTS"


def set_trap(folder: Path, service: str, point: str) -> Path:
    """Let the next `service` that comes to `point` die there; the file is gone when it does."""
    if point not in failpoints.POINTS:
        raise KeyError(f"there is no failpoint {point!r}")
    trap = folder / service / point
    trap.parent.mkdir(parents=True, exist_ok=True)
    trap.touch()
    return trap


def arm(service: str, environment: Mapping[str, str]) -> None:
    """Set the traps of `service`, if `environment` says where they are."""
    if FOLDER in environment:
        failpoints.arm(_trap_of(Path(environment[FOLDER]) / service))


def _trap_of(folder: Path) -> Callable[[str], None]:
    """What happens at a point, by the files in `folder`; raises `KeyError` for a point that is not on the list."""

    def reached(point: str) -> None:
        failpoints.POINTS[point]
        with suppress(FileNotFoundError):
            (folder / point).unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    return reached
