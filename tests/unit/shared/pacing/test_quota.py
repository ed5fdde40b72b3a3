"""Minutes of twice the quota, simulated on a virtual clock with the rules that `Pacing` uses.

A provider counts as OpenAI does: the most that a call can use when it arrives, refused calls as well. Between us and it
are delays, and our estimates of tokens are too high. What waits comes back a little after its turn, as a scheduled
message does. `benchmarks/quota.py` does the same with the real code in real time.
"""

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from statistics import fmean, pvariance

import pytest

from shared.pacing.rules import MINUTE, Ask, Granted, Pace, Quota, Said, ask, settle, throttled

SEEDS = range(2)
CALL, WITHIN, MARGIN = 3.0, 30.0, 1.0
# Our estimate, 1.25 times the provider's count.
ESTIMATED, COUNTED = 1_000, 800
# Calls per second that the quota allows.
RATE = 3.0
# Seconds that asks come, and those after the burst of the first minute.
LONG = 210
STEADY = range(90, LONG)


@dataclass(slots=True)
class Provider:
    """A bucket of tokens, a minute's worth at most."""

    per_minute: float
    refused_count: bool
    level: float = field(init=False)
    at: float = 0.0
    refused: int = 0
    served: int = 0

    def __post_init__(self) -> None:
        self.level = self.per_minute

    def call(self, tokens: float, now: float) -> float:
        """0, or the seconds until it would be accepted."""
        rate = self.per_minute / MINUTE
        self.level, self.at = min(self.per_minute, self.level + (now - self.at) * rate), now
        if tokens <= self.level:
            self.level -= tokens
            self.served += 1
            return 0.0
        self.refused += 1
        wait = (tokens - self.level) / rate
        if self.refused_count:
            self.level -= tokens
        return wait


@dataclass(slots=True)
class Work:
    """An ask."""

    who: str
    tenant: str
    due: float
    ended: str = ""
    came: int = 0


@dataclass
class World:
    """Time, the line, and the provider."""

    provider: Provider
    quota: Quota
    chance: random.Random
    says: bool = True
    estimated: float = ESTIMATED
    now: float = 0.0
    pace: Pace = field(default_factory=Pace)
    work: list[Work] = field(default_factory=list)
    began: Counter[int] = field(default_factory=Counter)
    good: Counter[int] = field(default_factory=Counter)
    _events: list[tuple[float, int, Callable[[], object]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=count)

    def asks(self, tenant: str, at: float, due: float) -> None:
        work = Work(f"{tenant}{len(self.work)}", tenant, due)
        self.work.append(work)
        self.at(at, lambda: self._comes(work))

    def offers(self, tenant: str, rate: float, seconds: float) -> None:
        """Asks at random moments."""
        for _ in range(int(rate * seconds)):
            at = self.chance.uniform(0, seconds)
            self.asks(tenant, at, at + WITHIN)

    def play(self) -> None:
        while self._events:
            self.now, _, happens = heapq.heappop(self._events)
            happens()

    def answered(self, tenant: str) -> float:
        """The part of a tenant's asks that was answered."""
        mine = [work for work in self.work if work.tenant == tenant]
        return sum(work.ended == "answered" for work in mine) / len(mine)

    def at(self, moment: float, happens: Callable[[], object]) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (moment, next(self._order), happens))

    def _comes(self, work: Work) -> None:
        work.came += 1
        patience = work.due - self.now - CALL - MARGIN
        wants = Ask(work.who, work.tenant, self.estimated, work.due, patience=patience)
        self.pace, result = ask(self.pace, self.quota, wants, self.now)
        if isinstance(result, Granted):
            self.began[int(self.now)] += 1
            self.at(self.now + self.chance.uniform(0, 0.2), lambda: self._arrives(work, result))
        elif result > patience:
            work.ended = "refused"
        else:
            self.at(self.now + result + self.chance.uniform(0.05, 0.5), lambda: self._comes(work))

    def _arrives(self, work: Work, call: Granted) -> None:
        wait = self.provider.call(COUNTED, self.now)
        if wait:
            self.pace, _ = throttled(self.pace, self.quota, call, wait, self.now)
            self._comes(work)
            return
        limit = Quota(self.provider.per_minute) if self.says else Quota()
        said = Said(limit, self.provider.level if self.says else None)
        self.at(self.now + CALL, lambda: self._ends(work, call, said))

    def _ends(self, work: Work, call: Granted, said: Said) -> None:
        self.pace = settle(self.pace, self.quota, call, said, COUNTED, self.now)
        work.ended = "answered" if self.now <= work.due else "late"
        self.good[int(self.now)] += work.ended == "answered"


