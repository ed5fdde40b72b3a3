"""How much memory and CPU processes use, from /proc or ps."""

import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def resident(pids: Iterable[int]) -> int:
    """Resident memory of the processes, in bytes; shared pages count once for each; 0 for one that has ended."""
    total = 0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            if sys.platform == "linux":
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            else:
                command = ["ps", "-o", "rss=", "-p", str(pid)]
                listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
                total += int(listed.stdout) * 1024
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time that the processes have used so far (Linux; 0 elsewhere); 0 for one that has ended."""
    total = 0.0
    for pid in pids:
        with suppress(OSError, ValueError, IndexError):
            # Fields 14 and 15 are utime and stime (proc(5)). The name in field 2 may contain blanks.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
