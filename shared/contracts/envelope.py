"""The address of a message: its queue, id, correlation and expiry. Pure: handlers return envelopes."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from shared.contracts.base import Message
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.expired import ExpiredRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import stage_id
from shared.contracts.outcome import RequestOutcome
from shared.contracts.queues import DEAD, GENERATE, OUTCOMES, RETRIEVE
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages

# The sentinel comes this long after the deadline, so that an answer sent at the last moment wins; the
# promise is `expired` at most 15 s after the deadline.
SENTINEL_DELAY = timedelta(seconds=2)
# How long an outcome remains on its queue.
KEEP_REPLY = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its address."""

    queue: str
    message_id: str
    message: Message
    correlation_id: str
    session_id: str | None = None
    not_before: datetime | None = None
    expires_at: datetime | None = None
    request: Request | None = None
    decide: bool = True
    """For an outcome: whether the ledger decides it for `request` before it is sent. If not, it is for one ask only."""
    again: bool = False
    """For an outcome that is for one ask only: whether it repeats the request's outcome."""
    decision: object = field(default=None, repr=False, compare=False)
    """For an outcome that its handler has had decided just now: the ledger's `Entry`, so that it is not asked again."""

    def guarded_by(self, number: int) -> "Envelope":
        """The same with `number`, the sequence number of the request's sentinel, if it is work for the retriever."""
        if self.request is None or not isinstance(self.message, RetrievePassages):
            return self
        request = self.request.watched_by(number)
        return replace(self, request=request, message=RetrievePassages(request=request))


def to_retriever(request: Request) -> Envelope:
    """Ask the retriever for passages."""
    return _work(RETRIEVE, RetrievePassages(request=request), request)


def to_generator(task: GenerateAnswer) -> Envelope:
    """Hand candidates to the generator."""
    return _work(GENERATE, task, task.request)


def to_caller(request: Request, answer: RequestOutcome, now: datetime) -> Envelope:
    """Send the outcome to the caller's reply queue (the gateway's own for HTTP)."""
    # The reply queue has seen `{request}/reply` at the first admission; a rerun has an outcome of its own.
    branch = request.run if request.rerun else request.token if request.admission else ""
    return Envelope(
        queue=request.reply_to.queue,
        message_id=stage_id(request.request_id, "reply", branch),
        message=answer,
        correlation_id=request.correlation_id,
        # `outcomes` has no sessions; a session id there has no effect.
        session_id=request.reply_to.session if request.reply_to.queue != OUTCOMES else None,
        expires_at=now + KEEP_REPLY,
        request=request,
    )


def to_one_ask(request: Request, answer: RequestOutcome, token: str, now: datetime, *, again: bool = False) -> Envelope:
    """Send `answer` to the ask with this token, to the reply address in `request`. It is not the request's outcome."""
    reply = to_caller(request, answer, now)
    return replace(reply, message_id=stage_id(request.request_id, "reply", token), decide=False, again=again)


def at_deadline(request: Request) -> Envelope:
    """Wake the gateway shortly after the deadline. The question is left out, because nothing needs it then."""
    due = f"deadline.{int(request.answer_by.timestamp())}"
    return Envelope(
        queue=OUTCOMES,
        message_id=stage_id(request.request_id, due, request.branch),
        message=DeadlinePassed(request=request.without_question()),
        correlation_id=request.correlation_id,
        not_before=request.answer_by + SENTINEL_DELAY,
        request=request,
    )


def to_archive(expired: ExpiredRequest) -> Envelope:
    """Archive an expired request. A second copy has the same id, whichever worker sends it."""
    request = expired.request
    return Envelope(
        queue=DEAD,
        message_id=stage_id(request.request_id, "expired", request.branch),
        message=expired,
        correlation_id=request.correlation_id,
    )


def _work(queue: str, message: Message, request: Request) -> Envelope:
    return Envelope(
        queue=queue,
        message_id=stage_id(request.request_id, queue, request.branch),
        message=message,
        correlation_id=request.correlation_id,
        expires_at=request.answer_by,
        request=request,
    )
