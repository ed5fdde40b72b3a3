"""The generator's story: plan, fit, call once, verify, keep the result, hand it out.

What the model says is stored as the request's outcome before anything else happens, so a redelivery sends it
again instead of buying it again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Protocol

from services.generator.citations import verify
from services.generator.planner import Choice, Need, at_attempt, plan
from services.generator.prompt import NO_ANSWER, Prompt, fit, fixed_tokens, passage_tokens
from services.generator.reply import Reply
from shared.access.use_cases import UseCase
from shared.budget.tenant import TenantBudget
from shared.cache.answers import AnswerCache, Shelf
from shared.cache.redis import RedisAway
from shared.contracts.answer import AnswerReady, CacheState, Code, Cost, Outcome, Plan, Usage, ending
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.generate import GenerateAnswer
from shared.contracts.request import Request
from shared.errors import DeadlineMissed, Reason, TryLater, Unprocessable
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.llm.errors import ContextTooLong, ModelRefused
from shared.telemetry.logs import get_logger

log = get_logger()

# What sending the outcome takes; a model call must end this long before the deadline.
MARGIN = timedelta(seconds=1)
# A model that asks to wait longer than this is left for the next deployment at once.
PATIENCE = timedelta(seconds=20)
# Our estimate was too low once; a prompt this much smaller is tried once.
SHRINK = 0.75
CUT_OFF = "the answer was cut off at the use case's answer_tokens"


class Model(Protocol):
    """One chat call."""

    async def complete(
        self, deployment: Deployment, messages: tuple[dict[str, str], ...], *, answer_tokens: int, within: timedelta
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
    ) -> None:
        self._use_cases = use_cases
        self._deployments = deployments
        self._model = model
        self._ledger = ledger
        self._budget = budget
        self._cache = cache
        self._clock = clock
        self._tries = tries_per_deployment

    async def handle(self, task: GenerateAnswer, attempt: int = 1) -> Sequence[Envelope]:
        """Answer `task.request.question` from `task.candidates`."""
        request = task.request
        use_case = self._use_case(request)
        choices = self._choices(use_case, task)
        if not choices:
            await self._budget.settle(request.tenant, request.spending, 0)
            return [self._out(request, _no_model_fits(request))]
        left = at_attempt(choices, attempt, self._tries)
        if not left:
            raise Unprocessable(Reason.RETRIES_EXHAUSTED, f"every deployment failed {self._tries} times")
        try:
            answer = await self._first_that_answers(left, use_case, task)
        except ModelRefused as refused:
            answer = _failed(request, Code.MODEL_REFUSED, refused.detail)
        await self._keep(request, answer)
        await self._budget.settle(request.tenant, request.spending, _spent(answer))
        await self._cache_it(use_case, task, answer)
        return [self._out(request, answer)]

    async def _first_that_answers(
        self, choices: Sequence[Choice], use_case: UseCase, task: GenerateAnswer
    ) -> AnswerReady:
        """Ask the first choice; go on to the next at once when it asks for more patience than there is."""
        for position, choice in enumerate(choices, 1):
            try:
                return await self._ask(choice, use_case, task)
            except TryLater as busy:
                if position == len(choices) or not self._too_long(busy.after, task.request):
                    raise
                log.info("model.failover", deployment=choice.deployment.name, detail=str(busy))
            except (ModelRefused, DeadlineMissed):
                raise
            except Unprocessable as unusable:
                # Of this deployment (its key, its name, its window), which says nothing about the next.
                log.warning("model.unusable", deployment=choice.deployment.name, detail=unusable.detail)
                if position == len(choices):
                    raise
        raise AssertionError("choices is never empty")

    async def _ask(self, choice: Choice, use_case: UseCase, task: GenerateAnswer) -> AnswerReady:
        answer_tokens = min(use_case.answer_tokens, choice.deployment.max_output or use_case.answer_tokens)
        prompt = fit(use_case.prompt, task.request, task.candidates, choice.window - answer_tokens)
        if not prompt.passages:
            return _no_answer(task.request, Code.NOT_IN_DOCUMENTS, "no passage fits the model's window")
        try:
            reply = await self._call(choice, prompt, answer_tokens, task.request)
        except ContextTooLong:
            smaller = int((choice.window - answer_tokens) * SHRINK)
            prompt = fit(use_case.prompt, task.request, task.candidates, smaller)
            if not prompt.passages:
                raise
            reply = await self._call(choice, prompt, answer_tokens, task.request)
        return self._answer(task, choice, prompt, reply)

    async def _call(self, choice: Choice, prompt: Prompt, answer_tokens: int, request: Request) -> Reply:
        within = request.answer_by - self._clock() - MARGIN
        if within <= timedelta(0):
            raise DeadlineMissed(f"no time is left before {request.answer_by:%X} UTC")
        return await self._model.complete(
            choice.deployment, prompt.messages, answer_tokens=answer_tokens, within=within
        )

    def _answer(self, task: GenerateAnswer, choice: Choice, prompt: Prompt, reply: Reply) -> AnswerReady:
        """What the caller gets for what the model said."""
        if NO_ANSWER in reply.text:
            answer = _no_answer(task.request, Code.NOT_IN_DOCUMENTS, "the documents do not hold the answer")
        else:
            verified = verify(reply.text, prompt.passages)
            answer = (
                ending(
                    task.request,
                    Outcome.ANSWERED,
                    Code.OK,
                    CUT_OFF if reply.cut_off else "",
                    text=verified.text,
                    citations=verified.citations,
                )
                if verified.citations
                else _no_answer(task.request, Code.UNGROUNDED, "the model's answer could not be traced to a passage")
            )
        return answer.model_copy(
            update={
                "usage": Usage(prompt_tokens=reply.prompt_tokens, completion_tokens=reply.completion_tokens),
                "cost": _cost(choice.deployment, reply),
                "plan": _plan(choice, prompt, len(task.candidates)),
                "cache": CacheState.MISS if task.request.cache_key else CacheState.OFF,
                "finished_at": self._clock(),
            }
        )

    async def _keep(self, request: Request, answer: AnswerReady) -> None:
        with suppress(RedisAway):  # without Redis a crash from here on costs one more call
            await self._ledger.claim(request, answer)

    async def _cache_it(self, use_case: UseCase, task: GenerateAnswer, answer: AnswerReady) -> None:
        request = task.request
        sure = answer.outcome in (Outcome.ANSWERED, Outcome.NO_ANSWER) and answer.code is not Code.UNGROUNDED
        # In a rolling deployment the key may have been made with another prompt than the one that answered.
        same = request.use_case_version == use_case.version()
        whole = answer.message != CUT_OFF
        if request.cache_key is None or task.index_epoch is None or not (sure and same and whole):
            return
        shelf = Shelf(request.tenant, use_case.collection)
        with suppress(RedisAway):
            await self._cache.store(shelf, request.cache_key, answer, epoch=task.index_epoch, ttl=use_case.cache.ttl)

    def _choices(self, use_case: UseCase, task: GenerateAnswer) -> list[Choice]:
        need = Need(
            fixed=fixed_tokens(use_case.prompt, task.request),
            passages=sum(passage_tokens(candidate) for candidate in task.candidates),
            answer=use_case.answer_tokens,
        )
        return plan(use_case, self._deployments, need)

    def _use_case(self, request: Request) -> UseCase:
        use_case = self._use_cases.get(request.use_case)
        if use_case is None:
            raise Unprocessable(
                Reason.SCHEMA_UNSUPPORTED,
                f"use case {request.use_case!r} is not configured here; deploy its file to the generator too",
            )
        return use_case

    def _too_long(self, wait: timedelta, request: Request) -> bool:
        return wait > PATIENCE or self._clock() + wait + MARGIN >= request.answer_by

    def _out(self, request: Request, answer: AnswerReady) -> Envelope:
        return to_caller(request, answer, self._clock())


def _no_answer(request: Request, code: Code, message: str) -> AnswerReady:
    return ending(request, Outcome.NO_ANSWER, code, message)


def _failed(request: Request, code: Code, message: str) -> AnswerReady:
    return ending(request, Outcome.FAILED, code, message)


def _no_model_fits(request: Request) -> AnswerReady:
    return _failed(request, Code.NO_MODEL_FITS, "no deployment of this use case has a window for this question")


def _spent(answer: AnswerReady) -> int:
    return answer.usage.prompt_tokens + answer.usage.completion_tokens


def _cost(deployment: Deployment, reply: Reply) -> Cost:
    price = deployment.price
    amount = (reply.prompt_tokens * price.input + reply.completion_tokens * price.output) / 1_000_000
    return Cost(amount=round(amount, 8))


def _plan(choice: Choice, prompt: Prompt, offered: int) -> Plan:
    return Plan(
        deployment=choice.deployment.name,
        model=choice.deployment.model,
        region=choice.deployment.region,
        context_window=choice.deployment.context_window,
        passages_used=len(prompt.passages),
        passages_offered=offered,
        why=choice.why,
    )
