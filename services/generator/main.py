"""Plugs the generator together and runs it: `python -m services.generator`."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from services.generator.breakers import DeploymentBreakers
from services.generator.call_times import CallTimes
from services.generator.calls import ModelCalls
from services.generator.chat import Chat
from services.generator.handler import Generator
from services.generator.settings import GeneratorSettings
from shared.access.callers import Callers
from shared.access.limits import Limits
from shared.access.use_cases import UseCase, read_use_cases
from shared.answer_cache import AnswerCache
from shared.budget.tenant import TenantBudget
from shared.contracts.generate import GenerateAnswer
from shared.contracts.queues import GENERATE, OUTCOMES
from shared.errors import SettingsError
from shared.flow.tickets import ANNOUNCED, Tickets
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment, Deployments
from shared.pacing.pacing import Pacing
from shared.redis import RedisUnavailable
from shared.telemetry.metrics import Metrics
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity
from shared.worker.ports import Ports, open_ports
from shared.worker.runtime import Service, make_workers, run_worker

# How long a call takes while that is unknown, and a request on its way to the generator.
CALL_UNKNOWN, BEFORE_THE_CALL = timedelta(seconds=5), timedelta(seconds=2)
# Two announcements may be lost.
ANNOUNCE = ANNOUNCED / 3


async def compose(settings: GeneratorSettings, ports: Ports) -> Service:
    """The generator, and what announces how many model calls it can make at once; raises `SettingsError`."""
    callers = Callers.read(settings.config / "callers.yaml")
    use_cases = read_use_cases(settings.config / "use_cases")
    deployments = Deployments.read(settings.config / "models.yaml").chats()
    check_deployments(use_cases, deployments)
    used = {name for use_case in use_cases.values() for name in use_case.deployments}
    chat = Chat(timedelta(seconds=settings.model_timeout), ports.metrics, ports.models)
    chat.prepare(deployment for deployment in deployments if deployment.name in used)
    call_times, pacing = CallTimes(), Pacing(ports.redis, ports.metrics)
    ledger = Ledger(ports.redis)
    budget = TenantBudget(ports.redis, Limits(callers, use_cases).of, ports.clock, ports.metrics)
    breakers = DeploymentBreakers(ports.redis, sorted(used))
    generator = Generator(
        use_cases=use_cases,
        deployments=deployments,
        calls=ModelCalls(
            model=chat,
            ledger=ledger,
            budget=budget,
            call_times=call_times,
            breakers=breakers,
            pacing=pacing,
            clock=ports.clock,
        ),
        ledger=ledger,
        budget=budget,
        cache=AnswerCache(ports.redis),
        clock=ports.clock,
        tries_per_deployment=settings.tries_per_deployment,
    )

    async def quota() -> float | None:
        """How many requests the quotas allow to be in flight; None: no limit is known."""
        rooms: list[float] = []
        for deployment in (each for each in deployments if each.name in used):
            takes = (call_times.longest(deployment.name) or CALL_UNKNOWN) + BEFORE_THE_CALL
            room = await pacing.room(deployment, takes.total_seconds())
            if room is None:
                return None
            rooms.append(room)
        return sum(rooms)

    consumer = Consumer(
        queue=GENERATE,
        decode=lambda message: GenerateAnswer.read(message.subject, message.body),
        handle=generator.handle,
        identify=internal_identity,
        request=lambda task: task.request,
        shared=True,
        breaker=breakers,
        prewarm=(*callers.reply_queues(), OUTCOMES),
    )
    return Service(
        workers=make_workers([consumer], settings, ports),
        background=[announcing(Tickets(ports.redis), settings.concurrency, quota)],
        closing=[chat.close],
    )


def check_deployments(use_cases: Mapping[str, UseCase], deployments: Sequence[Deployment]) -> None:
    """Every deployment that a use case names must be there, as a chat model; raises `SettingsError`."""
    there = {deployment.name for deployment in deployments}
    for use_case in use_cases.values():
        missing = sorted(set(use_case.deployments) - there)
        if missing:
            raise SettingsError(
                f"use case {use_case.name}: deployments: there is no chat deployment {missing[0]!r} in models.yaml "
                f"(there: {', '.join(sorted(there)) or 'none'})"
            )


def announcing(
    tickets: Tickets, slots: int, quota: Callable[[], Awaitable[float | None]]
) -> Callable[[asyncio.Event], Awaitable[None]]:
    """A background task that announces this worker's slots to the gateways, and what the quotas allow."""
    replica = uuid.uuid4().hex

    async def announce(stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            with suppress(RedisUnavailable):
                await tickets.announce(replica, slots, await quota())
            with suppress(TimeoutError):
                async with asyncio.timeout(ANNOUNCE.total_seconds()):
                    await stopping.wait()
        with suppress(RedisUnavailable):
            await tickets.announce(replica, 0)

    return announce


def main(open_ports: Callable[[GeneratorSettings, Metrics], Ports] = open_ports) -> None:
    """Run until SIGTERM."""
    asyncio.run(run_worker("generator", GeneratorSettings, compose, open_ports))
