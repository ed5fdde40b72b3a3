"""Cancels a request: `cancelled` becomes its outcome and is sent to the caller.

The worker that has the request finds out before its next paid call, or between two pieces of an answer.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.access.callers import Caller
from shared.contracts.cancel import Cancel
from shared.contracts.envelope import Envelope, to_caller
from shared.contracts.ids import request_id
from shared.contracts.outcome import ModelCall, RequestOutcome, cancelled, charged
from shared.contracts.request import Request
from shared.errors import TryLater
from shared.ledger.ledger import Ledger
from shared.redis import RedisUnavailable
from shared.telemetry.logs import get_logger

log = get_logger()

# `TenantBudget.give_back`: ends the request's reservation; the calls that were made for it.
GiveBack = Callable[[Request], Awaitable[Sequence[ModelCall]]]

# Attempts of a cancellation while Redis is unavailable, and the time between them; after that most requests have ended.
ATTEMPTS = 5
WAIT_FOR_REDIS = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Decided:
    """The outcome of a request that its caller cancels, and the message with it."""

    answer: RequestOutcome
    envelope: Envelope


class Cancellation:
    """Cancels requests for their callers."""

    def __init__(
        self,
        ledger: Ledger,
        give_back: GiveBack,
        clock: Callable[[], datetime],
        noted: Callable[[str], None] = lambda _request_id: None,
    ) -> None:
        """`give_back`: of the budget. `noted`: called with the id of an ask that is not
        admitted yet."""
        self._ledger = ledger
        self._give_back = give_back
        self._clock = clock
        self._noted = noted

    async def take(self, cancel: Cancel, caller: Caller, attempt: int = 1) -> Sequence[Envelope]:
        """Cancel the ask of `caller` with this message id; returns its outcomes, to be sent.

        Raises `TryLater` while Redis is unavailable, for `ATTEMPTS` attempts.
        """
        # `http/{Idempotency-Key}` names an ask over HTTP, but may also be a message's own id.
        protocols = ["", "http"] if cancel.message_id.startswith("http/") else [""]
        identities = [request_id(caller.tenant, caller.name, cancel.message_id, protocol) for protocol in protocols]
        try:
            outcomes = [await self.cancel(identity, caller) for identity in identities]
        except RedisUnavailable as failure:
            if attempt >= ATTEMPTS:
                log.warning("cancel.given_up", request_id=identities[0], tenant=caller.tenant, detail=str(failure))
                return []
            raise TryLater(f"the ledger is unavailable: {failure}", after=WAIT_FOR_REDIS) from failure
        return [outcome.envelope for outcome in outcomes if outcome is not None]

    async def cancel(self, identity: str, caller: Caller) -> Decided | None:
        """The outcome of `caller`'s request `identity`; None when the ask has not arrived yet.

        Raises `RedisUnavailable`.
        """
        entry = await self._ledger.cancel(identity, caller.tenant, caller.name)
        request = entry.request
        if request is None:
            log.info("cancel.recorded", request_id=identity, tenant=caller.tenant)
            self._noted(identity)
            return None
        now = self._clock()
        # A call that is being made is charged when it has stopped; it is not among these.
        stopped = charged(cancelled(request, now), await self._give_back(request))
        answer = (await self._ledger.decide(request, stopped)).answer or stopped
        log.info("cancel.handled", request_id=identity, tenant=caller.tenant, outcome=answer.outcome)
        return Decided(answer, to_caller(request, answer, now))
