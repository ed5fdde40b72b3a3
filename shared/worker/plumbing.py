"""What every worker's `main` does the same way: settings, telemetry, bus, Redis, signals, loop."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from shared.bus.port import ANSWER_BY, Bus, Received
from shared.contracts.ids import MAX_ID, digest
from shared.errors import SettingsError
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Ledger
from shared.redis import QuickRedis
from shared.settings.base import stop
from shared.settings.worker import WorkerSettings
from shared.telemetry import logs, metrics, traces
from shared.telemetry.metrics import Metrics
from shared.worker.lifecycle import Close, serve, stop_on_signals
from shared.worker.outbox import Identity, when
from shared.worker.outcome_guard import Outcomes
from shared.worker.retry import LONGEST_WAIT, RetryPolicy
from shared.worker.shared_breaker import Gate
from shared.worker.worker import Job, Worker

S = TypeVar("S", bound=WorkerSettings)
MakeJobs = Callable[[S, "Parts"], Awaitable[Sequence[Job[Any]]]]


@dataclass(slots=True)
class Parts:
    """What jobs are made from."""

    bus: Bus
    redis: QuickRedis
    ledger: Ledger
    metrics: Metrics
    closing: list[Close] = field(default_factory=list)
    """Called on the way out, first to last, before Redis and the bus are closed."""
    beside: list[Callable[..., Awaitable[None]]] = field(default_factory=list)
    """Run beside the workers until the event they are given is set."""
    workers: list[Worker[Any]] = field(default_factory=list)
    ready: Callable[[], bool] | None = None
    """Whether the process can do its work, if that is not to receive from every queue."""

    @property
    def tickets(self) -> Tickets:
        """Who may be under way, among all replicas of all services."""
        return Tickets(self.redis)


async def run_worker(service: str, settings_class: type[S], make_jobs: MakeJobs[S]) -> None:
    """Run a service until SIGTERM. A wrong setting ends the process with one line and status 2."""
    try:
        settings = settings_class.load()
        logs.configure(service, settings.log_format, settings.log_level)
        traces.configure(service)
        parts = make_parts(settings, metrics.configure(service))
        jobs = await make_jobs(settings, parts)
        check_connections(jobs, settings.bus_connections)
    except SettingsError as wrong:
        stop(wrong, service)
        raise
    parts.workers.extend(_worker(job, settings, parts) for job in jobs)
    stopping = stop_on_signals()
    await parts.redis.check()
    await serve(
        parts.workers,
        health=(settings.health_host, settings.health_port),
        grace=settings.grace,
        close=[*parts.closing, parts.redis.close, parts.bus.close],
        stopping=stopping,
        beside=parts.beside,
        ready=parts.ready,
    )


def make_parts(settings: WorkerSettings, counted: Metrics) -> Parts:
    """Bus, Redis and ledger of `settings`."""
    counted.redis_up.set(0)
    redis = QuickRedis(
        settings.redis_url.get_secret_value(),
        timeout=settings.redis_timeout,
        changed=lambda up: counted.redis_up.set(int(up)),
    )
    return Parts(bus=connect(settings), redis=redis, ledger=Ledger(redis), metrics=counted)


def connect(settings: WorkerSettings) -> Bus:
    """The bus that `settings` name."""
    from shared.bus.servicebus import ServiceBus, ServiceBusAddress

    secret = settings.servicebus_connection_string
    address = ServiceBusAddress(secret.get_secret_value() if secret else None, settings.servicebus_namespace)
    try:
        return ServiceBus(address, connections=settings.bus_connections)
    except ValueError as wrong:
        raise SettingsError(f"RAGBUS_SERVICEBUS_CONNECTION_STRING: {wrong}") from wrong


def check_connections(jobs: Sequence[Job[Any]], limit: int) -> None:
    """A queue always listened to, the patrols together, and the senders together need one each."""
    patrols = [job for job in jobs if job.patrol is not None]
    needed = len(jobs) - len(patrols) + bool(patrols) + 1
    if 0 < limit < needed:
        raise SettingsError(f"RAGBUS_BUS_CONNECTIONS: {limit} is too few, this worker needs {needed} (or 0: no limit)")


# `/r`, an attempt, a dot and a sequence number of 64 bits.
_MARK = 32


def internal_identity(message: Received) -> Identity:
    """The identity of a message that one of our workers sent: its own id, and the deadline it carries or lives to.

    On `dead` an ask has the id that its caller gave it: one so long that a retry's mark does not fit is digested.
    """
    base = message.message_id or digest(message.queue, str(message.sequence_number))
    fits = len(base) <= MAX_ID - _MARK
    return Identity(base if fits else digest(message.queue, base), deadline=_deadline(message))


def _deadline(message: Received) -> datetime | None:
    said = when(message.properties.get(ANSWER_BY))
    if said is not None or message.enqueued_at is None or message.time_to_live is None:
        return said
    return message.enqueued_at + message.time_to_live


def _worker(job: Job[Any], settings: WorkerSettings, parts: Parts) -> Worker[Any]:
    return Worker(
        job=job,
        bus=parts.bus,
        outcomes=Outcomes(parts.ledger, tickets=parts.tickets),
        concurrency=job.concurrency or settings.concurrency,
        gate=Gate(parts.redis, job.queue) if job.guarded else None,
        policy=RetryPolicy(attempts=job.attempts or settings.attempts, longest=job.longest_wait or LONGEST_WAIT),
        metrics=parts.metrics,
    )
