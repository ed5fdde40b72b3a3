"""One run: see what effects each scenario has, kill a worker at each of them, and judge what came of it all."""

import asyncio
import itertools
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from tests.chaos.history import History, check
from tests.crash_points.ports import RECEIVE, RENEW, SHARED
from tests.crash_points.scenarios import ANSWERED, SCENARIOS, Scenario
from tests.crash_points.system import AGAIN, FIRST, SERVICES, System, question_of, until
from tests.crash_points.trap import ANY, Effect, Moment, Point

# An effect that comes again and again (a look whether the work is still wanted) is one boundary, met twice.
_TIMES = 2
# Work whose delivery another crash hit may not come by its own point any more; then it is tried with new work.
_TRIES = 4
# The most pieces of work per service that are on their way to their point at once.
_AT_ONCE = 4
# The broker gives up after ten deliveries. Work that was hit this often by the crashes of other work is left to end,
# before more of its service is begun; so many pieces as are under way then may still hit it.
_HIT = 5
# Seconds without an effect after which a scenario is over.
_QUIET = 4.0
# What follows a call that was paid until the ledger knows it.
_TAKES = 3.0
# A request is given up with less than this left: a second each for Retry-After, for the policy's margin, and because a
# message lives for whole seconds.
_EARLY = 3.0
# How often a worker is killed at each moment of each effect on the breaker: it counts, opens and probes.
_ROUNDS = 2
# The longest pause of a breaker is 15 s, and what a dead probe leaves behind is waited for as long.
_PROBED_WITHIN = 90.0
_BEFORE_AND_AFTER = 2
QUESTION = SCENARIOS[0]
BREAKER = replace(QUESTION, name="breaker", services=("generator",))

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Planned:
    """A crash to be made: in which scenario, and where."""

    scenario: Scenario
    point: Point

    def __str__(self) -> str:
        return f"{self.scenario.name} / {self.point}"


@dataclass(slots=True)
class Result:
    """What a run did and found."""

    points: int = 0
    """How many boundaries the scenarios have."""
    crashed: list[Planned] = field(default_factory=list)
    unreached: list[Planned] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    extra_calls: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


