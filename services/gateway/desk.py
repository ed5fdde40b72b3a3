"""What happens to an admitted request: the cache, the budget, the sentinel, the queue.

Both doors use it. It talks to Redis only, and every step works without it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from services.gateway.admission import Admitted, Arrival, Refused, admit
from shared.access.scope import TenantScope
from shared.access.use_cases import UseCase
from shared.budget.tenant import Refusal, TenantBudget
from shared.cache.answers import AnswerCache, Shelf, answer_key
from shared.cache.redis import RedisAway
from shared.contracts.answer import AnswerReady, CacheState, Code, Cost, Outcome, Usage, cancelled, ending
from shared.contracts.ask import Ask
from shared.contracts.envelope import Envelope, at_deadline, to_retriever
from shared.contracts.request import Request
from shared.failpoints import reach
from shared.ledger.ledger import Entry, Ledger, key_of
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics

log = get_logger()


@dataclass(frozen=True, slots=True)
class Answered:
    """There is an outcome at once: a refusal, a cached answer, one from before, or it was cancelled before."""

    request: Request
    answer: AnswerReady
    sent: bool = False
    """Whether the caller was sent it before."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """The outcome will come; `envelopes` have to be sent, in order."""

    request: Request
    envelopes: Sequence[Envelope]


class Desk:
    """Takes asks in."""

    def __init__(
        self,
        *,
        use_cases: Mapping[str, UseCase],
        ledger: Ledger,
        cache: AnswerCache,
        cache_secret: str,
        models_version: str,
        budget: TenantBudget,
        metrics: Metrics,
        clock: Callable[[], datetime],
    ) -> None:
        """`models_version`: changes when models.yaml does, so that a new model does not answer from an old cache."""
        self._use_cases = use_cases
        self._ledger = ledger
        self._cache = cache
        self._secret = cache_secret
        self._models_version = models_version
        self._budget = budget
        self._metrics = metrics
        self._clock = clock

    async def take(self, ask: Ask, arrival: Arrival) -> Answered | Enqueued:
        """Decide what becomes of `ask`."""
        taken = await self._taken(ask, arrival)
        request, code = taken.request, taken.answer.code if isinstance(taken, Answered) else None
        log.info(
            "request.taken" if code is None else "request.answered_at_once",
            request_id=request.request_id,
            tenant=request.tenant,
            caller=request.caller,
            use_case=request.use_case,
            code=code,
        )
        return taken

    async def _taken(self, ask: Ask, arrival: Arrival) -> Answered | Enqueued:
        verdict = admit(ask, arrival, self._use_cases, self._clock())
        known = await self._known(verdict.request)
        if known is not None and not known.asks_the_same(verdict.request):
            return Answered(verdict.request, self._reused(verdict.request), sent=True)
        if known is not None and not known.is_wanted:
            return self._decided(verdict.request, known)
        if isinstance(verdict, Refused):
            return Answered(verdict.request, verdict.answer)
        return await self._admitted(ask, verdict)

    async def _admitted(self, ask: Ask, admitted: Admitted) -> Answered | Enqueued:
        use_case = admitted.use_case
        request = self._with_cache_key(admitted)
        cached = await self._cached(request, use_case) if ask.cache == "use" and not request.rerun else None
        if cached is not None:
            return Answered(request, cached)
        # The most that one call can use: what it does not, is given back when it is settled.
        tokens = use_case.context_window
        refusal = await self._budget.reserve(request.tenant, request.spending, tokens)
        if refusal is not None:
            return Answered(request, self._over_budget(request, refusal))
        reach("desk.reserved")
        request = request.model_copy(update={"reserved_tokens": tokens})
        with suppress(RedisAway):
            entry = await self._ledger.accept(request)
            if not entry.is_wanted:
                # It was cancelled while it was being looked at.
                await self._budget.settle(request.tenant, request.spending, 0)
                return self._decided(request, entry)
            request = request.model_copy(update={"answer_by": entry.answer_by or request.answer_by})
        reach("desk.accepted")
        return Enqueued(request, [at_deadline(request), to_retriever(request)])

    async def take_back(self, request: Request) -> None:
        """Undo the admission of a request that could not be enqueued."""
        await self._budget.settle(request.tenant, request.spending, 0)
        with suppress(RedisAway):
            await self._ledger.forget(request)

    def _decided(self, request: Request, entry: Entry) -> Answered:
        """There is nothing left to work on: it has its outcome, or was cancelled before it came."""
        return Answered(request, entry.answer or cancelled(request, self._clock()), entry.sent)

    def _with_cache_key(self, admitted: Admitted) -> Request:
        request, use_case = admitted.request, admitted.use_case
        if use_case.cache.ttl == 0:
            return request
        key = answer_key(
            self._secret,
            tenant=request.tenant,
            acl_class=TenantScope.of(request).acl_class(),
            use_case=use_case.name,
            version=f"{use_case.version()}/{self._models_version}",
            question=request.question,
            turns=request.conversation,
        )
        return request.model_copy(update={"cache_key": key, "use_case_version": use_case.version()})

    async def _cached(self, request: Request, use_case: UseCase) -> AnswerReady | None:
        if request.cache_key is None:
            return None
        try:
            found = await self._cache.find(Shelf(request.tenant, use_case.collection), request.cache_key)
        except RedisAway:
            self._metrics.cache_lookups.add(1, {"state": "away"})
            return None
        self._metrics.cache_lookups.add(1, {"state": "hit" if found else "miss"})
        return self._for(request, found) if found else None

    def _for(self, request: Request, cached: AnswerReady) -> AnswerReady:
        """A cached answer as the answer to `request`: nothing was spent on it."""
        return cached.model_copy(
            update={
                "request_id": request.request_id,
                "correlation_id": request.correlation_id,
                "use_case": request.use_case,
                "accepted_at": request.accepted_at,
                "finished_at": self._clock(),
                "usage": Usage(),
                "cost": Cost(),
                "cache": CacheState.HIT,
                "run": request.run if request.rerun else "",
                "trace_id": "",
            }
        )

    def _reused(self, request: Request) -> AnswerReady:
        said = "this id was used for another question before; a new question needs an id of its own"
        return ending(request, Outcome.REFUSED, Code.ID_REUSED, said, finished_at=self._clock())

    def _over_budget(self, request: Request, refusal: Refusal) -> AnswerReady:
        wait = refusal.retry_after
        message = (
            f"tenant {request.tenant} has used up its tokens per minute; try again in {wait:.0f} s"
            if wait is not None
            else f"one question can need more tokens than tenant {request.tenant} has per minute; raise its budget"
        )
        return ending(
            request,
            Outcome.REFUSED,
            Code.BUDGET_EXCEEDED,
            message,
            retryable=wait is not None,
            retry_after=wait,
            finished_at=self._clock(),
        )

    async def _known(self, request: Request) -> Entry | None:
        try:
            return await self._ledger.find(key_of(request))
        except RedisAway:
            return None
