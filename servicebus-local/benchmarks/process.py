"""The broker as a process of its own, and what it uses."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import servicebus_local
from servicebus_local.process import BrokerProcess

# Linux numbers the CPU clock of a process so: the complement of its id, and 2 for nanoseconds of the scheduler.
# It counts all threads, and is finer than the hundredths of a second in /proc/<pid>/stat.
_SCHEDULER_CLOCK = 2
_ROOT = Path(__file__).parents[1]

_flags = ["-S"]  # nothing that is installed is found: the broker needs the standard library only


def find_installed() -> None:
    """From now on, let brokers find what is installed beside them, such as uvloop."""
    _flags.clear()


class Cost(NamedTuple):
    """CPU of both sides in microseconds per message, and messages per second."""

    broker: float
    sdk: float
    rate: float

    @property
    def ratio(self) -> float:
        """What the broker uses for each unit the SDK uses."""
        return self.broker / self.sdk


class MeasuredBroker(BrokerProcess):
    """The broker as a process of its own whose start, memory and CPU are measured."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        queues: Sequence[str] = ("bench",),
        environment: dict[str, str] | None = None,
    ) -> None:
        config = folder / "Config.json"
        config.write_text(json.dumps(topology(queues)))
        super().__init__(
            *("--config", str(config), *options),
            python=(sys.executable, *_flags),
            environment=environment or compiled(),
            cwd=str(_ROOT),
        )
        self.ready_after = self.ready_cpu = 0.0

    def __enter__(self) -> Self:
        """Start it; `ready_after` and `ready_cpu` are how many seconds that took, and how many of CPU."""
        began = time.perf_counter()
        super().__enter__()
        self.ready_after, self.ready_cpu = time.perf_counter() - began, self.cpu()
        return self

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """CPU seconds of all its threads so far."""
        return time.clock_gettime((~self.pid << 3) | _SCHEDULER_CLOCK)


class Meter:
    """Reads both CPU clocks and the time from when it was made."""

    def __init__(self, broker: MeasuredBroker) -> None:
        self._broker = broker
        self._start = self._clocks()

    def cost(self, messages: int) -> Cost:
        """Share what was used since the start among the messages; waiting costs nothing."""
        broker, sdk, seconds = (now - then for now, then in zip(self._clocks(), self._start, strict=True))
        return Cost(1e6 * broker / messages, 1e6 * sdk / messages, messages / seconds)

    def _clocks(self) -> tuple[float, float, float]:
        return self._broker.cpu(), time.process_time(), time.perf_counter()


def topology(queues: Sequence[str]) -> dict[str, object]:
    """Write a Config.json whose locks and messages outlive any measurement."""
    properties = {"LockDuration": "PT5M", "DefaultMessageTimeToLive": "PT1H"}
    listed = [{"Name": name, "Properties": properties} for name in queues]
    namespace = {"Name": "sbemulatorns", "Queues": listed, "Topics": []}
    return {"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "Console"}}}


@cache
def compiled() -> dict[str, str]:
    """The environment of every start but the first: Python finds everything compiled, whatever it is told here.

    It matters beyond the start: what compiling leaves behind changes how the process gets its memory later.
    """
    return _environment(_compiled_in(_scratch()), {})


@cache
def not_compiled() -> dict[str, str]:
    """The environment of the first start ever: the standard library is compiled, the broker is not."""
    folder = _compiled_in(_scratch())
    shutil.rmtree(folder / Path(servicebus_local.__path__[0]).resolve().relative_to("/"))
    return _environment(folder, {"PYTHONDONTWRITEBYTECODE": "1"})


def _environment(folder: Path, more: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(folder)} | more


def _compiled_in(folder: Path) -> Path:
    command = [sys.executable, *_flags, "-m", "servicebus_local", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment(folder, {}), cwd=_ROOT)
    return folder


def _scratch() -> Path:
    """A folder that is gone when this process is."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return folder
