"""The breaker of a queue as its workers share it: through Redis, or each by itself while Redis is away.

Nothing is asked of Redis for a delivery that went well: a closed gate looks once in `LOOK_AGAIN` seconds.
"""

import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import astuple
from datetime import timedelta
from enum import Enum

from shared.circuit_breaker import CLOSED, Breaking, State, asked, failed, may_receive, worked
from shared.failpoints import reach
from shared.redis import QuickRedis, RedisAway
from shared.telemetry.logs import get_logger

log = get_logger()

LOOK_AGAIN = 1.0
# A state that nobody has touched for so long is of yesterday's outage.
KEEP = timedelta(minutes=10)

# KEYS: the breaker   ARGV: the state that was seen ('' for none), the next one ('' for closed), seconds to keep it
# Returns whether they were swapped, and the state that was there.
_SWAP = """
local there = redis.call('GET', KEYS[1]) or ''
if there ~= ARGV[1] then return {0, there} end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return {1, there}
"""


class Pass(Enum):
    """What the gate says to somebody who would like to receive."""

    OPEN_ROAD = "as many as it likes"
    PROBE = "one, and tell how it went"
    WAIT = "none"


class Gate:
    """Of one queue, for one worker."""

    def __init__(
        self,
        redis: QuickRedis,
        queue: str,
        *,
        rules: Breaking | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`clock`: seconds since the epoch, compared with the other replicas'."""
        self._redis = redis
        self._queue = queue
        self._key = f"ragbus:breaker:{queue}"
        self._rules = rules or Breaking()
        self._clock = clock
        self._chance = chance
        self._who = uuid.uuid4().hex
        self._state = CLOSED
        self._looked = 0.0

    @property
    def rules(self) -> Breaking:
        """When it opens, and for how long."""
        return self._rules

    @property
    def is_closed(self) -> bool:
        """Whether work may be begun, as far as this worker knows."""
        return self._state.is_closed

    async def ask(self) -> Pass:
        """Whether to receive now."""
        now = self._clock()
        if self._state.is_closed and now - self._looked < LOOK_AGAIN:
            return Pass.OPEN_ROAD
        known = self._state
        before, state = await self._change(lambda state: asked(state, self._who, now, self._rules))
        self._looked = now
        if state.is_closed:
            if not known.is_closed:
                log.info("breaker.closed", queue=self._queue)
            return Pass.OPEN_ROAD
        if not may_receive(state, self._who):
            return Pass.WAIT
        if before.prober != self._who:
            reach("breaker.probing")
            log.info("breaker.probing", queue=self._queue, times=state.opened)
        return Pass.PROBE

    async def keep(self) -> None:
        """Say that the probe is still under way."""
        now = self._clock()
        await self._change(lambda state: asked(state, self._who, now, self._rules) if self._is_mine(state) else state)

    async def failed(self, why: str) -> None:
        """Count a failure of what the work needs."""
        now, chance = self._clock(), self._chance()
        before, state = await self._change(lambda state: failed(state, self._who, now, chance, self._rules))
        if state.opened > before.opened:
            reach("breaker.opened")
            wait = round(state.until - now, 1)
            log.warning("breaker.opened", queue=self._queue, times=state.opened, wait=wait, detail=why)

    async def worked(self) -> None:
        """Count a success."""
        if self._state == CLOSED:
            return
        before, _ = await self._change(worked)
        if not before.is_closed:
            log.info("breaker.closed", queue=self._queue)

    def _is_mine(self, state: State) -> bool:
        return state.prober == self._who

    async def _change(self, step: Callable[[State], State]) -> tuple[State, State]:
        """The states before and after `step`: of what all replicas share, or without Redis of what this one knows."""
        try:
            before, after = await self._shared(step)
        except RedisAway:
            before, after = self._state, step(self._state)
        self._state = after
        return before, after

    async def _shared(self, step: Callable[[State], State]) -> tuple[State, State]:
        seen = str(await self._redis.run(lambda redis: redis.get(self._key)) or "")
        while True:
            state = _read(seen)
            wanted = step(state)
            if wanted == state:
                return state, state
            args = [seen, _write(wanted), int(KEEP.total_seconds())]
            swapped, seen = await self._redis.script(_SWAP, [self._key], args)
            if swapped:
                return state, wanted


def _write(state: State) -> str:
    return "" if state == CLOSED else json.dumps(astuple(state))


def _read(written: str) -> State:
    try:
        return State(*json.loads(written)) if written else CLOSED
    except (ValueError, TypeError):
        # Of another version of this file: an outage that is still there will be counted again.
        return CLOSED