class Crashes:
    """Crashes on one running system."""

    def __init__(self, system: System, say: Say, *, alone: bool = False) -> None:
        """`alone`: count a crash only where one generator had the work before it, and one after it.

        Two have it at once when one of them stands still for longer than a lock (3 s), as on a busy machine.
        """
        self._system = system
        self._say = say
        self._alone = alone
        self._under_way: set[str] = set()
        self._scenario_of: dict[str, Scenario] = {}
        self._after: dict[str, Planned] = {}
        self.hung: list[str] = []

    async def discover(self, names: Collection[str] = ()) -> list[Planned]:
        """Every point of the scenarios called `names` (none: of all), by letting each happen once."""
        wanted = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
        wanted += [each for each in SCENARIOS if each.name in {one.begins_as for one in wanted} and each not in wanted]
        # Who leaves must not take the others along.
        leaving = [scenario for scenario in wanted if scenario.name == "handed-back"]
        seen = await asyncio.gather(*(self._effects(each) for each in wanted if each not in leaving))
        found = dict(zip([each.name for each in wanted if each not in leaving], seen, strict=True))
        for each in leaving:
            found[each.name] = await self._effects(each)
        return [
            Planned(scenario, Point(effect, moment))
            for scenario in wanted
            for effect in dict.fromkeys(found[scenario.name])
            if effect.service in scenario.services
            and effect.times <= _TIMES
            and (scenario.slowly or not effect.name.startswith(RENEW))
            and effect not in found.get(scenario.begins_as, ())
            for moment in _moments(effect)
        ]

    async def _effects(self, scenario: Scenario) -> list[Effect]:
        mark = await self._begin(scenario, None)
        await scenario.end(self._system, mark)
        seen: list[Effect] = []
        while len(now := [each.effect for each in self._system.folder.seen(mark)]) > len(seen):
            seen = now
            await asyncio.sleep(_QUIET)
        return seen

    async def crash(self, planned: Sequence[Planned], result: Result) -> None:
        """Crash at each point of `planned`, services side by side, and write into `result` how it went."""

        async def lane(service: str) -> None:
            room = asyncio.Semaphore(_AT_ONCE)

            async def one(each: Planned) -> None:
                async with room:
                    reached = await self._crash_at(each)
                (result.crashed if reached else result.unreached).append(each)

            await asyncio.gather(*(one(each) for each in planned if each.point.effect.service == service))
            self._say(f"{service}: done")

        async with asyncio.TaskGroup() as group:
            for service in SERVICES:
                group.create_task(lane(service))

    async def crash_at_the_breaker(self, result: Result) -> None:
        """The generators' breaker opens and probes while each look at it and each change of it kills one.

        These effects belong to the service, not to one question, so no scenario has them.
        """
        system, service = self._system, "generator"

        def names() -> list[str]:
            return sorted({seen.effect.name for seen in system.folder.seen(service) if SHARED in seen.effect.name})

        system.folder.watch(service)
        await system.fail_models({"deployment": "*", "kind": "chat", "status": 503})
        # Five failures in a row open it.
        marks = [await self._begin(QUESTION, None) for _ in range(6)]
        await until(lambda: len(names()) > 1)  # it is read, and changed
        for name, moment in [(name, moment) for name in names() for moment in Moment] * _ROUNDS:
            planned = Planned(BREAKER, Point(Effect(service, name, ANY), moment))
            system.folder.arm(service, planned.point)
            with suppress(TimeoutError):
                await until(lambda: not system.folder.is_armed(service), _PROBED_WITHIN)
            (result.unreached if system.folder.is_armed(service) else result.crashed).append(planned)
            system.folder.disarm(service)
            result.points += 1
        await system.fail_models()
        await asyncio.gather(*(QUESTION.end(system, mark) for mark in marks))

    async def _crash_at(self, planned: Planned) -> bool:
        """Whether a worker died there."""
        system, scenario = self._system, planned.scenario
        for _ in range(_TRIES):
            await until(lambda: not self._is_hard_hit(planned.point.effect.service))
            mark = await self._begin(scenario, planned.point)
            ended = asyncio.create_task(scenario.end(system, mark))
            over = None
            while system.folder.is_armed(mark) and (over is None or time.monotonic() < over):
                if ended.done() and over is None:
                    over = time.monotonic() + scenario.lingers
                await asyncio.sleep(0.05)
            crashed = not system.folder.is_armed(mark)
            system.folder.disarm(mark)
            if crashed:
                self._after[mark] = planned
            self._under_way.add(mark)
            try:
                await ended
            except TimeoutError:
                self.hung.append(f"{scenario.name} {mark} never came to its end [{planned}]")
            self._under_way.discard(mark)
            if crashed and (not self._alone or self._had_it_alone(mark)):
                return True
        return False

    def _is_hard_hit(self, service: str) -> bool:
        """Whether work of `service` that is under way has been received so often that it must not be hit again."""
        seen = (self._system.folder.seen(mark) for mark in self._under_way)
        return any(
            sum(each.effect.service == service and each.effect.name.startswith(RECEIVE) for each in work) >= _HIT
            for work in seen
        )

    def _had_it_alone(self, mark: str) -> bool:
        """Whether no two generators had the work of `mark` at once: one until it was killed, and one after it."""
        generators = [each.pid for each in self._system.folder.seen(mark) if each.effect.service == "generator"]
        return len([pid for pid, _ in itertools.groupby(generators)]) <= len(set(generators)) <= _BEFORE_AND_AFTER

    async def _begin(self, scenario: Scenario, point: Point | None) -> str:
        mark = f"cp-{uuid.uuid4().hex[:16]}"
        self._scenario_of[mark] = scenario
        await scenario.prepare(self._system, mark)
        self._system.folder.watch(mark)
        if point is not None:
            self._system.folder.arm(mark, point)
        await scenario.act(self._system, mark)
        return mark

    # -- the judgement

    async def settle(self) -> None:
        """Wait until nothing moves any more and the last calls are known."""
        system = self._system

        async def moving() -> bool:
            counts = await system.queues()
            return any(each["active"] or each["locked"] for name, each in counts.items() if name != "answers")

        with suppress(TimeoutError):
            async with asyncio.timeout(120):
                while await moving():
                    await asyncio.sleep(0.3)
        await asyncio.sleep(1)  # one more look at documents and calls
        await system.look_at_charges()

    def judge(self, result: Result) -> None:
        """Write into `result` what must not have happened."""
        told, system = self._system.told, self._system
        system.judge_deaths()
        history = History(
            asked=list(told.asked.values()),
            replied=[reply for reply in told.replied if reply.session == FIRST],
            paid=system.paid(),
            interruptions=[kill for kill in told.kills if kill.what.startswith("generator")],
            early=_EARLY,
            takes=_TAKES,
            copies={question_of(mark): self._copies(mark) for mark in self._scenario_of},
        )
        by_http = {mark: scenario for mark, scenario in self._scenario_of.items() if scenario.name == "http"}
        result.violations += [
            f"{violation}{self._blame(violation)}"
            for violation in check(history)
            if not any(mark in violation for mark in by_http)
        ]
        result.violations += [*self._endings(), *self._charges(), *told.deaths, *self.hung]
        calls = Counter(paid.question for paid in history.paid)
        result.extra_calls = sum(count - 1 for count in calls.values())
        result.outcomes = Counter(reply.outcome for reply in told.replied)

    def question_after(self, planned: Planned) -> str:
        """What was asked where a worker died at `planned`, the last time."""
        return question_of([mark for mark, crash in self._after.items() if crash == planned][-1])

    def _copies(self, mark: str) -> int:
        """How often a generator was killed that had handed the work of `mark` back, maybe before it let go of it."""
        folder = self._system.folder
        died = folder.died()
        return sum(each.effect.name == HAND_BACK and each.pid in died for each in folder.seen(mark))

    def _blame(self, violation: str) -> str:
        return "".join(f" [{planned}]" for mark, planned in self._after.items() if mark in violation)

    def _endings(self) -> Iterator[str]:
        told = self._system.told
        for mark, scenario in self._scenario_of.items():
            after = f" [{self._after[mark]}]" if mark in self._after else ""
            outcomes = [reply.outcome for reply in (*told.replies(mark), *told.replies(mark, AGAIN))]
            outcomes += told.by_http.get(mark, [])
            if scenario.ends and not set(outcomes) <= scenario.ends:
                yield f"{scenario.name} {mark} ended as {outcomes}, not as one of {sorted(scenario.ends)}{after}"
            if scenario.name == "http" and not outcomes:
                yield f"{scenario.name} {mark} got no outcome{after}"
            alone = told.replies(mark, AGAIN)
            if mark in told.alone and len(alone) != 1:
                yield f"{scenario.name} {mark}: its sender was told {len(alone)} times{after}"

    def _charges(self) -> Iterator[str]:
        """No call is charged twice: a request is charged for as many answers of a model as there were, at most."""
        system = self._system
        for mark, scenario in self._scenario_of.items():
            charged = sum(call["result"] == "ok" and call["completion_tokens"] > 0 for call in system.charged_to(mark))
            paid = sum(mark in paid.question for paid in system.paid())
            if charged > paid and scenario.services != ("gateway",):
                yield f"{scenario.name} {mark}: {charged} calls were charged, {paid} were made"
        if not system.charged and any(scenario.ends == ANSWERED for scenario in self._scenario_of.values()):
            yield "nothing was charged for any answer: are the calls of a request still under …:budget:calls:…?"


HAND_BACK = "bus send generate.v1 to generate"


def _moments(effect: Effect) -> tuple[Moment, ...]:
    if effect.name.startswith(RECEIVE):
        return (Moment.AFTER,)  # before it is locked, no worker has it
    if effect.peer == "lake":
        return (Moment.BEFORE, Moment.AFTER)  # here a folder: there is no wire to cut
    return tuple(Moment)


def sample(planned: Sequence[Planned], count: int | None, rng: random.Random) -> list[Planned]:
    """`count` of them, drawn so that every service and moment has its share; all where it is None."""
    if count is None or count >= len(planned):
        return list(planned)
    groups: dict[tuple[str, Moment], list[Planned]] = defaultdict(list)
    for each in planned:
        groups[each.point.effect.service, each.point.moment].append(each)
    for group in groups.values():
        rng.shuffle(group)
    drawn: list[Planned] = []
    while len(drawn) < count:
        for group in groups.values():
            if group and len(drawn) < count:
                drawn.append(group.pop())
    return drawn
