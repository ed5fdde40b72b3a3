"""A worker process from start to exit: settings, telemetry, bus, Redis, signals, workers, health, an orderly end."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from shared.bus.port import Bus
from shared.errors import SettingsError
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Ledger
from shared.redis import FailFastRedis
from shared.settings.base import stop
from shared.settings.worker import WorkerSettings
from shared.telemetry import logs, metrics, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.health import Health
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.retry import LONGEST_WAIT, RetryPolicy
from shared.worker.shared_breaker import SharedBreaker
from shared.worker.worker import Worker

log = get_logger()
Close = Callable[[], Awaitable[None]]
S = TypeVar("S", bound=WorkerSettings)
MakeConsumers = Callable[[S, "Runtime"], Awaitable[Sequence[Consumer[Any]]]]


@dataclass(slots=True)
class Runtime:
    """What the consumers of a service are built from, and what runs and ends with them."""

    bus: Bus
    redis: FailFastRedis
    ledger: Ledger
    metrics: Metrics
    closing: list[Close] = field(default_factory=list)
    """Called on the way out, first to last, before Redis and the bus are closed."""
    background: list[Callable[..., Awaitable[None]]] = field(default_factory=list)
    """Tasks that run beside the workers until the event they are given is set."""
    workers: list[Worker[Any]] = field(default_factory=list)
    ready: Callable[[], bool] | None = None
    """Whether the process can do its work, if that is not to receive from every queue."""

    @property
    def tickets(self) -> Tickets:
        """Who may be under way, among all replicas of all services."""
        return Tickets(self.redis)


async def run_worker(service: str, settings_class: type[S], make_consumers: MakeConsumers[S]) -> None:
    """Run a service until SIGTERM. A wrong setting ends the process with one line and status 2."""
    try:
        settings = settings_class.load()
        logs.configure(service, settings.log_format, settings.log_level)
        traces.configure(service)
        runtime = make_runtime(settings, metrics.configure(service))
        consumers = await make_consumers(settings, runtime)
        check_connections(consumers, settings.bus_connections)
    except SettingsError as wrong:
        stop(wrong, service)
        raise
    runtime.workers.extend(_worker(consumer, settings, runtime) for consumer in consumers)
    stopping = stop_on_signals()
    await runtime.redis.check()
    await serve(
        runtime.workers,
        health=(settings.health_host, settings.health_port),
        grace=settings.grace,
        close=[*runtime.closing, runtime.redis.close, runtime.bus.close],
        stopping=stopping,
        background=runtime.background,
        ready=runtime.ready,
    )


def make_runtime(settings: WorkerSettings, counted: Metrics) -> Runtime:
    """Bus, Redis and ledger of `settings`."""
    counted.redis_up.set(0)
    redis = FailFastRedis(
        settings.redis_url.get_secret_value(),
        timeout=settings.redis_timeout,
        changed=lambda up: counted.redis_up.set(int(up)),
    )
    return Runtime(bus=connect(settings), redis=redis, ledger=Ledger(redis), metrics=counted)


def connect(settings: WorkerSettings) -> Bus:
    """The bus that `settings` name."""
    from shared.bus.servicebus import ServiceBus, ServiceBusAddress

    secret = settings.servicebus_connection_string
    address = ServiceBusAddress(secret.get_secret_value() if secret else None, settings.servicebus_namespace)
    try:
        return ServiceBus(address, connections=settings.bus_connections)
    except ValueError as wrong:
        raise SettingsError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong


def check_connections(consumers: Sequence[Consumer[Any]], limit: int) -> None:
    """A queue always listened to, the patrols together, and the senders together need one each."""
    patrols = [consumer for consumer in consumers if consumer.poll_interval is not None]
    needed = len(consumers) - len(patrols) + bool(patrols) + 1
    if 0 < limit < needed:
        raise SettingsError(f"RAGBUS_BUS_CONNECTIONS: {limit} is too few, this worker needs {needed} (or 0: no limit)")


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
    background: Sequence[Callable[[asyncio.Event], Awaitable[None]]] = (),
    ready: Callable[[], bool] | None = None,
) -> None:
    """Run `workers` (and what runs `beside` them) until `stopping`, then drain, close in order, and flush.

    `ready`: whether it can do its work, if that is not to receive from every queue.
    """

    def queues() -> dict[str, str]:
        return {worker.consumer.queue: "" if worker.connected.is_set() else worker.trouble for worker in workers}

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
    """If one ends in an error the others are told to stop, and the error is raised at the end."""
    _, others = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
    stopping.set()
    if others:
        await asyncio.wait(others)
    for task in running:
        task.result()


def _worker(consumer: Consumer[Any], settings: WorkerSettings, runtime: Runtime) -> Worker[Any]:
    return Worker(
        consumer=consumer,
        bus=runtime.bus,
        outcomes=OutcomeGuard(runtime.ledger, tickets=runtime.tickets),
        concurrency=consumer.concurrency or settings.concurrency,
        breaker=SharedBreaker(runtime.redis, consumer.queue) if consumer.circuit_breaker else None,
        policy=RetryPolicy(
            attempts=consumer.attempts or settings.attempts, longest=consumer.longest_wait or LONGEST_WAIT
        ),
        metrics=runtime.metrics,
    )
