"""The generator: plan, fit, call once, verify, store the result, send it.

The model's answer is stored as the request's outcome before anything else happens, so that a redelivery sends it again
instead of paying again. Before and during each call the handler checks whether the request has an outcome already: its
caller may have cancelled it.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Protocol, TypeGuard

from services.generator.call_times import CallTimes
from services.generator.citations import verify
from services.generator.planner import Choice, Need, at_attempt, plan, why_none
from services.generator.prompt import NO_ANSWER, Prompt, fit, fixed_tokens, passage_tokens, says_no_answer
from services.generator.reply import CallTimeout, Cancelled, Reply
from shared.access.use_cases import UseCase
from shared.answer_cache import AnswerCache, CachePartition
from shared.budget.tenant import TenantBudget
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.fit import fitted
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import (
    CacheState,
    Code,
    Cost,
    Outcome,
    Plan,
    RequestOutcome,
    Usage,
    cancelled,
    ending,
    overloaded,
)
from shared.contracts.request import Request
from shared.errors import DeadlineMissed, DependencyDown, Reason, TryLater, Unprocessable
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.llm.errors import ContextTooLong, ModelRefused
from shared.redis import RedisUnavailable
from shared.telemetry.logs import get_logger
from shared.text import escaped, visible

log = get_logger()

# The time to send the outcome; a model call must end this long before the deadline.
MARGIN = timedelta(seconds=1)
# A model that asks to wait longer than this is left for the next deployment at once.
PATIENCE = timedelta(seconds=20)
# Our estimate was too low once; a prompt this much smaller is tried once.
SHRINK = 0.75
# How long a cancelled call may continue.
POLL_INTERVAL = timedelta(seconds=0.5)
CUT_OFF = "the answer was cut off at the use case's answer_tokens"


Failure = TryLater | Unprocessable


class TooLate(Exception):
    """A deployment is too slow for the time that is left; `usual`: the seconds that its calls usually take."""

    def __init__(self, usual: float) -> None:
        super().__init__(f"calls usually take {usual:.1f} s, more than the time left")
        self.usual = usual


class Model(Protocol):
    """One chat call; see `Chat.complete`."""

    async def complete(
        self,
        deployment: Deployment,
        messages: tuple[dict[str, str], ...],
        *,
        answer_tokens: int,
        within: timedelta,
        cancelled: Callable[[], Coroutine[Any, Any, None]],
    ) -> Reply: ...


class Generator:
    """Turns `generate.v1` into `answer.v1`."""

    def __init__(
        self,
        *,
        use_cases: Mapping[str, UseCase],
        deployments: Sequence[Deployment],
        model: Model,
        ledger: Ledger,
        budget: TenantBudget,
        cache: AnswerCache,
        clock: Callable[[], datetime],
        tries_per_deployment: int = 2,
        poll_interval: timedelta = POLL_INTERVAL,
        call_times: CallTimes | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`poll_interval`: how often, during a call, the ledger is asked whether the request was cancelled.

        `tries_per_deployment`: see `at_attempt`. `chance`: random numbers from 0 to 1, which spread retries.
        """
        self._use_cases = use_cases
        self._deployments = deployments
        self._model = model
        self._ledger = ledger
        self._budget = budget
        self._cache = cache
        self._clock = clock
        self._tries = tries_per_deployment
        self._poll_interval = poll_interval.total_seconds()
        self._call_times = call_times or CallTimes()
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
            fixed=fixed_tokens(use_case.prompt, request),
            passages=sum(passage_tokens(candidate) for candidate in task.candidates),
            answer=use_case.answer_tokens,
        )
        choices = plan(use_case, self._deployments, need)
        if not choices:
            why = why_none(use_case, self._deployments, need)
            log.warning("model.none_fits", use_case=use_case.name, detail=why)
            await self._budget.correct(request.tenant, request.spending, 0)
            outcome = ending(request, Outcome.FAILED, Code.NO_MODEL_FITS, why, finished_at=self._clock())
            return [to_caller(request, outcome, self._clock())]
        try:
            answer = await self._first_that_answers(at_attempt(choices, attempt, self._tries), use_case, task)
            outcome, spent = fitted(answer), answer.usage.prompt_tokens + answer.usage.completion_tokens
        except ModelRefused as refused:
            now, spent = self._clock(), refused.used
            outcome = ending(request, Outcome.FAILED, Code.MODEL_REFUSED, refused.detail, finished_at=now)
        except ContextTooLong as long:
            log.warning("model.none_fits", use_case=use_case.name, detail=long.detail)
            now, spent = self._clock(), 0
            outcome = ending(request, Outcome.FAILED, Code.NO_MODEL_FITS, long.detail, finished_at=now)
        except TooLate as late:
            await self._budget.correct(request.tenant, request.spending, 0)
            log.info("model.not_called", request_id=request.request_id, tenant=request.tenant, detail=str(late))
            outcome = overloaded(request, self._clock(), wait=late.usual, chance=self._chance())
            return [to_caller(request, outcome, self._clock())]
        except Cancelled as stopped:
            await self._budget.spend(request.tenant, request.spending, stopped.used)
            log.info("model.stopped", request_id=request.request_id, tokens=stopped.used)
            # It is sent although it was decided elsewhere: the worker that decided it may have failed to send it.
            return [to_caller(request, cancelled(request, self._clock()), self._clock())]
        with suppress(RedisUnavailable):  # without Redis a crash from here on costs one more call
            await self._ledger.decide(request, outcome)
        await self._budget.spend(request.tenant, request.spending, spent)
        await self._cache_answer(use_case, task, outcome)
        return [to_caller(request, outcome, self._clock())]

    async def _first_that_answers(
        self, choices: Sequence[Choice], use_case: UseCase, task: GenerateAnswer
    ) -> RequestOutcome:
        """Call the choices in turn; stop when a busy one says when to come back and there is time for that.

        Raises the failure that all of them together mean, or `TooLate` when none was called.
        """
        failures: list[Failure] = []
        too_late: list[TooLate] = []
        for choice in choices:
            try:
                return await self._answer_with(choice, use_case, task)
            except (ModelRefused, DeadlineMissed):
                raise
            except TooLate as late:
                too_late.append(late)
            except (TryLater, Unprocessable) as failure:
                log.info("model.failed", deployment=choice.deployment.name, detail=str(failure))
                failures.append(failure)
                if _is_throttle(failure):
                    back_at = self._clock() + failure.after
                    if failure.after <= PATIENCE and back_at + MARGIN < task.request.answer_by:
                        break
        if not failures:
            raise min(too_late, key=lambda late: late.usual)
        raise _combined(failures)

    async def _answer_with(self, choice: Choice, use_case: UseCase, task: GenerateAnswer) -> RequestOutcome:
        """Fit the passages into the window of `choice`, call it, and check what it says.

        Raises `ContextTooLong` when no passage fits, also after the prompt was shrunk once; `TooLate` and `Cancelled`
        when no call was made or it was broken off; what `Model.complete` raises.
        """
        answer_tokens = min(use_case.answer_tokens, choice.deployment.max_output or use_case.answer_tokens)
        room = choice.window - answer_tokens
        prompt = fit(use_case.prompt, task.request, task.candidates, room, nonce=token_hex(4))
        if not prompt.passages:
            raise ContextTooLong(f"no passage fits into the {choice.window} tokens of {choice.deployment.name}")
        try:
            reply = await self._call(choice, prompt, answer_tokens, task.request)
        except ContextTooLong:
            prompt = fit(use_case.prompt, task.request, task.candidates, int(room * SHRINK), nonce=token_hex(4))
            if not prompt.passages:
                raise
            reply = await self._call(choice, prompt, answer_tokens, task.request)
        return outcome_of(task, choice, prompt, reply, self._clock())

    async def _call(self, choice: Choice, prompt: Prompt, answer_tokens: int, request: Request) -> Reply:
        """Call the model if there is time for it; a call that is cut off by the deadline is charged.

        Raises `DeadlineMissed`, `Cancelled` and `TooLate`, and what `Model.complete` raises.
        """
        within = request.answer_by - self._clock() - MARGIN
        if within <= timedelta(0):
            raise DeadlineMissed(f"no time is left before the deadline, {request.answer_by:%X} UTC")
        if not await self._is_open(request):
            raise Cancelled
        call = self._call_times.begin(choice.deployment.name, request, within)
        if call is None:
            raise TooLate(self._call_times.usual(choice.deployment.name, request).total_seconds())

        async def until_cancelled() -> None:
            while True:
                await asyncio.sleep(self._poll_interval)
                if not await self._is_open(request):
                    return

        try:
            reply = await self._model.complete(
                choice.deployment,
                prompt.messages,
                answer_tokens=answer_tokens,
                within=within,
                cancelled=until_cancelled,
            )
        except CallTimeout as slow:
            self._call_times.cut_off(call)
            if self._clock() + MARGIN < request.answer_by:
                # Another call may follow, which is charged separately.
                await self._budget.charge(request.tenant, slow.used)
                raise
            await self._budget.spend(request.tenant, request.spending, slow.used)
            raise DeadlineMissed("the deadline passed while the model was answering") from slow
        self._call_times.ended(call)
        return reply

    async def _is_open(self, request: Request) -> bool:
        try:
            return await self._ledger.is_open(request)
        except RedisUnavailable:
            return True

    async def _cache_answer(self, use_case: UseCase, task: GenerateAnswer, outcome: RequestOutcome) -> None:
        """Keep the outcome for the same question of others, unless it is uncertain or cut off."""
        request = task.request
        if request.cache_key is None or task.index_epoch is None or outcome.truncated:
            return
        if outcome.outcome not in (Outcome.ANSWERED, Outcome.NO_ANSWER) or outcome.code is Code.UNGROUNDED:
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


