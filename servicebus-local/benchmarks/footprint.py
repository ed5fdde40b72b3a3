"""Time to start and memory: empty, per queued message, and after very many messages."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.figures import Aim, Figure
from benchmarks.process import MeasuredBroker, compiled, not_compiled
from benchmarks.queue_client import BATCH, QueueClient, queue_clients

STARTS = 11
QUEUED = 20_000
SIZES = (100, 1000, 10_000)
STORED = 100_000
_RESTARTS = 5  # and a last one that lives
_TENTHS = 10


def start() -> list[Figure]:
    """Process start to accepting, in turn with the two floors nobody can get below."""
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "process start to accepting": lambda: _started(compiled()),
        "the first time, with the broker not compiled yet": lambda: _started(not_compiled()),
        "floor: `python -S -c 'import asyncio'`": lambda: _run("import asyncio"),
        "floor: `python -S -c 'pass'`": lambda: _run("pass"),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(STARTS):
        for name, way in ways.items():
            taken[name].append(way())
    aims = (Aim(150), None, None, None)
    return [_start_figure(name, taken[name], aim) for name, aim in zip(ways, aims, strict=True)]


def _start_figure(name: str, taken: list[tuple[float, float]], aim: Aim | None) -> Figure:
    milliseconds = [1000 * seconds for seconds, _ in taken]
    cpu = [1000 * seconds for _, seconds in taken]
    return Figure(name, milliseconds, "ms", aim, f"{median(cpu):.0f} ms of CPU, {min(cpu):.0f} at least")


def _started(environment: dict[str, str]) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, MeasuredBroker(Path(folder), environment=environment) as broker:
        return broker.ready_after, broker.ready_cpu


def _run(statement: str) -> tuple[float, float]:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-S", "-c", statement], check=True, env=compiled())
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def memory(rounds: int, messages: int) -> list[Figure]:
    """Resident memory: empty, for each queued message, and its growth while messages pass through."""
    return [_empty(), *[await _per_message(size, rounds) for size in SIZES], await _growth(messages)]


def _empty() -> Figure:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(STARTS):
            with MeasuredBroker(Path(folder)) as broker:
                found.append(broker.memory / 1e6)
    return Figure("memory, empty", found, "MB", Aim(30))


async def _per_message(size: int, rounds: int) -> Figure:
    """Each time in a process of its own, so that no memory of the time before is used again."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, MeasuredBroker(Path(folder)) as broker:
            async with queue_clients(broker.connection_string, "bench") as [queue_client]:
                before = broker.memory
                await queue_client.send_batches(QUEUED, b"x" * size)
                found.append((broker.memory - before) / QUEUED)
    return Figure(f"memory of a queued message of {size:,} B", found, "B", Aim(1.6 * size + 600), f"{QUEUED:,} queued")


async def _growth(messages: int) -> Figure:
    """How much memory grows from the first tenth of the messages to the last."""
    with tempfile.TemporaryDirectory() as folder, MeasuredBroker(Path(folder)) as broker:
        async with queue_clients(broker.connection_string, "bench") as [queue_client]:
            seen = []
            for _ in range(_TENTHS):
                await _pass_through(queue_client, messages // _TENTHS)
                seen.append(broker.memory / 1e6)
    steps = ", ".join(f"{after - before:+.2f}" for before, after in pairwise(seen))
    note = f"{seen[0]:.1f} MB after the first tenth, then {steps}; half of them completed, half deleted"
    return Figure(f"growth of memory over {messages:,} messages", [seen[-1] - seen[0]], "MB", Aim(1), note)


async def _pass_through(queue_client: QueueClient, count: int) -> None:
    for _ in range(0, count, 2 * BATCH):
        await queue_client.send_batches(2 * BATCH)
        await queue_client.take_batches(BATCH)
        await queue_client.complete_at_once(BATCH)


async def restart() -> list[Figure]:
    """Start to accepting when many messages are stored, after a process that was killed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ("--data", str(folder / "data"))
        await _fill(folder, options)
        taken = [_recovered(folder, options) for _ in range(_RESTARTS)]
        with MeasuredBroker(folder, *options) as broker:
            taken.append(broker.ready_after)
            async with queue_clients(broker.connection_string, "bench") as [queue_client]:
                await queue_client.take_batches(STORED)
    name, note = (
        f"restart with {STORED:,} stored messages of 1 KB",
        "killed each time; all were received after the last",
    )
    return [Figure(name, taken, "s", Aim(2), note)]


async def _fill(folder: Path, options: tuple[str, ...]) -> None:
    with MeasuredBroker(folder, *options) as broker:
        async with queue_clients(broker.connection_string, "bench") as [queue_client]:
            await queue_client.send_batches(STORED)
        broker.kill()


def _recovered(folder: Path, options: tuple[str, ...]) -> float:
    with MeasuredBroker(folder, *options) as broker:
        broker.kill()
        return broker.ready_after
