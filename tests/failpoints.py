"""`python -m tests.failpoints services.NAME`: a worker that dies where a test says.

The test writes a file: `{folder}/{service}/{point}` (`set_trap`). The worker that comes to the point takes the file
away and does what it says. So a trap snaps once, whatever is restarted meanwhile, and can be set while it runs.
`RAGBUS_FAILPOINTS` names the folder. Only this launcher knows it: it is in no image.

    kill        SIGKILL, to itself
    stop 4      SIGSTOP to itself, and on after 4 s: a machine that paused
    term        SIGTERM to itself, and on
"""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
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


def trap_of(folder: Path) -> Callable[[str], None]:
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
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}[word])


def main() -> None:
    """Set the trap, then be the worker."""
    module = sys.argv[1]
    folder = Path(os.environ[FOLDER]) / module.rpartition(".")[2]
    folder.mkdir(parents=True, exist_ok=True)
    failpoints.arm(trap_of(folder))
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
