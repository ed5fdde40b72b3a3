"""A circuit breaker for each deployment, shared by all replicas: one dead model does not hold up the others' work.

some deployment is closed     receive; what needs another one fails over, or is tried again later
all are open                  receive nothing
all are open, one has a probe receive one delivery, which may call it
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from shared.circuit_breaker import BreakerPolicy
from shared.errors import DependencyDown, TryLater
from shared.redis import FailFastRedis
from shared.worker.shared_breaker import Circuit, SharedBreaker


class DeploymentOpen(TryLater):
    """The breaker of a deployment is open: it failed a moment ago, at this replica or another."""


class DeploymentBreakers:
    """The breakers of the deployments that use cases name; also the breaker of the worker that calls them."""

    def __init__(
        self,
        redis: FailFastRedis,
        deployments: Iterable[str],
        *,
        rules: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock`: see `SharedBreaker`."""
        self._breakers = {
            name: SharedBreaker(redis, name, kind="deployment", rules=rules, clock=clock) for name in deployments
        }
        self._probing: set[str] = set()

    @asynccontextmanager
    async def guarding(self, deployment: str) -> AsyncIterator[None]:
        """Call the deployment within the block; raises `DeploymentOpen` instead.

        A `DependencyDown` that leaves the block is a failure, its end is a success; everything else says nothing.
        """
        breaker = self._breakers[deployment]
        circuit = await breaker.ask()
        if circuit is Circuit.OPEN or (circuit is Circuit.HALF_OPEN and deployment in self._probing):
            raise DeploymentOpen(f"{deployment} failed a moment ago; its circuit breaker is open")
        if circuit is Circuit.HALF_OPEN:
            self._probing.add(deployment)
        try:
            yield
        except DependencyDown as failure:
            await breaker.failed(str(failure))
            raise
        else:
            await breaker.succeeded()
        finally:
            if circuit is Circuit.HALF_OPEN:
                self._probing.discard(deployment)

    @property
    def is_closed(self) -> bool:
        """Whether any deployment may be called, as far as this process knows."""
        return any(breaker.is_closed for breaker in self._breakers.values())

    async def ask(self) -> Circuit:
        """Whether to receive now: see above."""
        found = Circuit.OPEN
        for breaker in self._breakers.values():
            circuit = await breaker.ask()
            if circuit is Circuit.CLOSED:
                return circuit
            if circuit is Circuit.HALF_OPEN:
                found = circuit
        return found

    async def keep(self) -> None:
        """Renew the probes of this process."""
        for breaker in self._breakers.values():
            await breaker.keep()

    async def failed(self, why: str) -> None:
        """Nothing: `guarding` counts the failures of each deployment."""

    async def succeeded(self) -> None:
        """Nothing: `guarding` counts the successes of each deployment."""
