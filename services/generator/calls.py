"""One call of a model: whether it may begin, the call itself, and what it cost."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Protocol

from services.generator.breakers import DeploymentBreakers
from services.generator.call_times import Call, CallTimes, share
from services.generator.prompt import Prompt
from services.generator.reply import CallTimeout, Cancelled, Reply
from shared.budget.tenant import TenantBudget
from shared.contracts.request import Request
from shared.errors import DeadlineMissed
from shared.ledger.ledger import Ledger
from shared.llm.deployments import Deployment
from shared.pacing.pacing import Demand, Pacing
from shared.redis import RedisUnavailable

# The time to send the outcome; a model call must end this long before the deadline.
MARGIN = timedelta(seconds=1)
# How long a call takes at least, while nothing is known about its deployment.
LEAST_CALL = timedelta(seconds=1)
# How long a cancelled call may continue.
POLL_INTERVAL = timedelta(seconds=0.5)


class TooLate(Exception):
    """A call would end after the deadline; `wait`: seconds until another attempt makes sense."""

    def __init__(self, why: str, wait: float) -> None:
        super().__init__(why)
        self.wait = wait


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


class ModelCalls:
    """The calls that the generator makes, each guarded by deadline, cancellation and the usual time of a call."""

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
        """Call the model if there is time for it; a call that is cut off by the deadline is charged.

        `next_usual`: see `share`. `waits`: whether it takes a place in the line when the quota is used up. Raises
        `DeadlineMissed`, `Cancelled`, `TooLate`, `DeploymentOpen` and `OverQuota`, and what `Model.complete` raises.
        """
        left = request.answer_by - self._clock() - MARGIN
        if left <= timedelta(0):
            raise DeadlineMissed(f"no time is left before the deadline, {request.answer_by:%X} UTC")
        if not await self._is_open(request):
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
            patience=left - max(usual, LEAST_CALL) if waits else timedelta(0),
        )
        async with self._breakers.guarding(deployment.name), self._pacing.turn(deployment, demand) as turn:
            reply = await self._begun(call, deployment, prompt, answer_tokens, request, within)
            turn.used = reply.tokens
            return reply

    async def _begun(
        self,
        call: Call,
        deployment: Deployment,
        prompt: Prompt,
        answer_tokens: int,
        request: Request,
        within: timedelta,
    ) -> Reply:
        """Make the call that has its turn."""

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
            )
        except CallTimeout as slow:
            self._call_times.cut_off(call)
            if self._clock() + MARGIN < request.answer_by:
                # Another call may follow, which is charged separately.
                await self._budget.charge(request.tenant, slow.used.tokens)
                raise
            await self._budget.spend(request.tenant, request.spending, slow.used.tokens)
            raise DeadlineMissed("the deadline passed while the model was answering") from slow
        self._call_times.ended(call)
        return reply

    async def _is_open(self, request: Request) -> bool:
        try:
            return await self._ledger.is_open(request)
        except RedisUnavailable:
            return True
