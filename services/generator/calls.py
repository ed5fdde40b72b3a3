"""One call of a model: whether it may begin, the call itself, and what it cost."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Protocol

from services.generator.breakers import DeploymentBreakers
from services.generator.call_times import PATIENCE, Call, CallTimes, share
from services.generator.prompt import Prompt, passage_tokens
from services.generator.reply import CallTimeout, Cancelled, Reply
from shared.budget.price import amount
from shared.budget.rules import Amount
from shared.budget.tenant import TenantBudget
from shared.contracts.outcome import ModelCall
from shared.contracts.request import Request
from shared.errors import DeadlineMissed
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.llm.errors import Used
from shared.pacing.pacing import Demand, Pacing
from shared.redis import RedisUnavailable
from shared.settings.budget import MICROS

# The time to send the outcome; a model call must end this long before the deadline.
MARGIN = timedelta(seconds=1)
# How long a call takes at least, while nothing is known about its deployment.
LEAST_CALL = timedelta(seconds=1)
# `ModelCall.result` of a call that was answered.
OK = "ok"
# How much later than its turn rescheduled work may come back.
LATE = timedelta(seconds=0.5)
# The worker has looked whether the request is over this many seconds before its first call, or fewer.
JUST_NOW = 0.1
# How long a cancelled call may continue.
POLL_INTERVAL = timedelta(seconds=0.5)


class TooLate(Exception):
    """A call would end after the deadline; `wait`: seconds until another attempt makes sense."""

    def __init__(self, why: str, wait: float) -> None:
        super().__init__(why)
        self.wait = wait


class OverBudget(Exception):
    """A budget has too little left for the worst case of a call, which was not made."""

    def __init__(self, retry_after: float | None) -> None:
        """`retry_after`: seconds until it fits; None: never."""
        super().__init__("the budget has too little left for the next call")
        self.retry_after = retry_after


def result_of(failure: BaseException) -> str:
    """`ModelCall.result` of a call that raised `failure`."""
    return "cancelled" if isinstance(failure, Cancelled) else str(getattr(failure, "result", "broken off"))


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
        schema: Mapping[str, Any] | None = None,
    ) -> Reply: ...


@dataclass(frozen=True, slots=True)
class _Paid:
    """A call whose worst case is held."""

    budget: TenantBudget
    request: Request
    deployment: Deployment
    prompt: Prompt
    name: str
    worst: Amount

    async def settle(self, used: Used, result: str) -> None:
        """Charge what it used, and add it to the calls of the request."""
        paid = amount(self.deployment.price, used.prompt_tokens, used.completion_tokens)
        made = ModelCall(
            deployment=self.deployment.name,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            cost=paid.usd / MICROS,
            result=result,
            estimated=used.estimated,
            overrun=max(0, paid.tokens - self.worst.tokens),
        )
        # Without the rest of the prompt, which admission can count.
        passages = max(0, used.prompt_tokens - self.prompt.tokens + sum(map(passage_tokens, self.prompt.passages)))
        await self.budget.settle(self.request, self.name, made, paid, passages=passages if result == OK else -1)


class ModelCalls:
    """The calls that the generator makes, each guarded by deadline, cancellation, its usual time, and the budget."""

    def __init__(
        self,
        *,
        model: Model,
        ledger: Ledger,
        budget: TenantBudget,
        call_times: CallTimes,
        breakers: DeploymentBreakers,
        pacing: Pacing,
        clock: Callable[[], datetime],
        poll_interval: timedelta = POLL_INTERVAL,
    ) -> None:
        """`poll_interval`: how often, during a call, the ledger is asked whether the request was cancelled."""
        self._model = model
        self._ledger = ledger
        self._budget = budget
        self._call_times = call_times
        self._breakers = breakers
        self._pacing = pacing
        self._clock = clock
        self._poll_interval = poll_interval.total_seconds()

    def usual(self, deployment: Deployment, request: Request) -> timedelta:
        """How long such calls usually take; zero: unknown."""
        return self._call_times.usual(deployment.name, request)

    async def call(
        self,
        deployment: Deployment,
        prompt: Prompt,
        answer_tokens: int,
        request: Request,
        *,
        next_usual: timedelta | None = None,
        waits: bool = True,
    ) -> Reply:
        """Call the model if there is time, quota and budget for it; a call that was made is charged, however it ends.

        `next_usual`: see `share`. `waits`: whether it takes a place in the line when the quota is used up. Raises
        `DeadlineMissed`, `Cancelled`, `TooLate`, `DeploymentOpen`, `OverQuota` and `OverBudget`, and what
        `Model.complete` raises.
        """
        left = request.answer_by - self._clock() - MARGIN
        if left <= timedelta(0):
            raise DeadlineMissed(f"no time is left before the deadline, {request.answer_by:%X} UTC")
        if not await self._is_open(request, lately=JUST_NOW):
            raise Cancelled
        usual = self.usual(deployment, request)
        within = share(left, usual, next_usual)
        call = self._call_times.begin(deployment.name, request, within)
        if call is None:
            why = f"calls usually take {usual.total_seconds():.1f} s, more than the time left"
            raise TooLate(why, usual.total_seconds())
        demand = Demand(
            who=request.spending,
            tenant=request.tenant,
            tokens=prompt.tokens + answer_tokens,
            due=request.answer_by,
            # Work that waits as long as it can is called at the last moment, so that moment must not be too late.
            patience=left - PATIENCE * max(usual, LEAST_CALL) - LATE if waits else timedelta(0),
        )
        async with self._breakers.guarding(deployment.name), self._pacing.turn(deployment, demand) as turn:
            name, worst = token_hex(8), amount(deployment.price, prompt.tokens, answer_tokens)
            refusal = await self._budget.begin(request, name, worst, within)
            if refusal is not None:
                turn.used = 0
                raise OverBudget(refusal.retry_after)
            paid = _Paid(self._budget, request, deployment, prompt, name, worst)
            reply = await self._begun(call, paid, answer_tokens, within)
            turn.used = reply.tokens
            return reply

    async def _begun(self, call: Call, paid: _Paid, answer_tokens: int, within: timedelta) -> Reply:
        """Make the call that has its turn and its budget."""
        deployment, prompt, request = paid.deployment, paid.prompt, paid.request

        async def until_cancelled() -> None:
            while True:
                await asyncio.sleep(self._poll_interval)
                if not await self._is_open(request):
                    return

        try:
            reply = await self._model.complete(
                deployment,
                prompt.messages,
                answer_tokens=answer_tokens,
                within=within,
                cancelled=until_cancelled,
                schema=prompt.schema,
            )
        except BaseException as failure:
            # Of a call that ends with this process's work on the request, nobody knows more than its prompt.
            used = getattr(failure, "used", Used(prompt.tokens, estimated=True))
            await paid.settle(used, result_of(failure))
            if not isinstance(failure, CallTimeout):
                raise
            self._call_times.cut_off(call)
            if self._clock() + MARGIN < request.answer_by:
                raise
            raise DeadlineMissed("the deadline passed while the model was answering") from failure
        self._call_times.ended(call)
        await paid.settle(reply.used, OK)
        return reply

    async def _is_open(self, request: Request, *, lately: float = 0.0) -> bool:
        try:
            return await self._ledger.is_open(request, lately=lately)
        except RedisUnavailable:
            return True
