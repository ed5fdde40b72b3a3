"""Messages are fetched ahead only while work is quick."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.envelope import Envelope
from shared.contracts.request import Request
from shared.worker.prefetch import IDLE, MOST, SLOW, Prefetch
from shared.worker.shared_breaker import Circuit, SharedBreaker
from tests.support.builders import NOW
from tests.support.memory_bus import MemoryBus, MemoryDelivery, MemoryInbox
from tests.support.virtual_time import in_no_time
from tests.support.worker import a_bus, a_worker, post

durations = st.lists(st.floats(0, 100), max_size=60)


def test_nothing_is_fetched_ahead_until_work_has_proved_quick() -> None:
    prefetch = Prefetch(16)
    assert prefetch.count == 0
    for _ in range(20):
        prefetch.worked(0.005)
    assert prefetch.count == 15


def test_slow_work_ends_it_and_a_hiccup_does_not() -> None:
    prefetch = Prefetch(16)
    for _ in range(20):
        prefetch.worked(0.02)
    prefetch.worked(SLOW)
    assert prefetch.count == 15
    prefetch.worked(30)
    assert prefetch.count == 0


def test_it_can_be_stopped_at_once() -> None:
    prefetch = Prefetch(16)
    for _ in range(20):
        prefetch.worked(0.02)
    prefetch.stop()
    assert prefetch.count == 0
    prefetch.worked(0.02)
    assert prefetch.count == 0


def test_it_ends_when_no_messages_come_and_begins_again_when_many_do() -> None:
    prefetch = Prefetch(16)
    for _ in range(20):
        prefetch.worked(0.02)
    prefetch.waited(IDLE - 1)
    assert prefetch.count == 15
    prefetch.waited(1)
    assert prefetch.count == 0
    for _ in range(20):
        prefetch.worked(0.02)
    assert prefetch.count == 0
    for _ in range(20):
        prefetch.worked(0.02)
    assert prefetch.count == 15


@pytest.mark.parametrize(("messages", "count"), [(1, 0), (4, 0), (6, 15)])
def test_a_few_messages_a_second_need_no_prefetching(messages: int, count: int) -> None:
    prefetch = Prefetch(16)
    for _ in range(60):
        prefetch.waited(1)
        for _ in range(messages):
            prefetch.worked(0.02)
    assert prefetch.count == count


@given(slots=st.integers(1, 1000), durations=durations)
def test_it_is_never_more_than_the_other_slots(slots: int, durations: list[float]) -> None:
    prefetch = Prefetch(slots)
    for seconds in durations:
        prefetch.worked(seconds)
        assert prefetch.count in (0, min(slots - 1, MOST))


@given(durations=st.lists(st.floats(SLOW, 100), max_size=60))
def test_work_that_is_never_quick_has_nothing_fetched_ahead(durations: list[float]) -> None:
    prefetch = Prefetch(16)
    for seconds in durations:
        prefetch.worked(seconds)
        assert prefetch.count == 0


# -- in the worker


class Noting(MemoryBus):
    """Notes how many messages were to be prefetched, and when the inbox was closed."""

    def __init__(self, *queues: str, **more: Any) -> None:
        super().__init__(*queues, **more)
        self.noted: list[int | str] = []

    def inbox(self, queue: str) -> MemoryInbox:
        noted = self.noted

        class Inbox(MemoryInbox):
            async def receive(self, wait: timedelta, *, prefetch: int = 0) -> MemoryDelivery | None:
                if noted[-1:] != [prefetch]:
                    noted.append(prefetch)
                return await super().receive(wait)

            async def close(self) -> None:
                if noted[-1:] != ["closed"]:
                    noted.append("closed")

        return Inbox(self, queue)


class HalfOpenAfter(SharedBreaker):
    """Closed for the first `asked` questions, then half open, as a worker sees it that asks seldom."""

    def __init__(self, asked: int) -> None:
        self._left = asked

    async def ask(self) -> Circuit:
        self._left -= 1
        return Circuit.CLOSED if self._left >= 0 else Circuit.HALF_OPEN

    async def keep(self) -> None: ...

    async def succeeded(self) -> None: ...

    @property
    def is_closed(self) -> bool:
        return True


async def play(
    *seconds: float,
    slots: int = 4,
    grace: float = 100,
    stop_after: float | None = None,
    breaker: SharedBreaker | None = None,
) -> Noting:
    """Have a worker do work of these `seconds`, one after the other, then stop."""
    bus = a_bus(Noting)
    assert isinstance(bus, Noting)
    left = iter(seconds)
    done = 0

    async def handle(_request: Request) -> list[Envelope]:
        nonlocal done
        await asyncio.sleep(next(left))
        done += 1
        return []

    for number in range(len(seconds)):
        await post(bus, request_id=f"r{number}", answer_by=NOW + timedelta(hours=1))
    stopping, worker = asyncio.Event(), replace(a_worker(bus, handle), concurrency=slots, breaker=breaker)
    running = asyncio.create_task(worker.run(stopping, timedelta(seconds=grace)))
    if stop_after is not None:
        await asyncio.sleep(stop_after)
    while stop_after is None and done < len(seconds):
        await asyncio.sleep(0.01)
    stopping.set()
    await running
    return bus


def test_a_worker_whose_work_is_quick_has_as_many_fetched_ahead_as_it_has_other_slots() -> None:
    bus = in_no_time(play(*[0.01] * 60))
    assert bus.noted == [0, 3, "closed"]


def test_an_idle_worker_has_nothing_fetched_ahead() -> None:
    """A receiver that fetches ahead reads its socket five times as often."""
    bus = in_no_time(play(*[0.01] * 60, stop_after=60))
    assert bus.noted == [0, 3, 0, "closed"]


def test_nothing_waits_here_behind_a_probe() -> None:
    bus = in_no_time(play(*[0.01] * 60, breaker=HalfOpenAfter(50)))
    assert bus.noted == [0, 3, "closed", 0, "closed"]


def test_a_worker_that_is_full_for_a_second_gives_back_what_was_fetched_ahead() -> None:
    """One call hangs in each slot; what was fetched behind them could be worked on elsewhere."""
    bus = in_no_time(play(*[0.01] * 60, *[30.0] * 4, 0.01))
    assert bus.noted == [0, 3, "closed", 0, "closed"]


def test_slow_work_has_nothing_fetched_ahead() -> None:
    bus = in_no_time(play(*[2.0] * 30))
    assert bus.noted == [0, "closed"]


def test_at_sigterm_a_full_worker_takes_nothing_more() -> None:
    """It hears of the signal while all slots are taken, and not when the next one is free."""
    bus = in_no_time(play(*[50.0] * 6, stop_after=10))
    assert len(in_no_time(bus.peek("retrieve"))) == 2
