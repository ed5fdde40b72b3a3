"""What the budgets of tenants promise, on a real Redis: one server and a cluster."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from ops.commands.budget import ask
from shared.budget.rules import Amount
from shared.budget.scripts import CHANGE, SETTLE
from shared.budget.tenant import FALLBACK_SHARE, SPARE, TenantBudget
from shared.contracts.outcome import ModelCall
from shared.contracts.request import Request
from shared.redis import FailFastRedis, RedisUnavailable
from shared.settings.budget import MICROS, TENANT, Limit, Unit, Window
from tests.support.breakable import Breakable
from tests.support.budget import a_budget, hold, in_debt, spend
from tests.support.builders import NOW, a_request
from tests.support.ports import wired
from tests.support.redis_cluster import Cluster, running_cluster

START = int(NOW.timestamp() * 1_000)
DAY = Limit(TENANT, Unit.TOKENS, Window.DAY, 10_000)
MONEY = Limit("caller:welcome-app", Unit.USD, Window.MONTH, 3 * MICROS)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=["one server", "cluster"])
async def redis(request: pytest.FixtureRequest) -> AsyncIterator[FailFastRedis]:
    """Our connection to an empty Redis of either kind."""
    if request.param == "cluster":
        cluster: Cluster = request.getfixturevalue("running")
        cluster.empty()
        url = cluster.url
    else:
        url = request.getfixturevalue("redis_url")
    connection = FailFastRedis(url, timeout=60)
    yield wired(connection)
    await connection.close()


class Clock:
    """The time of Redis, set by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def limited(redis: FailFastRedis, clock: Clock, *limits: Limit) -> TenantBudget:
    return TenantBudget(redis, lambda _request: limits, lambda: NOW, now=clock)


def a_call(tokens: int, usd: int = 0, **given: object) -> ModelCall:
    return ModelCall.model_validate({"deployment": "small", "prompt_tokens": tokens, "cost": usd / MICROS, **given})


async def account(redis: FailFastRedis, name: str = "tokens|tenant") -> dict[str, int]:
    kept = await redis.run(lambda client: client.hget("ragbus:{tessolund}:budget", name))
    names = ("held", "day", "spent", "overrun", "month", "in_month", "overrun_in_month", "debt", "at")
    return dict(zip(names, map(int, (kept or "0 " * 9).split()), strict=True))


# -- nobody overspends


async def test_concurrent_requests_never_overspend(redis: FailFastRedis) -> None:
    budget = a_budget(redis, 10_000)
    taken = await asyncio.gather(*(hold(budget, 900, f"r{n}") for n in range(200)))
    assert sum(refusal is None for refusal in taken) == 11  # 9,900; refilling 900 takes over five seconds
    waits = [refusal.retry_after for refusal in taken if refusal is not None]
    assert all(wait is not None and 0 < wait < 6 for wait in waits)


