"""The `outcomes` queue: the outcomes of HTTP callers, and deadline sentinels."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from services.gateway.cancellation import GiveBack
from services.gateway.replay_consumer import Replay, ReplayConsumer
from services.gateway.waiters import HttpOutcome, Waiters
from shared.bus.port import Received
from shared.contracts.base import check_version
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.expired import ReplayRequest
from shared.contracts.outcome import Code, Outcome, RequestOutcome, charged, ending
from shared.contracts.queues import OUTCOMES
from shared.errors import TryLater
from shared.ledger.ledger import Ledger, key_of
from shared.redis import RedisUnavailable
from shared.worker.consumer import Consumer
from shared.worker.outbox import internal_identity

# The wait between two attempts while Redis is unavailable; the outcome stays on its queue.
WAIT_FOR_REDIS = timedelta(seconds=2)
# An outcome waits on its queue while Redis is unavailable, up to its time to live of an hour.
ATTEMPTS = 10_000


class OutcomeConsumer:
    """Stores outcomes for HTTP callers, and sends `expired` to callers whose deadline has passed."""

    def __init__(self, ledger: Ledger, waiters: Waiters, give_back: GiveBack, clock: Callable[[], datetime]) -> None:
        """`give_back`: of the budget."""
        self._ledger = ledger
        self._waiters = waiters
        self._give_back = give_back
        self._clock = clock

    def consumer(self, replays: ReplayConsumer) -> Consumer[HttpOutcome | DeadlinePassed | Replay]:
        """What a worker does with `outcomes`, which also carries replays."""

        def decode(message: Received) -> HttpOutcome | DeadlinePassed | Replay:
            return replays.decode(message) if message.subject == ReplayRequest.kind else self.decode(message)

        async def handle(task: HttpOutcome | DeadlinePassed | Replay, attempt: int) -> Sequence[Envelope]:
            if isinstance(task, Replay):
                return await replays.handle(task, attempt)
            return await self.handle(task, attempt)

        return Consumer(
            queue=OUTCOMES,
            decode=decode,
            handle=handle,
            identify=internal_identity,
            request=lambda task: task.request if isinstance(task, DeadlinePassed) else None,
            after_deadline=True,
            attempts=ATTEMPTS,
        )

    @staticmethod
    def decode(message: Received) -> HttpOutcome | DeadlinePassed:
        """The outcome or the sentinel in `message`; raises `Unprocessable`."""
        kind = check_version(message.subject or "", RequestOutcome, DeadlinePassed)
        return HttpOutcome.of(message) if kind is RequestOutcome else DeadlinePassed.decode(message.body)

    async def handle(self, task: HttpOutcome | DeadlinePassed, attempt: int = 1) -> Sequence[Envelope]:
        """Store an outcome, or send `expired` for a sentinel; the delivery is completed afterwards.

        Raises `TryLater` while Redis is unavailable.
        """
        if isinstance(task, DeadlinePassed):
            if await self._is_early(task):
                return []
            request, now = task.request, self._clock()
            # A worker that is still making a call charges for it when it ends.
            calls = await self._give_back(request)
            why = f"there was no answer by the deadline, {request.answer_by:%Y-%m-%d %H:%M:%S} UTC"
            answer = ending(request, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, why, retryable=True, finished_at=now)
            return [to_caller(request, charged(answer, calls), now)]
        self._waiters.tell(task)
        try:
            await self._ledger.store(task.answer, task.tenant, task.caller, ask=task.ask, admission=task.admission)
        except RedisUnavailable as failure:
            raise TryLater(f"the outcome cannot be stored in Redis: {failure}", after=WAIT_FOR_REDIS) from failure
        return []

    async def _is_early(self, task: DeadlinePassed) -> bool:
        """Whether the request was admitted again meanwhile, with a later deadline and its own sentinel."""
        try:
            entry = await self._ledger.find(key_of(task.request))
        except RedisUnavailable:
            return False
        if entry is None:
            return False
        later = entry.answer_by is not None and entry.answer_by > task.request.answer_by
        return later or entry.is_past(task.request)
