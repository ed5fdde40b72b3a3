"""Plugs the gateway together and runs it: `python -m services.gateway`."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from services.gateway.ask_consumer import AskConsumer
from services.gateway.cancellation import Cancellation
from services.gateway.dead_letter_consumer import DeadLetterConsumer
from services.gateway.estimate import Estimates
from services.gateway.expired_dead_letters import ExpiredDeadLetterScan
from services.gateway.held_asks import HeldAsks
from services.gateway.intake import Intake
from services.gateway.outcome_consumer import OutcomeConsumer
from services.gateway.replay_consumer import ReplayConsumer
from services.gateway.server import http_server
from services.gateway.settings import GatewaySettings
from services.gateway.waiters import Waiters
from shared.access.callers import Callers
from shared.access.limits import Limits
from shared.access.use_cases import UseCase, read_use_cases
from shared.answer_cache import AnswerCache
from shared.budget.tenant import TenantBudget
from shared.contracts.queues import LOCK
from shared.errors import SettingsError
from shared.flow.tickets import Tickets
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployments
from shared.settings.base import existing
from shared.settings.files import read_yaml
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.ports import Ports, open_ports
from shared.worker.publisher import Publisher
from shared.worker.runtime import Service, make_workers, run_worker


async def compose(settings: GatewaySettings, ports: Ports) -> Service:
    """The gateway's consumers, with the HTTP server in the background; raises `SettingsError`."""
    # FastAPI and uvicorn are imported only where requests are served.
    from services.gateway.http import make_app
    from services.gateway.http_endpoint import HttpEndpoint

    callers = Callers.read(settings.config / "callers.yaml")
    use_cases = read_use_cases(settings.config / "use_cases")
    check_deadlines(use_cases, settings)
    check_rights(callers, use_cases)
    ledger, tickets, clock = Ledger(ports.redis), Tickets(ports.redis), ports.clock
    budget = TenantBudget(ports.redis, Limits(callers, use_cases).of, clock, ports.metrics)
    models = read_yaml(settings.config / "models.yaml", Deployments, "models file")
    held = HeldAsks(tickets, clock)
    intake = Intake(
        use_cases=use_cases,
        ledger=ledger,
        cache=AnswerCache(ports.redis),
        cache_secret=settings.cache_secret.get_secret_value(),
        models_version=_models_version(settings),
        budget=budget,
        estimate=Estimates(models.deployments).of,
        held=held,
        metrics=ports.metrics,
        clock=clock,
    )
    cancelling = Cancellation(ledger, budget.give_back, clock, held.let_go)
    asks, waiters = AskConsumer(callers, intake, cancelling, clock), Waiters()
    dead = DeadLetterConsumer(asks, ledger, budget.give_back, held.release, clock)
    publisher = Publisher(ports.bus, OutcomeGuard(ledger, tickets=tickets), ports.metrics, clock)
    scan = ExpiredDeadLetterScan(
        bus=ports.bus, dead_letters=dead, ledger=ledger, redis=ports.redis, send=publisher.send, clock=clock
    )
    consumers: list[Consumer[Any]] = [
        *(asks.consumer(caller) for caller in callers.callers if caller.queue),
        OutcomeConsumer(ledger, waiters, budget.give_back, clock).consumer(ReplayConsumer(callers, asks)),
        dead.consumer(),
    ]
    workers = make_workers(consumers, settings, ports)
    endpoint = HttpEndpoint(
        callers=callers,
        intake=intake,
        cancelling=cancelling,
        ledger=ledger,
        waiters=waiters,
        send=publisher.send,
        connected=lambda: any(worker.connected.is_set() for worker in workers),
        clock=clock,
    )
    is_open, limits = asyncio.Event(), settings.http_limits()
    app = make_app(endpoint, limits.per_caller)
    server = http_server(app, settings.http_host, settings.http_port, endpoint.authentication, limits, is_open=is_open)
    return Service(
        workers=workers,
        background=[server, scan.run, held.leave],
        # Not "connected to every queue": one caller's missing queue would close HTTP for all callers, and without a
        # broker the endpoint still answers: GET from Redis, and POST with 503 and Retry-After.
        ready=is_open.is_set,
    )


def check_deadlines(use_cases: Mapping[str, UseCase], settings: GatewaySettings) -> None:
    """Check that no request lives longer than the duplicate window; raises `SettingsError`.

    Only inside the window does the broker drop a second outcome by the id of the first.
    """
    longest = settings.duplicate_window - LOCK.total_seconds() - settings.clock_skew
    for use_case in use_cases.values():
        if use_case.deadline.longest > longest:
            raise SettingsError(
                f"use case {use_case.name}: deadline.longest is {use_case.deadline.longest:.0f} s, but a duplicate "
                f"window of {settings.duplicate_window:.0f} s allows {longest:.0f} s (window - lock - clock skew); "
                "shorten it, or widen the queues' window and RAGBUS_DUPLICATE_WINDOW"
            )


def check_rights(callers: Callers, use_cases: Mapping[str, UseCase]) -> None:
    """Check that every use case that a caller may use exists; raises `SettingsError`."""
    for caller in callers.callers:
        unknown = set(caller.use_cases) - set(use_cases)
        if unknown:
            raise SettingsError(f"callers.yaml: caller {caller.name}: there is no use case {min(unknown)!r}")


def _models_version(settings: GatewaySettings) -> str:
    """A digest of models.yaml; raises `SettingsError` when there is no such file."""
    file = existing(settings.config / "models.yaml", "models file")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def main(open_ports: Callable[[GatewaySettings, Metrics], Ports] = open_ports) -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("gateway", GatewaySettings, compose, open_ports))