async def test_two_hundred_callers_spend_at_most_what_every_limit_allows(redis: FailFastRedis) -> None:
    """Four processes, calls of all sizes; some fail, some die, some use more than they were given."""
    rng, clock = random.Random(11), Clock()
    per_caller = {f"caller:c{n}": Limit(f"caller:c{n}", Unit.TOKENS, Window.DAY, 700) for n in range(200)}

    def limits(request: Request) -> Sequence[Limit]:
        use_case = Limit("use_case:onboarding", Unit.USD, Window.MONTH, 9_000)
        return [Limit(TENANT, Unit.TOKENS, Window.DAY, 30_000), use_case, per_caller[f"caller:{request.caller}"]]

    processes = [TenantBudget(redis, limits, lambda: NOW, now=clock) for _ in range(4)]
    overruns = 0

    async def ask(number: int) -> None:
        nonlocal overruns
        budget, request = processes[number % 4], a_request(request_id=f"r{number}", caller=f"c{number % 200}")
        if (await budget.reserve(request, Amount(rng.randint(50, 400), 90))).refusal is not None:
            return
        for attempt in range(2):
            worst, name = Amount(rng.randint(100, 400), 100), f"{number}-{attempt}"
            if await budget.begin(request, name, worst, timedelta(seconds=20)) is not None:
                return
            if rng.random() < 0.1:
                return  # this process has died
            tokens = rng.randint(0, worst.tokens + (30 if rng.random() < 0.2 else 0))
            overrun = max(0, tokens - worst.tokens)
            overruns += overrun
            await budget.settle(request, name, a_call(tokens, 80, overrun=overrun), Amount(tokens, 80))

    await asyncio.gather(*(ask(number) for number in range(400)))
    tenant, use_case = await account(redis), await account(redis, "usd|use_case:onboarding")
    assert 0 < tenant["spent"] <= 30_000
    assert 0 < use_case["in_month"] <= 9_000
    assert tenant["overrun"] == overruns
    for name, limit in per_caller.items():
        assert (await account(redis, f"tokens|{name}"))["spent"] <= limit.most
    # What the dead held is given back.
    clock.now += int((timedelta(seconds=60) + 2 * SPARE).total_seconds() * 1_000)
    for number in range(5):  # a hundred at a time
        await hold(processes[0], 1, f"later-{number}", caller="c1")
    assert (await account(redis))["held"] <= 5


async def test_a_reservation_above_a_limit_is_refused_for_good(redis: FailFastRedis) -> None:
    refusal = await hold(a_budget(redis, 1_000), 1_001)
    assert refusal is not None
    assert refusal.retry_after is None


async def test_tenants_do_not_spend_each_others_tokens(redis: FailFastRedis) -> None:
    budget = a_budget(redis, 1_000)
    assert await hold(budget, 1_000, tenant="a") is None
    assert await hold(budget, 1_000, tenant="b") is None


async def test_a_caller_and_a_use_case_have_budgets_within_their_tenants(redis: FailFastRedis) -> None:
    clock = Clock()
    caller = Limit("caller:welcome-app", Unit.TOKENS, Window.DAY, 500)
    mine = limited(redis, clock, DAY, caller)
    other = limited(redis, clock, DAY)
    assert await hold(mine, 400, "r1") is None
    assert await hold(mine, 400, "r2") is not None
    assert await hold(other, 9_600, "r3", caller="hr-portal") is None
    assert await hold(other, 1, "r4", caller="hr-portal") is not None


# -- each step counts once


async def test_reserving_and_giving_back_twice_counts_once(redis: FailFastRedis) -> None:
    budget = a_budget(redis, 1_000)
    for _ in range(5):
        assert await hold(budget, 900, "r1") is None
    assert await hold(budget, 900, "r2") is not None
    for _ in range(5):
        await budget.give_back(a_request(request_id="r1"))
    assert await hold(budget, 900, "r2") is None
    assert await hold(budget, 900, "r3") is not None


async def test_a_reservation_that_is_given_back_repeatedly_is_returned_once(redis: FailFastRedis) -> None:
    """While others hold the rest: without those, what is given back too often would not show."""
    budget = limited(redis, Clock(), DAY)
    assert await hold(budget, 900, "r1") is None
    assert await hold(budget, 5_000, "r2") is None
    for _ in range(5):
        await budget.give_back(a_request(request_id="r1"))
    assert (await account(redis))["held"] == 5_000


async def test_a_call_is_charged_once_however_often_it_is_settled(redis: FailFastRedis) -> None:
    budget, request = limited(redis, Clock(), DAY), a_request()
    assert await hold(budget, 900, "r1") is None
    assert await budget.begin(request, "c1", Amount(700, 9), timedelta(seconds=20)) is None
    assert (await account(redis))["held"] == 700
    for _ in range(3):
        await budget.settle(request, "c1", a_call(600, 8), Amount(600, 8))
    found = await account(redis)
    assert (found["held"], found["spent"], found["overrun"]) == (0, 600, 0)
    assert list(await budget.calls(request)) == [a_call(600, 8)]


