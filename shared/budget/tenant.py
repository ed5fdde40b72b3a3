"""The budget of a tenant: one bucket in Redis that all replicas share, changed by one atomic script at a time.

Check-then-add lets concurrent calls overspend together; reserving first cannot. A reservation whose worker died is
never returned: spending is over-counted rather than under-counted. Without Redis, each process uses a bucket of its
own, a quarter of the size.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from shared.budget.bucket import Bucket
from shared.contracts.ids import escaped
from shared.redis import FailFastRedis, RedisUnavailable

# A process does not know how many others spend at the same time; with four replicas this is exact.
FALLBACK_SHARE = 0.25
# A reservation is forgotten after this long without being corrected; its tokens stay spent.
FORGET = 3600

# KEYS: bucket (hash: level, at), reservation   ARGV: tokens per minute, tokens, seconds to keep the reservation
# Returns -1 when they are reserved, now or before; else the milliseconds until there are enough.
_RESERVE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return -1 end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local size, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'level', 'at')
local level, at = tonumber(known[1] or size), tonumber(known[2] or now)
level = math.min(size, level + math.max(0, now - at) * size / 60)
local wait = -1
if wanted <= level then
  level = level - wanted
  redis.call('SET', KEYS[2], wanted, 'EX', ARGV[3])
else
  wait = math.ceil((wanted - level) * 60000 / size)
end
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', tostring(math.max(at, now)))
redis.call('EXPIRE', KEYS[1], 3600)
return wait
"""

# KEYS: bucket, reservation   ARGV: tokens per minute, tokens spent, 1 if they count without a reservation too
# Returns 1 if the bucket was corrected, else 0.
_CORRECT = """
local reserved = redis.call('GET', KEYS[2])
if not reserved and ARGV[3] == '0' then return 0 end
reserved = reserved or 0
redis.call('DEL', KEYS[2])
local level = tonumber(redis.call('HGET', KEYS[1], 'level') or ARGV[1])
level = math.min(tonumber(ARGV[1]), level + tonumber(reserved) - tonumber(ARGV[2]))
redis.call('HSET', KEYS[1], 'level', tostring(level))
redis.call('EXPIRE', KEYS[1], 3600)
return 1
"""

# KEYS: bucket   ARGV: tokens per minute, tokens   Returns 1. The level may become negative.
_CHARGE = """
local level = tonumber(redis.call('HGET', KEYS[1], 'level') or ARGV[1])
redis.call('HSET', KEYS[1], 'level', tostring(level - tonumber(ARGV[2])))
redis.call('EXPIRE', KEYS[1], 3600)
return 1
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """There are not enough tokens."""

    retry_after: float | None
    """Seconds until there are enough; None: never, because the tenant's limit is lower."""


class TenantBudget:
    """Reserve before a call, correct after it; both are idempotent per request. No method raises `RedisUnavailable`."""

    def __init__(
        self, redis: FailFastRedis, limits: Callable[[str], int], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`limits`: tokens per minute of a tenant."""
        self._redis = redis
        self._limits = limits
        self._clock = clock
        self._fallback: dict[str, Bucket] = {}

    async def reserve(self, tenant: str, request: str, tokens: int) -> Refusal | None:
        """Reserve `tokens` for `request`; None when they are reserved, now or by an earlier delivery."""
        limit = self._limits(tenant)
        if tokens > limit:
            return Refusal(None)
        try:
            wait = await self._redis.script(_RESERVE, _keys(tenant, request), [limit, tokens, FORGET])
        except RedisUnavailable:
            return self._reserve_locally(tenant, limit, tokens)
        return Refusal(int(wait) / 1000) if int(wait) >= 0 else None

    async def correct(self, tenant: str, request: str, spent: int) -> None:
        """Correct the reservation to the tokens that were spent; 0 returns all of it."""
        await self._correct(tenant, request, spent, anyhow=False)

    async def spend(self, tenant: str, request: str, spent: int) -> None:
        """Correct the reservation after a call that used `spent` tokens; they count even without a reservation.

        Not idempotent: every call is counted.
        """
        await self._correct(tenant, request, spent, anyhow=True)

    async def charge(self, tenant: str, tokens: int) -> None:
        """Take `tokens` that a call has used, in addition to the request's reservation.

        Not idempotent: every call is counted. Without Redis no call is counted; the request's reservation stays spent.
        """
        with suppress(RedisUnavailable):
            await self._redis.script(_CHARGE, _keys(tenant, "")[:1], [self._limits(tenant), tokens])

    async def _correct(self, tenant: str, request: str, spent: int, *, anyhow: bool) -> None:
        try:
            await self._redis.script(_CORRECT, _keys(tenant, request), [self._limits(tenant), spent, int(anyhow)])
        except RedisUnavailable:
            return  # stays reserved: over-counted, never under-counted

    def _reserve_locally(self, tenant: str, limit: int, tokens: int) -> Refusal | None:
        """Reserve in this process's own bucket, while Redis is unavailable."""
        now, share = self._clock(), limit * FALLBACK_SHARE
        bucket = self._fallback.get(tenant) or Bucket(share, share, now)
        if tokens > share:
            # A tenant with a small budget must still get one request at a time.
            bucket = bucket.refilled(now)
            if bucket.level < share:
                return Refusal((share - bucket.level) * 60 / share)
            tokens = int(share)
        self._fallback[tenant], wait = bucket.reserve(tokens, now)
        return None if wait is None else Refusal(wait)


def _keys(tenant: str, request: str) -> list[str]:
    whose = f"ragbus:{{{escaped(tenant)}}}"
    return [f"{whose}:budget", f"{whose}:reserved:{request}"]
