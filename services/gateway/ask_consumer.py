"""Consumes `ask.v1` and `cancel.v1` from a caller's ingress queue."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.gateway.admission import NOT_A_DEADLINE, Arrival
from services.gateway.cancellation import Cancellation
from services.gateway.intake import Answered, Done, InProgress, Intake, Standing
from shared.access.callers import Caller, Callers
from shared.bus.port import ANSWER_BY, ENQUEUED_AT, ORIGIN, RERUN, RUN, Received
from shared.contracts.ask import Ask
from shared.contracts.base import check_version
from shared.contracts.cancel import Cancel
from shared.contracts.envelope import Envelope, to_caller, to_one_ask
from shared.contracts.ids import ask_token, request_id, stage_id
from shared.contracts.queues import OUTCOMES, RETRIEVE
from shared.errors import Reason, TryLater, Unprocessable
from shared.worker.consumer import Consumer
from shared.worker.outbox import Identity, when

# The longest time between two checks by a repeat whether the first ask has its outcome.
LONGEST_WAIT = timedelta(seconds=5)
# The deadline ends the attempts of an ask, not their number. An ask without a time to live has that of its use case.
ATTEMPTS = 10_000
# Asks of one queue in progress; under overload most of them wait for a ticket. High enough that a message that need
# not wait (a cached answer, a cancellation) seldom stands behind them, low enough that they are handed back fast at
# SIGTERM.
IN_HAND = 32
# The name of a replay becomes part of ids, so a caller must not choose it freely.
_RUN = re.compile(r"p[1-9][0-9]{0,15}")


@dataclass(frozen=True, slots=True)
class IncomingRequest:
    """An ask or a cancellation, and how it arrived."""

    said: Ask | Cancel
    arrival: Arrival


class AskConsumer:
    """Reads what callers send to their ingress queues, and hands it to intake or cancellation."""

    def __init__(
        self, callers: Callers, intake: Intake, cancelling: Cancellation, clock: Callable[[], datetime]
    ) -> None:
        self._callers = callers
        self._intake = intake
        self._cancelling = cancelling
        self._clock = clock

    def consumer(self, caller: Caller) -> Consumer[IncomingRequest]:
        """What a worker does with the ingress queue of `caller`."""
        return Consumer(
            queue=caller.queue or "",
            decode=self.decode,
            handle=self.handle,
            identify=self.identify,
            prewarm=(OUTCOMES, RETRIEVE, *caller.reply_queues),
            longest_wait=LONGEST_WAIT,
            attempts=ATTEMPTS,
            concurrency=IN_HAND,
        )

    def decode(self, message: Received) -> IncomingRequest:
        """The ask or cancellation in `message`; without a subject it is read as `ask.v1`.

        Raises `Unprocessable` for a queue without a caller, another kind or section, and an invalid body.
        """
        arrival = self.arrival(message)
        kind = check_version(message.subject or Ask.kind, Ask, Cancel)
        if message.section != "data":
            raise Unprocessable(
                Reason.SCHEMA_INVALID,
                f"the body is an AMQP {message.section}, not JSON: send a data section with the JSON's bytes",
            )
        said = Cancel.decode(message.body) if kind is Cancel else Ask.decode(message.body)
        return IncomingRequest(said, arrival)

    def arrival(self, message: Received) -> Arrival:
        """How `message` arrived, and whose it is: the caller's whose queue it is on.

        Raises `Unprocessable` for a queue without a caller.
        """
        caller = self._callers.at_queue(message.queue)
        if caller is None:
            raise Unprocessable(Reason.UNAUTHORIZED, f"queue {message.queue} belongs to no caller in callers.yaml")
        enqueued = message.enqueued_at or self._clock()
        first = min(when(message.properties.get(ENQUEUED_AT)) or enqueued, enqueued)
        return Arrival(
            caller=caller,
            message_id=origin(message),
            at=first,
            correlation_id=message.correlation_id,
            reply_to=message.reply_to,
            reply_session=message.reply_to_session_id,
            time_to_live=message.time_to_live,
            answer_by=when(message.properties.get(ANSWER_BY)),
            run=run_of(message),
            rerun=bool(run_of(message)) and message.properties.get(RERUN) is True,
            token=token_of(message),
        )

    def identify(self, message: Received) -> Identity:
        """The identity that the copies of `message` share: its id, and the deadline that it carries or lives to."""
        caller = self._callers.at_queue(message.queue)
        name = (caller.tenant, caller.name) if caller else ("", message.queue)
        # A repeat is retried under ids of its own, or its queue would take them for those of the first.
        stage = "cancel" if message.subject == Cancel.kind else f"ask/{token_of(message)}"
        base = stage_id(request_id(*name, origin(message)), stage, run_of(message))
        deadline, life = when(message.properties.get(ANSWER_BY)), message.time_to_live
        if deadline is None and message.enqueued_at is not None and life is not None and life < NOT_A_DEADLINE:
            deadline = message.enqueued_at + life
        return Identity(base, origin(message), deadline)

    async def handle(self, incoming: IncomingRequest, attempt: int = 1) -> Sequence[Envelope]:
        """Answer at once, or pass the work on.

        Raises `TryLater` for a repeat while the first ask is in progress, and for a cancellation without Redis;
        `Leaving` when this process stops before the ask has a ticket.
        """
        if isinstance(incoming.said, Cancel):
            return await self._cancelling.take(incoming.said, incoming.arrival.caller, attempt)
        taken = await self._intake.take(incoming.said, incoming.arrival)
        match taken:
            case InProgress():
                raise TryLater(
                    "another message with this id is in progress; its outcome is also the outcome of this one"
                )
            case Done() | Answered(standing=Standing.SENT):
                return []
            case Answered(request, answer, standing) if standing in (Standing.ALONE, Standing.AGAIN):
                again = standing is Standing.AGAIN
                return [to_one_ask(request, answer, incoming.arrival.token, self._clock(), again=again)]
            case Answered(request, answer):
                return [to_caller(request, answer, self._clock())]
            case _:
                return taken.envelopes


def run_of(message: Received) -> str:
    """Which replay `message` is (`p1`, `p2`, …); empty for a first run and for an invalid name."""
    run = message.properties.get(RUN)
    return run if isinstance(run, str) and is_run(run) else ""


def is_run(name: str) -> bool:
    """Whether `name` is that of a replay."""
    return _RUN.fullmatch(name) is not None


def token_of(message: Received) -> str:
    """The token of this sending of an ask; the same for its retries and its dead letter."""
    return ask_token(message.reply_to_session_id, message.first_number, message.body)


def origin(message: Received) -> str:
    """The id under which the caller knows its message; without one, its place on the queue."""
    known = message.properties.get(ORIGIN)
    return str(known) if known else message.message_id or f"{message.queue}#{message.sequence_number}"
