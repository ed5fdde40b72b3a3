"""The budget's scripts against its rules, in any order of steps and at any time: on one Valkey, and on a cluster."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from shared.budget.rules import Account, Accounts, Amount, Hold
from shared.budget.tenant import SPARE, TenantBudget
from shared.contracts.outcome import ModelCall
from shared.contracts.request import Request
from shared.redis import FailFastRedis
from shared.settings.budget import TENANT, Limit, Unit, Window, scopes
from tests.support.builders import NOW, a_request
from tests.support.redis_cluster import running_cluster

T = TypeVar("T")

LIMITS = [
    Limit(TENANT, Unit.TOKENS, Window.MINUTE, 1_000),
    Limit(TENANT, Unit.TOKENS, Window.MONTH, 6_000),
    Limit(TENANT, Unit.USD, Window.DAY, 900),
    Limit("use_case:onboarding", Unit.TOKENS, Window.DAY, 3_000),
    Limit("caller:hr-portal", Unit.USD, Window.MINUTE, 500),
]
# Half a minute before a year ends, so that every step is near the end of some window.
START = int(datetime(2027, 12, 31, 23, 59, 30, tzinfo=UTC).timestamp() * 1_000)
PAUSES = st.sampled_from([0, 1, 7, 500, 5_000, 29_999, 30_000, 60_000, 3_600_000, 86_400_000, 28 * 86_400_000, -3_000])
AMOUNTS = st.builds(Amount, st.integers(0, 1_100), st.integers(0, 600))
REQUESTS = st.builds(
    a_request,
    request_id=st.sampled_from(["r1", "r2", "r3"]),
    use_case=st.sampled_from(["onboarding", "travel"]),
    caller=st.sampled_from(["welcome-app", "hr-portal"]),
)
CALLS = st.sampled_from(["c1", "c2", "c3", "c4", "c5"])
LASTS = timedelta(seconds=20)


def limits(request: Request) -> list[Limit]:
    return [limit for limit in LIMITS if limit.scope in scopes(request)]


class BudgetLaw(RuleBasedStateMachine):
    """Whatever is done to a tenant's budget in Redis is done to the rules, too."""

    def __init__(self, runner: asyncio.Runner, redis: FailFastRedis) -> None:
        super().__init__()
        self.runner, self.redis = runner, redis
        self.now = START
        self.model = Accounts()
        self.settled: dict[str, list[ModelCall]] = {}
        self.done: set[tuple[str, str]] = set()
        self.calls = 0
        # Two processes with one Redis.
        self.budgets = [TenantBudget(redis, limits, lambda: NOW, now=lambda: self.now) for _ in range(2)]

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @property
    def budget(self) -> TenantBudget:
        self.calls += 1
        return self.budgets[self.calls % 2]

    @initialize()
    def begin_empty(self) -> None:
        async def empty() -> None:
            whose = "ragbus:{tessolund}:budget"
            keys = [whose, *(f"{whose}:{name}" for name in ("holds", "leases", "calls:r1", "calls:r2", "calls:r3"))]
            await self.redis.run(lambda client: client.delete(*keys))

        self.wait(empty())

    @rule(pause=PAUSES)
    def time_passes(self, pause: int) -> None:
        self.now += pause

    @rule(request=REQUESTS, amount=AMOUNTS)
    def admit(self, request: Request, amount: Amount) -> None:
        reserved = self.wait(self.budget.reserve(request, amount))
        ends = self.now + (timedelta(seconds=60) + SPARE) // timedelta(milliseconds=1)
        wait = self.model.reserve(request.spending, Hold(amount, scopes(request), ends), limits(request), self.now)
        assert (reserved.refusal and reserved.refusal.retry_after) == (None if wait == 0 else wait and wait / 1_000)
        assert (reserved.refusal is None) == (wait == 0)
        assert list(reserved.quotas) == self.model.quotas(limits(request), self.now)

    @rule(request=REQUESTS, name=CALLS, amount=AMOUNTS, keep=st.booleans())
    def call(self, request: Request, name: str, amount: Amount, keep: bool) -> None:
        refusal = self.wait(self.budget.begin(request, name, amount, LASTS, keep_estimate=keep))
        hold = Hold(amount, scopes(request), self.now + (LASTS + SPARE) // timedelta(milliseconds=1))
        wait = self.model.reserve(name, hold, limits(request), self.now, instead=request.spending, keep=keep)
        assert (refusal and refusal.retry_after) == (None if wait == 0 else wait and wait / 1_000)
        assert (refusal is None) == (wait == 0)

    @rule(request=REQUESTS, name=CALLS, used=AMOUNTS)
    def end(self, request: Request, name: str, used: Amount) -> None:
        call = ModelCall(deployment=name, prompt_tokens=used.tokens, cost=used.usd / 1_000_000)
        self.wait(self.budget.settle(request, name, call, used))
        if (request.spending, name) not in self.done:
            self.done.add((request.spending, name))
            self.settled.setdefault(request.spending, []).append(call)
            self.model.settle(name, used, scopes(request), limits(request), self.now)
        budget = self.budget
        assert list(self.wait(budget.give_back(request))) == self.settled[request.spending]
        self.model.release(request.spending)
        assert list(self.wait(budget.calls(request))) == self.settled[request.spending]

    @rule(request=REQUESTS)
    def give_back(self, request: Request) -> None:
        made = self.wait(self.budget.give_back(request))
        self.model.release(request.spending)
        assert list(made) == self.settled.get(request.spending, [])

    @invariant()
    def redis_has_the_same_accounts_and_reservations(self) -> None:
        async def kept() -> tuple[dict[Any, Any], dict[Any, Any], list[Any]]:
            whose = "ragbus:{tessolund}:budget"
            return (
                dict(await self.redis.run(lambda client: client.hgetall(whose))),
                dict(await self.redis.run(lambda client: client.hgetall(f"{whose}:holds"))),
                list(await self.redis.run(lambda client: client.zrange(f"{whose}:leases", 0, -1))),
            )

        accounts, holds, leases = self.wait(kept())
        assert set(holds) == set(leases) == set(self.model.holds)
        for (unit, scope), model in self.model.accounts.items():
            found = Account(*(int(number) for number in accounts.get(f"{unit}|{scope}", "").split()))
            # Redis begins a day or month when it next looks at the account.
            found.turn(self.now)
            model.turn(self.now)
            assert found == model, (unit, scope)

    @invariant()
    def no_limit_of_a_day_or_month_is_exceeded(self) -> None:
        for limit in LIMITS:
            account = self.model.accounts.get((limit.unit, limit.scope))
            if account is not None and limit.window is Window.DAY:
                assert account.day_spent <= limit.most
            if account is not None and limit.window is Window.MONTH:
                assert account.month_spent <= limit.most

    @invariant()
    def what_is_held_is_the_sum_of_the_reservations(self) -> None:
        for (unit, scope), account in self.model.accounts.items():
            held = [hold.amount.of(unit) for hold in self.model.holds.values() if scope in hold.scopes]
            assert account.held == sum(held)


def test_the_scripts_do_what_the_rules_say(redis_url: str) -> None:
    keep_to_the_law(redis_url, examples=60)


def test_the_scripts_do_the_same_on_a_cluster(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        keep_to_the_law(cluster.url, examples=15)


def keep_to_the_law(url: str, examples: int) -> None:
    with asyncio.Runner() as runner:
        redis = FailFastRedis(url, timeout=60)
        try:
            run_state_machine_as_test(
                lambda: BudgetLaw(runner, redis),  # type: ignore[arg-type]  # it takes whatever makes one
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=25,
                    deadline=None,
                    derandomize=True,
                    phases=[Phase.generate],
                ),
            )
        finally:
            runner.run(redis.close())