def outcome_of(
    task: GenerateAnswer, choice: Choice, prompt: Prompt, reply: Reply, finished_at: datetime
) -> RequestOutcome:
    """The outcome for the model's `reply` to `prompt`: its text with the citations that hold, or no answer.

    `answered` only with a citation; `no_answer` with code `NotInDocuments` when the model says so, `Ungrounded` when no
    citation holds. Prices are per million tokens.
    """
    said = visible(reply.text)
    verified = verify(said, prompt.passages)
    deployment, price = choice.deployment, choice.deployment.price
    amount = (reply.prompt_tokens * price.input + reply.completion_tokens * price.output) / 1_000_000
    outcome, text, citations, truncated = Outcome.NO_ANSWER, "", verified.citations, False
    if says_no_answer(said) or (NO_ANSWER in said and not citations):
        code, message, citations = Code.NOT_IN_DOCUMENTS, "the documents do not contain the answer", ()
    elif citations:
        outcome, code, message = Outcome.ANSWERED, Code.OK, CUT_OFF if reply.cut_off else ""
        text, truncated = verified.text, reply.cut_off
    else:
        code, message = Code.UNGROUNDED, "the model's answer could not be traced to a passage"
        message = f"{message}; {CUT_OFF}" if reply.cut_off else message
    return ending(
        task.request,
        outcome,
        code,
        message,
        text=text,
        citations=citations,
        truncated=truncated,
        usage=Usage(
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            estimated=reply.estimated,
        ),
        cost=Cost(amount=round(amount, 8)),
        plan=Plan(
            deployment=deployment.name,
            model=deployment.model,
            region=deployment.region,
            context_window=deployment.context_window,
            passages_used=len(prompt.passages),
            passages_offered=len(task.candidates),
            why=choice.why,
        ),
        cache=CacheState.MISS if task.request.cache_key else CacheState.OFF,
        finished_at=finished_at,
    )


def _is_throttle(failure: Failure) -> TypeGuard[TryLater]:
    return isinstance(failure, TryLater) and not isinstance(failure, DependencyDown)


def _combined(failures: Sequence[Failure]) -> Failure:
    """What the failures of several deployments mean for the work: the earliest retry that any of them allows."""
    said = "; ".join(map(str, failures))
    if throttles := [failure.after for failure in failures if _is_throttle(failure)]:
        return TryLater(said, after=min(throttles))
    if down := [failure.after for failure in failures if isinstance(failure, DependencyDown)]:
        return DependencyDown(said, after=min(down))
    # Failures of the deployments themselves (a key, a name, a window): waiting does not help.
    return failures[-1]
