"""A worker process from start to exit: settings, telemetry, bus, Redis, signals, workers, health, shutdown."""

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from shared.errors import SettingsError
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Ledger
from shared.settings.base import stop
from shared.settings.worker import WorkerSettings
from shared.telemetry import logs, metrics, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.health import Health
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.ports import Ports
from shared.worker.retry import LONGEST_WAIT, RetryPolicy
from shared.worker.shared_breaker import SharedBreaker
from shared.worker.worker import Worker

log = get_logger()
# New containers after which the garbage collector looks at the young ones; a few MB.
NEW_OBJECTS = 10_000
Close = Callable[[], Awaitable[None]]
S = TypeVar("S", bound=WorkerSettings)
P = TypeVar("P", bound=Ports)
Background = Callable[[asyncio.Event], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service put together and not yet running: what the `compose` of each `main.py` returns."""

    workers: Sequence[Worker[Any]]
    background: Sequence[Background] = ()
    """Run beside the workers until the event they are given is set."""
    closing: Sequence[Close] = ()
    """Called on the way out, first to last, before Redis and the bus are closed."""
    ready: Callable[[], bool] | None = None
    """Whether the process can do its work; by default, whether it receives from every queue."""


async def run_worker(
    service: str,
    settings_class: type[S],
    compose: Callable[[S, P], Awaitable[Service]],
    open_ports: Callable[[S, Metrics], P],
) -> None:
    """Run a service until SIGTERM. A wrong setting ends the process with one line and status 2."""
    try:
        settings = settings_class.load()
        logs.configure(service, settings.log_format, settings.log_level)
        traces.configure(service)
        ports = open_ports(settings, metrics.configure(service))
        composed = await compose(settings, ports)
    except SettingsError as wrong:
        stop(wrong, service)
        raise
    stopping = stop_on_signals()
    tune_garbage_collection()
    await ports.redis.check()
    await serve(
        composed.workers,
        health=(settings.health_host, settings.health_port),
        grace=settings.grace,
        close=[*composed.closing, ports.redis.close, ports.bus.close],
        stopping=stopping,
        background=composed.background,
        ready=composed.ready,
    )


def make_workers(consumers: Sequence[Consumer[Any]], settings: WorkerSettings, ports: Ports) -> list[Worker[Any]]:
    """A worker for each consumer."""
    return [
        Worker(
            consumer=consumer,
            bus=ports.bus,
            outcomes=OutcomeGuard(Ledger(ports.redis), tickets=Tickets(ports.redis)),
            concurrency=consumer.concurrency or settings.concurrency,
            breaker=consumer.breaker
            or (SharedBreaker(ports.redis, consumer.queue) if consumer.circuit_breaker else None),
            policy=RetryPolicy(
                attempts=consumer.attempts or settings.attempts, longest=consumer.longest_wait or LONGEST_WAIT
            ),
            metrics=ports.metrics,
            clock=ports.clock,
        )
        for consumer in consumers
    ]


def tune_garbage_collection() -> None:
    """Have the collector look at what came after start-up only, and less often.

    By default it looks after 700 new containers, about as many as one delivery makes: 5 to 9 % of a worker's CPU
    (`python -m benchmarks.adapter`, 2026-11-28). Almost all of them are freed by their reference counts.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        log.info("worker.stopping", signal=name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number.name)
    return stopping


async def serve(
    workers: Sequence[Worker[Any]],
    *,
    health: tuple[str, int],
    grace: float,
    close: Sequence[Close],
    stopping: asyncio.Event,
    background: Sequence[Callable[[asyncio.Event], Awaitable[None]]] = (),
    ready: Callable[[], bool] | None = None,
) -> None:
    """Run `workers` and `background` until `stopping`, then drain, close in order, and flush.

    `ready`: whether the process can do its work; by default, whether it receives from every queue.
    """

    def queues() -> dict[str, str]:
        return {worker.consumer.queue: "" if worker.connected.is_set() else worker.disconnected for worker in workers}

    is_ready = ready or (lambda: not any(queues().values()))
    probe = Health(lambda: is_ready() and not stopping.is_set(), queues)
    port = await probe.start(*health)
    log.info("worker.started", pid=os.getpid(), port=port)
    running = [asyncio.create_task(worker.run(stopping, timedelta(seconds=grace))) for worker in workers]
    running += [asyncio.ensure_future(other(stopping)) for other in background]
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
    """Run until all end. When one raises, the others are stopped, and its error is raised at the end."""
    _, others = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    stopping.set()
    if others:
        await asyncio.wait(others)
    for task in running:
        task.result()
