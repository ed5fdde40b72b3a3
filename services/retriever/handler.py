"""The retriever's story: a question comes in, passages that may answer it go out."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from secrets import token_hex
from typing import Protocol

from services.retriever.deduplicate import distinct, fitting
from services.retriever.knowledge import Knowledge
from shared.access.scope import TenantScope
from shared.access.use_cases import UseCase
from shared.budget.price import amount
from shared.budget.rules import Amount
from shared.budget.tenant import Refusal
from shared.budget.waiting import comes_back
from shared.contracts.envelope import Envelope, to_caller, to_generator
from shared.contracts.generate import Candidate, GenerateAnswer
from shared.contracts.outcome import CacheState, Code, ModelCall, Outcome, charged, ending, over_budget, overloaded
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.embeddings import sparse
from shared.embeddings.port import SharedEmbedder
from shared.errors import OverQuota, Reason, TryLater, Unprocessable
from shared.llm.deployments import Deployment
from shared.llm.errors import NOTHING
from shared.llm.tokens import count_tokens
from shared.settings.budget import MICROS
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.vectors.port import Query

log = get_logger()

NOTHING_FOUND = "The documents that you may read do not answer this."


class Budget(Protocol):
    """The budgets of tenants; see `TenantBudget`."""

    async def begin(
        self, request: Request, name: str, worst: Amount, lasts: timedelta, *, keep_estimate: bool = False
    ) -> Refusal | None:
        """Hold what the call `name` may use."""

    async def settle(self, request: Request, name: str, call: ModelCall, used: Amount) -> None:
        """Spend what the call `name` used."""

    async def give_back(self, request: Request, call: str = "") -> Sequence[ModelCall]:
        """Give the request's estimate back, or what is held for a call; returns the calls that were made for it."""


class Epochs(Protocol):
    """Counts the changes of a collection; the indexer moves it on, the answer cache depends on it."""

    async def epoch(self, tenant: str, collection: str) -> int | None:
        """The present epoch; None when it is unknown, and then the answer is not cached."""