async def test_what_a_call_used_counts_even_after_its_reservation_was_given_back(redis: FailFastRedis) -> None:
    budget = a_budget(redis, 1_000)
    assert await hold(budget, 900, "r1") is None
    await budget.give_back(a_request(request_id="r1"))
    await spend(budget, 300, "r1")
    assert await in_debt(redis) == 300


async def test_a_search_leaves_the_rest_of_the_estimate_held(redis: FailFastRedis) -> None:
    budget, request = limited(redis, Clock(), DAY), a_request()
    assert await hold(budget, 900, "r1") is None
    assert await budget.begin(request, "c1", Amount(20), timedelta(seconds=20), keep_estimate=True) is None
    await budget.settle(request, "c1", a_call(9), Amount(9))
    found = await account(redis)
    assert (found["held"], found["spent"]) == (880, 9)


async def test_charges_alone_can_use_up_a_budget(redis: FailFastRedis) -> None:
    """Each ask is answered by the retriever: its estimate is given back, and what its search used is not."""
    budget, admitted = a_budget(redis, 1_000), 0
    while await hold(budget, 500, f"r{admitted}") is None:
        await spend(budget, 100, f"r{admitted}")
        await budget.give_back(a_request(request_id=f"r{admitted}"))
        admitted += 1
        assert admitted < 60  # a minute refills the whole budget, and no machine is that slow


async def test_what_is_beyond_the_reservation_is_an_overrun_and_leaves_less(redis: FailFastRedis) -> None:
    budget, request = limited(redis, Clock(), DAY), a_request()
    assert await budget.begin(request, "c1", Amount(9_000), timedelta(seconds=20)) is None
    await budget.settle(request, "c1", a_call(9_400, overrun=400), Amount(9_400))
    found = await account(redis)
    assert (found["spent"], found["overrun"]) == (9_000, 400)
    assert await hold(budget, 601, "r2") is not None
    assert await hold(budget, 600, "r2") is None


async def test_the_calls_of_all_processes_are_listed_in_their_order(redis: FailFastRedis) -> None:
    clock, request = Clock(), a_request()
    retriever, generator = limited(redis, clock, DAY), limited(redis, clock, DAY)
    await retriever.settle(request, "c9", a_call(9, deployment="embeddings"), Amount(9))
    for number in range(12):
        await generator.settle(request, f"c{number}x", a_call(number), Amount(number))
    await retriever.settle(a_request(request_id="r2"), "c1", a_call(1), Amount(1))
    for process in (generator, limited(redis, clock, DAY)):
        assert [call.prompt_tokens for call in await process.calls(request)] == [9, *range(12)]
        assert [call.prompt_tokens for call in await process.give_back(request)] == [9, *range(12)]


# -- time


async def test_a_reservation_is_given_back_when_its_worker_died(redis: FailFastRedis) -> None:
    clock = Clock()
    budget, request = limited(redis, clock, DAY), a_request()
    lasts = timedelta(seconds=20)
    assert await budget.begin(request, "c1", Amount(10_000), lasts) is None
    clock.now += int((lasts + SPARE).total_seconds() * 1_000) - 1
    assert await hold(budget, 10_000, "r2") is not None
    clock.now += 1
    assert await hold(budget, 10_000, "r2") is None


async def test_an_estimate_is_held_until_its_deadline_and_a_little_longer(redis: FailFastRedis) -> None:
    clock = Clock()
    budget = limited(redis, clock, DAY)
    assert await hold(budget, 10_000, "r1") is None  # its deadline is in a minute
    clock.now += int((timedelta(seconds=60) + SPARE).total_seconds() * 1_000) - 1
    assert await hold(budget, 1, "r2") is not None
    clock.now += 1
    assert await hold(budget, 1, "r2") is None


