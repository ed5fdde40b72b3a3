"""The ledger against a model of it, in any order of calls: a Hypothesis state machine on a real Valkey."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
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

from shared.cache.redis import QuickRedis
from shared.contracts.answer import AnswerReady, Code, Outcome, ending
from shared.contracts.request import Request
from shared.ledger.ledger import KEEP, Entry, Ledger, key_of
from tests.making import NOW, a_request

T = TypeVar("T")

REQUESTS = st.sampled_from(["r1", "r2"])
# First runs, a replay that shares the outcome, and two reruns with outcomes of their own.
RUNS = st.sampled_from([("", False), ("p1", False), ("p1", True), ("p2", True)])
QUESTIONS = st.sampled_from(["How?", "Why?"])
LATER = st.integers(0, 3).map(lambda minutes: NOW + timedelta(minutes=minutes))
TEXTS = st.sampled_from(["24 days", "25 days", "none at all"])


@dataclass(frozen=True)
class Known:
    """What a ledger should know of a request."""

    answer: str | None = None
    sent: bool = False
    answer_by: datetime | None = None
    question: str | None = None
    accepted: bool = False
    cancelled: bool = False


def the_request(name: str, run: tuple[str, bool], question: str = "How?", answer_by: datetime = NOW) -> Request:
    return a_request(request_id=name, run=run[0], rerun=run[1], question=question, answer_by=answer_by)


def an_answer(request: Request, text: str) -> AnswerReady:
    return ending(request, Outcome.ANSWERED, Code.OK, text=text)


class LedgerLaw(RuleBasedStateMachine):
    """Two workers with a ledger each, on one Valkey."""

    def __init__(self, runner: asyncio.Runner, redis: QuickRedis) -> None:
        super().__init__()
        self.run_in, self.redis = runner, redis
        self.ledgers = Ledger(redis), Ledger(redis)
        self.model: dict[str, Known] = {}

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run_in.run(work)

    def known(self, request: Request) -> Known:
        return self.model.get(key_of(request), Known())

    def learn(self, request: Request, **news: Any) -> Known:
        found = self.model[key_of(request)] = replace(self.known(request), **news)
        return found

    @initialize()
    def begin(self) -> None:
        self.flush()

    @rule(name=REQUESTS, run=RUNS, question=QUESTIONS, answer_by=LATER, which=st.integers(0, 1))
    def accept(self, name: str, run: tuple[str, bool], question: str, answer_by: datetime, which: int) -> None:
        request, before = the_request(name, run, question, answer_by), self.known(the_request(name, run))
        entry = self.wait(self.ledgers[which].accept(request))
        model = self.learn(
            request,
            accepted=True,
            answer_by=before.answer_by or answer_by,
            question=before.question or question,
        )
        assert_is(entry, model, request)

    @rule(name=REQUESTS, run=RUNS, text=TEXTS, which=st.integers(0, 1))
    def claim(self, name: str, run: tuple[str, bool], text: str, which: int) -> None:
        """The first one wins, whoever it is; and whoever comes later hears which one that was."""
        request = the_request(name, run)
        before = self.known(request)
        entry = self.wait(self.ledgers[which].claim(request, an_answer(request, text)))
        model = self.learn(request, answer=before.answer or text)
        assert entry.answer is not None
        assert (entry.answer.text, entry.sent) == (model.answer, model.sent)

    @rule(name=REQUESTS, run=RUNS, texts=st.lists(TEXTS, min_size=2, max_size=5))
    def claim_at_once(self, name: str, run: tuple[str, bool], texts: list[str]) -> None:
        """Of several at the same moment one wins, and all agree on it."""
        request = the_request(name, run)
        before = self.known(request)

        async def all_together() -> list[Entry]:
            claims = (self.ledgers[n % 2].claim(request, an_answer(request, text)) for n, text in enumerate(texts))
            return await asyncio.gather(*claims)

        [winner] = {entry.answer.text for entry in self.wait(all_together()) if entry.answer is not None}
        assert winner == before.answer if before.answer else winner in texts
        self.learn(request, answer=winner)

    @precondition(lambda self: any(known.answer for known in self.model.values()))
    @rule(data=st.data(), which=st.integers(0, 1))
    def sent(self, data: st.DataObject, which: int) -> None:
        """Noted by whoever sent it, which nobody does before it is claimed."""
        key = data.draw(st.sampled_from(sorted(key for key, known in self.model.items() if known.answer)))
        name, _, run = key.partition("/")
        request = the_request(name, (run, bool(run)))
        self.wait(self.ledgers[which].sent(request))
        self.learn(request, sent=True)

    @rule(name=REQUESTS, run=RUNS)
    def sent_after_everything_was_forgotten(self, name: str, run: tuple[str, bool]) -> None:
        """Redis was flushed between the claim and this note: nobody may read an outcome into it."""
        request = the_request(name, run)
        if key_of(request) not in self.model:
            self.wait(self.ledgers[0].sent(request))

    @rule(name=REQUESTS, run=RUNS, text=TEXTS)
    def file(self, name: str, run: tuple[str, bool], text: str) -> None:
        """An outcome that reached an HTTP caller's queue is kept, unless there is one."""
        request = the_request(name, run)
        self.wait(self.ledgers[0].file(an_answer(request, text), request.tenant, request.caller))
        self.learn(request, answer=self.known(request).answer or text, sent=True)

    @rule(name=REQUESTS, run=RUNS)
    def forget(self, name: str, run: tuple[str, bool]) -> None:
        """An admission that was taken back leaves nothing; an outcome stays."""
        request = the_request(name, run)
        self.wait(self.ledgers[0].forget(request))
        if self.known(request).answer is None:
            self.model.pop(key_of(request), None)

    @rule(name=REQUESTS)
    def cancel(self, name: str) -> None:
        """Before the ask it leaves a tombstone; after that whoever cancels claims the outcome."""
        request = the_request(name, ("", False))
        entry = self.wait(self.ledgers[1].cancel(name, request.tenant, request.caller))
        known = self.known(request)
        tombstone = known.answer is None and not known.accepted
        model = self.learn(request, cancelled=known.cancelled or tombstone)
        assert_is(entry, model, request)
        assert not tombstone or not entry.is_wanted

    @rule()
    def flush(self) -> None:
        """Redis loses everything."""
        self.wait(self.redis.run(lambda connection: connection.flushall()))
        self.model.clear()

    @invariant()
    def everybody_finds_what_is_known(self) -> None:
        requests = [
            the_request(name, run) for name in ("r1", "r2") for run in (("", False), ("p1", True), ("p2", True))
        ]

        async def look() -> list[tuple[Entry | None, bool]]:
            first, second = self.ledgers
            found = await asyncio.gather(*(first.find(key_of(request)) for request in requests))
            wanted = await asyncio.gather(*(second.is_wanted(request) for request in requests))
            return list(zip(found, wanted, strict=True))

        for request, (entry, wanted) in zip(requests, self.wait(look()), strict=True):
            model = self.model.get(key_of(request))
            assert (entry is None) == (model is None)
            if entry is not None and model is not None:
                assert_is(entry, model, request)
            assert wanted == (entry is None or entry.is_wanted)

    @invariant()
    def nothing_is_kept_for_ever(self) -> None:
        async def lives(connection: Any) -> list[int]:
            return [await connection.ttl(key) async for key in connection.scan_iter("*")]

        assert all(0 < life <= KEEP.total_seconds() for life in self.wait(self.redis.run(lives)))


def assert_is(entry: Entry, model: Known, request: Request) -> None:
    """What a ledger says is what the model says."""
    assert (entry.tenant, entry.caller) == (request.tenant, request.caller)
    assert (entry.answer.text if entry.answer else None) == model.answer
    assert (entry.sent, entry.answer_by, entry.cancelled) == (model.sent, model.answer_by, model.cancelled)
    assert (entry.request is not None) == model.accepted
    for question in ("How?", "Why?"):
        same = model.question in (None, question)
        assert entry.asks_the_same(request.model_copy(update={"question": question})) == same


def test_the_ledger_keeps_its_law(redis_url: str) -> None:
    with asyncio.Runner() as runner:
        redis = QuickRedis(redis_url, timeout=10)
        try:
            run_state_machine_as_test(
                lambda: LedgerLaw(runner, redis),  # type: ignore[arg-type]  # it takes whatever makes one
                settings=settings(max_examples=50, stateful_step_count=20, deadline=None, derandomize=True),
            )
        finally:
            runner.run(redis.close())
