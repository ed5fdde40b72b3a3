"""A minute of overload, simulated on a virtual clock with the rules that the workers use.

Asks wait on their tenant's queue for a ticket, then in a generator's hand for a slot, then the model answers or their
deadline cuts the call off. `without` leaves one rule out, to show what it is for.
"""

import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.flow.estimate import Estimate, Recent
from shared.flow.rules import admits, limit, needs
from shared.worker.slots import Share

SLOTS, LATENCY, WITHIN, MARGIN, TICK = 16, 3.0, 30.0, 1.0, 0.05
CAPACITY = SLOTS / LATENCY
FAIR = Share.among_tenants(SLOTS)
SEEDS = range(3)


@dataclass(slots=True)
class Ask:
    tenant: str
    at: float
    within: float = WITHIN
    takes: float = LATENCY
    admitted: float = 0.0
    ended: float = 0.0
    how: str = ""
    called: bool = False

    @property
    def deadline(self) -> float:
        return self.at + self.within


@dataclass
class World:
    arriving: deque[Ask]
    without: str = ""
    now: float = 0.0
    queues: dict[str, deque[Ask]] = field(default_factory=lambda: defaultdict(deque))
    held: Counter[str] = field(default_factory=Counter)
    waiting: list[Ask] = field(default_factory=list)
    calls: list[tuple[Ask, float, bool]] = field(default_factory=list)
    usual: dict[str, Estimate] = field(default_factory=lambda: defaultdict(Estimate))
    call_times: dict[str, Recent] = field(default_factory=lambda: defaultdict(Recent))

    def play(self) -> None:
        while self.arriving or any(self.queues.values()) or self.waiting or self.calls:
            self.now += TICK
            while self.arriving and self.arriving[0].at <= self.now:
                ask = self.arriving.popleft()
                self.queues[ask.tenant].append(ask)
            for tenant, queue in self.queues.items():
                self.admit(tenant, queue)
            self.serve()
            self.finish()

    def admit(self, tenant: str, queue: deque[Ask]) -> None:
        while queue:
            ask = queue[0]
            active = {*self.held, *(name for name, others in self.queues.items() if others)}
            room = admits(limit(SLOTS), self.held.total(), self.held[tenant], len(active))
            if self.without == "shares":
                room = self.held.total() < limit(SLOTS)
            if self.without in ("tickets", "tickets and guard"):
                room = True
            if room:
                ask.admitted = self.now
                self.held[tenant] += 1
                self.waiting.append(queue.popleft())
            elif self.now + needs(self.usual[tenant], self.now) > ask.deadline:
                self.end(queue.popleft(), "refused", ticket=False)
            else:
                return

    def serve(self) -> None:
        while self.waiting:
            using = Counter(ask.tenant for ask, _, _ in self.calls)
            share = Share(SLOTS) if self.without == "shares" else FAIR
            names = ["all"] * len(self.waiting) if self.without == "shares" else [ask.tenant for ask in self.waiting]
            in_hand = names if self.without.startswith("tickets") else names[: share.in_hand - len(self.calls)]
            using = Counter(all=using.total()) if self.without == "shares" else using
            chosen = share.next(in_hand, using)
            if chosen is None:
                return
            self.call(self.waiting.pop(chosen))

    def call(self, ask: Ask) -> None:
        left = ask.deadline - MARGIN - self.now
        begun = self.call_times[ask.tenant].begun(left, self.now)
        if self.without == "tickets and guard" and left > 0:
            begun = self.call_times[ask.tenant], False
        if begun is None or left <= 0:
            if begun is None:
                self.call_times[ask.tenant] = self.call_times[ask.tenant].refused()
            self.end(ask, "refused")
            return
        self.call_times[ask.tenant], probe = begun
        ask.called = True
        self.calls.append((ask, self.now, probe))

    def finish(self) -> None:
        for call in list(self.calls):
            ask, began, probe = call
            times, lasted = self.call_times, self.now - began
            if lasted >= ask.takes:
                times[ask.tenant] = times[ask.tenant].after(lasted, self.now, probe=probe)
                self.usual[ask.tenant] = self.usual[ask.tenant].after(self.now - ask.admitted, self.now)
                self.end(ask, "answered")
            elif self.now >= ask.deadline - MARGIN:
                times[ask.tenant] = times[ask.tenant].after_cut_off(lasted, self.now, probe=probe)
                self.usual[ask.tenant] = self.usual[ask.tenant].after_cut_off(self.now - ask.admitted, self.now)
                self.end(ask, "cut off")
            else:
                continue
            self.calls.remove(call)

    def end(self, ask: Ask, how: str, *, ticket: bool = True) -> None:
        ask.ended, ask.how = self.now, how
        if ticket:
            self.held[ask.tenant] -= 1
            self.held += Counter()


