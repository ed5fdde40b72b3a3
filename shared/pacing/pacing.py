"""Asks for calls of a deployment, in Redis: one quota and one line for all replicas.

    async with pacing.turn(deployment, demand) as turn:      # raises `OverQuota`
        reply = await the call
        turn.used = reply.tokens

Without Redis each process uses a quarter of the quota, and has a line of its own.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.errors import OverQuota
from shared.llm.deployments import Deployment
from shared.llm.errors import Throttled
from shared.llm.rate_limits import RateLimits, seen
from shared.pacing import rules
from shared.pacing.rules import Ask, Granted, Pace, Quota, Said
from shared.pacing.scripts import ASK, ROOM, SETTLE, THROTTLED, keys, read
from shared.redis import FailFastRedis, RedisUnavailable
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics, make

log = get_logger()

# A process does not know how many others call at the same time; with four replicas this is exact.
FALLBACK_SHARE = 0.25
# Added to a wait, so that it is over when the work comes back.
_MORE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Work that needs one call."""

    who: str
    """Its id; the same when it comes back."""
    tenant: str
    tokens: int
    """The most that the call can use: prompt and maximum answer."""
    due: datetime | None = None
    """Its deadline; None: it is ingestion, which comes after all asks."""
    patience: timedelta = timedelta(0)
    """How long it can wait and still end in time; if its turn is later, it takes no place in the line; see `Ask`."""


@dataclass(slots=True)
class Turn:
    """A call that may be made now."""

    granted: Granted
    is_local: bool
    used: int | None = None
    """Set by the caller: the tokens that the call used, if known."""
    succeeded: bool = False
    """Set when the call ended without an error."""
    throttled: Throttled | None = None
    """Set when the provider refused the call."""


class Pacing:
    """Keeps the calls of all replicas within the quotas of the deployments."""

    def __init__(
        self, redis: FailFastRedis, metrics: Metrics | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock`: seconds; used while Redis is unavailable."""
        self._redis = redis
        self._metrics = metrics or make()
        self._clock = clock
        self._local: dict[str, Pace] = {}

    @asynccontextmanager
    async def turn(self, deployment: Deployment, demand: Demand) -> AsyncIterator[Turn]:
        """Make one call within the block, if it is this work's turn; else raises `OverQuota`.

        A `Throttled` that leaves the block stops all replicas for as long as the provider says; if it does not say,
        for twice as long after each in a row. Its `after` is set to that.
        """
        turn = await self._ask(deployment, demand)
        with seen() as limits:
            try:
                yield turn
                turn.succeeded = True
            except Throttled as failure:
                failure.after = failure.after or timedelta(seconds=limits.back_after or 0)
                turn.throttled = failure
                raise
            finally:
                await self._settle(deployment, turn, limits)

    async def room(self, deployment: Deployment, seconds: float) -> float | None:
        """How many calls of usual size all replicas together may begin within `seconds`; None: no limit is known.

        Raises `RedisUnavailable`.
        """
        now, *stored = map(str, await self._redis.script(ROOM, keys(deployment.name), []))
        pace = read(dict(zip(stored[::2], stored[1::2], strict=True)))
        return rules.room(pace, _quota(deployment), seconds, float(now))

    async def _ask(self, deployment: Deployment, demand: Demand) -> Turn:
        quota, is_local = _quota(deployment), False
        wants = Ask(
            who=demand.who,
            tenant=demand.tenant,
            tokens=demand.tokens,
            due=demand.due.timestamp() if demand.due else 0.0,
            ingestion=demand.due is None,
            patience=demand.patience.total_seconds(),
        )
        args = [quota.tokens, quota.requests, wants.who, wants.flow, wants.tokens, wants.due, wants.patience]
        granted: Granted | float
        try:
            wait, *numbers = await self._redis.script(ASK, keys(deployment.name), args)
            granted = float(wait) if wait else Granted(wants.tokens, *map(float, numbers))
        except RedisUnavailable:
            is_local, pace = True, self._local.get(deployment.name, Pace())
            self._local[deployment.name], granted = rules.ask(pace, _share(quota), wants, self._clock())
        if isinstance(granted, Granted):
            return Turn(granted, is_local)
        fits = granted <= wants.patience
        self._metrics.over_quota.add(1, {"deployment": deployment.name, "state": "waits" if fits else "too_late"})
        raise OverQuota(
            f"{deployment.name}: the quota is used up for the next {granted:.1f} s",
            after=timedelta(seconds=granted + _MORE),
            fits=fits,
        )

    async def _settle(self, deployment: Deployment, turn: Turn, limits: RateLimits) -> None:
        quota, granted, said = _quota(deployment), turn.granted, _said(limits)
        if turn.throttled is not None:
            await self._stop(deployment, turn, turn.throttled)
        elif turn.is_local:
            pace, now = self._local[deployment.name], self._clock()
            self._local[deployment.name] = rules.settle(
                pace, _share(quota), granted, said, turn.used, now, succeeded=turn.succeeded
            )
        elif quota != Quota() or said != Said() or granted.backoff:
            args: list[float | str] = [quota.tokens, quota.requests, granted.tokens, granted.at, granted.total_tokens]
            told = (limits.limit_tokens, limits.limit_requests, limits.remaining_tokens, limits.remaining_requests)
            args += ["" if each is None else each for each in (*told, turn.used)]
            with suppress(RedisUnavailable):
                await self._redis.script(SETTLE, keys(deployment.name), [*args, int(turn.succeeded)])

    async def _stop(self, deployment: Deployment, turn: Turn, failure: Throttled) -> None:
        """Stop all replicas, and say in `failure` for how long."""
        quota, granted, asked = _quota(deployment), turn.granted, failure.after.total_seconds() or None
        wait = asked or rules.BACKOFF
        if turn.is_local:
            pace = self._local[deployment.name]
            self._local[deployment.name], wait = rules.throttled(pace, _share(quota), granted, asked, self._clock())
        else:
            args = [quota.tokens, quota.requests, granted.tokens, granted.at, asked or ""]
            with suppress(RedisUnavailable):
                _, said = await self._redis.script(THROTTLED, keys(deployment.name), args)
                wait = float(said)
        log.info("model.throttled", deployment=deployment.name, wait=round(wait, 1))
        failure.after = timedelta(seconds=wait)


def _quota(deployment: Deployment) -> Quota:
    return Quota(deployment.tokens_per_minute or 0, deployment.requests_per_minute or 0)


def _share(quota: Quota) -> Quota:
    return Quota(quota.tokens * FALLBACK_SHARE, quota.requests * FALLBACK_SHARE)


def _said(limits: RateLimits) -> Said:
    limit = Quota(limits.limit_tokens or 0, limits.limit_requests or 0)
    return Said(limit, limits.remaining_tokens, limits.remaining_requests)
