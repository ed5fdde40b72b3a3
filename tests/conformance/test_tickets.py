"""Tickets in a real Redis: the scripts follow the rules, and asks that wait get theirs in turn."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.held_asks import HeldAsks, Verdict
from shared.contracts.outcome import Code, Outcome, Plan, RequestOutcome, Usage, ending
from shared.contracts.request import Request
from shared.flow.estimate import Estimate
from shared.flow.rules import MOST, admits, limit
from shared.flow.tickets import Tickets
from shared.redis import FailFastRedis, RedisUnavailable
from shared.worker.slots import Leaving
from tests.support.builders import NOW, a_request

FULL = limit(0)
PLAN = Plan(deployment="d", model="m", region="r", context_window=1, passages_used=1, passages_offered=1, why="")


def asked(name: str, tenant: str = "noisy", **changes: Any) -> Request:
    return a_request(request_id=name, tenant=tenant, caller=f"{tenant}-app", **changes)


def answered(request: Request) -> RequestOutcome:
    return ending(request, Outcome.ANSWERED, Code.OK, plan=PLAN).replaced(usage=Usage(prompt_tokens=1))


@pytest.fixture
def tickets(redis: FailFastRedis) -> Tickets:
    return Tickets(redis)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


async def fill(tickets: Tickets, tenant: str = "noisy", number: int = FULL) -> list[Request]:
    """Requests of `tenant` that are under way."""
    requests = [asked(f"{tenant}{position}", tenant) for position in range(number)]
    assert (await tickets.take(tenant, requests, NOW)).granted == number
    return requests


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-12, 12)), max_size=25),
    st.sampled_from([0, 1, 4, 40]),
)
async def test_the_script_admits_as_rules_py_does(
    redis: FailFastRedis, steps: list[tuple[str, int]], slots: int
) -> None:
    """A positive number asks for as many tickets, a negative one gives as many back."""
    await redis.run(lambda client: client.flushdb())
    tickets, held, number = Tickets(redis), dict[str, list[Request]](), 0
    waiting: set[str] = set()
    await tickets.announce("replica", slots)
    for tenant, change in steps:
        mine = held.setdefault(tenant, [])
        for request in mine[: max(0, -change)]:
            await tickets.release(request)
            mine.remove(request)
        if change <= 0:
            continue
        wanted = [asked(f"r{number + position}", tenant) for position in range(change)]
        number += change
        tenants = len({tenant, *waiting, *(name for name, requests in held.items() if requests)})
        expected = 0
        total = sum(map(len, held.values()))
        while expected < change and admits(limit(slots), total + expected, len(mine) + expected, tenants):
            expected += 1
        assert (await tickets.take(tenant, wanted, NOW)).granted == expected
        mine += wanted[:expected]
        (waiting.add if expected < change else waiting.discard)(tenant)
        assert sum(map(len, held.values())) <= MOST * limit(slots)


async def test_taking_a_ticket_again_changes_nothing(tickets: Tickets) -> None:
    requests = await fill(tickets)
    assert (await tickets.take("noisy", requests[:3], NOW)).granted == 3
    await tickets.release(requests[0])
    await tickets.release(requests[0])
    more = [asked("one more"), asked("and another")]
    assert (await tickets.take("noisy", more, NOW)).granted == 1


async def test_a_ticket_whose_holder_died_lapses(tickets: Tickets) -> None:
    late = [asked(f"r{number}", answer_by=NOW - timedelta(hours=1)) for number in range(FULL)]
    assert (await tickets.take("noisy", late, NOW)).granted == FULL
    async with asyncio.timeout(300):
        while not (await tickets.take("noisy", [asked("next")], NOW)).granted:
            await asyncio.sleep(0.1)


async def test_the_limit_follows_the_slots_that_generators_announce(tickets: Tickets) -> None:
    await tickets.announce("one", 16)
    await tickets.announce("two", 16)
    await tickets.announce("two", 16)
    many = [asked(f"r{number}") for number in range(100)]
    assert (await tickets.take("noisy", many, NOW)).granted == limit(32)
    await tickets.announce("two", 0)
    for request in many[: limit(32) - limit(16)]:
        await tickets.release(request)
    assert (await tickets.take("noisy", many[-1:], NOW)).granted == 0


async def test_a_quota_below_the_slots_is_the_limit(tickets: Tickets) -> None:
    await tickets.announce("one", 16, 4.5)
    many = [asked(f"r{number}") for number in range(100)]
    assert (await tickets.take("noisy", many, NOW)).granted == limit(16, 4.5) < limit(16)
    await tickets.announce("one", 16, 400)
    assert (await tickets.take("noisy", many, NOW)).granted == limit(16)


async def test_how_long_requests_take_is_learned_from_those_that_a_model_answered(tickets: Tickets) -> None:
    request = asked("r1", "a tenant % with blanks")
    known = Estimate()
    for answer in (ending(request, Outcome.REFUSED, Code.OVERLOADED), None, answered(request)):
        taken = await tickets.take(request.tenant, [request], NOW)
        [known] = taken.usual
        assert known == Estimate()
        await tickets.release(request, answer)
    [known] = (await tickets.take(request.tenant, [request], NOW)).usual
    assert 0 < known.mean < 60
    await tickets.release(request, ending(request, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED))
    [late] = (await tickets.take(request.tenant, [request], NOW)).usual
    assert late.mean >= known.mean


async def test_after_redis_lost_the_tickets_new_ones_are_granted(tickets: Tickets, redis: FailFastRedis) -> None:
    await fill(tickets)
    await redis.run(lambda client: client.delete("ragbus:{flow}:tickets"))
    await fill(tickets)
    assert (await tickets.take("noisy", [asked("one more")], NOW)).granted == 0


class Hiccup(FailFastRedis):
    """Unavailable while a test wants it."""

    down = False

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        if self.down:
            raise RedisUnavailable("not now")
        return await super().script(source, keys, args)


async def test_a_ticket_is_given_back_once_redis_is_available_again(redis_url: str) -> None:
    redis = Hiccup(redis_url, timeout=60)
    tickets = Tickets(redis)
    under_way = await fill(tickets)
    redis.down = True
    for request in under_way:
        await tickets.give_back(request, answered(request))
    redis.down = False
    async with asyncio.timeout(300):
        while (await tickets.take("noisy", [asked(f"n{number}") for number in range(FULL)], NOW)).granted < FULL:
            await asyncio.sleep(0.1)
    await redis.close()


# -- asks that wait


async def test_an_ask_of_a_quiet_tenant_is_admitted_beside_any_backlog(tickets: Tickets) -> None:
    held = HeldAsks(tickets, Clock())
    under_way = await fill(tickets)
    backlog = [asyncio.create_task(held.ticket(asked(f"waits{number}"))) for number in range(50)]
    assert await held.ticket(asked("quiet", "quiet")) is Verdict.ADMITTED
    assert not any(task.done() for task in backlog)
    for request in under_way[:6]:
        await held.release(request)
    while not all(task.done() for task in backlog[:5]):
        await asyncio.sleep(0.01)
    assert not any(task.done() for task in backlog[6:])  # first come, first served
    for task in backlog:
        task.cancel()
    await asyncio.gather(*backlog, return_exceptions=True)


async def test_an_ask_that_can_no_longer_finish_in_time_is_refused(tickets: Tickets) -> None:
    clock = Clock()
    held = HeldAsks(tickets, clock)
    await fill(tickets)
    task = asyncio.create_task(held.ticket(asked("r1", answer_by=NOW + timedelta(seconds=30))))
    await asyncio.sleep(0.2)
    assert not task.done()
    clock.now += timedelta(seconds=29.5)
    assert await task is Verdict.OVERLOADED


async def test_a_caller_that_waits_briefly_is_refused_after_that_time(tickets: Tickets) -> None:
    clock = Clock()
    held = HeldAsks(tickets, clock)
    await fill(tickets)
    tasks = [asyncio.create_task(held.ticket(asked(f"r{n}"), NOW + timedelta(seconds=5))) for n in range(2)]
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in tasks)
    clock.now += timedelta(seconds=5)
    assert await asyncio.gather(*tasks) == [Verdict.OVERLOADED] * 2


@pytest.mark.parametrize("unavailable", [False, True])
async def test_an_ask_behind_a_backlog_of_its_own_tenant_is_refused_in_time(redis_url: str, unavailable: bool) -> None:
    redis, clock = Hiccup(redis_url, timeout=60), Clock()
    tickets = Tickets(redis)
    held = HeldAsks(tickets, clock)
    await fill(tickets)
    patient = [asyncio.create_task(held.ticket(asked(f"r{n}", answer_by=NOW + timedelta(hours=1)))) for n in range(70)]
    over_http = asyncio.create_task(held.ticket(asked("http"), NOW + timedelta(seconds=5)))
    hurried = asyncio.create_task(held.ticket(asked("hurried", answer_by=NOW + timedelta(seconds=5))))
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in [*patient, over_http, hurried])
    redis.down = unavailable
    clock.now += timedelta(seconds=5)
    async with asyncio.timeout(300):
        assert {await over_http, await hurried} == {Verdict.OVERLOADED}
    if not unavailable:  # without Redis all are admitted after a moment
        assert not any(task.done() for task in patient)
    for task in patient:
        task.cancel()
    await asyncio.gather(*patient, return_exceptions=True)
    await redis.close()


async def test_at_sigterm_asks_go_back_to_their_queues(tickets: Tickets) -> None:
    held, stopping = HeldAsks(tickets, Clock()), asyncio.Event()
    under_way = await fill(tickets)
    leaving = asyncio.create_task(held.leave(stopping))
    queued = asyncio.create_task(held.ticket(asked("queued")))
    over_http = asyncio.create_task(held.ticket(asked("http"), NOW + timedelta(seconds=60)))
    await asyncio.sleep(0.2)
    stopping.set()
    await leaving
    with pytest.raises(Leaving):
        await queued
    with pytest.raises(Leaving):
        await held.ticket(asked("late"))
    await held.release(under_way[0])
    assert await over_http is Verdict.ADMITTED


async def test_at_sigterm_an_ask_that_gets_a_ticket_at_once_is_worked_on(tickets: Tickets) -> None:
    held, stopping = HeldAsks(tickets, Clock()), asyncio.Event()
    stopping.set()
    await held.leave(stopping)
    assert await held.ticket(asked("last")) is Verdict.ADMITTED


async def test_a_ticket_for_an_ask_whose_wait_was_cancelled_is_given_back(tickets: Tickets) -> None:
    held = HeldAsks(tickets, Clock())
    under_way = await fill(tickets)
    gone = [asyncio.create_task(held.ticket(asked(f"gone{number}"))) for number in range(5)]
    await asyncio.sleep(0.2)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    for request in under_way[:1]:
        await held.release(request)
    await asyncio.sleep(0.2)
    assert Counter([await held.ticket(asked("next"))]) == {Verdict.ADMITTED: 1}


async def test_without_redis_everything_is_admitted() -> None:
    held = HeldAsks(Tickets(FailFastRedis("redis://127.0.0.1:1/0")), Clock())
    assert await held.ticket(asked("r1")) is Verdict.ADMITTED