def offered(seed: int, rate: float, seconds: float, tenant: str = "noisy", **ask: Any) -> list[Ask]:
    """Asks at random moments; the model's times vary by a fifth."""
    chance = random.Random(seed)
    asks, at = [], 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        asks.append(Ask(tenant, at, **{"takes": LATENCY * chance.uniform(0.8, 1.2), **ask}))
    return asks


def played(asks: Iterable[Ask], without: str = "") -> list[Ask]:
    ordered = sorted(asks, key=lambda ask: ask.at)
    World(deque(ordered), without).play()
    return ordered


def goodput(asks: Iterable[Ask]) -> list[float]:
    """Answers in each ten seconds of the minute after the first, as a part of what can be done."""
    ended = Counter(int(ask.ended // 10) for ask in asks if ask.how == "answered")
    return [ended[window] / (10 * CAPACITY) for window in range(1, 6)]


def wasted(asks: Iterable[Ask]) -> float:
    paid = [ask for ask in asks if ask.called]
    return sum(ask.how != "answered" for ask in paid) / len(paid)


def slowest(asks: Iterable[Ask], tenant: str) -> float:
    """The 95th percentile."""
    took = sorted(ask.ended - ask.at for ask in asks if ask.tenant == tenant)
    return took[len(took) * 95 // 100]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [1.2, 3.0, 10.0])
@pytest.mark.parametrize("within", [10.0, 30.0, 120.0])
def test_goodput_stays_whatever_is_offered(seed: int, factor: float, within: float) -> None:
    asks = played(offered(seed, factor * CAPACITY, 60, within=within))
    assert min(goodput(asks)) >= 0.9
    assert wasted(asks) <= 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_without_tickets_and_guard_it_collapses(seed: int) -> None:
    asks = played(offered(seed, 3 * CAPACITY, 60), "tickets and guard")
    assert min(goodput(asks)) < 0.1
    assert wasted(asks) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_when_the_load_ends_so_does_the_overload(seed: int) -> None:
    asks = offered(seed, 3 * CAPACITY, 60)
    after = [Ask("noisy", 60 + ask.at, takes=ask.takes) for ask in offered(seed + 100, 0.7 * CAPACITY, 40)]
    played([*asks, *after])
    later = [ask for ask in after if ask.at > 70]
    assert {ask.how for ask in later} == {"answered"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [1.5, 2.7, 9.0])
def test_a_quiet_tenant_waits_no_longer_beside_a_noisy_one(seed: int, factor: float) -> None:
    quiet = offered(seed + 50, 0.3 * CAPACITY, 60, "quiet")
    asks = played([*offered(seed, factor * CAPACITY, 60), *quiet])
    assert {ask.how for ask in quiet} == {"answered"}
    assert slowest(asks, "quiet") <= 2 * LATENCY


@pytest.mark.parametrize("seed", SEEDS)
def test_nor_beside_one_whose_calls_take_five_times_as_long(seed: int) -> None:
    noisy = [Ask("noisy", 1.0, 120, takes=15.0) for _ in range(96)]
    quiet = offered(seed, 2, 60, "quiet", takes=0.2)
    asks = played([*noisy, *quiet])
    assert {ask.how for ask in asks} == {"answered"}
    assert slowest(asks, "quiet") <= 0.2 + 2 * TICK + 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_without_shares_it_waits_behind_the_noisy_one(seed: int) -> None:
    quiet = offered(seed + 50, 0.3 * CAPACITY, 60, "quiet")
    asks = played([*offered(seed, 2.7 * CAPACITY, 60), *quiet], "shares")
    assert slowest(asks, "quiet") > 2 * LATENCY


@pytest.mark.parametrize("seed", SEEDS)
def test_four_tenants_with_too_much_work_get_equal_shares(seed: int) -> None:
    asks = played(ask for number in range(4) for ask in offered(seed + number, CAPACITY, 60, f"t{number}"))
    answered = Counter(ask.tenant for ask in asks if ask.how == "answered" and 10 <= ask.ended <= 60)
    assert min(answered.values()) >= 0.8 * max(answered.values())
    assert min(goodput(asks)) >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_becomes_slower_than_any_deadline_is_tried_again_when_it_has_recovered(seed: int) -> None:
    asks = offered(seed, 0.8 * CAPACITY, 120)
    for ask in asks:
        if 20 <= ask.at < 50:
            ask.takes = 100.0
    played(asks)
    later = [ask for ask in asks if ask.at > 100]
    assert Counter(ask.how for ask in later)["answered"] >= 0.9 * len(later)
