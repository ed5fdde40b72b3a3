"""Sends what handlers return: outcomes once, everything with the current trace, errors in the worker's words."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from shared.bus.port import Bus, MessageTooLarge, Outgoing, QueueFull
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope
from shared.contracts.outcome import RequestOutcome
from shared.contracts.request import Request
from shared.errors import Reason, TryLater, Unprocessable
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.worker.outbox import outgoing
from shared.worker.outcome_guard import OutcomeGuard
from shared.worker.sentinels import Sentinels

log = get_logger()
T = TypeVar("T")

# A full queue needs its consumer to catch up.
FULL = timedelta(seconds=10)


Send = Callable[[Envelope], Awaitable[int | None]]


async def send_in_order(envelopes: Sequence[Envelope], send: Send, check: Callable[[], None] = lambda: None) -> None:
    """Send the envelopes in order, with `check` before each: a sentinel is scheduled before its work is sent.

    The work carries the sentinel's number from then on, so that it can be cancelled when there is an outcome.
    """
    number = None
    for envelope in envelopes:
        check()
        number = await send(envelope if number is None else envelope.guarded_by(number)) or number


class Publisher:
    """Sends envelopes: outcomes after they were decided, everything with the current trace."""

    def __init__(self, bus: Bus, outcomes: OutcomeGuard, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._bus = bus
        self._outcomes = outcomes
        self._metrics = metrics
        self._clock = clock
        self._sentinels = Sentinels(bus, clock)

    async def send(self, envelope: Envelope) -> int | None:
        """Send one envelope; returns the sequence number of a sentinel, else None.

        Raises `BusUnavailable`, and `Unprocessable` when it is too large for the broker.
        """
        if isinstance(envelope.message, DeadlinePassed):
            return await self._hand_over(envelope, self._bus.schedule)
        if not isinstance(envelope.message, RequestOutcome):
            await self._post(envelope)
            return None
        sent = await self._outcomes.send(_traced(envelope), self._post)
        if sent is not None and not envelope.again:
            answer = sent.answer
            counter = self._metrics.outcomes if sent.guarded else self._metrics.outcomes_unguarded
            counter.add(1, {"outcome": answer.outcome, "code": answer.code})
            event = "outcome.sent" if sent.guarded else "outcome.sent_unguarded"
            log.info(event, outcome=answer.outcome, code=answer.code, request_id=answer.request_id)
            if envelope.request is not None:
                self.is_over(envelope.request)
        return None

    def is_over(self, request: Request) -> None:
        """Cancel the sentinel of `request`: the broker has its outcome."""
        self._sentinels.cancel(request)

    async def _post(self, envelope: Envelope) -> None:
        await self._hand_over(envelope, self._bus.send)

    async def _hand_over(self, envelope: Envelope, send: Callable[[Outgoing], Awaitable[T]]) -> T:
        attributes = {names.MESSAGING_SYSTEM: names.SERVICEBUS, names.DESTINATION: envelope.queue}
        with traces.producing(f"{names.SEND} {envelope.queue}", {**attributes, names.MESSAGE_ID: envelope.message_id}):
            try:
                result = await send(outgoing(envelope, self._clock()))
            except MessageTooLarge as large:
                raise Unprocessable(Reason.PAYLOAD_TOO_LARGE, str(large)) from large
            except QueueFull as full:
                raise TryLater(str(full), after=FULL) from full
        self._metrics.sent.add(1, {"queue": envelope.queue})
        return result


def _traced(envelope: Envelope) -> Envelope:
    """Write the trace into an outcome, so that the caller can name it."""
    answer = envelope.message
    trace = traces.trace_id()
    if not isinstance(answer, RequestOutcome) or answer.trace_id or not trace:
        return envelope
    return replace(envelope, message=answer.replaced(trace_id=trace))
