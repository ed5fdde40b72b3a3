"""`python leash.py PARENT COMMAND…`: become COMMAND, on a leash: it dies when PARENT does, even by kill -9.

A signal handler cannot promise that, the kernel can: Linux sends SIGKILL to a process whose parent has died
(prctl(2), PR_SET_PDEATHSIG; it survives exec). It is a program of its own because running Python between fork and
exec of a process with threads may deadlock. Elsewhere there is no such promise: what a killed `ragbus up` leaves
behind there is named by the next one, whose ports it holds.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie(parent: int) -> None:
    """Die with `parent`, also when it died before we could ask for that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


if __name__ == "__main__":
    tie(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - the caller gave a whole path and no shell is involved