def world(seed: int, *, refused_count: bool = True, configured: bool = True) -> World:
    per_minute = RATE * COUNTED * MINUTE
    quota = Quota(per_minute) if configured else Quota()
    return World(Provider(per_minute, refused_count), quota, random.Random(seed))


def waves(calls: Counter[int], first: int, last: int) -> float:
    """How far calls come in waves: variance over mean of ten seconds, on average; 1 when they are independent."""
    tens = ([calls[second] for second in range(start, start + 10)] for start in range(first, last, 10))
    return fmean(pvariance(ten) / fmean(ten) for ten in tens if any(ten))


@pytest.mark.parametrize("refused_count", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_twice_the_quota_uses_it_and_is_hardly_ever_refused(seed: int, refused_count: bool) -> None:
    tried = world(seed, refused_count=refused_count)
    tried.offers("noisy", 1.7 * RATE, LONG)
    tried.offers("quiet", 0.3 * RATE, LONG)
    tried.play()
    # From the end of the first minute's burst on.
    assert sum(tried.good[second] for second in STEADY) >= 0.95 * RATE * len(STEADY)
    assert sum(tried.good.values()) == tried.provider.served
    assert tried.provider.refused < 0.01 * tried.provider.served
    assert waves(tried.began, STEADY.start, LONG) < 2
    assert tried.answered("quiet") > 0.99
    assert {work.ended for work in tried.work} <= {"answered", "refused"}
    # At its place's time almost every ask is called or moves up; it does not come again and again.
    assert fmean(work.came for work in tried.work) < 5


def test_an_estimate_that_is_too_low_is_corrected_by_what_remains() -> None:
    tried = world(1)
    tried.estimated = 0.9 * COUNTED
    tried.offers("a", 2 * RATE, LONG)
    tried.play()
    assert sum(tried.good[second] for second in STEADY) >= 0.95 * RATE * len(STEADY)
    assert tried.provider.refused < 0.03 * tried.provider.served


@pytest.mark.parametrize("seed", SEEDS)
def test_a_crowd_with_one_deadline_is_served_one_by_one(seed: int) -> None:
    tried = world(seed)
    for number in range(500):
        tried.asks("a", number * 0.001, due=120.0)
    tried.play()
    # A minute's worth at once, the rest at the rate, by our estimate: the others are refused at once.
    expected = RATE * (60 + 120 - CALL - MARGIN) * COUNTED / ESTIMATED
    assert sum(work.ended == "answered" for work in tried.work) >= 0.95 * expected
    assert tried.provider.refused < 0.01 * tried.provider.served
    assert max(tried.began[second] for second in range(2, 120)) <= 3 * RATE
    assert waves(tried.began, 10, 110) < 2


def test_a_quota_that_models_yaml_does_not_have_is_learned() -> None:
    tried = world(1, configured=False)
    tried.offers("a", 2 * RATE, LONG)
    tried.play()
    assert sum(tried.good[second] for second in STEADY) >= 0.95 * RATE * len(STEADY)
    assert tried.provider.refused < 0.05 * tried.provider.served


def test_without_a_word_of_the_provider_what_models_yaml_says_is_used() -> None:
    tried = world(1)
    tried.says = False
    tried.offers("a", 2 * RATE, LONG)
    tried.play()
    assert sum(tried.good[second] for second in STEADY) >= 0.95 * RATE * len(STEADY)
    assert tried.provider.refused < 0.01 * tried.provider.served


def test_what_others_take_of_the_quota_is_left_to_them() -> None:
    """Another program uses a third of the quota; ours has the other two thirds, with few refusals."""
    tried = world(1, refused_count=False)
    for number in range(int(RATE / 3 * LONG)):
        tried.at(number / (RATE / 3), lambda: tried.provider.call(COUNTED, tried.now))
    tried.offers("a", 2 * RATE, LONG)
    tried.play()
    assert sum(tried.good[second] for second in STEADY) >= 0.85 * RATE * 2 / 3 * len(STEADY)
    assert tried.provider.refused < 0.1 * tried.provider.served
