"""One chaos run, told in order: start, index, storm, heal, settle, judge."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from local.stack import NO_WORKERS, Stack
from local.stack.recipe import inherited
from shared.contracts.queues import BLOB_EVENTS, OUTCOMES
from shared.vectors.qdrant import connect
from shared.vectors.qdrant_registry import QdrantRegistry
from tests.chaos.history import History, Paid
from tests.chaos.plugs import Plugs
from tests.chaos.report import Logs, Report
from tests.chaos.upstream import Upstream, sessions
from tests.chaos.world import BULLETIN, BY, READERS, World, about_bulletin, content_hash
from tests.support.worker_pool import WorkerPool

# A killed worker's messages come back when their lock ends, and no run waits a minute for that.
LOCK = timedelta(seconds=6)
REPLICAS = {"gateway": 2, "retriever": 2, "generator": 3, "indexer": 1}
# What is left of a call when its answer is there: the ledger, the budget, the cache, sending, settling.
TAKES = 3.0
# A request is given up with less than this left: the storm's Retry-After and the retry policy's margin, a second each.
EARLY = 2.0
_LOOK = 0.25
# The model remembers its last 20,000 calls: eight minutes of them, at twice the usual rate.
_CALLS_EVERY = 240.0
# `expired` is promised 15 s after the deadline; who was killed with it in hand gives it back after a lock.
_GRACE = 15.0 + 2 * LOCK.total_seconds()
_INDEXING = 120.0
_SETTLING = 120.0
_DUPLICATES = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked and how much is broken."""

    requests: int
    kills: int
    seed: int
    rate: float
    """Requests a second."""

    @property
    def seconds(self) -> float:
        """How long sending takes."""
        return self.requests / self.rate


