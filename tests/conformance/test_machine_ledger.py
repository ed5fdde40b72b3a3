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

from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.request import Request
from shared.ledger.ledger import KEEP, Entry, Ledger, key_of
from shared.redis import FailFastRedis
from tests.support.builders import NOW, a_request

T = TypeVar("T")

REQUESTS = st.sampled_from(["r1", "r2"])
# First runs, a replay that shares the outcome, and two reruns with outcomes of their own.
RUNS = st.sampled_from([("", False), ("p1", False), ("p1", True), ("p2", True)])
QUESTIONS = st.sampled_from(["How?", "How?", "Why?"])
TOKENS = st.sampled_from(["t1", "t2", "t3"])
ADMISSIONS = st.integers(0, 2)
LATER = st.integers(0, 3).map(lambda minutes: NOW + timedelta(minutes=minutes))
TEXTS = st.sampled_from(["24 days", "25 days", "none at all", "busy"])
# `busy` is an outcome that may be asked for again after so long.
BUSY, RETRY_AFTER = "busy", timedelta(seconds=30)


@dataclass(frozen=True)
class Known:
    """What a ledger should know of a request."""

    answer: str | None = None
    delivered: bool = False
    answer_by: datetime | None = None
    ask: str | None = None
    token: str | None = None
    admission: int = 0
    accepted: bool = False
    cancelled: bool = False
    unread: bool = False
    owned: bool = False
    past: tuple[str, ...] = ()


def the_request(name: str, run: tuple[str, bool], **changes: Any) -> Request:
    given = {"ask_digest": "How?", "token": "t1", "answer_by": NOW, **changes}
    return a_request(request_id=name, run=run[0], rerun=run[1], **given)


def an_answer(request: Request, text: str) -> RequestOutcome:
    if text == BUSY:
        wait = RETRY_AFTER.total_seconds()
        return ending(
            request, Outcome.REFUSED, Code.BUDGET_EXCEEDED, text=BUSY, retryable=True, retry_after=wait, finished_at=NOW
        )
    return ending(request, Outcome.ANSWERED, Code.OK, text=text)


def anew(known: Known) -> Known:
    return replace(known, answer=None, delivered=False, answer_by=None, accepted=False, cancelled=False)


