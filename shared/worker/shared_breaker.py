"""A circuit breaker shared by workers through Redis; while Redis is unavailable, each has its own.

It is that of a queue, or of a deployment (`services/generator/breakers.py`). A successful delivery costs no Redis
command: a closed breaker reads once in `LOOK_AGAIN` seconds.
"""

import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import astuple
from datetime import timedelta
from enum import Enum
from typing import Protocol

from shared.circuit_breaker import CLOSED, BreakerPolicy, BreakerState, asked_to_receive, failed, may_receive, succeeded
from shared.redis import FailFastRedis, RedisUnavailable
from shared.telemetry.logs import get_logger

log = get_logger()

LOOK_AGAIN = 1.0
# Seconds after which an unchanged state is forgotten: it belongs to an old outage.
KEEP = timedelta(minutes=10)

# KEYS: the breaker   ARGV: the state that was seen ('' for none), the next one ('' for closed), seconds to keep it
# Returns whether they were swapped, and the state that was there.
_SWAP = """
local there = redis.call('GET', KEYS[1]) or ''
if there ~= ARGV[1] then return {0, there} end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return {1, there}
"""


class Circuit(Enum):
    """The state of a circuit, for one worker."""

    CLOSED = "receive as many deliveries as there are slots"
    HALF_OPEN = "receive one delivery, the probe, and report how it went"
    OPEN = "receive none"


class Breaker(Protocol):
    """What a worker asks whether to receive."""

    @property
    def is_closed(self) -> bool:
        """Whether work may be begun, as far as this worker knows."""

    async def ask(self) -> Circuit:
        """Whether to receive now."""

    async def keep(self) -> None:
        """Renew the probe."""

    async def failed(self, why: str) -> None:
        """Count a failure of a dependency."""

    async def succeeded(self) -> None:
        """Count a success."""


class SharedBreaker:
    """The breaker of one queue or deployment, as one worker uses it."""

    def __init__(
        self,
        redis: FailFastRedis,
        name: str,
        *,
        kind: str = "queue",
        rules: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`kind`: of what `name` names. `clock`: seconds since the epoch, compared with the other replicas'."""
        self._redis = redis
        self._labels = {kind: name}
        self._key = f"ragbus:breaker:{name}" if kind == "queue" else f"ragbus:breaker:{kind}:{name}"
        self._rules = rules or BreakerPolicy()
        self._clock = clock
        self._chance = chance
        self._who = uuid.uuid4().hex
        self._state = CLOSED
        self._looked = 0.0

    @property
    def rules(self) -> BreakerPolicy:
        """When it opens, and for how long."""
        return self._rules

    @property
    def is_closed(self) -> bool:
        """Whether work may be begun, as far as this worker knows."""
        return self._state.is_closed

    async def ask(self) -> Circuit:
        """Whether to receive now."""
        now = self._clock()
        if self._state.is_closed and now - self._looked < LOOK_AGAIN:
            return Circuit.CLOSED
        known = self._state
        before, state = await self._change(lambda state: asked_to_receive(state, self._who, now, self._rules))
        self._looked = now
        if state.is_closed:
            if not known.is_closed:
                log.info("breaker.closed", **self._labels)
            return Circuit.CLOSED
        if not may_receive(state, self._who):
            return Circuit.OPEN
        if before.prober != self._who:
            log.info("breaker.half_open", times=state.opened, **self._labels)
        return Circuit.HALF_OPEN

    async def keep(self) -> None:
        """Renew the probe."""
        now = self._clock()
        await self._change(
            lambda state: asked_to_receive(state, self._who, now, self._rules) if state.prober == self._who else state
        )

    async def failed(self, why: str) -> None:
        """Count a failure of a dependency."""
        now, chance = self._clock(), self._chance()
        before, state = await self._change(lambda state: failed(state, self._who, now, chance, self._rules))
        if state.opened > before.opened:
            wait = round(state.until - now, 1)
            log.warning("breaker.opened", times=state.opened, wait=wait, detail=why, **self._labels)

    async def succeeded(self) -> None:
        """Count a success."""
        if self._state == CLOSED:
            return
        before, _ = await self._change(succeeded)
        if not before.is_closed:
            log.info("breaker.closed", **self._labels)

    async def _change(self, step: Callable[[BreakerState], BreakerState]) -> tuple[BreakerState, BreakerState]:
        """The states before and after `step`: of what all replicas share, or without Redis of what this one knows."""
        try:
            before, after = await self._shared(step)
        except RedisUnavailable:
            before, after = self._state, step(self._state)
        self._state = after
        return before, after

    async def _shared(self, step: Callable[[BreakerState], BreakerState]) -> tuple[BreakerState, BreakerState]:
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


def _write(state: BreakerState) -> str:
    return "" if state == CLOSED else json.dumps(astuple(state))


def _read(written: str) -> BreakerState:
    try:
        return BreakerState(*json.loads(written)) if written else CLOSED
    except (ValueError, TypeError):
        # Written by another version of this file. An outage that goes on is counted again.
        return CLOSED
