"""Budgets for tests."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from shared.budget.rules import Amount
from shared.budget.tenant import Refusal, TenantBudget
from shared.contracts.outcome import ModelCall
from shared.contracts.request import Request
from shared.redis import FailFastRedis
from shared.settings.budget import TENANT, Limit, Unit, Window
from tests.support.builders import NOW, a_request


def per_minute(tokens: int) -> Callable[[Request], Sequence[Limit]]:
    """The limits of tenants that may spend `tokens` a minute."""
    return lambda _request: [Limit(TENANT, Unit.TOKENS, Window.MINUTE, tokens)]


def a_budget(redis: FailFastRedis, tokens: int, clock: Callable[[], datetime] = lambda: NOW) -> TenantBudget:
    """Budgets of `tokens` a minute."""
    return TenantBudget(redis, per_minute(tokens), clock)


async def hold(budget: TenantBudget, tokens: int, name: str = "another", **of: Any) -> Refusal | None:
    """Reserve `tokens` for the request `name`, as admission does."""
    return (await budget.reserve(a_request(request_id=name, **of), Amount(tokens))).refusal


async def spend(budget: TenantBudget, tokens: int, name: str = "another", **of: Any) -> None:
    """Spend `tokens` without a reservation."""
    call = ModelCall(deployment="d", prompt_tokens=tokens)
    await budget.settle(a_request(request_id=name, **of), f"call of {name}", call, Amount(tokens))


async def gone(redis: FailFastRedis, tenant: str = "tessolund") -> int:
    """The tokens that are held, and that were used today."""
    account = await redis.run(lambda client: client.hget(f"ragbus:{{{tenant}}}:budget", "tokens|tenant"))
    numbers = [int(number) for number in (account or "0 " * 9).split()]
    return numbers[0] + numbers[2] + numbers[3]


async def in_debt(redis: FailFastRedis, tenant: str = "tessolund") -> int:
    """The tokens of a minute that are held or were used, without what was forgiven since the last step."""
    account = await redis.run(lambda client: client.hget(f"ragbus:{{{tenant}}}:budget", "tokens|tenant"))
    return -(-int((account or "0 " * 9).split()[7]) // 60_000)
