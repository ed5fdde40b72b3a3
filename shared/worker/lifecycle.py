"""A worker process from start to exit: signals, workers, health, and everything closed in order."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from shared.telemetry import traces
from shared.telemetry.logs import get_logger
from shared.worker.health import Health
from shared.worker.worker import Worker

log = get_logger()
Close = Callable[[], Awaitable[None]]


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def told(name: str) -> None:
        log.info("worker.stopping", signal=name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number.name)
    return stopping


async def serve(
    workers: Sequence[Worker[Any]],
    *,
    health: tuple[str, int],
    grace: float,
    close: Sequence[Close],
    stopping: asyncio.Event,
    beside: Sequence[Callable[[asyncio.Event], Awaitable[None]]] = (),
    ready: Callable[[], bool] | None = None,
) -> None:
    """Run `workers` (and what runs `beside` them) until `stopping`, then drain, close in order, and flush.

    `ready`: whether it can do its work, if that is not to receive from every queue.
    """

    def queues() -> dict[str, str]:
        return {worker.job.queue: "" if worker.connected.is_set() else worker.trouble for worker in workers}

    is_ready = ready or (lambda: not any(queues().values()))
    probe = Health(lambda: is_ready() and not stopping.is_set(), queues)
    port = await probe.start(*health)
    log.info("worker.started", pid=os.getpid(), port=port)
    running = [asyncio.create_task(worker.run(stopping, timedelta(seconds=grace))) for worker in workers]
    running += [asyncio.ensure_future(other(stopping)) for other in beside]
    try:
        await _until_all_end(running, stopping)
    finally:
        await probe.stop()
        for last in close:
            with suppress(Exception):
                await asyncio.wait_for(last(), 10)
        await asyncio.to_thread(traces.flush)
        log.info("worker.stopped")


async def _until_all_end(running: "Sequence[asyncio.Future[None]]", stopping: asyncio.Event) -> None:
    """If one ends in an error the others are told to stop, and the error is raised at the end."""
    _, others = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    stopping.set()
    if others:
        await asyncio.wait(others)
    for task in running:
        task.result()
