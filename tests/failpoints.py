"""Traps at failpoints: a worker dies where a test says.

The test writes a file, `{folder}/{service}/{point}` (`set_trap`). The worker that comes to the point takes the file
away and does what it says. So a trap snaps once, whatever is restarted meanwhile, and can be set while it runs.
`RAGBUS_FAILPOINTS` names the folder. Only the hatchery of the tests looks at it (`tests/chaos/hatchery.py`), which
starts real workers and is in no image.

    kill        SIGKILL, to itself
    stop 4      SIGSTOP to itself, and on after 4 s: a machine that paused
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from shared import failpoints

FOLDER = "RAGBUS_FAILPOINTS"


def set_trap(folder: Path, service: str, point: str, action: str = "kill") -> Path:
    """Let the next `service` that comes to `point` do `action`; the file is gone when it has."""
    if point not in failpoints.POINTS:
        raise KeyError(f"there is no failpoint {point!r}")
    trap = folder / service / point
    trap.parent.mkdir(parents=True, exist_ok=True)
    half = trap.with_suffix(".half")
    half.write_text(action)
    half.rename(trap)
    return trap


def _trap_of(folder: Path) -> Callable[[str], None]:
    """What happens at a point, by the files in `folder`; raises `KeyError` for a point that is not on the list."""

    def reached(point: str) -> None:
        failpoints.POINTS[point]
        trap, taken = folder / point, folder / f"{point}.{os.getpid()}"
        with suppress(FileNotFoundError):
            trap.rename(taken)
            action = taken.read_text()
            taken.unlink()
            _act(action)

    return reached


def _act(action: str) -> None:
    word, _, seconds = action.partition(" ")
    if word == "stop":
        subprocess.Popen(["sh", "-c", f"sleep {float(seconds)}; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[word])


def arm(service: str, environment: Mapping[str, str]) -> None:
    """Set the traps of `service`, if `environment` says where they are."""
    if FOLDER in environment:
        folder = Path(environment[FOLDER]) / service
        folder.mkdir(parents=True, exist_ok=True)
        failpoints.arm(_trap_of(folder))
