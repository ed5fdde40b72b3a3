"""The retriever's story: a question comes in, passages that may answer it go out."""

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Protocol

from services.retriever.deduplicate import distinct, fitting
from services.retriever.knowledge import Knowledge
from shared.access.scope import TenantScope
from shared.access.use_cases import UseCase
from shared.contracts.envelope import Envelope, to_caller, to_generator
from shared.contracts.generate import Candidate, GenerateAnswer
from shared.contracts.outcome import CacheState, Code, Outcome, ending, overloaded
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.embeddings import sparse
from shared.embeddings.port import SharedEmbedder
from shared.errors import OverQuota, Reason, Unprocessable
from shared.llm.tokens import count_tokens
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.vectors.port import Query

log = get_logger()

NOTHING_FOUND = "The documents that you may read do not answer this."


class Budget(Protocol):
    """The token budgets of tenants."""

    async def charge(self, tenant: str, tokens: int) -> None:
        """Take `tokens` that were used."""

    async def correct(self, tenant: str, request: str, spent: int) -> None:
        """Correct the reservation of `request` to the tokens that were spent."""


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
        epochs: Epochs,
        use_cases: Mapping[str, UseCase],
        budget: Budget,
        clock: Callable[[], datetime],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance`: random numbers from 0 to 1, which spread the retries of refused asks."""
        self._knowledge = knowledge
        self._embedder = embedder
        self._epochs = epochs
        self._use_cases = use_cases
        self._budget = budget
        self._clock = clock
        self._chance = chance

    async def handle(self, task: RetrievePassages, attempt: int = 1) -> Sequence[Envelope]:
        """Send passages for the question to the generator, or `no_answer` or `refused` to the caller.

        Raises `TryLater` and `DependencyDown` when the search fails, `Unprocessable` when the question is late, its
        use case is unknown here, or no passage fits beside it into a message.
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
        try:
            candidates = await self._search(request, use_case)
        except OverQuota as full:
            if full.fits:
                raise
            await self._budget.correct(request.tenant, request.spending, 0)
            now, wait = self._clock(), full.after - (request.answer_by - self._clock())
            outcome = overloaded(request, now, wait=wait.total_seconds(), chance=(1 + self._chance()) / 2)
            return [to_caller(request, outcome, now)]
        if not candidates:
            log.info("passages.none", use_case=request.use_case)
            # No model is paid, so what was reserved for one is given back.
            await self._budget.correct(request.tenant, request.spending, 0)
            cache = CacheState.MISS if request.cache_key else CacheState.OFF
            now, code = self._clock(), Code.NOT_IN_DOCUMENTS
            outcome = ending(request, Outcome.NO_ANSWER, code, NOTHING_FOUND, cache=cache, finished_at=now)
            return [to_caller(request, outcome, now)]
        found = fitting(GenerateAnswer(request=request, candidates=tuple(candidates), index_epoch=epoch))
        kept = len(found.candidates)
        log.info("passages.found", candidates=kept, dropped=len(candidates) - kept, path=candidates[0].path)
        return [to_generator(found)]

    async def _search(self, request: Request, use_case: UseCase) -> list[Candidate]:
        """Embed the question and search what its caller may read: the best candidates, no two alike."""
        asked = as_asked(request)
        embedded = await self._embedder.embed([asked], tenant=request.tenant, due=request.answer_by)
        [dense] = embedded.vectors
        # Now, because the request may end in many ways from here on, and every call that was made was paid.
        await self._budget.charge(request.tenant, count_tokens(asked) if embedded.tokens is None else embedded.tokens)
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


def as_asked(request: Request) -> str:
    """The words to search for: "and for part-timers?" means little without the question before it."""
    before = [turn.text for turn in request.conversation if turn.role == "user" and turn.text.strip()]
    return "\n".join([*before[-1:], request.question])
