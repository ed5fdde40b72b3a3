"""The line of a deployment in a real Redis: the scripts follow the rules, and the quota is shared."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.embeddings.port import Embedded
from shared.errors import DependencyDown, OverQuota
from shared.llm import rate_limits
from shared.llm.deployments import Deployment
from shared.llm.errors import Throttled
from shared.pacing import rules
from shared.pacing.embedder import PacedEmbedder
from shared.pacing.pacing import FALLBACK_SHARE, Demand, Pacing
from shared.pacing.rules import Ask, Granted, Pace, Place, Quota, Said
from shared.pacing.scripts import ASK, SETTLE, THROTTLED, keys, read
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_deployment

NAME = "small {4k}"
LONG = timedelta(hours=1)


def deployment(**quota: Any) -> Deployment:
    return a_deployment(NAME, 4000, **quota)


def demand(who: str, tokens: int = 1_000, tenant: str = "a", due: datetime | None = NOW, **changes: Any) -> Demand:
    return Demand(**{"who": who, "tenant": tenant, "tokens": tokens, "due": due, "patience": LONG, **changes})


async def stored(redis: FailFastRedis) -> Pace:
    """The state in Redis."""
    pace, served, line = [await redis.run(lambda client, key=key: client.hgetall(key)) for key in keys(NAME)]  # type: ignore[misc]
    places = {}
    for who, written in line.items():
        due, since, tokens, lapses, flow = written.split(" ", 4)
        places[who] = Place(flow, float(due), float(since), float(tokens), float(lapses))
    return replace(read(pace), served={flow: float(tag) for flow, tag in served.items()}, line=places)


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("ask"),
            st.sampled_from(["one", "two", "three", "four"]),
            st.sampled_from(["a", "b b", "c"]),
            st.integers(1, 4_000),
            st.integers(0, 3),
            st.booleans(),
            st.sampled_from([0.0, 30.0, 1_000.0]),
        ),
        st.tuples(
            st.just("settle"),
            st.one_of(st.none(), st.integers(0, 9_000)),
            st.one_of(st.none(), st.integers(0, 90)),
            st.sampled_from([0, 3_000, 6_000, 20_000]),
            st.one_of(st.none(), st.integers(0, 4_000)),
            st.booleans(),
        ),
        st.tuples(st.just("throttled"), st.one_of(st.none(), st.just(0.0), st.floats(0, 100))),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.sampled_from([Quota(), Quota(6_000), Quota(requests=60), Quota(6_000, 60), Quota(60_000, 600)]))
async def test_the_scripts_do_as_rules_py_does(
    redis: FailFastRedis, steps: list[tuple[Any, ...]], quota: Quota
) -> None:
    await redis.run(lambda client: client.flushdb())
    pace, last, both = Pace(), None, [quota.tokens, quota.requests]
    for kind, *step in steps:
        if kind == "ask":
            who, tenant, tokens, due, ingestion, patience = step
            wants = Ask(who, tenant, tokens, 0.0 if ingestion else due, ingestion, patience)
            args = [*both, who, wants.flow, tokens, wants.due, patience]
            wait, now, *then = await redis.script(ASK, keys(NAME), args)
            pace, result = rules.ask(pace, quota, wants, float(now))
            found: Granted | float = float(wait) if wait else Granted(tokens, *map(float, (now, *then)))
            assert found == result
            last = found if isinstance(found, Granted) else last
        elif last is not None and kind == "settle":
            left, requests_left, limit, used, succeeded = step
            said = Said(Quota(limit, 0), left, requests_left)
            args = [*both, last.tokens, last.at, last.total_tokens, limit or "", ""]
            args += ["" if each is None else each for each in (left, requests_left, used)]
            now = await redis.script(SETTLE, keys(NAME), [*args, int(succeeded)])
            pace = rules.settle(pace, quota, last, said, used, float(now), succeeded=succeeded)
        elif last is not None:
            after = "" if step[0] is None else step[0]
            now, waited = await redis.script(THROTTLED, keys(NAME), [*both, last.tokens, last.at, after])
            pace, wait = rules.throttled(pace, quota, last, step[0], float(now))
            assert float(waited) == wait
        if last is not None or pace.line:
            assert await stored(redis) == pace


@pytest.mark.parametrize("quota", [Quota(), Quota(6_000), Quota(requests=60)])
async def test_behind_the_last_place_the_script_gives_times_as_rules_py_does(
    redis: FailFastRedis, quota: Quota
) -> None:
    pace, both = Pace(), [quota.tokens, quota.requests]
    await redis.script(THROTTLED, keys(NAME), [*both, 1, 0, 500])
    pace = await stored(redis)
    for number in range(rules.PLACES + 5):
        wants = Ask(f"r{number}", "a", 100, ingestion=True, patience=100_000)
        args = [*both, wants.who, wants.flow, wants.tokens, wants.due, wants.patience]
        wait, now, *_ = await redis.script(ASK, keys(NAME), args)
        pace, result = rules.ask(pace, quota, wants, float(now))
        assert float(wait) == result
    assert await stored(redis) == pace
    assert len(pace.line) == rules.PLACES


async def call(pacing: Pacing, wanted: Demand, quota: Deployment, **headers: str) -> float | None:
    """None for a call that was made; else the seconds to wait."""
    try:
        async with pacing.turn(quota, wanted):
            rate_limits.read({f"x-ratelimit-{name.replace('_', '-')}": value for name, value in headers.items()})
    except OverQuota as over:
        return over.after.total_seconds()
    return None


async def refused(pacing: Pacing, quota: Deployment, headers: Mapping[str, str]) -> None:
    async with pacing.turn(quota, demand("one")):
        rate_limits.read(headers)
        raise Throttled("429")


async def test_all_replicas_share_one_quota(redis: FailFastRedis) -> None:
    replicas = [Pacing(redis) for _ in range(4)]
    quota = deployment(tokens_per_minute=10_000)
    results = await asyncio.gather(*(call(replicas[n % 4], demand(f"r{n}"), quota) for n in range(40)))
    assert sum(result is None for result in results) == 9  # one less than a minute's worth
    waits = sorted(result for result in results if result is not None)
    # One every six seconds.
    assert all(5.5 < later - sooner < 6.5 for sooner, later in pairwise(waits))


async def test_a_throttle_stops_all_replicas_for_as_long_as_the_provider_says(redis: FailFastRedis) -> None:
    one, other, quota = Pacing(redis), Pacing(redis), deployment()
    with pytest.raises(Throttled):
        async with one.turn(quota, demand("one")):
            raise Throttled("429", after=timedelta(seconds=20))
    wait = await call(other, demand("two"), quota)
    assert wait is not None
    assert 15 < wait < 21


async def test_a_throttle_without_a_time_waits_for_the_headers_or_a_moment(redis: FailFastRedis) -> None:
    pacing = Pacing(redis)
    for name, headers, least in (
        ("x", {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "40s"}, 30.0),
        ("y", {}, 0.5),
    ):
        with pytest.raises(Throttled) as failure:
            await refused(pacing, a_deployment(name, 4000), headers)
        assert failure.value.after.total_seconds() >= least
        wait = await call(pacing, demand("two"), a_deployment(name, 4000))
        assert wait is not None
        assert wait > least


async def throttles(pacing: Pacing, who: str, *, quota: Deployment) -> float:
    """The pause after a call that is refused without a word of how long."""
    failure = Throttled("429")
    with pytest.raises(Throttled):
        async with pacing.turn(quota, demand(who)):
            raise failure
    return failure.after.total_seconds()


async def over(redis: FailFastRedis) -> None:
    """The pause is over."""
    pace, _, _ = keys(NAME)
    await redis.run(lambda client: client.hset(pace, "at", 0))


async def test_each_throttle_in_a_row_doubles_the_pause_of_all_replicas(redis: FailFastRedis) -> None:
    one, other, quota = Pacing(redis), Pacing(redis), deployment()
    pauses = []
    for number in range(8):
        pauses.append(await throttles((one, other)[number % 2], "r", quota=quota))
        await over(redis)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    # A call that fails in another way shows nothing; one that succeeds ends it, also without any quota known.
    with pytest.raises(DependencyDown):
        async with one.turn(quota, demand("r")):
            raise DependencyDown("503")
    assert await throttles(one, "r", quota=quota) == 60
    await over(redis)
    assert await call(other, demand("r"), quota) is None
    assert await throttles(one, "r", quota=quota) == 1


async def test_calls_that_are_refused_together_double_the_pause_once(redis: FailFastRedis) -> None:
    pacing, quota = Pacing(redis), deployment()
    begun = asyncio.Barrier(5)

    async def refused_with_others(number: int) -> None:
        async with pacing.turn(quota, demand(f"r{number}")):
            await begun.wait()
            raise Throttled("429")

    refusals = await asyncio.gather(*map(refused_with_others, range(5)), return_exceptions=True)
    assert [each.after for each in refusals if isinstance(each, Throttled)] == [timedelta(seconds=1)] * 5


async def test_without_redis_the_pause_doubles_too() -> None:
    now = 0.0
    gone = FailFastRedis("redis://127.0.0.1:1/0")
    pacing, quota, pauses = Pacing(gone, clock=lambda: now), deployment(), []
    for _ in range(4):
        pauses.append(await throttles(pacing, "r", quota=quota))
        now += pauses[-1] + 1
    assert pauses == [1, 2, 4, 8]
    assert await call(pacing, demand("r"), quota) is None
    assert await throttles(pacing, "r", quota=quota) == 1
    await gone.close()


async def test_a_failure_that_is_no_throttle_stops_nothing(redis: FailFastRedis) -> None:
    pacing, quota = Pacing(redis), deployment()
    with pytest.raises(DependencyDown):
        async with pacing.turn(quota, demand("one")):
            raise DependencyDown("503", after=timedelta(seconds=20))
    assert await call(pacing, demand("two"), quota) is None


async def test_a_limit_in_the_headers_is_kept_by_all_although_models_yaml_has_none(redis: FailFastRedis) -> None:
    one, other, quota = Pacing(redis), Pacing(redis), deployment()
    assert await call(one, demand("one"), quota, limit_tokens="6000", remaining_tokens="1400") is None
    assert await call(other, demand("two"), quota) is None
    assert await call(other, demand("three"), quota) is not None


async def test_what_would_end_too_late_is_said_to(redis: FailFastRedis) -> None:
    pacing, quota = Pacing(redis), deployment(tokens_per_minute=1_000)
    assert await call(pacing, demand("one"), quota) is None
    with pytest.raises(OverQuota) as over:
        async with pacing.turn(quota, demand("two", patience=timedelta(seconds=30))):
            pass
    assert not over.value.fits
    assert 55 < over.value.after.total_seconds() < 61


async def test_without_redis_each_process_uses_a_part_of_the_quota_and_recovers() -> None:
    now = 0.0
    gone = FailFastRedis("redis://127.0.0.1:1/0")
    pacing, quota = Pacing(gone, clock=lambda: now), deployment(tokens_per_minute=20_000)
    results = [await call(pacing, demand(f"r{n}"), quota) for n in range(8)]
    assert results.count(None) == 20 * FALLBACK_SHARE - 1
    now = 300.0  # the places of those that did not come back have lapsed
    assert [await call(pacing, demand(f"s{n}"), quota) for n in range(8)].count(None) == 4
    with pytest.raises(Throttled):
        async with pacing.turn(a_deployment("other", 4000), demand("one")):
            raise Throttled("429", after=timedelta(seconds=20))
    wait = await call(pacing, demand("two"), a_deployment("other", 4000))
    assert wait == pytest.approx(20.05)
    await gone.close()


async def test_when_redis_is_back_its_state_counts(redis: FailFastRedis, redis_url: str) -> None:
    pacing, quota = Pacing(redis), deployment(tokens_per_minute=2_200)
    assert await call(pacing, demand("one"), quota) is None
    assert await call(pacing, demand("two"), quota) is None
    assert await call(pacing, demand("three"), quota) is not None
    other = FailFastRedis(redis_url)
    assert await call(Pacing(other), demand("four"), quota) is not None
    await other.close()


class Embeds:
    async def embed(self, texts: Sequence[str]) -> Embedded:
        return Embedded([[1.0] for _ in texts], tokens=None)


async def test_asks_are_embedded_before_ingestion(redis: FailFastRedis) -> None:
    embedder = PacedEmbedder(Embeds(), Pacing(redis), deployment(tokens_per_minute=600), lambda: NOW)
    passage, question = "leave " * 300, "how many days?"
    assert (await embedder.embed([passage], tenant="a")).vectors == [[1.0]]
    with pytest.raises(OverQuota) as batch:
        await embedder.embed([passage, "more"], tenant="a")
    for number in range(8):
        await embedder.embed([f"{number} {question}"], tenant="a", due=NOW + timedelta(seconds=60))
    with pytest.raises(OverQuota) as later:
        await embedder.embed([passage, "more"], tenant="a")
    assert later.value.after > batch.value.after
    with pytest.raises(OverQuota) as hasty:
        await embedder.embed([passage], tenant="a", due=NOW + timedelta(seconds=3))
    assert not hasty.value.fits


async def test_ingestion_that_the_provider_refuses_comes_back_and_spends_no_attempt(redis: FailFastRedis) -> None:
    class Refuses:
        async def embed(self, texts: Sequence[str]) -> Embedded:
            raise Throttled("429", after=timedelta(seconds=7))

    embedder = PacedEmbedder(Refuses(), Pacing(redis), deployment(), lambda: NOW)
    with pytest.raises(OverQuota) as over:
        await embedder.embed(["a passage"], tenant="a")
    assert (over.value.after, over.value.fits) == (timedelta(seconds=7), True)


async def test_who_asks_whether_its_turn_has_come_keeps_its_place(redis: FailFastRedis) -> None:
    """As a request does that first asks all deployments it may use, and then waits for one."""
    pacing, quota = Pacing(redis), deployment(tokens_per_minute=1_000)
    assert await call(pacing, demand("one"), quota) is None
    assert await call(pacing, demand("two"), quota) is not None
    before = (await stored(redis)).line["two"]
    assert await call(pacing, demand("two", patience=timedelta(0)), quota) is not None
    assert (await stored(redis)).line["two"] == before
    assert await call(pacing, demand("two", patience=timedelta(seconds=1)), quota) is not None
    assert "two" not in (await stored(redis)).line


@pytest.mark.parametrize("ahead", [-3_600, 3_600])
async def test_the_room_of_a_deployment_does_not_depend_on_the_clock_of_this_machine(
    redis: FailFastRedis, ahead: float
) -> None:
    pacing, quota = Pacing(redis, clock=lambda: time.time() + ahead), deployment(tokens_per_minute=6_000)
    for number in range(5):
        assert await call(pacing, demand(f"r{number}"), quota) is None
    room = await pacing.room(quota, 10)
    assert room is not None
    assert 1.6 < room < 2.6  # 1,000 without the cushion of 300, and 1,000 more in ten seconds


async def test_the_room_of_a_deployment_is_what_its_levels_and_its_rate_allow(redis: FailFastRedis) -> None:
    pacing, quota = Pacing(redis), deployment(tokens_per_minute=6_000)
    assert await pacing.room(deployment(), 10) is None
    assert await pacing.room(quota, 10) is None  # the size of a call is unknown
    assert await call(pacing, demand("one"), quota) is None
    room = await pacing.room(quota, 10)
    assert room is not None
    assert 5.6 < room < 6.5  # 5,000 without the cushion of 300, and 1,000 more in ten seconds
