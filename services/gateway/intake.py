"""Taking in an ask: its id, the cache, the budget, the sentinel, the queue.

For asks from a queue and over HTTP. It talks to Redis only, and every step works without it. The id is bound before
anything is decided: it belongs to the question that it came with first, whatever the outcome.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from services.gateway.admission import Admitted, Arrival, Refused, admit
from services.gateway.estimate import Estimate
from services.gateway.held_asks import HeldAsks, Verdict
from shared.access.scope import TenantScope
from shared.access.use_cases import UseCase
from shared.answer_cache import AnswerCache, CachePartition, answer_key
from shared.budget.rules import Quota
from shared.budget.tenant import TenantBudget
from shared.budget.waiting import comes_back
from shared.contracts.ask import Ask
from shared.contracts.envelope import Envelope, at_deadline, to_retriever
from shared.contracts.outcome import (
    CacheState,
    Code,
    Outcome,
    RequestOutcome,
    cancelled,
    ending,
    id_reused,
    over_budget,
    overloaded,
    repeated,
)
from shared.contracts.request import Request
from shared.errors import TryLater
from shared.ledger.ledger import Entry, Ledger
from shared.redis import RedisUnavailable
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics

log = get_logger()


class Standing(Enum):
    """How the outcome that an ask gets at once relates to its request."""

    FIRST = "its outcome: to be decided, and sent"
    SENT = "its outcome, which this ask got before"
    AGAIN = "its outcome, which another ask with this id got"
    ALONE = "none: only this ask is told"


@dataclass(frozen=True, slots=True)
class Answered:
    """The ask has an outcome at once: a refusal, a cached answer, an earlier one, or an earlier cancellation."""

    request: Request
    answer: RequestOutcome
    standing: Standing = Standing.FIRST
    quotas: Sequence[Quota] = ()
    """What is left of each limit of its caller, if that was looked at."""


@dataclass(frozen=True, slots=True)
class InProgress:
    """Another ask with this id is in progress; its outcome will be this one's, too."""

    request: Request


@dataclass(frozen=True, slots=True)
class Done:
    """This ask has its outcome, and a repeat has been admitted since."""

    request: Request


