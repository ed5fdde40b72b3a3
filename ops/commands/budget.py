"""`ragbus budget`: what a tenant has spent, limits that an operator sets for a while, and a new beginning."""

import asyncio
import getpass
import json
import math
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ops import console
from ops.errors import CommandError
from ops.target import Target
from shared.access.callers import Callers
from shared.access.use_cases import read_use_cases
from shared.budget.rules import Account, Accounts
from shared.budget.scripts import CHANGE, SHOW
from shared.contracts.ids import escaped
from shared.errors import SettingsError
from shared.redis import FailFastRedis, RedisUnavailable
from shared.settings.budget import MICROS, MOST, TENANT, Limit, Unit, Window

PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """One limit: in tokens, or in US dollars."""

    scope: str
    unit: str
    window: str
    limit: float
    spent: float
    held: float
    overrun: float
    left: float
    override_until: datetime | None = None
    """Until when an operator's limit holds; None: it is that of the configuration."""


def show(target: Target, tenant: str) -> tuple[list[Row], list[dict[str, Any]]]:
    """Every limit of `tenant`, and the latest changes by operators; raises `CommandError`."""
    limits = _configured(target, tenant)
    now, pairs, _ = asyncio.run(_run(target, tenant, SHOW, {}))
    kept = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return rows(limits, kept, int(now)), json.loads(kept.get("changes", "[]"))


def limit_of(scope: str, window: str, most: float, *, usd: bool) -> Limit:
    """The limit that an operator names; raises `CommandError`."""
    if window not in tuple(Window):
        raise CommandError(f"{window!r} is not a window; use one of: {', '.join(Window)}")
    number = (round(most * MICROS) if usd else round(most)) if math.isfinite(most) else 0
    if not 0 < number <= MOST:
        raise CommandError(f"a limit is more than 0, and at most {MOST} tokens or {MOST // MICROS} dollars")
    return Limit(scope, Unit.USD if usd else Unit.TOKENS, Window(window), number)


