"""The budgets of tenants in Redis, shared by all replicas; each step is one atomic script (`scripts.py`).

    admission ─reserve▶ an estimate is held ─begin▶ the worst case of a call is held ─settle▶ what it used is spent
                              └──────── give_back, or its time is over: nothing is held ────────┘

Check-then-add lets concurrent calls overspend together; reserving first cannot. A reservation whose worker died is
given back when its time is over.

Without Redis each process may spend a quarter of every limit (`FALLBACK_SHARE`), by the same rules; so n processes
spend at most n quarters in a minute, day or month, and an outage of Redis adds that to what was spent before. What
calls used meanwhile is told to Redis when it answers again, unless the process has ended by then.
"""

import asyncio
import json
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from shared.budget.rules import Accounts, Amount, Hold, Quota
from shared.budget.scripts import GIVE_BACK, RESERVE, SETTLE
from shared.contracts.ids import escaped
from shared.contracts.outcome import ModelCall
from shared.contracts.request import Request
from shared.redis import FailFastRedis, RedisUnavailable
from shared.settings.budget import Limit, Unit, Window, scopes
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics, make

log = get_logger()

# A process does not know how many others spend at the same time; with four it is exact.
FALLBACK_SHARE = 0.25
# How much longer than the work itself a reservation lasts: a redelivery, a stop, clocks that differ.
SPARE = timedelta(seconds=30)
# Calls that Redis was not told of, and requests whose calls this process remembers; the oldest are forgotten.
MOST_UNTOLD, MOST_REQUESTS = 10_000, 1_000
# Calls that Redis is told of at once when it is back.
AT_ONCE = 50
_NEVER = -2


@dataclass(frozen=True, slots=True)
class Refusal:
    """A budget has too little left."""

    retry_after: float | None
    """Seconds until it fits, if nobody else spends; None: never, because a limit is lower."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The result of an admission."""

    refusal: Refusal | None = None
    quotas: Sequence[Quota] = ()
    """What is left of each limit; empty without Redis."""


@dataclass(frozen=True, slots=True)
class _Settled:
    """A call that Redis has to be told of."""

    request: Request
    name: str
    call: ModelCall
    used: Amount
    passages: int


