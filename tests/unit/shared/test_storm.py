"""Ten minutes of a failing model, simulated on a virtual clock with the worker's own decisions.

`after_failure` decides what becomes of a failed call and `breaker` whether anything is received; around them is the
least that makes them matter: a queue, a number of handlers, and a model with a quota and with weather. An event is a
moment and what happens then, so ten minutes take as long as their events do and every seed plays the same.
"""

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from itertools import count
from statistics import fmean, pvariance

import pytest

from shared import circuit_breaker
from shared.errors import DependencyDown, Reason, TryLater
from shared.worker.retry import MARGIN, Reschedule, Retry, RetryPolicy, after_failure
from tests.support.builders import NOW

POLICY = RetryPolicy()
RULES = circuit_breaker.BreakerPolicy()
MINUTE = 60.0
STORM = 10 * MINUTE
SEEDS = range(3)
# Handlers of all replicas together.
HANDLERS = 32
# Seconds: an answer, a refusal, a call that is given up.
ANSWER, REFUSAL, TIMEOUT = 1.0, 0.05, 10.0


class Weather(StrEnum):
    """What the model is like at a moment."""

    FINE = "fine"
    BUSY = "429 for every call"
    BROKEN = "5xx"
    SILENT = "timeouts"


class Quota:
    """A token bucket of calls, as providers have them: a minute's worth at most, refilled evenly."""

    def __init__(self, per_minute: float) -> None:
        self.rate = per_minute / MINUTE
        self._size = self._level = per_minute
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take one; or say how many seconds from now there will be one."""
        self._level = min(self._size, self._level + (now - self._at) * self.rate)
        self._at = now
        if self._level < 1:
            return (1 - self._level) / self.rate
        self._level -= 1
        return 0.0


@dataclass(slots=True)
class Asked:
    """A request, and how it went."""

    deadline: float
    attempt: int = 1
    ended: str = ""
    at: float = 0.0


@dataclass
class Storm:
    """The world: time, a queue, handlers, the model, and what was seen."""

    quota: Quota
    chance: Callable[[], float]
    weather: Callable[[float], Weather] = lambda _now: Weather.FINE
    now: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    calls: Counter[int] = field(default_factory=Counter)
    """By second."""
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)
    _queue: deque[Asked] = field(default_factory=deque)
    _busy: int = 0
    _breaker: circuit_breaker.BreakerState = circuit_breaker.CLOSED

    def ask(self, at: float, within: float) -> None:
        """A request arrives."""
        asked = Asked(at + within)
        self.asked.append(asked)
        self._later(at, lambda: self._arrive(asked))

    def play(self) -> None:
        """Until no event is left."""
        while self._events:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
            self._receive()

    def ended(self, how: str) -> int:
        """How many requests ended so."""
        return sum(asked.ended == how for asked in self.asked)

    def _later(self, at: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), happens))

    def _arrive(self, asked: Asked) -> None:
        self._queue.append(asked)

    def _receive(self) -> None:
        while self._queue and self._busy < HANDLERS and self._may_receive():
            asked = self._queue.popleft()
            if self.now >= asked.deadline:
                self._end(asked, "expired")
            else:
                self._call(asked)

    def _may_receive(self) -> bool:
        self._breaker = circuit_breaker.asked_to_receive(self._breaker, "all", self.now, RULES)
        if self._breaker.is_closed:
            return True
        if not self._breaker.prober:
            self._later(self._breaker.until, lambda: None)
        return self._breaker.prober != "" and self._busy == 0

    def _call(self, asked: Asked) -> None:
        self._busy += 1
        self.calls[int(self.now)] += 1
        failure, takes = self._model(self.weather(self.now))
        # The worker itself ends a call at the deadline.
        takes = min(takes, asked.deadline - self.now)
        self._later(self.now + takes, lambda: self._returned(asked, failure))

    def _model(self, weather: Weather) -> tuple[TryLater | None, float]:
        match weather:
            case Weather.BROKEN:
                return DependencyDown("503"), REFUSAL
            case Weather.SILENT:
                return DependencyDown("timeout"), TIMEOUT
            case Weather.BUSY:
                return TryLater("429", after=timedelta(seconds=1)), REFUSAL
        wait = self.quota.take(self.now)
        return (TryLater("429", after=timedelta(seconds=wait)), REFUSAL) if wait else (None, ANSWER)

    def _returned(self, asked: Asked, failure: TryLater | None) -> None:
        self._busy -= 1
        if failure is None:
            self._breaker = circuit_breaker.succeeded(self._breaker)
            return self._end(asked, "answered")
        if isinstance(failure, DependencyDown):
            who = "all" if self._breaker.prober else ""
            self._breaker = circuit_breaker.failed(self._breaker, who, self.now, self.chance(), RULES)
        return self._decide(asked, failure)

    def _decide(self, asked: Asked, failure: TryLater) -> None:
        decision = after_failure(
            failure,
            attempt=asked.attempt,
            now=NOW + timedelta(seconds=self.now),
            deadline=NOW + timedelta(seconds=asked.deadline),
            policy=POLICY,
            chance=self.chance(),
        )
        assert not isinstance(decision, Reschedule)
        if isinstance(decision, Retry):
            asked.attempt += 1
            self._later((decision.at - NOW).total_seconds(), lambda: self._arrive(asked))
        else:
            left = timedelta(seconds=asked.deadline - self.now)
            in_time = left >= failure.after + MARGIN + POLICY.base
            self._end(asked, "expired" if decision.reason is Reason.DEADLINE_EXCEEDED and not in_time else "given up")

    def _end(self, asked: Asked, how: str) -> None:
        asked.ended, asked.at = how, self.now


def storm(seed: int, *, per_minute: float, weather: Callable[[float], Weather] = lambda _now: Weather.FINE) -> Storm:
    return Storm(Quota(per_minute), random.Random(seed).random, weather)


def changing(seed: int) -> Callable[[float], Weather]:
    """Weather that changes every ten seconds, bad three times in four; fine after the storm."""
    chance = random.Random(f"weather {seed}")
    drawn = [chance.choice(list(Weather)) for _ in range(int(STORM / 10))]
    return lambda now: drawn[int(now / 10)] if now < STORM else Weather.FINE


def waves(calls: Counter[int], first: int, last: int) -> float:
    """How far calls come in waves: variance over mean of ten seconds, on average; 1 when they are independent.

    Ten, so that a backlog that gets less over the minutes is no wave.
    """
    tens = ([calls[second] for second in range(start, start + 10)] for start in range(first, last, 10))
    return fmean(pvariance(ten) / fmean(ten) for ten in tens if any(ten))


CROWD = 1_200
# A minute's worth at once and 2 a second: the crowd needs nine minutes.
PER_MINUTE = 120.0
LONG = 1_800.0


@pytest.mark.parametrize("seed", SEEDS)
def test_work_over_the_quota_is_spread_and_uses_the_quota(seed: int) -> None:
    world = storm(seed, per_minute=PER_MINUTE)
    for _ in range(CROWD):
        world.ask(0, LONG)
    world.play()
    assert world.ended("answered") == CROWD
    # Nine tenths of what the quota allows by then.
    assert sum(asked.at <= 480 for asked in world.asked) >= 0.9 * PER_MINUTE * 9
    assert waves(world.calls, 60, 480) < 2
    # When waits have grown to half of `longest` on average, three times what that makes of a crowd.
    assert max(world.calls[second] for second in range(60, 600)) < 3 * CROWD / (POLICY.longest.total_seconds() / 2)
    # The waits double six times, and then it is half of `longest` each, give or take.
    assert max(asked.attempt for asked in world.asked) < 7 + 2 * 600 / (POLICY.longest.total_seconds() / 2)


def test_without_jitter_the_same_crowd_comes_in_waves() -> None:
    """What the test above would look like if it failed."""
    world = Storm(Quota(PER_MINUTE), lambda: 1.0)
    for _ in range(CROWD):
        world.ask(0, LONG)
    world.play()
    assert waves(world.calls, 60, 480) > 50


@pytest.mark.parametrize("seed", SEEDS)
def test_twice_the_quota_for_ten_minutes_answers_what_the_quota_allows(seed: int) -> None:
    world, chance = storm(seed, per_minute=PER_MINUTE), random.Random(f"arrivals {seed}")
    for _ in range(2 * int(PER_MINUTE * 10)):
        world.ask(chance.uniform(0, STORM), within=MINUTE)
    world.play()
    assert world.ended("answered") >= 0.9 * PER_MINUTE * 10
    assert world.ended("answered") + world.ended("expired") == len(world.asked)
    assert waves(world.calls, 60, 580) < 2


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_ten_minute_outage_everything_that_can_wait_is_answered(seed: int) -> None:
    world, chance = storm(seed, per_minute=600, weather=changing(seed)), random.Random(f"arrivals {seed}")
    for _ in range(1_500):
        world.ask(chance.uniform(0, STORM), within=STORM + 2 * MINUTE)
    world.play()
    assert world.ended("answered") == len(world.asked)


@pytest.mark.parametrize("seed", SEEDS)
def test_during_an_outage_what_cannot_wait_expires_and_nothing_fails_early(seed: int) -> None:
    world, chance = storm(seed, per_minute=600, weather=changing(seed)), random.Random(f"arrivals {seed}")
    for _ in range(1_500):
        world.ask(chance.uniform(0, STORM), within=chance.choice([20, 60, 120]))
    world.play()
    assert world.ended("given up") == 0
    assert world.ended("answered") + world.ended("expired") == len(world.asked)
    assert world.ended("answered") > len(world.asked) / 3
    assert all(asked.at <= asked.deadline for asked in world.asked if asked.ended == "answered")


@pytest.mark.parametrize("weather", [Weather.BROKEN, Weather.SILENT])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_dead_model_is_left_alone_and_its_backlog_is_answered_when_it_is_back(seed: int, weather: Weather) -> None:
    world = storm(seed, per_minute=6_000, weather=lambda now: weather if now < STORM else Weather.FINE)
    chance = random.Random(f"arrivals {seed}")
    for _ in range(CROWD):
        world.ask(chance.uniform(0, STORM), within=STORM + 2 * MINUTE)
    world.play()
    assert world.ended("answered") == CROWD
    # Those in flight when it broke, and a probe in at least half of the longest wait; of 1,200 who would like to.
    probes = STORM / (RULES.longest / 2)
    assert sum(world.calls[second] for second in range(int(STORM))) < HANDLERS + RULES.threshold + probes
    # Nothing is left when the last probe's wait and the longest wait of a request are over.
    assert max(asked.at for asked in world.asked) < STORM + RULES.longest + POLICY.longest.total_seconds()