@pytest.mark.parametrize("limit", [DAY, MONEY], ids=["day", "month"])
async def test_a_refusal_says_when_it_really_fits(redis: FailFastRedis, limit: Limit) -> None:
    clock, request = Clock(), a_request()
    budget = limited(redis, clock, limit)
    await budget.settle(request, "c1", a_call(10_000, 3 * MICROS), Amount(10_000, 3 * MICROS))
    refused = (await budget.reserve(request, Amount(1, 1))).refusal
    assert refused is not None
    assert refused.retry_after == {DAY: 15 * 3_600, MONEY: (29 * 24 + 15) * 3_600}[limit]  # from 2 March, 9:00
    clock.now += int(refused.retry_after * 1_000) - 1
    assert (await budget.reserve(request, Amount(1, 1))).refusal is not None
    clock.now += 1
    assert (await budget.reserve(request, Amount(1, 1))).refusal is None


async def test_admission_learns_what_passages_usually_have(redis: FailFastRedis) -> None:
    budget, request = limited(redis, Clock(), DAY), a_request()
    assert budget.usual_passages(request) is None
    await budget.settle(request, "c1", a_call(900), Amount(900), passages=800)
    await budget.settle(request, "c2", a_call(900), Amount(900), passages=1_600)
    await budget.settle(request, "c3", a_call(900), Amount(900))
    await budget.reserve(request, Amount(1))
    assert budget.usual_passages(request) == 900
    assert budget.usual_passages(a_request(use_case="travel")) is None


async def test_what_another_process_paid_for_is_known_at_the_next_attempt(redis: FailFastRedis) -> None:
    mine, other, request = limited(redis, Clock(), DAY), limited(redis, Clock(), DAY), a_request()
    await mine.settle(request, "c1", a_call(1), Amount(1))
    await other.settle(request, "c2", a_call(2), Amount(2))
    assert list(await mine.calls(request)) == [a_call(1), a_call(2)]
    assert list(await mine.calls(request, heard=True)) == [a_call(1)]


