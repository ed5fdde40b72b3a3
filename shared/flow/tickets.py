"""The tickets of requests in flight, in Redis: a limited number, shared fairly by tenants.

    take      one per request, before it is enqueued; taking it again changes nothing
    release   where its outcome was sent; otherwise (a crash) it lapses shortly after the deadline
    announce  each generator announces its number of slots, every few seconds

Each is one script, all keys in one hash slot. The rules are those of `rules.py`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.contracts.outcome import Outcome, RequestOutcome
from shared.contracts.request import Request
from shared.flow.estimate import DEVIATION_WEIGHT, MEAN_WEIGHT, Estimate
from shared.flow.rules import MOST, PER_SLOT, SLOTS_UNKNOWN, SPARE
from shared.redis import FailFastRedis, RedisUnavailable

# A ticket lapses this long after the deadline; by then the sentinel has arrived.
LAPSE = timedelta(seconds=5)
# How long an announcement of slots is valid, and how long a tenant counts as waiting after it asked in vain.
ANNOUNCED, WAITS = timedelta(seconds=10), timedelta(seconds=2)
# Times are forgotten after a day without requests.
KEEP = timedelta(days=1)

# Seconds between attempts to return a ticket, and in all; by then it has lapsed, or Redis has lost it.
TRY_EVERY, TRIED_FOR = 0.5, 600.0

_PREFIX = "ragbus:{flow}:"
# tickets  sorted set: request, scored by when its ticket lapses
# holders  hash: request -> "tenant use_case granted-at"
# held     hash: tenant -> number of its tickets
# slots    sorted set: "slots replica", scored by when the announcement lapses
# waiting  sorted set: tenant, scored by until when it counts as waiting
# times    hash: "tenant use_case" -> "mean deviation observed-at"
# quota    how many requests the quotas of the models allow to be in flight, as the last generator announced it
# All times are seconds of Redis's clock.
_KEYS = [_PREFIX + name for name in ("tickets", "holders", "held", "slots", "waiting", "times", "quota")]

_COMMON = """
local tickets, holders, held, slots, waiting, times = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

-- Removes the ticket of a request; returns its tenant, its use case and when it was granted, or nothing.
local function give_back(request)
  local holder = redis.call('HGET', holders, request)
  if not holder then return end
  redis.call('ZREM', tickets, request)
  redis.call('HDEL', holders, request)
  local tenant, use_case, at = string.match(holder, '^(%S+) (%S*) (%S+)$')
  if redis.call('HINCRBY', held, tenant, -1) <= 0 then redis.call('HDEL', held, tenant) end
  return tenant, use_case, tonumber(at)
end
"""

# KEYS: `_KEYS`
# ARGV: tenant, seconds that it counts as waiting, `SLOTS_UNKNOWN`, `PER_SLOT`, `SPARE`, `MOST`; then for each ask, the
#       longest waiting first: request, use case, seconds until its ticket lapses
# Returns {number of asks from the front that have a ticket, now, {for each ask "mean deviation observed-at" or ""}}.
_TAKE = (
    _COMMON
    + """
for _, lapsed in ipairs(redis.call('ZRANGEBYSCORE', tickets, '-inf', now)) do give_back(lapsed) end
-- A Redis that evicts keys may have lost one of the three.
if redis.call('ZCARD', tickets) == 0 then redis.call('DEL', holders, held) end
redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
redis.call('ZREMRANGEBYSCORE', waiting, '-inf', now)
local tenant = ARGV[1]
local there = 0
for _, said in ipairs(redis.call('ZRANGE', slots, 0, -1)) do there = there + tonumber(string.match(said, '^%d+')) end
if there == 0 then there = tonumber(ARGV[3]) end
there = math.min(there, tonumber(redis.call('GET', KEYS[7]) or there))
local most = math.ceil(tonumber(ARGV[4]) * there) + tonumber(ARGV[5])

local total, mine = redis.call('ZCARD', tickets), tonumber(redis.call('HGET', held, tenant) or 0)
local tenants, counted = 1, {[tenant] = true}
for _, list in ipairs({redis.call('HKEYS', held), redis.call('ZRANGE', waiting, 0, -1)}) do
  for _, other in ipairs(list) do
    if not counted[other] then counted[other] = true; tenants = tenants + 1 end
  end
end

