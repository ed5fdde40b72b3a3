"""Which plug is pulled when: drawn with a seed, pulled on the running system, and remembered for the checker."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
from redis.asyncio import Redis

from local.stack import Stack
from tests.chaos.history import Interruption
from tests.chaos.world import BULLETIN, bulletin
from tests.support.worker_pool import WorkerPool

# A storm lasts this long, and is followed by three times as much calm: 25 % of the time.
_STORM = (1.0, 3.0)
_CALM = 3.0
# So often a worker may be killed that is not ready yet.
_EARLY = 0.1
BROKER_KILLED = "broker killed"
_THROTTLED = {"deployment": "*", "kind": "*", "status": 429, "retry_after": 1.0}


@dataclass(slots=True)
class Pulled:
    """What was done to the system."""

    kills: Counter[str] = field(default_factory=Counter)
    """By service: killed while they worked."""
    starting: Counter[str] = field(default_factory=Counter)
    """By service: killed before they were ready."""
    faults: Counter[str] = field(default_factory=Counter)
    stormy: float = 0.0
    """Seconds of 429, of those that the storm lasted."""
    lasted: float = 0.0
    bulletin: int = 0
    """The last number that was written into the lake."""
    interruptions: list[Interruption] = field(default_factory=list)
    """What can make the model be asked twice. A Redis that is away alone cannot: the delivery is not repeated."""

    @property
    def killed(self) -> int:
        """How many workers were killed while they worked."""
        return sum(self.kills.values())


class Plugs:
    """Pulls them."""

    def __init__(self, stack: Stack, pool: WorkerPool, rng: random.Random) -> None:
        self.pulled = Pulled()
        self.each_once = asyncio.Event()
        """Set when every dependency was away at least once."""
        self._stack = stack
        self._pool = pool
        self._rng = rng
        self._healing: set[asyncio.Task[Any]] = set()

    async def kill_workers(self, count: int, every: float) -> None:
        """`count` × kill -9 of workers that are ready, one each `every` seconds while enough of them are.

        Ends early when a worker died by itself: that is for the report.
        """
        while self.pulled.killed < count and not self._pool.deaths:
            await asyncio.sleep(self._rng.uniform(0.5, 1.5) * every)
            await self._kill_one()

    async def _kill_one(self) -> None:
        workers = list(self._pool.workers.values())
        # Where cores are scarce, no more than half of the workers may be on their way back at any time.
        while sum(worker.ready for worker in workers) * 2 < len(workers) and not self._pool.deaths:
            await asyncio.sleep(0.05)
        # One in ten may be hit again while it starts.
        early = self._rng.random() < _EARLY
        candidates = [worker for worker in workers if worker.ready or (early and self._pool.is_alive(worker))]
        if not candidates:
            return
        victim = self._rng.choice(candidates)
        (self.pulled.kills if victim.ready else self.pulled.starting)[victim.service] += 1
        at = await self._pool.kill(victim)
        self.pulled.interruptions.append(Interruption("killed", at, worker=victim.name))
        self._will_heal(self._pool.start(victim))

    async def heal(self) -> None:
        """Wait until whatever was taken away is back."""
        while self._healing:
            await asyncio.wait(self._healing)

    def _will_heal(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._healing.add(task)
        task.add_done_callback(self._healing.discard)
        return task

    async def storms(self) -> None:
        """Let the models throttle all calls, a quarter of the time, until cancelled."""
        async with httpx.AsyncClient(base_url=self._stack.llm_url, timeout=300) as control:
            while True:
                lasts = self._rng.uniform(*_STORM)
                await asyncio.sleep(lasts * _CALM * self._rng.uniform(0.8, 1.2))
                (await control.post("/control/faults", json=[_THROTTLED])).raise_for_status()
                began = time.monotonic()
                try:
                    await asyncio.sleep(lasts)
                finally:
                    self.pulled.stormy += time.monotonic() - began
                    self.pulled.faults["429 storm"] += 1
                    (await control.delete("/control/faults")).raise_for_status()

    async def dependencies(self, every: float) -> None:
        """Take Redis, the broker and the vectors away in turn, in a drawn order, until cancelled."""
        choices: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("Redis killed", lambda: self._away("redis", 0.5, 2.0)),
            ("Redis flushed", self._flush),
            (BROKER_KILLED, lambda: self._away("broker", 0.0, 1.5)),
            ("vectors down", lambda: self._away("vectors", 1.0, 3.0)),
        ]
        while True:
            self._rng.shuffle(choices)
            for name, pull in choices:
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * every)
                # What is down is started again, also when the run ends meanwhile.
                await asyncio.shield(self._will_heal(self._pull(name, pull)))
            self.each_once.set()

    async def _pull(self, name: str, pull: Callable[[], Awaitable[None]]) -> None:
        at = time.time()
        await pull()
        self.pulled.faults[name] += 1
        if name == BROKER_KILLED:  # it lets go of every lock
            self.pulled.interruptions.append(Interruption(name, at, time.time()))

    async def _away(self, part: str, least: float, most: float) -> None:
        self._stack.kill(part)
        await asyncio.sleep(self._rng.uniform(least, most))
        await self._stack.start_one(part)

    async def _flush(self) -> None:
        async with Redis.from_url(self._stack.redis_url) as redis:
            await redis.flushall()

    async def edit(self, every: float) -> None:
        """Change a document again and again, until cancelled."""
        while True:
            await asyncio.sleep(every)
            self.pulled.bulletin += 1
            self.publish()

    def publish(self) -> None:
        """Write the bulletin as it is now, in one piece."""
        part = self._stack.folder.path / "bulletin.part"
        part.write_text(bulletin(self.pulled.bulletin))
        part.replace(self._stack.lake / BULLETIN)
