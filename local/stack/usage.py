"""How much memory and CPU processes use, from /proc or ps."""

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def resident(pids: Iterable[int]) -> int:
    """Resident memory of the processes, in bytes; pages that they share count once for each."""
    return sum(_resident(pid) for pid in pids)


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that the processes have used so far (Linux; 0 elsewhere)."""
    return sum(_cpu(pid) for pid in pids)


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        if sys.platform == "linux":
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        else:  # noqa: RET505 - so that type checkers know it is for another platform
            command = ["ps", "-o", "rss=", "-p", str(pid)]
            return int(subprocess.run(command, capture_output=True, text=True, check=False).stdout) * 1024  # noqa: S603
    return 0


def _cpu(pid: int) -> float:
    with suppress(OSError, ValueError, IndexError):
        # The name in field 2 may hold blanks; what follows it does not. Fields 14 and 15 are utime and stime.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