class Chaos:
    """Runs one load in `folder`."""

    def __init__(self, load: Load, folder: Path, say: Say) -> None:
        self._load = load
        self._folder = folder
        self._say = say
        self._world = World(random.Random(f"world {load.seed}"))
        self._calls: dict[str, Paid] = {}

    async def run(self) -> Report:
        """Raises `StackError` when a part of the laptop's cloud, which was not killed, dies."""
        config, documents = self._folder / "config", self._folder / "documents"
        self._world.configure(config, "no-worker")
        self._world.publish(documents)
        async with (
            Stack(
                self._folder / "stack",
                ports="free",
                config=config,
                documents=documents,
                workers=NO_WORKERS,
                lock=LOCK,
            ) as stack,
            WorkerPool(stack.folder.logs, inherited(stack.env())) as pool,
        ):
            return await stack.during(self._story(stack, pool))

    async def _story(self, stack: Stack, pool: WorkerPool) -> Report:
        await asyncio.gather(*self._workers(pool))
        await self._indexed(stack, {})
        self._say(f"{len(pool.workers)} workers are ready and the documents are indexed; here it comes")
        began = time.monotonic()
        plugs = Plugs(stack, pool, self._rng("plugs"))
        upstream = Upstream(stack.connection_string, self._rng("upstream"))
        async with asyncio.TaskGroup() as beside:
            beside_us = [
                beside.create_task(upstream.collect(sessions(self._world.wishes(self._load.requests)))),
                beside.create_task(self._watch_calls(stack)),
            ]
            await self._storm(plugs, upstream)
            self._say(f"healed after {time.monotonic() - began:.0f} s; {len(upstream.outstanding)} outcomes to come")
            await self._settled(stack, plugs, upstream)
            for task in beside_us:
                task.cancel()
        await self._note_calls(stack)
        return await self._report(stack, pool, plugs, upstream, time.monotonic() - began)

    def _workers(self, pool: WorkerPool) -> list[Coroutine[Any, Any, None]]:
        return [
            pool.add(f"{service}-{number}", service, self._told(f"{service}-{number}"))
            for service, replicas in REPLICAS.items()
            for number in range(1, replicas + 1)
        ]

    def _told(self, worker: str) -> Mapping[str, str]:
        """Settings of one worker; each generator has a configuration of its own, by which its calls are known."""
        if not worker.startswith("generator"):
            return {}
        config = self._folder / f"config-{worker}"
        self._world.configure(config, worker)
        return {"RAGBUS_CONFIG": str(config)}

    # -- the storm

    async def _storm(self, plugs: Plugs, upstream: Upstream) -> None:
        """Everything at once, until all is sent, enough was killed and all was away; then put it right again."""
        load, began = self._load, time.monotonic()
        wishes = self._world.wishes(load.requests)
        async with asyncio.TaskGroup() as group:
            weather = [
                group.create_task(plugs.storms()),
                group.create_task(plugs.dependencies(every=max(2.0, min(8.0, load.seconds / 12)))),
                group.create_task(plugs.edit(every=1.0)),
            ]
            sending = group.create_task(upstream.post(wishes, every=1 / load.rate, duplicates=_DUPLICATES))
            killing = group.create_task(plugs.kill_workers(load.kills, every=load.seconds / load.kills))
            await asyncio.gather(sending, killing, plugs.each_once.wait())
            for task in weather:
                task.cancel()
        plugs.pulled.lasted = time.monotonic() - began
        await plugs.heal()

    # -- afterwards

    async def _settled(self, stack: Stack, plugs: Plugs, upstream: Upstream) -> None:
        """Wait until every outcome is there or too late, then until nothing moves any more."""
        await self._indexed(stack, {BULLETIN: content_hash(plugs.pulled.bulletin)})
        await upstream.post([about_bulletin(plugs.pulled.bulletin)])
        while upstream.outstanding and time.time() < _last_deadline(upstream) + _GRACE:
            await asyncio.sleep(_LOOK)
        until = time.monotonic() + _SETTLING
        while _moving(await _stats(stack)) and time.monotonic() < until:
            await asyncio.sleep(_LOOK)

    async def _indexed(self, stack: Stack, wanted: Mapping[str, str]) -> None:
        """Wait until all documents are indexed, and those of `wanted` with this content."""
        until = time.monotonic() + _INDEXING
        store = connect(stack.qdrant_url)
        try:
            while time.monotonic() < until:
                entries = [entry async for entry in QdrantRegistry(store).entries(container="handbook")]
                there = {entry.path: entry.content_hash for entry in entries if entry.is_live and entry.finished}
                if READERS.keys() <= there.keys() and wanted.items() <= there.items():
                    return
                await asyncio.sleep(_LOOK)
        finally:
            await store.close()
        self._say(f"the index did not become what the lake is within {_INDEXING:.0f} s")

    # -- what the model was paid for

    async def _watch_calls(self, stack: Stack) -> None:
        """Note them before the model forgets."""
        while True:
            await asyncio.sleep(_CALLS_EVERY)
            await self._note_calls(stack)

    async def _note_calls(self, stack: Stack) -> None:
        async with httpx.AsyncClient(base_url=stack.llm_url, timeout=60) as control:
            found = (await control.get("/control/calls")).raise_for_status().json()
        self._calls.update(
            (call["id"], Paid(call["question"], call["at"], call["deployment"].partition(BY)[2]))
            for call in found
            if call["kind"] == "chat" and call["status"] == 200
        )

    # -- the end

    async def _report(self, stack: Stack, pool: WorkerPool, plugs: Plugs, upstream: Upstream, seconds: float) -> Report:
        logs = Logs.read(worker.log for worker in pool.workers.values())
        history = History(
            asked=list(upstream.asked.values()),
            replied=upstream.replied,
            paid=list(self._calls.values()),
            interruptions=[*plugs.pulled.interruptions, *logs.lost],
            readers=READERS,
            secrets=self._world.secrets(),
            early=EARLY,
            takes=TAKES,
        )
        left = {name: _left(counts) for name, counts in (await _stats(stack)).items()}
        return Report(
            seed=self._load.seed,
            history=history,
            pulled=plugs.pulled,
            logs=logs,
            duplicates=upstream.duplicates,
            resent=upstream.resent,
            seconds=seconds,
            leftovers={name: counts for name, counts in left.items() if any(counts.values())},
            deaths=pool.deaths,
        )

    def _rng(self, purpose: str) -> random.Random:
        # One for each, so that a run that takes other turns draws the same for the rest.
        return random.Random(f"{purpose} {self._load.seed}")


def _last_deadline(upstream: Upstream) -> float:
    return max(asked.deadline for asked in upstream.outstanding.values())


async def _stats(stack: Stack) -> dict[str, dict[str, Any]]:
    async with httpx.AsyncClient(base_url=stack.admin_url, timeout=300) as admin:
        found: dict[str, dict[str, Any]] = (await admin.get("/stats")).raise_for_status().json()
    return found


def _moving(stats: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether anything is in a queue but what is scheduled to look again: at a deadline, or at a document."""
    return any(
        counts["active"] or counts["locked"] or (counts["scheduled"] and name not in (OUTCOMES, BLOB_EVENTS))
        for name, counts in stats.items()
    )


def _left(counts: Mapping[str, Any]) -> dict[str, int]:
    return {name: counts[name] for name in ("active", "locked", "scheduled", "deferred", "dead_lettered")}