async def test_a_limit_that_is_set_is_logged_once_for_each_whose_it_is(
    redis: FailFastRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with every ask, when some callers have such a limit and others have not."""
    clock = Clock()
    budget = limited(redis, clock, DAY)
    mine = {"tokens|caller:welcome-app|day": 5_000}
    asked = {"now": clock.now, "set": mine, "scopes": [], "lasts": 60_000, "change": {}}
    await ask(redis, "tessolund", CHANGE, asked)
    for number in range(3):
        assert await hold(budget, 1, f"a{number}") is None
        assert await hold(budget, 1, f"b{number}", caller="hr-portal") is None
    clock.now += 60_000
    assert await hold(budget, 1, "later") is None
    assert capsys.readouterr().out.count("budget.overridden") == 2


async def test_a_reset_begins_the_day_anew_after_the_clock_was_ahead(redis: FailFastRedis) -> None:
    clock = Clock()
    budget, request = limited(redis, clock, DAY), a_request()
    clock.now += 400 * 86_400_000
    await budget.settle(request, "c1", a_call(10_000), Amount(10_000))
    clock.now = START
    await ask(redis, "tessolund", CHANGE, {"now": START, "scopes": [TENANT], "reset": True, "change": {}})
    await budget.settle(request, "c2", a_call(10_000), Amount(10_000))
    clock.now += 86_400_000
    assert await hold(budget, 10_000, "r2") is None


# -- without Redis


def away(*limits: Limit, clock: Clock) -> TenantBudget:
    return limited(FailFastRedis("redis://127.0.0.1:1/0"), clock, *limits)


async def test_without_redis_a_process_spends_at_most_its_share_and_that_recovers() -> None:
    clock, minute = Clock(), Limit(TENANT, Unit.TOKENS, Window.MINUTE, 4_000)
    budget = away(minute, clock=clock)
    spent = 0
    for second in range(600):
        clock.now = START + second * 1_000
        request = a_request(request_id=f"r{second}")
        if (await budget.reserve(request, Amount(300))).refusal is not None:
            continue
        if await budget.begin(request, f"c{second}", Amount(400), timedelta(seconds=9)) is None:
            await budget.settle(request, f"c{second}", a_call(250), Amount(250))
            spent += 250
        assert spent <= FALLBACK_SHARE * 4_000 * (1 + second / 60)
    assert spent > FALLBACK_SHARE * 4_000 * 9  # ten minutes, of which it uses nearly all


async def test_without_redis_a_day_has_a_share_too_and_a_small_budget_allows_one_call_at_a_time() -> None:
    clock = Clock()
    budget = away(DAY, clock=clock)
    assert await hold(budget, 2_000, "r1") is None
    assert await hold(budget, 600, "r2") is not None  # a quarter of 10,000
    assert await hold(budget, 10_001, "r2") is not None
    small = away(Limit(TENANT, Unit.TOKENS, Window.MINUTE, 4_000), clock=clock)
    assert await hold(small, 4_000, "r1") is None
    refused = await hold(small, 4_000, "r2")
    assert refused is not None
    assert refused.retry_after == 60.0


async def test_without_redis_this_attempts_calls_are_known() -> None:
    budget, request = away(DAY, clock=Clock()), a_request()
    for name in ("c1", "c2"):
        await budget.settle(request, name, a_call(5), Amount(5))
    assert list(await budget.calls(request)) == [a_call(5)] * 2
    assert list(await budget.give_back(request)) == [a_call(5)] * 2


class Slow(Breakable):
    """Redis does what it is told, but while it is `late`, its answers come too late."""

    late = False
    hangs = False
    settled = 0

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        """See `FailFastRedis.script`."""
        if self.hangs and source is SETTLE:
            await asyncio.Event().wait()
        said = await super().script(source, keys, args)
        self.settled += source is SETTLE
        if self.late:
            raise RedisUnavailable("late")
        return said


async def test_a_call_whose_charge_was_answered_late_is_listed_once(redis_url: str) -> None:
    redis = Slow(redis_url, timeout=60)
    await redis.run(lambda client: client.flushall())
    budget, request = limited(redis, Clock(), DAY), a_request()
    redis.late = True
    await budget.settle(request, "c1", a_call(700), Amount(700))
    redis.late = False
    assert list(await budget.give_back(request)) == [a_call(700)]
    assert (await account(redis))["spent"] == 700
    await redis.close()


async def test_what_is_being_told_is_not_lost_when_its_task_is_cancelled(redis_url: str) -> None:
    redis = Slow(redis_url, timeout=60)
    await redis.run(lambda client: client.flushall())
    budget, request = limited(redis, Clock(), DAY), a_request()
    redis.cut = True
    await budget.settle(request, "c1", a_call(700), Amount(700))
    redis.cut, redis.hangs = False, True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await hold(budget, 1, "r3")
    redis.hangs = False
    assert await hold(budget, 1, "r2") is None
    assert (await account(redis))["spent"] == 700
    await redis.close()


async def test_many_requests_at_once_tell_redis_of_each_call_once(redis_url: str) -> None:
    redis = Slow(redis_url, timeout=60)
    await redis.run(lambda client: client.flushall())
    budget = limited(redis, Clock(), DAY)
    redis.cut = True
    for number in range(120):
        await budget.settle(a_request(request_id=f"r{number}"), "c1", a_call(10), Amount(10))
    redis.cut = False
    made = await asyncio.gather(*(budget.give_back(a_request(request_id=f"r{number}")) for number in range(120)))
    assert [list(calls) for calls in made] == [[a_call(10)]] * 120
    assert (await account(redis))["spent"] == 1_200
    assert redis.settled == 120
    await redis.close()


async def test_what_was_spent_without_redis_is_told_when_it_is_back(redis_url: str) -> None:
    redis = Breakable(redis_url, timeout=60)
    await redis.run(lambda client: client.flushall())
    budget, request = limited(redis, Clock(), DAY), a_request()
    assert await budget.begin(request, "c1", Amount(900), timedelta(seconds=9)) is None
    redis.cut = True
    await budget.settle(request, "c1", a_call(700), Amount(700))
    redis.cut = False
    assert list(await budget.give_back(request)) == [a_call(700)]
    assert await hold(budget, 1, "r2") is None
    found = await account(redis)
    assert (found["spent"], found["held"]) == (700, 1)
    assert list(await limited(redis, Clock(), DAY).calls(request)) == [a_call(700)]
    await redis.close()
