"""One process owns a data directory.

Qdrant edge has a lock of its own, but takes it too late: a second process that opens a shard has
already touched its files when it is refused, and from then on every flush of the owner fails. So
the directory is locked here, before the engine sees a path.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.vectors.errors import CannotStart


@contextmanager
def owned(data: Path) -> Iterator[None]:
    """Own the directory `data` while the block runs; raises `CannotStart` if another process does.

    The kernel releases the lock when this process is killed.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "owner.lock").open("a+", encoding="ascii")
    except OSError as error:
        raise CannotStart(f"cannot write to {data} ({error.strerror}); choose another --data") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(lock.fileno(), 32, 0).decode().strip() or "unknown"
            raise CannotStart(
                f"{data} is in use by process {owner}; stop that one, or choose another --data"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