class TenantBudget:
    """Reserves before calls and corrects after them; each step counts once, however often it is repeated.

    No method raises `RedisUnavailable`.
    """

    def __init__(
        self,
        redis: FailFastRedis,
        limits: Callable[[Request], Sequence[Limit]],
        clock: Callable[[], datetime],
        metrics: Metrics | None = None,
        *,
        now: Callable[[], int] | None = None,
    ) -> None:
        """`limits`: all that hold for a request. `clock`: of this process, for how long a reservation lasts.

        `now`: milliseconds since the epoch, by which minutes, days and months are told; None: Redis's own clock.
        """
        self._redis = redis
        self._limits = limits
        self._clock = clock
        self._metrics = metrics or make()
        self._now = now
        self._local: dict[str, Accounts] = {}
        self._untold: deque[_Settled] = deque(maxlen=MOST_UNTOLD)
        self._telling = asyncio.Lock()
        self._made: OrderedDict[str, Sequence[ModelCall]] = OrderedDict()
        self._passages: dict[tuple[str, str], int] = {}
        self._overridden: dict[tuple[str, str, str], int] = {}

    def usual_passages(self, request: Request) -> int | None:
        """The tokens that passages have in the prompts of this tenant and use case, as last heard; None: unknown."""
        return self._passages.get((request.tenant, request.use_case))

    async def reserve(self, request: Request, estimate: Amount) -> Reserved:
        """Hold `estimate` for `request` until it is called for, given back, or late."""
        lasts = max(timedelta(0), request.answer_by - self._clock()) + SPARE
        refusal, quotas = await self._reserve(request, request.spending, estimate, lasts)
        return Reserved(
            refusal,
            tuple(
                Quota(Limit(scope, Unit(unit), Window(window), most), left, resets)
                for unit, scope, window, most, left, resets in quotas
            ),
        )

    async def begin(
        self, request: Request, name: str, worst: Amount, lasts: timedelta, *, keep_estimate: bool = False
    ) -> Refusal | None:
        """Hold `worst`, all that the call `name` may use, in the place of the request's estimate.

        When it does not fit, nothing is held any more. `keep_estimate`: only as much of the estimate is replaced as
        the call may use; more calls follow.
        """
        kind = {"instead": request.spending, "keep": keep_estimate}
        refusal, _ = await self._reserve(request, name, worst, lasts + SPARE, **kind)
        return refusal

    async def settle(self, request: Request, name: str, call: ModelCall, used: Amount, *, passages: int = -1) -> None:
        """Spend what the call `name` used, in the place of what is held for it. Never gives the estimate back.

        `passages`: tokens of the passages in its prompt, from which the next estimates learn; -1: it had none.
        """
        if call.overrun:
            self._metrics.overruns.add(call.overrun, {"deployment": call.deployment})
            log.warning("budget.overrun", deployment=call.deployment, tenant=request.tenant, tokens=call.overrun)
        settled = _Settled(request, name, call, used, passages)
        local = self._local.get(request.tenant)
        try:
            await self._catch_up()
            self._remember(request, _lines(await self._tell(settled)))
        except RedisUnavailable:
            self._untold.append(replace(settled, request=request.without_question()))
            self._remember(request, (*self._made.get(request.spending, ()), call))
            local = self._accounts(request.tenant)
        else:
            if local is None or name not in local.holds:
                return
        local.settle(name, used, scopes(request), self._share(request), self._time())

    async def give_back(self, request: Request, call: str = "") -> Sequence[ModelCall]:
        """Give the request's estimate back, or what is held for `call`, which was not made.

        Returns the calls that were made for the request.
        """
        local, name = self._local.get(request.tenant), call or request.spending
        if local is not None:
            local.release(name)
        try:
            await self._catch_up()
            found = await self._redis.script(GIVE_BACK, _keys(request), [self._asked(name=name)])
        except RedisUnavailable:
            return self._made.get(request.spending, ())  # what Redis holds is given back when its time is over
        self._remember(request, _lines(found))
        return self._made[request.spending]

    async def calls(self, request: Request, *, heard: bool = False) -> Sequence[ModelCall]:
        """The calls that were made for `request`, in all processes; without Redis those that this one knows of.

        `heard`: as `settle` or `give_back` last returned them, without asking Redis again.
        """
        if heard and request.spending in self._made:
            return self._made[request.spending]
        key = _keys(request)[3]
        try:
            await self._catch_up()
            return _lines([*map(str, await self._redis.run(lambda redis: redis.hvals(key)))])
        except RedisUnavailable:
            return self._made.get(request.spending, ())

    async def _reserve(
        self, request: Request, name: str, amount: Amount, lasts: timedelta, **kind: Any
    ) -> tuple[Refusal | None, Sequence[Sequence[Any]]]:
        """Why there is no room, and what is left of each limit, as the script says it."""
        limits = self._limits(request)
        asked = self._asked(
            name=name,
            amount=asdict(amount),
            scopes=scopes(request),
            limits=[[each.unit, each.scope, each.window, each.most] for each in limits],
            lasts=lasts // timedelta(milliseconds=1),
            **{"instead": "", "keep": False, **kind},
        )
        try:
            said = json.loads(await self._redis.script(RESERVE, _keys(request)[:3], [asked]))
            await self._catch_up()
        except RedisUnavailable:
            return self._reserve_locally(request, name, amount, lasts, **kind), ()
        if said["passages"] >= 0:
            self._passages[request.tenant, request.use_case] = said["passages"]
        self._note(request, said["overridden"])
        quotas = said.get("quotas", ())
        if said["wait"] == _NEVER:
            return Refusal(None), quotas
        return Refusal(said["wait"] / 1_000) if said["wait"] >= 0 else None, quotas

    async def _tell(self, settled: _Settled) -> list[str]:
        request = settled.request
        limits = self._limits(request)
        asked = self._asked(
            name=settled.name,
            used=asdict(settled.used),
            scopes=scopes(request),
            limits=[[each.unit, each.scope, each.window, each.most] for each in limits],
            line=settled.call.model_dump_json(),
            passages=settled.passages,
        )
        found: list[str] = await self._redis.script(SETTLE, _keys(request), [asked])
        return found

    async def _catch_up(self) -> None:
        """Tell Redis of the calls that it did not hear of; raises `RedisUnavailable`."""
        if not self._untold:
            return
        async with self._telling:
            while self._untold:
                some = list(islice(self._untold, AT_ONCE))
                await asyncio.gather(*map(self._tell, some))
                # Only now: this task may be cancelled meanwhile. What is told twice counts once.
                for told in some:
                    if self._untold and self._untold[0] is told:
                        self._untold.popleft()

    def _reserve_locally(
        self, request: Request, name: str, amount: Amount, lasts: timedelta, *, instead: str = "", keep: bool = False
    ) -> Refusal | None:
        """Reserve from this process's share, while Redis is unavailable."""
        if any(amount.of(limit.unit) > limit.most for limit in self._limits(request)):
            return Refusal(None)
        now, limits = self._time(), self._share(request)
        # A small budget must still allow one call at a time.
        least = {unit: min([amount.of(unit), *(each.most for each in limits if each.unit is unit)]) for unit in Unit}
        hold = Hold(
            Amount(least[Unit.TOKENS], least[Unit.USD]), scopes(request), now + lasts // timedelta(milliseconds=1)
        )
        wait = self._accounts(request.tenant).reserve(name, hold, limits, now, instead=instead, keep=keep)
        if wait is None:  # the rest of the estimate does not fit beside it
            return Refusal(None)
        return Refusal(wait / 1_000) if wait else None

    def _share(self, request: Request) -> Sequence[Limit]:
        return [replace(limit, most=int(limit.most * FALLBACK_SHARE)) for limit in self._limits(request)]

    def _accounts(self, tenant: str) -> Accounts:
        return self._local.setdefault(tenant, Accounts())

    def _time(self) -> int:
        return self._now() if self._now is not None else int(time.time() * 1_000)

    def _asked(self, **fields: Any) -> str:
        return json.dumps(fields if self._now is None else {"now": self._now(), **fields})

    def _remember(self, request: Request, made: Sequence[ModelCall]) -> None:
        self._made[request.spending] = made
        self._made.move_to_end(request.spending)
        if len(self._made) > MOST_REQUESTS:
            self._made.popitem(last=False)

    def _note(self, request: Request, overridden: int) -> None:
        """Log when limits that an operator has set begin and end to hold, as this process learns of it."""
        whose = request.tenant, request.use_case, request.caller
        if overridden != self._overridden.get(whose, 0):
            self._overridden[whose] = overridden
            tenant, use_case, caller = whose
            log.warning("budget.overridden", tenant=tenant, use_case=use_case, caller=caller, limits=overridden)


def _lines(found: Sequence[str]) -> Sequence[ModelCall]:
    """The calls of a request in Redis, in their order."""
    return tuple(ModelCall.model_validate_json(line[6:]) for line in sorted(found))


def _keys(request: Request) -> list[str]:
    whose = f"ragbus:{{{escaped(request.tenant)}}}:budget"
    return [whose, f"{whose}:holds", f"{whose}:leases", f"{whose}:calls:{request.spending}"]
