"""The generator: plan, fit, call once, verify, store the result, send it.

The model's answer is stored as the request's outcome before anything else happens, so that a redelivery sends it again
instead of paying again. Before and during each call the handler checks whether the request has an outcome already: its
caller may have cancelled it.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from services.generator.calls import ModelCalls, OverBudget, TooLate
from services.generator.failover import Failover
from services.generator.planner import Need, at_attempt, plan, why_none
from services.generator.prompt import fixed_tokens, passage_tokens
from services.generator.reply import Cancelled, NoAnswer
from services.generator.structured import system_prompt
from shared.access.use_cases import UseCase
from shared.answer_cache import AnswerCache, CachePartition
from shared.budget.tenant import TenantBudget
from shared.budget.waiting import comes_back
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.fit import fitted
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import (
    Code,
    Outcome,
    RequestOutcome,
    cancelled,
    charged,
    ending,
    over_budget,
    overloaded,
)
from shared.errors import Reason, TryLater, Unprocessable
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.llm.errors import ContextTooLong, ModelRefused
from shared.redis import RedisUnavailable
from shared.telemetry import traces
from shared.telemetry.logs import get_logger
from shared.text import escaped

log = get_logger()

# What a model says only at times; the same question may get an answer.
UNCERTAIN = (Code.UNGROUNDED, Code.PROMPT_LEAK)


class Generator:
    """Turns `generate.v1` into `answer.v1`."""

    def __init__(
        self,
        *,
        use_cases: Mapping[str, UseCase],
        deployments: Sequence[Deployment],
        calls: ModelCalls,
        ledger: Ledger,
        budget: TenantBudget,
        cache: AnswerCache,
        clock: Callable[[], datetime],
        tries_per_deployment: int = 2,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`tries_per_deployment`: see `at_attempt`. `chance`: random numbers from 0 to 1, which spread retries."""
        self._use_cases = use_cases
        self._deployments = deployments
        self._failover = Failover(calls, clock)
        self._ledger = ledger
        self._budget = budget
        self._cache = cache
        self._clock = clock
        self._tries = tries_per_deployment
        self._chance = chance

    async def handle(self, task: GenerateAnswer, attempt: int = 1) -> Sequence[Envelope]:
        """Answer `task.request.question` from `task.candidates`.

        Raises `TryLater` and `DependencyDown` for another attempt; `DeadlineMissed` and any other `Unprocessable` for
        none.
        """
        request = task.request
        use_case = self._use_cases.get(request.use_case)
        if use_case is None:
            raise Unprocessable(
                Reason.MISCONFIGURED,
                f"use case {request.use_case!r} is not configured here; deploy its file to the generator, too",
            )
        need = Need(
            fixed=fixed_tokens(system_prompt(use_case.prompt, use_case.output_schema), request),
            passages=sum(passage_tokens(candidate) for candidate in task.candidates),
            answer=use_case.answer_tokens,
        )
        choices = plan(use_case, self._deployments, need)
        if not choices:
            why = why_none(use_case, self._deployments, need)
            log.warning("model.none_fits", use_case=use_case.name, detail=why)
            outcome = ending(request, Outcome.FAILED, Code.NO_MODEL_FITS, why, finished_at=self._clock())
            return [to_caller(request, charged(outcome, await self._budget.give_back(request)), self._clock())]
        try:
            earlier = await self._budget.calls(request) if attempt > 1 else ()
            answer = await self._failover.answer(at_attempt(choices, attempt, self._tries), use_case, task, earlier)
            if answer.code is Code.PROMPT_LEAK:
                log.warning("answer.withheld", request_id=request.request_id, tenant=request.tenant, code=answer.code)
        except ModelRefused as refused:
            code, now = Code.CONTENT_FILTERED if refused.filtered else Code.MODEL_REFUSED, self._clock()
            answer = ending(request, Outcome.FAILED, code, refused.detail, finished_at=now)
        except NoAnswer as nothing:
            await self._budget.give_back(request)
            answer = ending(request, Outcome.FAILED, nothing.code, nothing.detail, finished_at=self._clock())
        except ContextTooLong as long:
            log.warning("model.none_fits", use_case=use_case.name, detail=long.detail)
            await self._budget.give_back(request)
            answer = ending(request, Outcome.FAILED, Code.NO_MODEL_FITS, long.detail, finished_at=self._clock())
        except TooLate as late:
            log.info("model.not_called", request_id=request.request_id, tenant=request.tenant, detail=str(late))
            # Never sooner: then it would be refused again.
            outcome = overloaded(request, self._clock(), wait=late.wait, chance=(1 + self._chance()) / 2)
            return [to_caller(request, charged(outcome, await self._budget.give_back(request)), self._clock())]
        except OverBudget as over:
            now = self._clock()
            wait = comes_back(request, over.retry_after, use_case.budget.when_spent, now)
            if wait is not None:
                raise TryLater(str(over), after=wait) from over
            log.info("model.not_called", request_id=request.request_id, tenant=request.tenant, detail=str(over))
            outcome = charged(over_budget(request, over.retry_after, now), await self._budget.give_back(request))
            return [to_caller(request, outcome, now)]
        except Cancelled as stopped:
            log.info("model.stopped", request_id=request.request_id, tokens=stopped.used.tokens)
            # It is sent although it was decided elsewhere: the worker that decided it may have failed to send it.
            outcome = charged(cancelled(request, self._clock()), await self._budget.give_back(request))
            return [to_caller(request, outcome, self._clock())]
        outcome = fitted(charged(answer, await self._budget.calls(request, heard=True)))
        traced, entry = outcome.replaced(trace_id=traces.trace_id()), None
        with suppress(RedisUnavailable):  # without Redis a crash from here on costs one more call
            entry = await self._ledger.decide(request, traced)
        await self._cache_answer(use_case, task, outcome)
        return [replace(to_caller(request, traced, self._clock()), decision=entry)]

    async def _cache_answer(self, use_case: UseCase, task: GenerateAnswer, outcome: RequestOutcome) -> None:
        """Keep the outcome for the same question of others, unless it is uncertain or cut off."""
        request = task.request
        if request.cache_key is None or task.index_epoch is None or outcome.truncated:
            return
        if outcome.outcome not in (Outcome.ANSWERED, Outcome.NO_ANSWER) or outcome.code in UNCERTAIN:
            return
        # In a rolling deployment the key may have been made with another prompt than the one that answered.
        if request.use_case_version != use_case.version():
            return
        partition = CachePartition(request.tenant, use_case.collection)
        cited = {citation.path for citation in outcome.citations}
        # The path as the indexer evicts by it; a citation has it escaped.
        uses = {(each.path, each.version) for each in task.candidates if escaped(each.path) in cited}
        with suppress(RedisUnavailable):
            await self._cache.store(
                partition, request.cache_key, outcome, uses=uses, epoch=task.index_epoch, ttl=use_case.cache.ttl
            )
