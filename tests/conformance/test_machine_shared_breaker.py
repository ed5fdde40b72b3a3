"""The breaker as replicas share it through Redis, in any order, with a Redis that is flushed and goes away.

A Hypothesis state machine on a real Valkey and a clock of its own.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shared.circuit_breaker import BreakerPolicy
from shared.worker.shared_breaker import LOOK_AGAIN, Circuit, SharedBreaker
from tests.support.breakable import Breakable

T = TypeVar("T")

RULES = BreakerPolicy(threshold=3, first=2.0, longest=8.0, lease=5.0)
REPLICAS = 3
REPLICA = st.integers(0, REPLICAS - 1)


class GateLaw(RuleBasedStateMachine):
    """Three replicas of a worker."""

    def __init__(self, runner: asyncio.Runner, redis: Breakable) -> None:
        super().__init__()
        self.run_in, self.redis = runner, redis
        self.now = 1_000_000.0
        self.chance = 0.0
        self.breakers = [self.breaker() for _ in range(REPLICAS)]

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run_in.run(work)

    def breaker(self) -> SharedBreaker:
        return SharedBreaker(self.redis, "generate", rules=RULES, clock=lambda: self.now, chance=lambda: self.chance)

    @initialize()
    def begin(self) -> None:
        self.redis.cut = False
        self.flush()

    @rule(who=REPLICA, chance=st.floats(0, 1))
    def fail(self, who: int, chance: float) -> None:
        self.chance = chance
        self.wait(self.breakers[who].failed("503"))

    @rule(chance=st.floats(0, 1))
    def all_fail_at_once(self, chance: float) -> None:
        """Failures at one moment count like failures one after the other."""
        self.chance = chance

        async def at_once() -> None:
            await asyncio.gather(*(breaker.failed("503") for breaker in self.breakers))

        self.wait(at_once())
        if not self.redis.cut:
            assert Circuit.CLOSED not in self.everybody_asks()

    @rule(who=REPLICA)
    def work(self, who: int) -> None:
        self.wait(self.breakers[who].succeeded())

    @rule(who=REPLICA)
    def ask(self, who: int) -> None:
        self.wait(self.breakers[who].ask())

    @rule(who=REPLICA)
    def keep(self, who: int) -> None:
        self.wait(self.breakers[who].keep())

    @rule(seconds=st.floats(0.01, 10))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(who=REPLICA)
    def die(self, who: int) -> None:
        """A replica dies with all it knew, and a new one comes."""
        self.breakers[who] = self.breaker()

    @rule()
    def flush(self) -> None:
        if not self.redis.cut:
            self.wait(self.redis.run(lambda connection: connection.flushall()))

    @rule(cut=st.booleans())
    def redis_goes_or_comes(self, cut: bool) -> None:
        self.redis.cut = cut

    @rule()
    def all_ask_at_once(self) -> None:
        """They agree: all may receive, or at most one."""
        said = self.everybody_asks()
        if not self.redis.cut:
            assert said.count(Circuit.HALF_OPEN) <= 1
            assert said.count(Circuit.CLOSED) in (0, REPLICAS)

    def everybody_asks(self) -> list[Circuit]:
        # Who saw it closed looks again after this time only.
        self.now += LOOK_AGAIN

        async def at_once() -> list[Circuit]:
            return await asyncio.gather(*(breaker.ask() for breaker in self.breakers))

        return self.wait(at_once())

    def teardown(self) -> None:
        """Once what they need is back, all receive again: after the longest wait, and one probe."""
        self.redis.cut = False
        self.now += max(RULES.longest, RULES.lease)
        said = self.everybody_asks()
        for breaker, word in zip(self.breakers, said, strict=True):
            if word is not Circuit.OPEN:
                self.wait(breaker.succeeded())
        assert self.everybody_asks() == [Circuit.CLOSED] * REPLICAS


def test_replicas_share_one_breaker_in_any_order(redis_url: str) -> None:
    with asyncio.Runner() as runner:
        redis = Breakable(redis_url, timeout=60)
        try:
            run_state_machine_as_test(
                lambda: GateLaw(runner, redis),  # type: ignore[arg-type]  # it takes whatever makes one
                settings=settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True),
            )
        finally:
            runner.run(redis.close())
