"""Which outcome is sent, and by which sender: senders overtake one another, die and lose Redis, in any order.

A Hypothesis state machine on a real Valkey and a queue that detects duplicates. A sender stops before and after
its message reaches the queue, and dies there or goes on.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.outcome import Code, Outcome, RequestOutcome, cancelled, ending
from shared.contracts.request import Request
from shared.ledger.ledger import Ledger, key_of
from shared.worker.outbox import outgoing
from shared.worker.outcome_guard import OutcomeGuard
from tests.support.breakable import Breakable
from tests.support.builders import NOW, a_request
from tests.support.memory_bus import MemoryBus

T = TypeVar("T")

# A request, and a rerun of it, which has an outcome of its own.
TARGETS = {"r1": a_request(), "r1/p1": a_request(run="p1", rerun=True)}
TARGET = st.sampled_from(["r1", "r1", "r1/p1"])


class Sender:
    """A worker that sends one outcome, and stops where it could die."""

    def __init__(self, bus: MemoryBus, outcomes: OutcomeGuard, name: str, envelope: Envelope) -> None:
        self._bus = bus
        self.name = name
        self._stopped, self._may_go = asyncio.Event(), asyncio.Event()
        self._work = asyncio.ensure_future(outcomes.send(envelope, self._send))

    @property
    def done(self) -> bool:
        return self._work.done()

    @property
    def succeeded(self) -> bool:
        return self.done and not self._work.cancelled() and self._work.exception() is None

    async def until_it_stops(self) -> None:
        stopped = asyncio.ensure_future(self._stopped.wait())
        await asyncio.wait({stopped, self._work}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()

    async def go_on(self) -> None:
        self._stopped.clear()
        self._may_go.set()
        await self.until_it_stops()

    async def die(self) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def _send(self, envelope: Envelope) -> None:
        await self._stop()
        await self._bus.send(outgoing(envelope, NOW))
        await self._stop()

    async def _stop(self) -> None:
        self._may_go.clear()
        self._stopped.set()
        await self._may_go.wait()


class OutcomeLaw(RuleBasedStateMachine):
    """Any number of senders, one Redis, one reply queue."""

    def __init__(self, runner: asyncio.Runner, redis: Breakable) -> None:
        super().__init__()
        self.run_in, self.redis = runner, redis
        self.ledger = Ledger(redis)
        self.outcomes = OutcomeGuard(self.ledger, lambda: NOW)
        self.bus = MemoryBus("answers", clock=lambda: NOW)
        self.senders: list[Sender] = []
        self.begun: set[str] = set()
        self.uncompleted: set[str] = set()  # will be delivered again, within a lock's time
        self.answers = 0
        self.redis_fails = False
        self.redis_was_whole = True
        self.window_has_passed = False

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run_in.run(work)

    @initialize(redis_fails=st.booleans())
    def begin(self, redis_fails: bool) -> None:
        """Half of the runs have no fault of Redis, because little is promised in those that have one."""
        self.redis_fails = redis_fails
        self.redis.cut = False
        self.wait(self.redis.run(lambda connection: connection.flushall()))

    # -- what workers do

    @rule(target_name=TARGET)
    def admit(self, target_name: str) -> None:
        if not self.redis.cut:
            self.wait(self.ledger.accept(TARGETS[target_name]))

    @rule(target_name=TARGET)
    def send(self, target_name: str) -> None:
        """A worker has made an answer and sends it: up to where it may die before the queue has it."""
        self._start(target_name, self._new_answer(target_name))

    @rule(target_name=TARGET)
    def send_without_a_stop(self, target_name: str) -> None:
        """As nearly always, nothing happens to it on the way."""
        self.wait(self._to_the_end(self._start(target_name, self._new_answer(target_name))))
        self._bury_the_done()

    @rule(target_name=TARGET)
    def deliver_again(self, target_name: str) -> None:
        """A redelivery: the worker that finds an outcome that was not sent, sends it."""
        entry = self.wait(self.outcomes.known(TARGETS[target_name]))
        if entry is not None and entry.answer is not None and not entry.delivered:
            self._start(target_name, entry.answer)

    @rule()
    def cancel(self) -> None:
        """The caller takes its ask back: the outcome is `cancelled` unless there is another."""
        request = TARGETS["r1"]
        if not self.redis.cut:
            entry = self.wait(self.ledger.cancel("r1", request.tenant, request.caller))
            if entry.answer is None and entry.request is not None:
                self._start("r1", cancelled(request, NOW))

    @precondition(lambda self: self.senders)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(self.senders))
        self.wait(sender.go_on())
        self._bury_the_done()

    @precondition(lambda self: self.senders)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(self.senders))
        self.wait(sender.die())
        self._bury_the_done()

    # -- what happens to them

    @precondition(lambda self: self.redis_fails)
    @rule()
    def redis_goes(self) -> None:
        self.redis.cut = True
        self.redis_was_whole = False

    @precondition(lambda self: self.redis_fails)
    @rule()
    def redis_comes_back(self) -> None:
        self.redis.cut = False

    @precondition(lambda self: self.redis_fails)
    @rule()
    def redis_is_flushed(self) -> None:
        self.redis_was_whole = False
        if not self.redis.cut:
            self.wait(self.redis.run(lambda connection: connection.flushall()))

    @precondition(lambda self: not self.senders and not self.uncompleted)
    @rule()
    def the_window_passes(self) -> None:
        """The queue has forgotten which ids it saw; it is longer than any delivery and redelivery."""
        self.bus._queue("answers").seen.clear()
        self.window_has_passed = True

    # -- what is promised

    @invariant()
    def no_caller_gets_two_outcomes(self) -> None:
        for name in TARGETS:
            heard = self._heard(name)
            assert len(heard) <= 1 or self._may_be_two(), f"{name}: {heard}"

    @invariant()
    def who_asks_is_told_what_was_sent(self) -> None:
        if self.redis_was_whole:
            for name, request in TARGETS.items():
                entry = self.wait(self.ledger.find(key_of(request)))
                known = _said(entry.answer) if entry is not None and entry.answer is not None else None
                assert set(self._heard(name)) <= {known}
                assert entry is None or not entry.delivered or self._heard(name)

    def teardown(self) -> None:
        """The remaining workers continue, uncompleted messages are redelivered: then each request has one outcome."""
        self.redis.cut = False
        for sender in self.senders:
            self.wait(self._to_the_end(sender))
        self.senders.clear()
        for name in sorted(self.begun):
            self.wait(self._to_the_end(self._sender(name, _late(TARGETS[name]))))
            heard = self._heard(name)
            assert len(heard) == 1 or (heard and self._may_be_two()), f"{name}: {heard}"

    # -- how

    def _may_be_two(self) -> bool:
        """The only two conditions under which there may be a second outcome, and both of them are needed."""
        return self.window_has_passed and not self.redis_was_whole

    def _start(self, name: str, answer: RequestOutcome) -> Sender:
        sender = self._sender(name, answer)
        self.wait(sender.until_it_stops())
        self.senders.append(sender)
        self._bury_the_done()
        return sender

    def _new_answer(self, name: str) -> RequestOutcome:
        self.answers += 1
        return ending(TARGETS[name], Outcome.ANSWERED, Code.OK, text=f"answer {self.answers}")

    def _sender(self, name: str, answer: RequestOutcome) -> Sender:
        self.begun.add(name)
        self.uncompleted.add(name)

        async def make() -> Sender:
            return Sender(self.bus, self.outcomes, name, to_caller(TARGETS[name], answer, NOW))

        return self.wait(make())

    async def _to_the_end(self, sender: Sender) -> None:
        await sender.until_it_stops()
        while not sender.done:
            await sender.go_on()

    def _bury_the_done(self) -> None:
        self.uncompleted -= {sender.name for sender in self.senders if sender.succeeded}
        self.senders = [sender for sender in self.senders if not sender.done]

    def _heard(self, name: str) -> list[str]:
        messages = self.wait(self._peek())
        wanted = to_caller(TARGETS[name], _late(TARGETS[name]), NOW).message_id
        return [_said(RequestOutcome.decode(message.body)) for message in messages if message.message_id == wanted]

    async def _peek(self) -> Any:
        return await self.bus.peek("answers")


def _said(answer: RequestOutcome) -> str:
    return f"{answer.outcome}: {answer.text}"


def _late(request: Request) -> RequestOutcome:
    return ending(request, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED)


def test_one_outcome_is_sent_whichever_worker_dies_and_when(redis_url: str) -> None:
    with asyncio.Runner() as runner:
        redis = Breakable(redis_url, timeout=60)
        try:
            run_state_machine_as_test(
                lambda: OutcomeLaw(runner, redis),  # type: ignore[arg-type]  # it takes whatever makes one
                settings=settings(max_examples=50, stateful_step_count=25, deadline=None, derandomize=True),
            )
        finally:
            runner.run(redis.close())
