"""The `dead` queue: dead letters of every queue on a request's path. The caller gets an outcome, the message is
archived.

The message stays in `dead/$DeadLetterQueue` with its reason, for triage and replay. The failure of an ask is the
outcome of its request only if the id is bound to this ask: a repeat must not end what the first ask began, and an
unreadable ask binds nothing. Then only the sender of that ask is told of the failure; a repeat is told the outcome of
the request instead, if there is one.

Work that was only late is archived as its ask, without the passages: an `expired.v1` is sent to `dead`, the original is
completed, and the copy is archived when it arrives.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.gateway.admission import bound_to, reply_address
from services.gateway.ask_consumer import AskConsumer
from services.gateway.cancellation import GiveBack
from shared.bus.port import Received
from shared.contracts.ask import Ask
from shared.contracts.cancel import Cancel
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope, to_archive, to_caller, to_one_ask
from shared.contracts.expired import ExpiredRequest, ReplayRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import MAX_ID, request_id
from shared.contracts.outcome import Code, Outcome, RequestOutcome, cancelled, charged, ending, id_reused, repeated
from shared.contracts.queues import DEAD, GENERATE, OUTCOMES, RETRIEVE
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Reason, Unprocessable
from shared.ledger.ledger import KEEP, Entry, Ledger
from shared.redis import RedisUnavailable
from shared.telemetry.logs import get_logger
from shared.worker.consumer import ArchiveInPlace, Consumer
from shared.worker.outbox import internal_identity

log = get_logger()

Release = Callable[[Request], Awaitable[None]]

# The queues that only our own workers may send to.
OURS = frozenset({RETRIEVE, GENERATE, OUTCOMES})
_Internal = RetrievePassages | GenerateAnswer | DeadlinePassed | ReplayRequest
_INTERNAL: dict[str, type[_Internal]] = {
    kind.kind: kind for kind in (RetrievePassages, GenerateAnswer, DeadlinePassed, ReplayRequest)
}
_WORK: dict[str, type[RetrievePassages] | type[GenerateAnswer]] = {
    kind.kind: kind for kind in (RetrievePassages, GenerateAnswer)
}
_LATE = frozenset({Reason.DEADLINE_EXCEEDED, Reason.TTL_EXPIRED})
# The outcome for each reason, and whether it is retryable: after a lack of time, and after a bug of ours.
_OUTCOMES: dict[str, tuple[Outcome, Code, bool]] = {
    Reason.SCHEMA_INVALID: (Outcome.FAILED, Code.SCHEMA_INVALID, False),
    Reason.SCHEMA_UNSUPPORTED: (Outcome.FAILED, Code.SCHEMA_UNSUPPORTED, False),
    Reason.UNAUTHORIZED: (Outcome.REFUSED, Code.UNAUTHORIZED, False),
    Reason.PAYLOAD_TOO_LARGE: (Outcome.FAILED, Code.PAYLOAD_TOO_LARGE, False),
    Reason.DEADLINE_EXCEEDED: (Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, True),
    Reason.RETRIES_EXHAUSTED: (Outcome.FAILED, Code.RETRIES_EXHAUSTED, True),
    Reason.POISON_CONTENT: (Outcome.FAILED, Code.POISON_CONTENT, False),
    Reason.MISCONFIGURED: (Outcome.FAILED, Code.MISCONFIGURED, False),
    Reason.TTL_EXPIRED: (Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, True),
    Reason.MAX_DELIVERY_COUNT: (Outcome.FAILED, Code.CRASHED, True),
}
_UNKNOWN_REASON = (Outcome.FAILED, Code.CRASHED, True)


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A dead letter and its request; None when its caller is unknown or was told before."""

    request: Request | None
    reason: str
    description: str
    archived: ExpiredRequest | ArchiveInPlace | None = None
    """What is archived; None: nothing."""
    is_ask: bool = False
    """Whether it is a caller's ask, and not internal work. An unreadable one has no `ask_digest`."""
    is_told: bool = False
    """Whether it is an archived ask, whose caller got `expired` before."""


