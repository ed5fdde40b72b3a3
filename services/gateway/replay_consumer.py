"""A `replay.v1` as an ask: an expired request is admitted again, with today's configuration and rights.

It is the run p{n} of its request, with an outcome of its own. If it is not a rerun, there is nothing to do: its caller
got `expired` before the ask was archived.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.gateway.admission import Arrival
from services.gateway.ask_consumer import AskConsumer, IncomingRequest, is_run, token_of
from shared.access.callers import Caller, Callers
from shared.bus.port import ANSWER_BY, Received
from shared.contracts.ask import Ask
from shared.contracts.envelope import Envelope
from shared.contracts.expired import ReplayRequest
from shared.contracts.queues import OUTCOMES
from shared.contracts.request import Request
from shared.errors import Reason, Unprocessable
from shared.worker.outbox import when

# How long a replay waits for a ticket.
TICKET_WITHIN = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Replay:
    """An expired request to admit again; None: it keeps its outcome."""

    incoming: IncomingRequest | None


class ReplayConsumer:
    """Admits replays like asks."""

    def __init__(self, callers: Callers, ask_consumer: AskConsumer) -> None:
        self._callers = callers
        self._ask_consumer = ask_consumer

    def decode(self, message: Received) -> Replay:
        """The request to admit.

        Raises `Unprocessable` for an invalid body, question or run, and when callers.yaml no longer has the caller or
        its reply queues.
        """
        request = ReplayRequest.decode(message.body).request
        if not request.rerun:
            return Replay(None)
        if not is_run(request.run):
            raise Unprocessable(Reason.SCHEMA_INVALID, f"run: {request.run[:32]!r} is not p{{n}}; use `ragbus replay`")
        # Validate it like an ask's body, because today's limits may differ.
        ask = Ask.decode(
            Ask.model_construct(
                question=request.question, conversation=request.conversation, use_case=request.use_case
            ).encode()
        )
        # An HTTP caller is answered over HTTP again, whatever reply queues it has for its messages.
        caller, reply_queues = self._caller(request), (OUTCOMES,) if request.reply_to.queue == OUTCOMES else ()
        if not (reply_queues or caller.reply_queues):
            raise Unprocessable(Reason.UNAUTHORIZED, f"callers.yaml no longer gives {caller.name} a reply queue")
        at = message.enqueued_at or request.accepted_at
        arrival = Arrival(
            caller=caller,
            message_id=request.request_id,
            identity=request.request_id,
            at=at,
            correlation_id=request.correlation_id,
            reply_to=request.reply_to.queue,
            reply_queues=reply_queues,
            reply_session=request.reply_to.session,
            time_to_live=message.time_to_live,
            answer_by=when(message.properties.get(ANSWER_BY)),
            run=request.run,
            rerun=True,
            # It must not delay the outcomes on this queue: without a ticket soon, the run is refused.
            admitted_by=at + TICKET_WITHIN,
            token=token_of(message),
        )
        return Replay(IncomingRequest(ask, arrival))

    async def handle(self, replay: Replay, attempt: int = 1) -> Sequence[Envelope]:
        """Answer at once, or pass the work on; raises like `AskConsumer.handle`."""
        return await self._ask_consumer.handle(replay.incoming, attempt) if replay.incoming is not None else []

    def _caller(self, request: Request) -> Caller:
        """The caller of `request` with today's rights; raises `Unprocessable` when it is no longer configured."""
        for caller in self._callers.callers:
            if (caller.tenant, caller.name) == (request.tenant, request.caller):
                return caller
        raise Unprocessable(
            Reason.UNAUTHORIZED, f"callers.yaml no longer has caller {request.caller} of {request.tenant}"
        )
