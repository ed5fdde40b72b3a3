"""One part of the stack as a running process: it dies with us (`leash.py`) and writes into a log file."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from local.stack import leash
from local.stack.ready import Check

ROOT = Path(__file__).parents[2]
# Seconds between two readiness checks; one costs less than a millisecond.
_POLL = 0.03
# How our parts, asyncio and Redis say that a port is taken.
_PORT_TAKEN = ("ddress already in use", "is taken")


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run a part: command, readiness check, environment, and the seconds it has to end after SIGTERM."""

    name: str
    command: tuple[str, ...]
    ready: Check
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = 5.0


class Child:
    """The process of a part. It leads a session of its own, so that Ctrl-C reaches us and not it."""

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self.expected = False
        """Whether we have stopped it, so that its end is no failure."""
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Its process id; raises `RuntimeError` before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.spec.name} was not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; its output is appended to the log. Raises `OSError`."""
        self.expected = False
        # Logs contain questions and passages: only the owner may read them.
        with os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self.spec.command),
                cwd=ROOT,
                env=self.spec.environment,
                stdin=DEVNULL,
                stdout=log,
                stderr=STDOUT,
                start_new_session=True,
                umask=0o077,
            )

    async def is_ready(self) -> bool:
        """Wait until it answers; false when it ended before."""
        while self.alive:
            if await self.spec.ready.passes():
                return True
            await asyncio.sleep(_POLL)
        return False

    async def wait(self) -> int:
        """Wait for its end; minus the signal's number if it was killed."""
        return await self._process.wait() if self._process is not None else 0

    async def stop(self) -> None:
        """Send SIGTERM, wait for the part's grace period, then kill it."""
        self.expected = True
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.wait(), self.spec.grace)
        self.kill()
        await self.wait()

    def kill(self) -> None:
        """Kill it at once, with every process it has started."""
        self.expected = True
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end_of_log(self, lines: int = 12) -> str:
        """The last lines of its log."""
        with suppress(OSError):
            return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])
        return ""

    def lost_its_port(self) -> bool:
        """Whether it ended because another program listens on its port."""
        return not self.alive and not self.expected and any(word in self.end_of_log() for word in _PORT_TAKEN)