def set_limit(target: Target, tenant: str, limit: Limit, lasts: timedelta) -> str:
    """Let `limit` hold for a while in the place of the configured one; returns what was done.

    Raises `CommandError`.
    """
    _configured(target, tenant, limit.scope)
    name = f"{limit.unit}|{limit.scope}|{limit.window}"
    most = limit.most if limit.unit is Unit.TOKENS else limit.most / MICROS
    what = f"{limit.scope}: {most:,g} {limit.unit} per {limit.window} for {lasts}"
    return _change(target, tenant, what, scopes=[], set={name: limit.most}, lasts=lasts // timedelta(milliseconds=1))


def reset(target: Target, tenant: str, scope: str) -> str:
    """Spend nothing in `scope` so far, and forget the limits that operators set there; returns what was done."""
    _configured(target, tenant, scope)
    forgotten = [f"{unit}|{scope}|{window}" for unit in Unit for window in Window]
    return _change(target, tenant, f"{scope}: reset", scopes=[scope], reset=True, forget=forgotten)


def print_rows(rows: Sequence[Row], changes: Sequence[dict[str, Any]]) -> None:
    """Print a table of the limits, and the changes below it."""
    from rich.table import Table

    table = Table("scope", "limit", "spent", "overrun", "reserved", "left", "set until")
    for row in rows:
        unit = f"{row.unit} per {row.window}"
        numbers = (f"{number:,g}" for number in (row.spent, row.overrun, row.held, row.left))
        until = f"{row.override_until:%Y-%m-%d %H:%M} UTC" if row.override_until else ""
        table.add_row(console.harmless(row.scope), f"{row.limit:,g} {unit}", *numbers, until)
    console.out().print(table)
    for change in changes:
        console.err(f"{change['at']} {change['by']}: {change['what']}")


def rows(limits: Sequence[Limit], kept: dict[str, str], now: int) -> list[Row]:
    """The limits with what was spent of them, from what Redis keeps for the tenant at `now` (milliseconds)."""
    overrides: dict[str, list[int]] = json.loads(kept.get("overrides", "{}"))
    held = {name: (most, until) for name, (most, until) in overrides.items() if until > now}
    known = {f"{each.unit}|{each.scope}|{each.window}": each for each in limits}
    for name, (most, _) in held.items():
        unit, scope, window = name.split("|")
        known[name] = Limit(scope, Unit(unit), Window(window), int(most))
    found = []
    for name, limit in sorted(known.items(), key=lambda each: each[0].split("|")[1]):
        account = Account(*map(int, kept.get(f"{limit.unit}|{limit.scope}", "").split()))
        account.turn(now)
        account.forgive(limit.most if limit.window is Window.MINUTE else None, now)
        [quota] = Accounts({(limit.unit, limit.scope): account}).quotas([limit], now)
        spent, overrun = {
            Window.MINUTE: (limit.most - quota.left - account.held, 0),
            Window.DAY: (account.day_spent, account.day_overrun),
            Window.MONTH: (account.month_spent, account.month_overrun),
        }[limit.window]
        until = datetime.fromtimestamp(held[name][1] / 1_000, UTC) if name in held else None

        def shown(number: int, unit: Unit = limit.unit) -> float:
            return number if unit is Unit.TOKENS else number / MICROS

        found.append(
            Row(
                scope=limit.scope,
                unit=limit.unit,
                window=limit.window,
                limit=shown(limit.most),
                spent=shown(max(0, spent)),
                held=shown(account.held),
                overrun=shown(overrun),
                left=shown(quota.left),
                override_until=until,
            )
        )
    return found


def scope_of(use_case: str | None, caller: str | None) -> str:
    """The scope that an operator names; raises `CommandError` for two."""
    if use_case and caller:
        raise CommandError("name a use case or a caller, not both; each has a budget of its own")
    return f"use_case:{use_case}" if use_case else f"caller:{caller}" if caller else TENANT


def _configured(target: Target, tenant: str, scope: str = TENANT) -> list[Limit]:
    """Every limit of `tenant` in the configuration; raises `CommandError` when it has no such tenant or `scope`."""
    try:
        callers = Callers.read(target.config / "callers.yaml")
        use_cases = read_use_cases(target.config / "use_cases")
    except SettingsError as wrong:
        raise CommandError(str(wrong)) from wrong
    if tenant not in callers.tenants:
        raise CommandError(f"callers.yaml has no tenant {tenant!r}; it has: {', '.join(callers.tenants)}")
    names = [f"use_case:{name}" for name in use_cases]
    names += [f"caller:{each.name}" for each in callers.callers if each.tenant == tenant]
    if scope not in (TENANT, *names):
        kind, _, name = scope.partition(":")
        there = ", ".join(each.partition(":")[2] for each in names if each.startswith(f"{kind}:")) or "none"
        raise CommandError(f"tenant {tenant} has no {kind.replace('_', ' ')} {name!r}; it has: {there}")
    return [
        *callers.tenants[tenant].limits(TENANT),
        *(limit for name, each in use_cases.items() for limit in each.budget.limits(f"use_case:{name}")),
        *(
            limit
            for each in callers.callers
            if each.tenant == tenant
            for limit in each.budget.limits(f"caller:{each.name}")
        ),
    ]


def _change(target: Target, tenant: str, what: str, **asked: Any) -> str:
    """Make a change that `ragbus budget show` lists, with who made it; workers log it as `budget.overridden`."""
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    change = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "by": who, "what": what}
    asyncio.run(_run(target, tenant, CHANGE, {**asked, "change": change}))
    return f"{change['at']} {who}: tenant {tenant}, {what}"


async def _run(target: Target, tenant: str, script: str, asked: dict[str, Any]) -> Any:
    redis = FailFastRedis(target.redis_url, timeout=PATIENCE, patience=PATIENCE)
    try:
        return await ask(redis, tenant, script, asked)
    except RedisUnavailable as unavailable:
        raise CommandError(f"Redis does not answer ({unavailable}); run `ragbus doctor`") from unavailable
    finally:
        await redis.close()


async def ask(redis: FailFastRedis, tenant: str, script: str, asked: dict[str, Any]) -> Any:
    """The result of `SHOW` or `CHANGE` for `tenant`; raises `RedisUnavailable`."""
    whose = f"ragbus:{{{escaped(tenant)}}}:budget"
    keys, args = [whose, f"{whose}:holds", f"{whose}:leases"], [json.dumps(asked)]
    if script is SHOW:
        return await redis.script(SHOW, keys, args)
    return await redis.script(CHANGE, keys, args)
