"""The stack's folder: data, logs, the lake, and `stack.json`, which says where everything is.

.ragbus/         for its owner alone (0700, files 0600): questions, answers, documents and keys are in it
    lock         there and held while a stack runs here, so that there is only one
    stack.json   addresses, environment and process ids; there while the stack runs
    broker.json  the queues
    logs/        one file per process
    data/        what outlives a restart; among it cache-secret, which is made once
    lake/        the documents, copied from the example, to be edited at will
"""

import fcntl
import json
import os
import secrets
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from local.stack.errors import CannotStart

# What the stack writes into the folder.
_ENTRIES = {"lock", "stack.json", "broker.json", "logs", "data", "lake", "demo"}


class Folder:
    """Paths under one folder, and the right to use it."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        self.data = self.path / "data"
        self.lake = self.path / "lake"
        self.broker_config = self.path / "broker.json"
        self.state = self.path / "stack.json"
        self.lock = self.path / "lock"
        self._lock: TextIO | None = None

    def take(self) -> None:
        """Lock the folder until `release` or our end; raises `CannotStart` if another stack uses it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.fdopen(os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+")
        except OSError as error:
            raise CannotStart(f"cannot write to {self.path} ({error.strerror}): choose another folder") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise CannotStart(
                f"a stack runs in {self.path} already (process {owner}): stop it with Ctrl-C first"
            ) from None
        if not self._is_current(lock):
            # Its owner ended between our open and our lock, and deleted the file.
            lock.close()
            self.take()
            return
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _is_current(self, lock: TextIO) -> bool:
        """Whether the path still leads to the open `lock`."""
        try:
            return os.path.samestat(os.fstat(lock.fileno()), self.lock.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Unlock the folder, and delete the file that says a stack runs here."""
        self.state.unlink(missing_ok=True)
        if self._lock is not None:
            # Before we unlock it: afterwards it may be the next stack's file.
            self.lock.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def prepare(self, documents: Path, *, reset: bool) -> None:
        """Create what is missing; a new lake is a copy of `documents`. `reset`: delete data, logs and lake first."""
        if reset:
            for old in (self.data, self.lake, self.logs):
                shutil.rmtree(old, ignore_errors=True)
        for name in ("broker", "redis", "vectors"):
            (self.data / name).mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        if not self.lake.exists() and documents.is_dir():
            # In one step: an interrupted copy must not be taken for the lake next time.
            half = self.path / "lake.part"
            shutil.rmtree(half, ignore_errors=True)
            shutil.copytree(documents, half)
            half.rename(self.lake)
        self.lake.mkdir(exist_ok=True)
        # An earlier version let all users read them, and copied documents keep their modes.
        for ours in (self.data, self.logs, self.lake):
            _make_private(ours)
        if all(entry.name in _ENTRIES for entry in self.path.iterdir()):
            self.path.chmod(0o700)

    def cache_secret(self) -> str:
        """The RAGBUS_CACHE_SECRET of this folder: random, and the same until the data is deleted."""
        path = self.data / "cache-secret"
        if not path.exists():
            _write(path, secrets.token_urlsafe(32))
        return path.read_text("utf-8")

    def write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write JSON in one step, readable by its owner only, because it may contain keys."""
        _write(path, json.dumps(content, indent=2))


def _write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def _make_private(path: Path) -> None:
    """Let only its owner read `path` and what is in it; the targets of links keep their modes."""
    if path.is_symlink():
        return
    for place in (path, *path.rglob("*")):
        mode = place.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            with suppress(PermissionError):  # another user's file
                place.chmod(stat.S_IMODE(mode) & 0o700)