local granted, full, known = 0, false, {}
for first = 7, #ARGV, 3 do
  local request, use_case = ARGV[first], ARGV[first + 1]
  if not full and redis.call('HEXISTS', holders, request) == 0 then
    local below = mine < most / tenants and total < tonumber(ARGV[6]) * most and tenants > 1
    if total < most or below then
      redis.call('ZADD', tickets, now + tonumber(ARGV[first + 2]), request)
      redis.call('HSET', holders, request, tenant .. ' ' .. use_case .. ' ' .. tostring(now))
      redis.call('HINCRBY', held, tenant, 1)
      total, mine = total + 1, mine + 1
    else
      full = true
    end
  end
  if not full then granted = granted + 1 end
  known[#known + 1] = redis.call('HGET', times, tenant .. ' ' .. use_case) or ''
end
if full then redis.call('ZADD', waiting, now + tonumber(ARGV[2]), tenant)
else redis.call('ZREM', waiting, tenant) end
return {granted, tostring(now), known}
"""
)

# KEYS: `_KEYS`
# ARGV: request, what its outcome shows ('took', 'late' or ''), `MEAN_WEIGHT`, `DEVIATION_WEIGHT`, seconds to keep times
# Returns 1 if the time of the request was counted, else 0. The rule is that of `Estimate`.
_RELEASE = (
    _COMMON
    + """
local tenant, use_case, at = give_back(ARGV[1])
if not tenant or ARGV[2] == '' then return 0 end
local field, took = tenant .. ' ' .. use_case, now - at
local mean, deviation = string.match(redis.call('HGET', times, field) or '', '^(%S+) (%S+)')
if not mean then
  mean, deviation = took, took / 2
else
  mean, deviation = tonumber(mean), tonumber(deviation)
  if ARGV[2] == 'late' then
    mean = math.max(mean, math.min(2 * mean, 1.5 * took))
  else
    deviation = deviation + tonumber(ARGV[4]) * (math.abs(took - mean) - deviation)
    mean = mean + tonumber(ARGV[3]) * (took - mean)
  end
end
redis.call('HSET', times, field, tostring(mean) .. ' ' .. tostring(deviation) .. ' ' .. tostring(now))
redis.call('EXPIRE', times, ARGV[5])
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Taken:
    """The result of asking for tickets."""

    granted: int
    """How many asks from the front have a ticket."""
    now: float
    """Redis's clock, as in `usual`."""
    usual: Sequence[Estimate]
    """For each ask: how long requests like it take from ticket to outcome."""


# KEYS: slots, quota   ARGV: "slots replica", seconds that it is valid, quota or ''   Returns 1.
_ANNOUNCE = """
if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[2]) end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], tonumber(time[1]) + tonumber(ARGV[2]), ARGV[1])
return 1
"""

# KEYS: slots   ARGV: replica   Returns 1.
_LEAVE = """
for _, said in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.match(said, '^%d+ (.*)$') == ARGV[1] then redis.call('ZREM', KEYS[1], said) end
end
return 1
"""


class Tickets:
    """Takes and returns tickets. Every method but `give_back` raises `RedisUnavailable`."""

    def __init__(self, redis: FailFastRedis) -> None:
        self._redis = redis
        self._owed: set[asyncio.Task[None]] = set()

    async def take(self, tenant: str, requests: Sequence[Request], now: datetime) -> Taken:
        """Take tickets for the first of `requests`, all of `tenant`, as many as the rules allow."""
        args: list[str | float] = [_word(tenant), WAITS.total_seconds(), SLOTS_UNKNOWN, PER_SLOT, SPARE, MOST]
        for request in requests:
            left = (request.answer_by - now + LAPSE).total_seconds()
            args += [request.spending, _word(request.use_case), max(1.0, left)]
        granted, at, known = await self._redis.script(_TAKE, _KEYS, args)
        usual = [Estimate(*map(float, each.split())) if each else Estimate() for each in known]
        return Taken(int(granted), float(at), usual)

    async def release(self, request: Request, answer: RequestOutcome | None = None) -> None:
        """Return the ticket, if there is one; `answer`: how the request ended, which shows how long such ones take."""
        args = [request.spending, _shown(answer), MEAN_WEIGHT, DEVIATION_WEIGHT, int(KEEP.total_seconds())]
        await self._redis.script(_RELEASE, _KEYS, args)

    async def give_back(self, request: Request, answer: RequestOutcome | None = None) -> None:
        """`release`; while Redis is unavailable it is retried in the background. Raises nothing.

        Otherwise the tickets of finished requests would be missing until they lapse.
        """
        try:
            await self.release(request, answer)
        except RedisUnavailable:
            task = asyncio.create_task(self._release_later(request), name=f"ticket:{request.spending}")
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)

    async def _release_later(self, request: Request) -> None:
        until = asyncio.get_running_loop().time() + TRIED_FOR
        while asyncio.get_running_loop().time() < until:
            await asyncio.sleep(TRY_EVERY)
            with suppress(RedisUnavailable):
                # Without the answer: how long it took is unknown by now.
                await self.release(request)
                return

    async def announce(self, replica: str, slots: int, quota: float | None = None) -> None:
        """Announce that `replica` has `slots`, for the next `ANNOUNCED`; 0: it stops.

        `quota`: how many requests the quotas of the models allow to be in flight, for all replicas; None: unknown.
        """
        key = _KEYS[3]
        if not slots:
            await self._redis.script(_LEAVE, [key], [replica])
            return
        args = [f"{slots} {replica}", int(ANNOUNCED.total_seconds()), "" if quota is None else quota]
        await self._redis.script(_ANNOUNCE, [key, _KEYS[6]], args)


def _shown(answer: RequestOutcome | None) -> str:
    """What an outcome shows about durations: `took` for one that called a model, `late`, or nothing."""
    if answer is None:
        return ""
    if answer.outcome is Outcome.EXPIRED:
        return "late"
    return "took" if answer.usage.prompt_tokens and answer.plan is not None else ""


def _word(name: str) -> str:
    """`name` without blanks, which separate the fields of a value; different names stay different."""
    return "".join(f"%{ord(sign):x};" if sign.isspace() or sign == "%" else sign for sign in name) or "-"