class Retriever:
    """Handles `retrieve.v1`."""

    def __init__(
        self,
        *,
        knowledge: Knowledge,
        embedder: SharedEmbedder,
        deployment: Deployment,
        epochs: Epochs,
        use_cases: Mapping[str, UseCase],
        budget: Budget,
        clock: Callable[[], datetime],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`deployment`: the one that `embedder` calls, with its price.

        `chance`: random numbers from 0 to 1, which spread the retries of refused asks.
        """
        self._knowledge = knowledge
        self._embedder = embedder
        self._deployment = deployment
        self._epochs = epochs
        self._use_cases = use_cases
        self._budget = budget
        self._clock = clock
        self._chance = chance

    async def handle(self, task: RetrievePassages, attempt: int = 1) -> Sequence[Envelope]:
        """Send passages for the question to the generator, or `no_answer` or `refused` to the caller.

        Raises `TryLater` and `DependencyDown` when the search fails or the budget has too little left for it for now,
        `Unprocessable` when the question is late, its use case is unknown here, or no passage fits beside it into a
        message.
        """
        request = task.request
        if request.is_late(self._clock()):
            raise Unprocessable(Reason.DEADLINE_EXCEEDED, f"the answer was due at {request.answer_by:%X} UTC")
        use_case = self._use_cases.get(request.use_case)
        if use_case is None:
            known = ", ".join(self._use_cases)
            raise Unprocessable(
                Reason.MISCONFIGURED,
                f"the retriever has no use case {request.use_case!r} (it has: {known}); give it the gateway's files",
            )
        # Before the search: an answer from older passages must never be cached under a newer epoch.
        epoch = await self._epochs.epoch(request.tenant, use_case.collection)
        name, worst = token_hex(8), amount(self._deployment.price, count_tokens(as_asked(request)), 0)
        lasts = request.answer_by - self._clock()
        refusal = await self._budget.begin(request, name, worst, lasts, keep_estimate=True)
        if refusal is not None:
            return self._over_budget(request, use_case, refusal.retry_after, await self._budget.give_back(request))
        try:
            candidates = await self._search(request, use_case, name, worst)
        except OverQuota as full:
            await self._budget.give_back(request, name)  # the call was not made
            if full.fits:
                raise
            now, wait = self._clock(), full.after - (request.answer_by - self._clock())
            outcome = overloaded(request, now, wait=wait.total_seconds(), chance=(1 + self._chance()) / 2)
            return [to_caller(request, charged(outcome, await self._budget.give_back(request)), now)]
        if not candidates:
            log.info("passages.none", use_case=request.use_case)
            # No chat model is paid, so what was reserved for one is given back.
            calls = await self._budget.give_back(request)
            cache = CacheState.MISS if request.cache_key else CacheState.OFF
            now, code = self._clock(), Code.NOT_IN_DOCUMENTS
            outcome = ending(request, Outcome.NO_ANSWER, code, NOTHING_FOUND, cache=cache, finished_at=now)
            return [to_caller(request, charged(outcome, calls), now)]
        found = fitting(GenerateAnswer(request=request, candidates=tuple(candidates), index_epoch=epoch))
        kept = len(found.candidates)
        log.info("passages.found", candidates=kept, dropped=len(candidates) - kept, path=candidates[0].path)
        return [to_generator(found)]

    def _over_budget(
        self, request: Request, use_case: UseCase, retry_after: float | None, calls: Sequence[ModelCall]
    ) -> Sequence[Envelope]:
        """Refuse the request, or raise `TryLater`; see `comes_back`."""
        now = self._clock()
        wait = comes_back(request, retry_after, use_case.budget.when_spent, now)
        if wait is not None:
            raise TryLater("the budget has too little left to search for the question", after=wait)
        return [to_caller(request, charged(over_budget(request, retry_after, now), calls), now)]

    async def _search(self, request: Request, use_case: UseCase, name: str, worst: Amount) -> list[Candidate]:
        """Embed the question (the call `name`) and search what its caller may read: the best candidates, no two
        alike."""
        asked = as_asked(request)
        try:
            embedded = await self._embedder.embed([asked], tenant=request.tenant, due=request.answer_by)
        except OverQuota:
            raise
        except BaseException as failure:
            # Of a call that ends with this process's work on the request, nobody knows what it used.
            stopped = isinstance(failure, asyncio.CancelledError)
            used = worst.tokens if stopped else getattr(failure, "used", NOTHING).tokens
            await self._settle(request, name, worst, used, failure)
            raise
        [dense] = embedded.vectors
        # Now, because the request may end in many ways from here on, and every call that was made was paid.
        await self._settle(request, name, worst, embedded.tokens)
        wanted = use_case.retrieval.candidates
        with traces.calling(f"{names.RETRIEVAL} {use_case.collection}", {names.GEN_AI_OPERATION: names.RETRIEVAL}):
            found = await self._knowledge.search(
                TenantScope.of(request),
                use_case.collection,
                Query(dense, sparse.of_question(asked)),
                wanted=wanted,
                overfetch=use_case.retrieval.overfetch,
            )
        return list(islice(distinct(found), wanted))

    async def _settle(
        self, request: Request, name: str, worst: Amount, tokens: int | None, failure: BaseException | None = None
    ) -> None:
        """Charge the call `name`, which used `tokens`; None: the provider did not say."""
        counted = worst.tokens if tokens is None else tokens
        # A token is at least one byte.
        possible = max(0, min(counted, max(worst.tokens, len(as_asked(request).encode()))))
        if possible != counted:
            log.warning("model.usage_clamped", deployment=self._deployment.name, reported=counted, tokens=possible)
            counted = possible
        paid = amount(self._deployment.price, counted, 0)
        made = ModelCall(
            deployment=self._deployment.name,
            prompt_tokens=counted,
            cost=paid.usd / MICROS,
            result="ok" if failure is None else str(getattr(failure, "fault", "broken off")),
            estimated=tokens is None or failure is not None,
            overrun=max(0, counted - worst.tokens),
        )
        await self._budget.settle(request, name, made, paid)


def as_asked(request: Request) -> str:
    """The words to search for: "and for part-timers?" means little without the question before it."""
    before = [turn.text for turn in request.conversation if turn.role == "user" and turn.text.strip()]
    return "\n".join([*before[-1:], request.question])
