"""Sends what handlers return: outcomes once, everything with the current trace, errors in the worker's words."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from shared.bus.port import Bus, MessageTooLarge, QueueFull
from shared.contracts.answer import AnswerReady
from shared.contracts.envelope import Envelope
from shared.errors import Reason, TryLater, Unprocessable
from shared.failpoints import reach
from shared.telemetry import names, traces
from shared.telemetry.logs import get_logger
from shared.telemetry.metrics import Metrics
from shared.worker.outcomes import Outcomes
from shared.worker.post import outgoing

log = get_logger()

# A full queue is a matter of somebody else's reading.
FULL = timedelta(seconds=10)


class Poster:
    """Sends envelopes: outcomes after they were claimed, everything with the current trace."""

    def __init__(self, bus: Bus, outcomes: Outcomes, metrics: Metrics, clock: Callable[[], datetime]) -> None:
        self._bus = bus
        self._outcomes = outcomes
        self._metrics = metrics
        self._clock = clock

    async def send(self, envelope: Envelope) -> None:
        """Send one. Raises `BusUnavailable`, and `Unprocessable` when it is too large for the broker."""
        if not isinstance(envelope.message, AnswerReady):
            return await self._post(envelope)
        answer = await self._outcomes.send(_traced(envelope), self._post)
        if answer is not None:
            self._metrics.outcomes.add(1, {"outcome": answer.outcome, "code": answer.code})
            log.info("outcome.sent", outcome=answer.outcome, code=answer.code, request_id=answer.request_id)
        return None

    async def _post(self, envelope: Envelope) -> None:
        attributes = {names.MESSAGING_SYSTEM: names.SERVICEBUS, names.DESTINATION: envelope.queue}
        with traces.producing(f"{names.SEND} {envelope.queue}", {**attributes, names.MESSAGE_ID: envelope.message_id}):
            reach("worker.sending")
            try:
                await self._bus.send(outgoing(envelope, self._clock()))
            except MessageTooLarge as large:
                raise Unprocessable(Reason.PAYLOAD_TOO_LARGE, str(large)) from large
            except QueueFull as full:
                raise TryLater(str(full), after=FULL) from full
        reach("worker.sent")
        self._metrics.sent.add(1, {"queue": envelope.queue})


def _traced(envelope: Envelope) -> Envelope:
    """Write the trace into an outcome, so that the caller can name it."""
    answer = envelope.message
    trace = traces.trace_id()
    if not isinstance(answer, AnswerReady) or answer.trace_id or not trace:
        return envelope
    return replace(envelope, message=answer.model_copy(update={"trace_id": trace}))
