"""Laws of the index, searched for counterexamples: it converges, and a reader never sees two versions at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.indexer.handler import Indexer
from services.indexer.storage_event import Change
from services.retriever.knowledge import Knowledge
from shared.contracts.generate import Candidate
from shared.errors import TryLater
from shared.vectors.port import Document, Embedded, Hit, Query, Readable
from tests.support.indexer import EMPLOYEE, World, changed

PATH = "leave.md"
ANYTHING = Query([1.0, 0.0, 0.0, 0.0], {})


def version(name: str, sections: int = 3) -> str:
    """Write a document all of whose passages name its version."""
    return "# Leave\n\n" + "\n\n".join(f"## Part {n}\n\n{name} part {n}." for n in range(sections))


class Crash(Exception):
    """The process is gone."""


class Clockwork:
    """Makes time visible: every call of a port is a step before and a step after."""

    def __init__(self) -> None:
        self.now = 0
        self.crash_at: int | None = None
        self._moved = asyncio.Condition()

    async def step(self) -> None:
        """Let the others that wait for this step go first."""
        self.now += 1
        if self.now == self.crash_at:
            raise Crash
        async with self._moved:
            self._moved.notify_all()
        for _ in range(12):
            await asyncio.sleep(0)

    async def until(self, step: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.now >= step)

    async def finish(self) -> None:
        """Release all that still wait."""
        self.now = 10_000
        async with self._moved:
            self._moved.notify_all()


class Stepwise:
    """A port whose every method is two steps of the clockwork."""

    def __init__(self, port: Any, clockwork: Clockwork) -> None:
        self._port = port
        self._clockwork = clockwork

    async def put(self, collection: str, passages: Sequence[Embedded]) -> None:
        # Passages arrive one by one: a reader may come in between.
        for each in passages:
            await self._call("put", collection, [each])

    async def search(self, collection: str, query: Query, readable: Readable, limit: int) -> list[Hit]:
        found: list[Hit] = await self._call("search", collection, query, readable, limit)
        return found

    async def vectors(self, collection: str, tenant: str, digests: Collection[str]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = await self._call("vectors", collection, tenant, digests)
        return found

    async def collect(self, collection: str, document_id: str, *, upto: int, keep: str) -> None:
        await self._call("collect", collection, document_id, upto=upto, keep=keep)

    async def discard(self, collection: str, document_id: str, build_id: str) -> None:
        await self._call("discard", collection, document_id, build_id)

    async def get(self, ids: Collection[str]) -> dict[str, Document]:
        found: dict[str, Document] = await self._call("get", ids)
        return found

    async def at(self, container: str, path: str) -> list[Document]:
        found: list[Document] = await self._call("at", container, path)
        return found

    async def commit(self, document: Document, expected: int | None) -> bool:
        won: bool = await self._call("commit", document, expected)
        return won

    async def entries(self, **asked: Any) -> AsyncIterator[Document]:
        async for entry in self._port.entries(**asked):
            yield entry

    async def _call(self, method: str, *args: Any, **more: Any) -> Any:
        await self._clockwork.step()
        result = await getattr(self._port, method)(*args, **more)
        await self._clockwork.step()
        return result


def stepwise(world: World, clockwork: Clockwork) -> Indexer:
    """Make an indexer that runs on the clockwork."""
    world.lake.hook = lambda _: clockwork.step()
    return world.indexer(passages=Stepwise(world.passages, clockwork), registry=Stepwise(world.registry, clockwork))


class SlowReader:
    """A registry that a reader asks only at a certain step; the search before it was at another."""

    def __init__(self, world: World, clockwork: Clockwork, step: int) -> None:
        self._world, self._clockwork, self._step = world, clockwork, step

    async def get(self, ids: Collection[str]) -> dict[str, Document]:
        await self._clockwork.until(self._step)
        return await self._world.registry.get(ids)


async def read_slowly(world: World, clockwork: Clockwork, search_at: int, ask_at: int) -> list[Candidate]:
    """Search at one step of the writer and ask the registry at another."""
    await clockwork.until(search_at)
    knowledge = Knowledge(world.passages, SlowReader(world, clockwork, ask_at))  # type: ignore[arg-type]
    return await knowledge.search(EMPLOYEE, "handbook", ANYTHING, wanted=10, overfetch=3)


async def finish_all(world: World) -> None:
    """Deliver one more event, as the queue does after a crash."""
    world.lake.hook = World().lake.hook
    await world.indexer().handle([changed(PATH)])


def versions_seen(found: Sequence[Candidate]) -> set[str]:
    return {candidate.text.split()[0] for candidate in found}


async def test_at_every_step_of_an_update_a_reader_sees_one_whole_version() -> None:
    """Every pair of a search step and a registry step, while the writer goes from v1 to v2."""
    steps = await _steps_of_an_update()
    assert steps > 15
    for search_at in range(1, steps + 1):
        for ask_at in range(search_at, steps + 1):
            found = await _read_during_update(search_at, ask_at)
            assert versions_seen(found) in ({"v1"}, {"v2"}), (search_at, ask_at)
            assert len(found) == (3 if versions_seen(found) == {"v1"} else 5), (search_at, ask_at)


async def _steps_of_an_update() -> int:
    world, clockwork = World(), Clockwork()
    await _update(world, clockwork)
    return clockwork.now


async def _read_during_update(search_at: int, ask_at: int) -> list[Candidate]:
    world, clockwork = World(), Clockwork()
    reader = asyncio.create_task(read_slowly(world, clockwork, search_at, ask_at))
    await _update(world, clockwork)
    await clockwork.finish()
    return await reader


async def _update(world: World, clockwork: Clockwork) -> None:
    world.lake.put(PATH, version("v1"))
    await world.indexer().handle([changed(PATH)])
    world.lake.put(PATH, version("v2", sections=5))
    await stepwise(world, clockwork).handle([changed(PATH)])


async def test_at_every_step_of_a_deletion_a_reader_sees_all_or_nothing() -> None:
    for step in range(1, 20):
        world, clockwork = World(), Clockwork()
        world.lake.put(PATH, version("v1"))
        await world.indexer().handle([changed(PATH)])
        world.lake.delete(PATH)
        reader = asyncio.create_task(read_slowly(world, clockwork, step, step))
        await stepwise(world, clockwork).handle([changed(PATH)])
        await clockwork.finish()
        assert len(await reader) in (0, 3)


async def test_a_crash_at_any_step_leaves_one_whole_version_and_the_next_event_finishes() -> None:
    for crash_at in range(1, 40):
        world, clockwork = World(), Clockwork()
        clockwork.crash_at = crash_at
        try:
            await _update(world, clockwork)
        except Crash:
            assert versions_seen(await world.found()) in ({"v1"}, {"v2"}), crash_at
        await finish_all(world)
        assert len(await world.texts()) == 5
        assert versions_seen(await world.found()) == {"v2"}
        entry = await world.entry(PATH)
        assert entry
        assert entry.finished
        assert len(world.passages._stores["handbook"]) == 5, crash_at


CONTENTS = st.sampled_from([None, "red", "green", "blue"])


@settings(max_examples=150, deadline=None)
@given(st.data())
async def test_any_order_and_repetition_of_events_converges_to_the_lake(data: st.DataObject) -> None:
    """Up to six changes of one blob; their events come late, twice, in any order, and several at a time."""
    world = World()
    processes = [world.indexer(), world.indexer()]
    owed: list[Change] = []
    for content in data.draw(st.lists(CONTENTS, min_size=1, max_size=6)):
        if content is None:
            world.lake.delete(PATH)
        else:
            world.lake.put(PATH, version(content))
        owed.append(Change.DELETED if content is None else Change.WRITTEN)
        now = data.draw(st.lists(st.sampled_from(owed), max_size=3))
        for event in now:
            # Each event is acknowledged once; a second delivery of it may still follow.
            if event in owed and data.draw(st.booleans()):
                owed.remove(event)
        await _deliver(processes, now)
        last = data.draw(st.permutations(owed)) if owed else []
    await _deliver(processes, [*last, changed(PATH).change])
    await _equals_the_lake(world)


PAUSES = st.integers(0, 60)
CRASHES = st.none() | st.integers(1, 40)
ROUND = st.tuples(CRASHES, CRASHES, st.lists(st.tuples(PAUSES, CONTENTS), min_size=1, max_size=3))


@settings(max_examples=100, deadline=None)
@given(st.lists(ROUND, min_size=1, max_size=3))
async def test_writers_of_several_processes_that_crash_anywhere_converge(rounds: list[Any]) -> None:
    """Two processes work on the blob at once while it changes; each may crash; then the queue delivers again."""
    world = World()
    for *crashes, changes in rounds:
        tasks = [asyncio.create_task(_work(world, crash_at)) for crash_at in crashes]
        for pauses, content in changes:
            for _ in range(pauses):
                await asyncio.sleep(0)
            assert len(versions_seen(await world.found())) <= 1
            if content is None:
                world.lake.delete(PATH)
            else:
                world.lake.put(PATH, version(content))
        await asyncio.gather(*tasks)
        assert len(versions_seen(await world.found())) <= 1
    await finish_all(world)
    await _equals_the_lake(world, crashed=True)


async def _work(world: World, crash_at: int | None) -> None:
    clockwork = Clockwork()
    clockwork.crash_at = crash_at
    with contextlib.suppress(Crash, TryLater):
        await stepwise(world, clockwork).handle([changed(PATH)])


async def _deliver(processes: Sequence[Indexer], events: Sequence[Change]) -> None:
    deliveries = [processes[n % len(processes)].handle([changed(PATH, event)]) for n, event in enumerate(events)]
    await asyncio.gather(*deliveries)


async def _equals_the_lake(world: World, *, crashed: bool = False) -> None:
    blob = world.lake.blobs_of["handbook"].get(PATH)
    expected = [line for line in blob[0].decode().split("\n") if line.endswith(".")] if blob else []
    assert await world.texts() == expected
    entry = await world.entry(PATH)
    assert (entry is not None and entry.is_live) is (blob is not None)
    if not crashed:
        assert len(world.passages._stores.get("handbook", {})) == len(expected)
