"""`ragbus budget` on a real Redis, beside a worker that spends."""

import asyncio
import math
from datetime import timedelta
from pathlib import Path

import pytest

from ops.commands import budget as command
from ops.errors import CommandError
from ops.target import Target, find
from shared.budget.rules import Amount
from shared.contracts.outcome import ModelCall
from shared.redis import FailFastRedis
from shared.settings.budget import TENANT, Unit, Window
from tests.support.budget import a_budget, hold
from tests.support.builders import a_request

HOUR = timedelta(hours=1)


@pytest.fixture
def target(tmp_path: Path, redis_url: str) -> Target:
    (tmp_path / "use_cases").mkdir()
    (tmp_path / "callers.yaml").write_text(
        "tenants: {tessolund: {tokens_per_minute: 1000, budget: {usd: {day: 2}}}}\n"
        "callers: [{name: welcome-app, tenant: tessolund, budget: {tokens: {month: 9000}}}]\n"
    )
    (tmp_path / "use_cases" / "onboarding.yaml").write_text(
        "{name: onboarding, collection: handbook, prompt: Answer., deployments: [d], context_window: 4000,"
        " budget: {usd: {month: 30}}}\n"
    )
    environment = {
        "RAGBUS_REDIS_URL": redis_url,
        "RAGBUS_CONFIG": str(tmp_path),
        "RAGBUS_SERVICEBUS_NAMESPACE": "contoso.servicebus.windows.net",
    }
    return find(environment, tmp_path)


async def test_what_was_spent_is_shown_for_every_limit(target: Target, redis: FailFastRedis) -> None:
    budget, request = a_budget(redis, 1_000), a_request()
    await budget.begin(request, "c1", Amount(500, 250_000), timedelta(seconds=9))
    call = ModelCall(deployment="d", prompt_tokens=600, cost=0.25)
    await budget.settle(request, "c1", call, Amount(600, 250_000))
    assert await hold(budget, 100, "r2") is None
    found, changes = await asyncio.to_thread(command.show, target, "tessolund")
    rows = {(row.scope, row.unit, row.window): row for row in found}
    assert set(rows) == {
        (TENANT, "tokens", "minute"),
        (TENANT, "usd", "day"),
        ("caller:welcome-app", "tokens", "month"),
        ("use_case:onboarding", "usd", "month"),
    }
    month = rows["caller:welcome-app", "tokens", "month"]
    assert (month.limit, month.spent, month.overrun, month.held, month.left) == (9_000, 500, 100, 100, 8_300)
    day = rows[TENANT, "usd", "day"]
    assert (day.limit, day.spent, day.left, day.override_until) == (2, 0.25, 1.75, None)
    assert rows[TENANT, "tokens", "minute"].left >= 300
    assert changes == []


async def test_a_limit_that_is_set_holds_in_the_place_of_the_configured_one_and_is_listed(
    target: Target, redis: FailFastRedis
) -> None:
    budget = a_budget(redis, 1_000)
    limit = command.limit_of(TENANT, "minute", 5_000, usd=False)
    said = await asyncio.to_thread(command.set_limit, target, "tessolund", limit, HOUR)
    assert "tenant tessolund, tenant: 5,000 tokens per minute for 1:00:00" in said
    assert await hold(budget, 4_000, "r1") is None
    mine = command.limit_of("caller:welcome-app", "day", 0.5, usd=True)
    await asyncio.to_thread(command.set_limit, target, "tessolund", mine, HOUR)
    refused = (await budget.reserve(a_request(request_id="r2"), Amount(1, 500_001))).refusal
    assert refused is not None
    found, changes = await asyncio.to_thread(command.show, target, "tessolund")
    set_ = {row.scope: row.limit for row in found if row.override_until is not None}
    assert set_ == {TENANT: 5_000, "caller:welcome-app": 0.5}
    assert ["usd per day" in change["what"] for change in changes] == [True, False]
    assert all("@" in change["by"] and change["at"] for change in changes)


async def test_a_reset_begins_anew_and_forgets_what_was_set(target: Target, redis: FailFastRedis) -> None:
    budget = a_budget(redis, 1_000)
    low = command.limit_of(TENANT, "day", 100, usd=False)
    await asyncio.to_thread(command.set_limit, target, "tessolund", low, HOUR)
    request = a_request()
    await budget.settle(request, "c1", ModelCall(deployment="d", prompt_tokens=100), Amount(100))
    assert await hold(budget, 1, "r1") is not None
    await asyncio.to_thread(command.reset, target, "tessolund", TENANT)
    assert await hold(budget, 1_000, "r1") is None
    found, changes = await asyncio.to_thread(command.show, target, "tessolund")
    assert all(row.override_until is None for row in found)
    assert changes[0]["what"] == "tenant: reset"


async def test_a_limit_that_was_set_ends(target: Target, redis: FailFastRedis) -> None:
    short = command.limit_of(TENANT, "minute", 5_000, usd=False)
    await asyncio.to_thread(command.set_limit, target, "tessolund", short, timedelta(milliseconds=1))
    refused = await hold(a_budget(redis, 1_000), 1_001, "r1")
    assert refused is not None
    assert refused.retry_after is None


@pytest.mark.parametrize(
    ("window", "most", "usd", "says"),
    [
        ("week", 5.0, False, "'week' is not a window; use one of: minute, day, month"),
        ("day", 0.0, False, "a limit is more than 0"),
        ("day", math.inf, False, "a limit is more than 0"),
        ("day", math.nan, True, "a limit is more than 0"),
        ("day", 100_001.0, True, "at most 100000000000 tokens or 100000 dollars"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(window: str, most: float, usd: bool, says: str) -> None:
    with pytest.raises(CommandError) as refused:
        command.limit_of(TENANT, window, most, usd=usd)
    assert says in str(refused.value)


def test_an_unknown_tenant_and_two_scopes_are_refused(target: Target) -> None:
    with pytest.raises(CommandError) as unknown:
        command.show(target, "tesolund")
    assert "it has: tessolund" in str(unknown.value)
    with pytest.raises(CommandError, match="tenant tessolund has no caller 'wellcome-app'; it has: welcome-app"):
        command.reset(target, "tessolund", "caller:wellcome-app")
    limit = command.limit_of("use_case:onbording", "day", 5, usd=True)
    with pytest.raises(CommandError, match="tenant tessolund has no use case 'onbording'; it has: onboarding"):
        command.set_limit(target, "tessolund", limit, HOUR)
    with pytest.raises(CommandError):
        command.scope_of("onboarding", "welcome-app")
    assert [command.scope_of("u", None), command.scope_of(None, "c"), command.scope_of(None, None)] == [
        "use_case:u", "caller:c", TENANT,
    ]  # fmt: skip
    assert command.limit_of("caller:c", "month", 0.5, usd=True).most == 500_000
    assert command.limit_of("caller:c", "month", 5, usd=False).unit is Unit.TOKENS
    assert command.limit_of("caller:c", "month", 5, usd=False).window is Window.MONTH