Known = Answered | InProgress | Done


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The outcome will come; `envelopes` have to be sent, in order."""

    request: Request
    envelopes: Sequence[Envelope]
    resumed: bool = False
    """Whether another ask admitted it."""
    quotas: Sequence[Quota] = ()
    """What is left of each limit of its caller, if that was looked at."""


class Intake:
    """Decides what happens to an ask."""

    def __init__(
        self,
        *,
        use_cases: Mapping[str, UseCase],
        ledger: Ledger,
        cache: AnswerCache,
        cache_secret: str,
        models_version: str,
        budget: TenantBudget,
        estimate: Estimate,
        held: HeldAsks,
        metrics: Metrics,
        clock: Callable[[], datetime],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`cache_secret`: keys the answer cache. `estimate`: what an ask will probably use.
        `chance`: random numbers from 0 to 1, which spread retries.

        `models_version`: changes when models.yaml does, so that a new model does not answer from an old cache.
        """
        self._use_cases = use_cases
        self._ledger = ledger
        self._cache = cache
        self._secret = cache_secret
        self._models_version = models_version
        self._budget = budget
        self._estimate = estimate
        self._metrics = metrics
        self._clock = clock
        self._held = held
        self._chance = chance

    async def take(self, ask: Ask, arrival: Arrival) -> Known | Enqueued:
        """Admit `ask`, or answer it at once; what `Enqueued` holds is still to be sent.

        Waits for a ticket, up to the ask's deadline. Raises `Leaving` when this process stops before an ask from a
        queue has one, `TryLater` when such an ask waits for its tenant's budget.
        """
        taken = await self._decide(ask, arrival)
        request, code = taken.request, taken.answer.code if isinstance(taken, Answered) else None
        event = {Enqueued: "request.accepted", InProgress: "request.in_progress", Done: "request.done"}
        log.info(
            event.get(type(taken), "request.answered_at_once"),
            request_id=request.request_id,
            tenant=request.tenant,
            caller=request.caller,
            use_case=request.use_case,
            code=code,
        )
        return taken

    async def take_back(self, request: Request, token: str) -> None:
        """Undo the admission of a request that could not be enqueued; `token` is that of its ask."""
        await self._give_back(request)
        with suppress(RedisUnavailable):
            await self._ledger.forget(request, token)

    async def _decide(self, ask: Ask, arrival: Arrival, *, bound_late: bool = False) -> Known | Enqueued:
        """The ledger's entry for the id is checked first, before rules and budget.

        `bound_late`: the second pass for an ask whose binding Redis did not answer in time.
        """
        verdict = admit(ask, arrival, self._use_cases, self._clock())
        request, entry = verdict.request, None
        if arrival.repeatable:
            with suppress(RedisUnavailable):  # then it is unknown what the id is bound to
                entry = await self._ledger.bind(request, arrival.token, self._clock())
        if entry is not None:
            request = request.in_admission(entry.admission, entry.token or arrival.token)
            known = self._from_ledger(request, arrival, entry)
            if known is not None:
                return known
            accepted = entry.request
            if accepted is not None and isinstance(verdict, Admitted) and not arrival.run:
                # The process that admitted it may have died before it sent the work, so it is sent once more. It has
                # its tokens and its deadline, and nothing that is decided now may end what is being worked on.
                again = accepted.asking(request.question, request.conversation)
                return Enqueued(again, [at_deadline(again), to_retriever(again)], resumed=True)
        taken: Known | Enqueued
        if isinstance(verdict, Refused):
            taken = Answered(request, verdict.answer)
        else:
            taken = await self._admit(ask, request, verdict.use_case, arrival, bound_late=bound_late)
        is_repeat = entry is not None and entry.token not in (None, arrival.token) and not arrival.run
        if is_repeat and isinstance(taken, Answered) and taken.answer.outcome is Outcome.REFUSED:
            # The first ask is being admitted at this moment; it decides.
            return replace(taken, standing=Standing.ALONE) if taken.standing is Standing.FIRST else taken
        return taken

    def _from_ledger(self, request: Request, arrival: Arrival, entry: Entry) -> Known | None:
        """The result of an ask whose id the ledger knows; None: there is work to do."""
        now = self._clock()
        if not entry.asks_the_same(request):
            log.warning("request.id_reused", request_id=request.request_id, tenant=request.tenant)
            return Answered(request, id_reused(request, now), Standing.ALONE)
        if entry.is_past(request) or arrival.token in entry.past:
            return Done(request)
        if arrival.is_replay and entry.unread is not None:
            return Answered(request, entry.unread, Standing.SENT)
        is_repeat = entry.token not in (None, arrival.token) and not arrival.run
        if is_repeat and entry.answer is not None:
            return Answered(request, repeated(entry.answer, now), Standing.AGAIN)
        if is_repeat and not arrival.over_http:
            if not request.is_late(now):
                return InProgress(request)
            # Its own deadline has passed; that of the first ask may not have.
            late = "the first ask with this id had no outcome before this one's deadline"
            answer = ending(request, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, late, retryable=True, finished_at=now)
            return Answered(request, answer, Standing.ALONE)
        if entry.is_open:
            return None
        # It has its outcome, or was cancelled before it came.
        standing = Standing.SENT if entry.answer is not None and entry.delivered else Standing.FIRST
        return Answered(request, entry.answer or cancelled(request, now), standing)

    async def _admit(
        self, ask: Ask, request: Request, use_case: UseCase, arrival: Arrival, *, bound_late: bool
    ) -> Known | Enqueued:
        """Answer from the cache, or reserve tokens, wait for a ticket, record the request, and pass the work on."""
        if use_case.cache.ttl:
            key = answer_key(
                self._secret,
                tenant=request.tenant,
                acl_class=TenantScope.of(request).acl_class(),
                use_case=use_case.name,
                version=f"{use_case.version()}/{self._models_version}",
                question=request.question,
                turns=request.conversation,
            )
            request = request.cached_under(key, use_case.version())
            if ask.cache == "use" and not request.rerun:
                cached = await self._from_cache(request, key, use_case)
                if cached is not None:
                    return Answered(request, cached)
        estimate = self._estimate(request, use_case, self._budget.usual_passages(request))
        reserved = await self._budget.reserve(request, estimate)
        while reserved.refusal is not None:
            now, seconds = self._clock(), reserved.refusal.retry_after
            wait = comes_back(request, seconds, use_case.budget.when_spent, now, self._held.usual(request))
            if wait is None or (arrival.admitted_by is not None and now + wait > arrival.admitted_by):
                return Answered(request, over_budget(request, seconds, now), quotas=reserved.quotas)
            if arrival.admitted_by is None:
                raise TryLater(f"the budget of tenant {request.tenant} has too little left", after=wait)
            await asyncio.sleep(wait.total_seconds())
            reserved = await self._budget.reserve(request, estimate)
        if await self._held.ticket(request, arrival.admitted_by) is Verdict.OVERLOADED:
            await self._budget.give_back(request)
            usual, chance = self._held.usual(request), self._chance()
            return Answered(request, overloaded(request, self._clock(), wait=usual, chance=chance))
        request = request.reserving(estimate.tokens)
        with suppress(RedisUnavailable):
            entry = await self._ledger.accept(request)
            if entry.admission > request.admission and arrival.token not in entry.past and not bound_late:
                # Redis did not answer in time what the id is bound to, but does now.
                await self._give_back(request)
                return await self._decide(ask, arrival, bound_late=True)
            known = self._from_ledger(request, arrival, entry)
            if known is not None:
                # It was cancelled during admission, or the ledger was unavailable before.
                if not isinstance(known, InProgress):
                    await self._give_back(request)
                return known
            request = request.due(entry.answer_by or request.answer_by)
        return Enqueued(request, [at_deadline(request), to_retriever(request)], quotas=reserved.quotas)

    async def _from_cache(self, request: Request, key: str, use_case: UseCase) -> RequestOutcome | None:
        """A cached answer as the outcome of `request`, without usage or cost; None: there is none."""
        try:
            found = await self._cache.find(CachePartition(request.tenant, use_case.collection), key)
        except RedisUnavailable:
            self._metrics.cache_lookups.add(1, {"state": "unavailable"})
            return None
        self._metrics.cache_lookups.add(1, {"state": "hit" if found else "miss"})
        if found is None:
            return None
        return ending(
            request,
            found.outcome,
            found.code,
            found.message,
            text=found.text,
            truncated=found.truncated,
            citations=found.citations,
            cache=CacheState.HIT,
            plan=found.plan,
            finished_at=self._clock(),
        )

    async def _give_back(self, request: Request) -> None:
        """Return what is reserved for `request`, and its ticket."""
        await self._budget.give_back(request)
        await self._held.release(request)
