"""A breaker for each deployment: what one dead model holds up, and what not."""

import asyncio

import pytest

from services.generator.breakers import DeploymentBreakers, DeploymentOpen
from shared.circuit_breaker import BreakerPolicy
from shared.errors import DependencyDown
from shared.llm.errors import Throttled
from shared.redis import FailFastRedis
from shared.worker.shared_breaker import Circuit, SharedBreaker
from tests.support.ports import wired

RULES = BreakerPolicy(threshold=3, first=10.0, longest=10.0)


class Replicas:
    """Two processes with one clock."""

    def __init__(self, redis: FailFastRedis) -> None:
        self.now = 1_000.0
        self.one, self.other = (
            DeploymentBreakers(redis, ["dead", "fine"], rules=RULES, clock=wired(lambda: self.now)) for _ in range(2)
        )

    async def fail(self, deployment: str = "dead", times: int = 3) -> None:
        for _ in range(times):
            with pytest.raises(DependencyDown):
                await call(self.one, deployment, DependencyDown("503"))

    def after(self, seconds: float) -> None:
        self.now += seconds


async def call(breakers: DeploymentBreakers, deployment: str, failure: Exception | None = None) -> None:
    async with breakers.guarding(deployment):
        if failure is not None:
            raise failure


@pytest.fixture
def replicas(redis: FailFastRedis) -> Replicas:
    return Replicas(redis)


async def test_a_dead_deployment_is_not_called_and_the_others_are(replicas: Replicas) -> None:
    await replicas.fail()
    replicas.after(2)
    for breakers in (replicas.one, replicas.other):
        with pytest.raises(DeploymentOpen):
            await call(breakers, "dead")
        await call(breakers, "fine")
        assert await breakers.ask() is Circuit.CLOSED
        assert breakers.is_closed


async def test_nothing_is_received_only_when_all_deployments_are_dead(replicas: Replicas) -> None:
    await replicas.fail()
    await replicas.fail("fine")
    replicas.after(2)
    assert await replicas.one.ask() is Circuit.OPEN
    assert await replicas.other.ask() is Circuit.OPEN
    assert not replicas.one.is_closed


async def test_one_replica_has_one_probe_and_its_success_closes_the_breaker_of_all(replicas: Replicas) -> None:
    await replicas.fail()
    await replicas.fail("fine")
    replicas.after(11)
    assert await replicas.one.ask() is Circuit.HALF_OPEN
    assert await replicas.other.ask() is Circuit.OPEN
    began, end = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        async with replicas.one.guarding("dead"):
            began.set()
            await end.wait()

    running = asyncio.create_task(probe())
    await began.wait()
    with pytest.raises(DeploymentOpen):  # the same process, while its probe is not over
        await call(replicas.one, "dead")
    end.set()
    await running
    replicas.after(2)
    await call(replicas.other, "dead")
    with pytest.raises(DeploymentOpen):
        await call(replicas.other, "fine")


async def test_a_probe_that_hangs_does_not_keep_its_process_from_calling_what_works_again(replicas: Replicas) -> None:
    await replicas.fail()
    replicas.after(11)
    began, end = asyncio.Event(), asyncio.Event()

    async def probe() -> None:
        async with replicas.one.guarding("dead"):
            began.set()
            await end.wait()

    running = asyncio.create_task(probe())
    await began.wait()
    replicas.after(11)  # its lease has ended
    await call(replicas.other, "dead")
    replicas.after(2)
    await call(replicas.one, "dead")
    end.set()
    await running


async def test_a_throttle_and_a_bug_are_no_failures(replicas: Replicas) -> None:
    for failure in (Throttled("429"), KeyError("x"), Throttled("429")):
        with pytest.raises(type(failure)):
            await call(replicas.one, "dead", failure)
    await call(replicas.one, "dead")


async def test_the_breaker_of_a_deployment_is_not_that_of_a_queue_with_its_name(
    redis: FailFastRedis, replicas: Replicas
) -> None:
    await replicas.fail()
    assert await SharedBreaker(redis, "dead").ask() is Circuit.CLOSED