class DeadLetterConsumer:
    """Tells callers about their dead-lettered requests."""

    def __init__(
        self,
        ask_consumer: AskConsumer,
        ledger: Ledger,
        give_back: GiveBack,
        release: Release,
        clock: Callable[[], datetime],
    ) -> None:
        """`give_back`: of the budget. `release`: returns its ticket."""
        self._ask_consumer = ask_consumer
        self._ledger = ledger
        self._give_back = give_back
        self._release = release
        self._clock = clock

    def consumer(self) -> Consumer[DeadMessage]:
        """What a worker does with `dead`."""
        return Consumer(
            queue=DEAD,
            decode=self.decode,
            handle=self.handle,
            identify=internal_identity,
            # A dead ask may be a repeat: that its request has an outcome does not mean that this ask has got it.
            request=lambda dead: None if dead.is_ask else dead.request,
            after_deadline=True,
            archive=self.archive,
        )

    def decode(self, message: Received) -> DeadMessage:
        """The dead letter's request and what to archive. Never raises: an unreadable message is archived as well."""
        reason = message.dead_letter_reason or "Unknown"
        description = message.dead_letter_description or "no description"
        try:
            if message.subject == ExpiredRequest.kind and message.dead_letter_source is None:
                expired = ExpiredRequest.decode(message.body)
                kept = ArchiveInPlace(expired.reason, expired.detail)
                return DeadMessage(None, expired.reason, expired.detail, kept, is_told=True)
            # Where it died decides how it is read: on a caller's own queue a subject and a body prove nothing.
            if message.dead_letter_source not in OURS:
                kept = ArchiveInPlace(reason, description)
                return DeadMessage(self._request_of_ask(message), reason, description, kept, is_ask=True)
            return DeadMessage(
                self._request_of_work(message), reason, description, _archived(message, reason, description)
            )
        except Exception as bug:  # the message is archived all the same
            log.warning("dead.unreadable", detail=repr(bug), exc_info=True)
            return DeadMessage(None, reason, description, ArchiveInPlace(reason, description))

    async def handle(self, dead: DeadMessage, attempt: int = 1) -> Sequence[Envelope]:
        """The caller's outcome, at most one; the worker archives the message."""
        request, now = dead.request, self._clock()
        if request is None:
            if not dead.is_told:
                log.warning("dead.unknown_caller", reason=dead.reason, detail=dead.description)
            return []
        outcome, code, retryable = _OUTCOMES.get(dead.reason, _UNKNOWN_REASON)
        # The text of an exception is for the operator, not for the caller.
        message = (
            "an internal error occurred; the operator has its traceback"
            if dead.reason == Reason.CRASHED
            else dead.description
        )
        answer = ending(request, outcome, code, message, retryable=retryable, finished_at=now)
        told = await self._outcome_of_ask(request, answer, now) if dead.is_ask else to_caller(request, answer, now)
        if told is None:
            return []
        if told.decide and told.request is not None:
            ended = told.request
            calls = await self._give_back(ended)
            if isinstance(told.message, RequestOutcome):
                told = replace(told, message=charged(told.message, calls))
            if dead.is_ask:  # the ticket of work is returned with its outcome, which shows how long it took
                await self._release(ended)
        return [told]

    def archive(self, dead: DeadMessage, known: Entry | None) -> ArchiveInPlace | Envelope | None:
        """What is archived of a dead letter; None: nothing. `known`: the ledger's entry of a request that has ended."""
        if not isinstance(dead.archived, ExpiredRequest):
            return dead.archived
        answer = known.answer if known is not None else None
        ended_otherwise = answer is not None and answer.outcome is not Outcome.EXPIRED
        if known is not None and (ended_otherwise or known.is_past(dead.archived.request)):
            # Another copy of the work was in time, the request was cancelled, or it was admitted again.
            return None
        return to_archive(dead.archived)

    async def _outcome_of_ask(self, request: Request, answer: RequestOutcome, now: datetime) -> Envelope | None:
        """What the sender of a dead-lettered ask is told; None: it was told before. `answer`: that the ask failed."""
        readable, is_replay = bool(request.ask_digest), bool(request.run) and not request.rerun
        # It is an operator's replay; the caller was told the first time.
        alone = None if request.run else to_one_ask(request, answer, request.token, now)
        try:
            if not readable and not request.rerun:
                await self._ledger.unread(request, answer)
                return alone
            entry = await self._ledger.bind(request, request.token, now)
        except RedisUnavailable:
            return to_caller(request, answer, now) if readable or request.rerun else alone
        if request.token in entry.past or (is_replay and entry.unread is not None):
            return None
        if not entry.asks_the_same(request):
            return to_one_ask(request, id_reused(request, now), request.token, now)
        if request.run or entry.token == request.token:
            if entry.answer is not None and entry.delivered:
                return None
            request = request.in_admission(entry.admission, entry.token or request.token)
            return to_caller(request, cancelled(request, now) if entry.cancelled else answer, now)
        if entry.answer is not None:
            return to_one_ask(request, repeated(entry.answer, now), request.token, now, again=True)
        return alone

    def _request_of_work(self, message: Received) -> Request | None:
        """The request of dead work of our own; None when its caller cannot be told, or was told before."""
        kind = _INTERNAL.get(message.subject or "")
        if kind is None:
            return None
        try:
            request = kind.decode(message.body).request
        except Unprocessable:
            return None
        if kind is ReplayRequest and not request.rerun:
            return None
        # The ledger has forgotten older requests; their sentinels have told their callers.
        return request if self._clock() - request.answer_by < KEEP else None

    def _request_of_ask(self, message: Received) -> Request | None:
        """A request with what is needed to answer a dead ask; None when there is no caller to answer."""
        if message.dead_letter_source is None or message.subject == Cancel.kind:
            # A cancellation is not a request; the request that it names has an outcome of its own.
            return None
        ask = replace(message, queue=message.dead_letter_source)
        try:
            arrival = self._ask_consumer.arrival(ask)
        except Unprocessable:
            return None
        try:
            said = self._ask_consumer.decode(ask).said
            digest = bound_to(said, arrival.caller) if isinstance(said, Ask) else ""
        except Unprocessable:
            digest = ""
        identity = request_id(arrival.caller.tenant, arrival.caller.name, arrival.message_id)
        now = self._clock()
        return Request(
            request_id=identity,
            tenant=arrival.caller.tenant,
            caller=arrival.caller.name,
            groups=(),
            use_case="",
            question="",
            accepted_at=now,
            answer_by=now,
            correlation_id=(arrival.correlation_id or arrival.message_id)[:MAX_ID],
            reply_to=reply_address(arrival, identity),
            run=arrival.run,
            rerun=arrival.rerun,
            ask_digest=digest,
            token=arrival.token,
        )


def _archived(message: Received, reason: str, description: str) -> ExpiredRequest | ArchiveInPlace | None:
    """What is archived of dead-lettered internal work: the ask of late work, else the message itself."""
    kept, kind = ArchiveInPlace(reason, description), message.subject or ""
    if reason not in _LATE:
        return kept
    if kind == DeadlinePassed.kind:
        return None  # the work that it watched is kept
    work = _WORK.get(kind)
    if work is None:
        return kept
    try:
        request = work.decode(message.body).request.ask_only()
    except Unprocessable:
        return kept
    return ExpiredRequest(request=request, died_on=message.dead_letter_source or "", reason=reason, detail=description)