class LedgerLaw(RuleBasedStateMachine):
    """Two workers with a ledger each, on one Valkey."""

    def __init__(self, runner: asyncio.Runner, redis: FailFastRedis) -> None:
        super().__init__()
        self.run_in, self.redis = runner, redis
        self.ledgers = Ledger(redis), Ledger(redis)
        self.model: dict[str, Known] = {}

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self.run_in.run(work)

    def known(self, request: Request) -> Known:
        return self.model.get(key_of(request), Known())

    def learn(self, request: Request, found: Known) -> Known:
        self.model[key_of(request)] = found
        return found

    def admitted(self, request: Request) -> Known | None:
        """What is known once a step of an admission was let through; None: it was not."""
        known = self.known(request)
        if known.admission > request.admission or known.ask not in (None, request.ask_digest):
            return None
        if known.admission < request.admission:
            known = replace(anew(known), admission=request.admission)
        return replace(
            known, ask=known.ask or request.ask_digest, token=known.token or request.token, unread=False, owned=True
        )

    @initialize()
    def begin(self) -> None:
        self.flush()

    @rule(name=REQUESTS, run=RUNS, question=QUESTIONS, token=TOKENS, now=LATER, which=st.integers(0, 1))
    def bind(self, name: str, run: tuple[str, bool], question: str, token: str, now: datetime, which: int) -> None:
        """The first question keeps the id; the same one in another message may begin anew, once it is time."""
        request = the_request(name, run, ask_digest=question)
        known, replay = self.known(request), bool(run[0]) and not run[1]
        entry = self.wait(self.ledgers[which].bind(request, token, now))
        over = known.answer == BUSY and known.delivered and now >= NOW + RETRY_AFTER
        if known.ask is None and not (replay and known.unread):
            kept = Known() if known.unread else known
            known = replace(kept, ask=question, token=kept.token or token)
        elif known.ask == question and known.token is None:
            known = replace(known, token=token)
        elif known.ask == question and known.token != token and not replay and over and token not in known.past:
            past = (known.token or "", *known.past)
            known = replace(anew(known), admission=known.admission + 1, token=token, past=past)
        assert_is(entry, self.learn(request, known), request)

    @rule(
        name=REQUESTS,
        run=RUNS,
        question=QUESTIONS,
        token=TOKENS,
        admission=ADMISSIONS,
        answer_by=LATER,
        which=st.integers(0, 1),
    )
    def accept(
        self,
        name: str,
        run: tuple[str, bool],
        question: str,
        token: str,
        admission: int,
        answer_by: datetime,
        which: int,
    ) -> None:
        request = the_request(name, run, ask_digest=question, token=token, admission=admission, answer_by=answer_by)
        entry = self.wait(self.ledgers[which].accept(request))
        model = self.admitted(request)
        if model is not None:
            self.learn(request, replace(model, accepted=True, answer_by=model.answer_by or answer_by))
        assert_is(entry, self.known(request), request)

    @rule(name=REQUESTS, run=RUNS, question=QUESTIONS, admission=ADMISSIONS, text=TEXTS, which=st.integers(0, 1))
    def decide(self, name: str, run: tuple[str, bool], question: str, admission: int, text: str, which: int) -> None:
        """The first outcome wins; an earlier admission and another question decide nothing."""
        request = the_request(name, run, ask_digest=question, admission=admission)
        entry = self.wait(self.ledgers[which].decide(request, an_answer(request, text)))
        model = self.admitted(request)
        if model is not None:
            self.learn(request, replace(model, answer=model.answer or text))
        assert_is(entry, self.known(request), request)
        assert (model is None) == (entry.is_past(request) or not entry.asks_the_same(request))

    @rule(name=REQUESTS, run=RUNS, texts=st.lists(TEXTS, min_size=2, max_size=5))
    def decide_at_once(self, name: str, run: tuple[str, bool], texts: list[str]) -> None:
        """Of several at the same moment one wins, and all agree on it."""
        request = the_request(name, run)
        request = the_request(
            name, run, ask_digest=self.known(request).ask or "How?", admission=self.known(request).admission
        )
        before = self.known(request)

        async def all_together() -> list[Entry]:
            calls = (self.ledgers[n % 2].decide(request, an_answer(request, text)) for n, text in enumerate(texts))
            return await asyncio.gather(*calls)

        [winner] = {entry.answer.text for entry in self.wait(all_together()) if entry.answer is not None}
        assert winner == before.answer if before.answer else winner in texts
        model = self.admitted(request)
        assert model is not None
        self.learn(request, replace(model, answer=winner))

    @precondition(lambda self: any(known.answer for known in self.model.values()))
    @rule(data=st.data(), admission=ADMISSIONS, which=st.integers(0, 1))
    def sent(self, data: st.DataObject, admission: int, which: int) -> None:
        """Noted by the sender, and only after the outcome is decided."""
        key = data.draw(st.sampled_from(sorted(key for key, known in self.model.items() if known.answer)))
        name, _, run = key.partition("/")
        request = the_request(name, (run, bool(run)), admission=admission)
        self.wait(self.ledgers[which].mark_delivered(request))
        known = self.known(request)
        self.learn(request, replace(known, delivered=known.delivered or known.admission == admission))

    @rule(name=REQUESTS, run=RUNS)
    def sent_after_everything_was_forgotten(self, name: str, run: tuple[str, bool]) -> None:
        """Redis was flushed between the decision and this note, which must not look like an outcome."""
        request = the_request(name, run)
        if key_of(request) not in self.model:
            self.wait(self.ledgers[0].mark_delivered(request))

    @rule(name=REQUESTS, run=RUNS, question=QUESTIONS, admission=ADMISSIONS, text=TEXTS)
    def file(self, name: str, run: tuple[str, bool], question: str, admission: int, text: str) -> None:
        """An outcome that reached an HTTP caller's queue is kept, unless there is one."""
        request = the_request(name, run, ask_digest=question, token="", admission=admission)
        self.wait(
            self.ledgers[0].store(
                an_answer(request, text), request.tenant, request.caller, ask=question, admission=admission
            )
        )
        model = self.admitted(request)
        if model is not None:
            self.learn(request, replace(model, token=model.token or None, answer=model.answer or text, delivered=True))

    @rule(name=REQUESTS, run=RUNS, token=TOKENS)
    def forget(self, name: str, run: tuple[str, bool], token: str) -> None:
        """An admission that was taken back by its own ask leaves the binding only; an outcome stays."""
        request = the_request(name, run)
        self.wait(self.ledgers[0].forget(request, token))
        known = self.known(request)
        if key_of(request) in self.model and not known.answer and not known.cancelled and known.token == token:
            self.learn(request, replace(known, token=None, accepted=False, answer_by=None, owned=False))

    @rule(name=REQUESTS)
    def cancel(self, name: str) -> None:
        """Before the ask it leaves a tombstone; after that the canceller decides the outcome."""
        request = the_request(name, ("", False))
        entry = self.wait(self.ledgers[1].cancel(name, request.tenant, request.caller))
        known = self.known(request)
        if known.answer is None and not known.accepted:
            self.learn(request, replace(known, cancelled=True, unread=False, owned=True))
            assert not entry.is_open
        assert_is(entry, self.known(request), request)

    @rule(name=REQUESTS)
    def unread(self, name: str) -> None:
        """An ask that cannot be read binds nothing, and changes nothing that is known."""
        request = the_request(name, ("", False))
        self.wait(self.ledgers[0].unread(request, an_answer(request, "cannot be read")))
        if key_of(request) not in self.model:
            self.learn(request, Known(unread=True, owned=True))

    @rule()
    def flush(self) -> None:
        """Redis loses everything."""
        self.wait(self.redis.run(lambda connection: connection.flushall()))
        self.model.clear()

    @invariant()
    def every_ledger_finds_what_is_known(self) -> None:
        requests = [
            the_request(name, run, admission=1)
            for name in ("r1", "r2")
            for run in (("", False), ("p1", True), ("p2", True))
        ]

        async def look() -> list[tuple[Entry | None, bool]]:
            first, second = self.ledgers
            found = await asyncio.gather(*(first.find(key_of(request)) for request in requests))
            wanted = await asyncio.gather(*(second.is_open(request) for request in requests))
            return list(zip(found, wanted, strict=True))

        for request, (entry, wanted) in zip(requests, self.wait(look()), strict=True):
            model = self.model.get(key_of(request))
            assert (entry is None) == (model is None)
            if entry is not None and model is not None:
                assert_is(entry, model, request)
            lost = entry is None or entry.admission < request.admission
            assert wanted == (lost or (entry is not None and not entry.is_past(request) and entry.is_open))

    @invariant()
    def nothing_is_kept_for_ever(self) -> None:
        async def lives(connection: Any) -> list[int]:
            return [await connection.ttl(key) async for key in connection.scan_iter("*")]

        assert all(0 < life <= KEEP.total_seconds() for life in self.wait(self.redis.run(lives)))


def assert_is(entry: Entry, model: Known, request: Request) -> None:
    """What a ledger says is what the model says."""
    assert (entry.tenant, entry.caller) == ((request.tenant, request.caller) if model.owned else ("", ""))
    assert (entry.answer.text if entry.answer else None) == model.answer
    assert (entry.delivered, entry.answer_by, entry.cancelled) == (model.delivered, model.answer_by, model.cancelled)
    assert (entry.request is not None, entry.unread is not None) == (model.accepted, model.unread)
    assert (entry.ask, entry.token, entry.admission) == (model.ask, model.token, model.admission)
    assert tuple(entry.past) == model.past


def test_the_ledger_keeps_its_law(redis_url: str) -> None:
    with asyncio.Runner() as runner:
        redis = FailFastRedis(redis_url, timeout=60)
        try:
            run_state_machine_as_test(
                lambda: LedgerLaw(runner, redis),  # type: ignore[arg-type]  # it takes whatever makes one
                settings=settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True),
            )
        finally:
            runner.run(redis.close())
