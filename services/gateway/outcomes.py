"""The `outcomes` queue: the outcomes of HTTP callers, and deadline sentinels."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from shared.bus.port import ADMISSION, ASK, CALLER, TENANT, Received
from shared.contracts.base import check_version
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.errors import TryLater
from shared.failpoints import reach
from shared.ledger.ledger import Ledger, key_of
from shared.redis import RedisUnavailable

Settle = Callable[[str, str, int], Awaitable[None]]

# While Redis is away an outcome waits on its queue; this is how long between looks.
WAIT_FOR_REDIS = timedelta(seconds=2)


class Waiting:
    """HTTP callers of this process that wait for an outcome."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, int], list[asyncio.Future[Filed]]] = {}

    def join(self, request_id: str, admission: int = 0) -> "asyncio.Future[Filed]":
        """A future for the outcome of an admission; leave again when it is no longer needed."""
        future: asyncio.Future[Filed] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((request_id, admission), []).append(future)
        return future

    def leave(self, request_id: str, future: "asyncio.Future[Filed]", admission: int = 0) -> None:
        """Stop waiting."""
        waiting = self._waiting.get((request_id, admission), [])
        if future in waiting:
            waiting.remove(future)
        if not waiting:
            self._waiting.pop((request_id, admission), None)

    def is_awaited(self, request_id: str, admission: int) -> bool:
        """Whether anybody waits for it here."""
        return (request_id, admission) in self._waiting

    def tell(self, filed: "Filed") -> None:
        """Hand an outcome to everybody who waits for it; a rerun's is not its request's."""
        answer = filed.answer
        key = f"{answer.request_id}/{answer.run}" if answer.run else answer.request_id
        for future in self._waiting.pop((key, filed.admission), []):
            if not future.done():
                future.set_result(filed)


@dataclass(frozen=True, slots=True)
class Filed:
    """The outcome of an HTTP caller's request, and whose it is."""

    answer: RequestOutcome
    tenant: str
    caller: str
    ask: str = ""
    """The digest of the ask that it answers."""
    admission: int = 0

    @classmethod
    def of(cls, message: Received) -> Self:
        """Read it from `outcomes`; raises `Unprocessable`."""
        tenant, caller, ask = (str(message.properties.get(name, "")) for name in (TENANT, CALLER, ASK))
        admission = message.properties.get(ADMISSION, 0)
        known = admission if isinstance(admission, int) else 0
        return cls(RequestOutcome.decode(message.body), tenant, caller, ask, known)


class OutcomeDesk:
    """Files outcomes for HTTP callers, and tells callers whose deadline has passed."""

    def __init__(self, ledger: Ledger, waiting: Waiting, settle: Settle, clock: Callable[[], datetime]) -> None:
        """`settle`: gives a request's reserved tokens back."""
        self._ledger = ledger
        self._waiting = waiting
        self._settle = settle
        self._clock = clock

    @staticmethod
    def decode(message: Received) -> Filed | DeadlinePassed:
        """The outcome or the sentinel in `message`; raises `Unprocessable`."""
        kind = check_version(message.subject or "", RequestOutcome, DeadlinePassed)
        return Filed.of(message) if kind is RequestOutcome else DeadlinePassed.decode(message.body)

    async def handle(self, task: Filed | DeadlinePassed, attempt: int = 1) -> Sequence[Envelope]:
        """Store first; the delivery is completed after."""
        if isinstance(task, DeadlinePassed):
            if await self._is_early(task):
                return []
            # What a call has used is charged by whoever made it, also afterwards.
            await self._settle(task.request.tenant, task.request.spending, 0)
            return [self._expired(task)]
        self._waiting.tell(task)
        reach("outcomes.filing")
        try:
            await self._ledger.file(task.answer, task.tenant, task.caller, ask=task.ask, admission=task.admission)
        except RedisUnavailable as away:
            raise TryLater(f"the outcome cannot be stored: {away}", after=WAIT_FOR_REDIS) from away
        reach("outcomes.filed")
        return []

    async def _is_early(self, task: DeadlinePassed) -> bool:
        """Whether the request was admitted anew meanwhile, with a later deadline and a sentinel of its own."""
        try:
            entry = await self._ledger.find(key_of(task.request))
        except RedisUnavailable:
            return False
        if entry is None:
            return False
        later = entry.answer_by is not None and entry.answer_by > task.request.answer_by
        return later or entry.is_past(task.request)

    def _expired(self, task: DeadlinePassed) -> Envelope:
        request, now = task.request, self._clock()
        message = f"no answer was ready by {request.answer_by:%Y-%m-%d %H:%M:%S} UTC"
        answer = ending(request, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, message, retryable=True, finished_at=now)
        return to_caller(request, answer, now)
