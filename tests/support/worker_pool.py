"""Our workers as processes to be killed: started by the fork server, ready when their probe says so."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from local.stack import leash, ports
from local.stack.child import ROOT
from local.stack.ready import http_ok

_LOOK = 0.05


@dataclass(slots=True)
class WorkerProcess:
    """One replica of a service."""

    name: str
    service: str
    environment: Mapping[str, str]
    health_port: int
    log: Path
    pid: int = 0
    ready: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class WorkerPool:
    """Starts workers and kills them: `async with WorkerPool(folder, environment) as pool`."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        """`environment`: what all workers are told; their ports come on top."""
        self.workers: dict[str, WorkerProcess] = {}
        self.deaths: list[str] = []
        """Workers that ended by themselves, each in a sentence."""
        self._logs = logs
        self._environment = environment
        self._ports = ports.free()
        self._process: Process | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._living: dict[int, WorkerProcess] = {}
        self._next: WorkerProcess | None = None
        self._born = asyncio.Event()
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", leash.__file__, str(os.getpid())),
            *(sys.executable, "-m", "tests.support.fork_server"),
            cwd=ROOT,
            # Numerical libraries start a thread for each core unless told not to, and a fork does not take it along.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
        )
        try:
            await self._said()
        except BaseException:
            await self._end()
            raise
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def add(self, name: str, service: str, environment: Mapping[str, str]) -> None:
        """Start a replica of a service with `environment` on top, and wait until it is ready."""
        health, http = next(self._ports), next(self._ports)
        own = {"RAGBUS_HEALTH_PORT": str(health), "RAGBUS_HTTP_PORT": str(http)}
        told = {**self._environment, **own, **environment}
        self.workers[name] = WorkerProcess(name, service, told, health, self._logs / f"{name}.log")
        await self.start(self.workers[name])

    async def start(self, worker: WorkerProcess) -> bool:
        """Start a worker that does not run, and wait until it is ready; false when it ended before."""
        async with self._turn:
            assert self._process is not None
            assert self._process.stdin is not None
            wanted = {"service": worker.service, "environment": dict(worker.environment), "log": str(worker.log)}
            worker.gone.clear()
            self._born.clear()
            self._next = worker
            self._process.stdin.write(json.dumps(wanted).encode() + b"\n")
            await self._born.wait()
            pid = worker.pid
        probe = http_ok(worker.health_port, "/connected")
        while not await probe.passes():
            if pid not in self._living:
                return False
            await asyncio.sleep(_LOOK)
        # It may have been killed, or even be another one by now, while it answered.
        worker.ready = worker.ready or pid in self._living
        return worker.ready

    def is_alive(self, worker: WorkerProcess) -> bool:
        """Whether it runs; it need not be ready."""
        return worker.pid in self._living

    async def kill(self, worker: WorkerProcess) -> float:
        """End it at once, with whatever it has started, and wait until it is gone; says when it was done."""
        worker.ready = False
        pid, at = worker.pid, time.time()
        self._living.pop(pid, None)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)  # before it leads a group of its own
        await worker.gone.wait()
        return at

    async def _hear(self) -> None:
        while said := await self._said():
            if "pid" in said:
                self._note_birth(said["pid"])
            else:
                self._note_end(said["ended"], said["status"])
        self.deaths.append("the fork server ended by itself, and all workers with it")
        for worker in self.workers.values():
            worker.gone.set()
        self._born.set()

    async def _said(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {}
        return found

    def _note_birth(self, pid: int) -> None:
        assert self._next is not None
        self._next.pid = pid
        self._living[pid] = self._next
        self._born.set()

    def _note_end(self, pid: int, status: int) -> None:
        for worker in self.workers.values():
            if worker.pid == pid:
                worker.ready = False
                worker.gone.set()
        if lost := self._living.pop(pid, None):
            self.deaths.append(f"{lost.name} ended by itself with status {status}; its log: {lost.log}")

    async def _end(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
        if self._process is None:
            return
        for pid in self._living:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            self._process.kill()  # what it started dies with it
        await self._process.wait()
