"""The `dead` queue: what any queue on a request's path dead-lettered. The caller is told, the message archived.

It stays in `dead/$DeadLetterQueue` with the reason it died of, for triage and replay. How an ask died is its request's
outcome only if it is the ask that its id is bound to: a repeat must not end what the first one began, and one that
cannot be read binds nothing. Those hear it alone; a repeat hears the outcome instead if there is one.

Of work that merely was late only the ask is kept, without the passages: an `expired.v1` is sent to `dead`, the original
completed, and the copy archived when it comes round.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from services.gateway.admission import Arrival, bound_to, reply_address
from services.gateway.ask_consumer import AskConsumer
from shared.bus.port import Received
from shared.contracts.ask import Ask
from shared.contracts.cancel import Cancel
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.envelope import Envelope, to_archive, to_caller, to_one_ask
from shared.contracts.expired import ExpiredRequest, ReplayRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import MAX_ID, request_id
from shared.contracts.outcome import Code, Outcome, RequestOutcome, cancelled, ending, id_reused, repeated
from shared.contracts.queues import GENERATE, OUTCOMES, RETRIEVE
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Reason, Unprocessable
from shared.failpoints import reach
from shared.ledger.ledger import KEEP, Entry, Ledger
from shared.redis import RedisUnavailable
from shared.telemetry.logs import get_logger
from shared.worker.consumer import ArchiveInPlace

log = get_logger()

CorrectBudget = Callable[[str, str, int], Awaitable[None]]
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
# How a dead letter is told. A caller can try again after what was a matter of time or of our making.
_TOLD: dict[str, tuple[Outcome, Code, bool]] = {
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
_UNKNOWN = (Outcome.FAILED, Code.CRASHED, True)


@dataclass(frozen=True, slots=True)
class DeadMessage:
    """A dead message and the request it was about; None when nobody can be told."""

    request: Request | None
    reason: str
    description: str
    remains: ExpiredRequest | ArchiveInPlace | None = None
    """What is kept of it; None: nothing."""
    is_ask: bool = False
    """Whether it is what a caller sent, and no work of ours on it. What cannot be read has no `ask_digest`."""
    is_told: bool = False
    """Whether it is what is kept of a request whose caller has been told."""


class DeadLetterConsumer:
    """Tells callers what became of their requests."""

    def __init__(
        self,
        ask_consumer: AskConsumer,
        ledger: Ledger,
        correct_budget: CorrectBudget,
        release: Release,
        clock: Callable[[], datetime],
    ) -> None:
        """`correct_budget`: gives a request's reserved tokens back. `release`: its ticket."""
        self._ask_consumer = ask_consumer
        self._ledger = ledger
        self._correct_budget = correct_budget
        self._release = release
        self._clock = clock

    def decode(self, message: Received) -> DeadMessage:
        """Whom the dead message concerned. Never raises: what cannot be read is archived all the same."""
        reason, description = epitaph(message)
        kept = ArchiveInPlace(reason, description)
        try:
            if message.subject == ExpiredRequest.kind and message.dead_letter_source is None:
                expired = ExpiredRequest.decode(message.body)
                return DeadMessage(
                    None, expired.reason, expired.detail, ArchiveInPlace(expired.reason, expired.detail), is_told=True
                )
            is_ask = message.dead_letter_source not in OURS
            return DeadMessage(self._request(message), reason, description, _remains(message), is_ask)
        except Exception as unreadable:  # noqa: BLE001 - archived, and said aloud
            log.warning("dead.unreadable", detail=repr(unreadable))
            return DeadMessage(None, reason, description, kept)

    async def handle(self, dead_message: DeadMessage, attempt: int = 1) -> Sequence[Envelope]:
        """Tell the caller; the worker archives the message."""
        request = dead_message.request
        if dead_message.is_told:
            return []
        if request is None:
            log.warning("dead.nobody_to_tell", reason=dead_message.reason, detail=dead_message.description)
            return []
        reach("dead.telling")
        outcome, code, retryable = _TOLD.get(dead_message.reason, _UNKNOWN)
        now = self._clock()
        answer = ending(request, outcome, code, _told(dead_message), retryable=retryable, finished_at=now)
        told = await self._for_ask(request, answer, now) if dead_message.is_ask else to_caller(request, answer, now)
        bound = told.request if told is not None and told.decide else None
        if bound is not None:
            await self._correct_budget(bound.tenant, bound.spending, 0)
            if dead_message.is_ask:  # the ticket of work is given back with its outcome, which says how long it took
                await self._release(bound)
        reach("dead.settled")
        return [told] if told is not None else []

    def archive(self, dead_message: DeadMessage, known: Entry | None) -> ArchiveInPlace | Envelope | None:
        """What is kept of a dead message, given what the ledger has on a request that is over."""
        if not isinstance(dead_message.remains, ExpiredRequest):
            return dead_message.remains
        request = dead_message.remains.request
        answer = known.answer if known is not None else None
        ended_otherwise = answer is not None and answer.outcome is not Outcome.EXPIRED
        if known is not None and (ended_otherwise or known.is_past(request)):
            # Another copy of the work was in time, it was cancelled, or it was asked anew.
            return None
        return to_archive(dead_message.remains)

    async def _for_ask(self, request: Request, answer: RequestOutcome, now: datetime) -> Envelope | None:
        """What the sender of a dead ask is told; None: it was told before. `answer` says how the ask died."""
        readable, is_replay = bool(request.ask_digest), bool(request.run) and not request.rerun
        try:
            if not readable and not request.rerun:
                await self._ledger.unread(request, answer)
                return self._alone(request, answer, now)
            entry = await self._ledger.bind(request, request.token, now)
        except RedisUnavailable:
            bound = readable or request.rerun
            return to_caller(request, answer, now) if bound else self._alone(request, answer, now)
        if request.token in entry.past or (is_replay and entry.unread is not None):
            return None
        if not entry.asks_the_same(request):
            return to_one_ask(request, id_reused(request, now), request.token, now)
        if request.run or entry.token == request.token:
            if entry.answer is not None and entry.delivered:
                return None
            update = {"admission": entry.admission, "token": entry.token or request.token}
            request = request.model_copy(update=update)
            return to_caller(request, cancelled(request, now) if entry.cancelled else answer, now)
        if entry.answer is not None:
            return to_one_ask(request, repeated(entry.answer, now), request.token, now, again=True)
        return self._alone(request, answer, now)

    def _alone(self, request: Request, answer: RequestOutcome, now: datetime) -> Envelope | None:
        if request.run:
            # An operator sent it again; its sender was told the first time.
            return None
        return to_one_ask(request, answer, request.token, now)

    def _request(self, message: Received) -> Request | None:
        # Where it died decides how it is read: on a caller's door a subject and a body prove nothing.
        kind = _INTERNAL.get(message.subject or "") if message.dead_letter_source in OURS else None
        try:
            if message.dead_letter_source not in OURS:
                return self._asked(message)
            request = kind.decode(message.body).request if kind else None
            if request is None or (kind is ReplayRequest and not request.rerun):
                return None
            return self._recent(request)
        except Unprocessable:
            return None

    def _recent(self, request: Request) -> Request | None:
        """Of a request so old that its outcome is forgotten, the caller was told long ago, by its sentinel."""
        return request if self._clock() - request.answer_by < KEEP else None

    def _asked(self, message: Received) -> Request | None:
        """A request for an ask that was never admitted: enough of one to answer it."""
        source = message.dead_letter_source
        if source is None or message.subject == Cancel.kind:
            # A cancellation is no request: what it was meant for has an outcome of its own.
            return None
        here = _at(message, source)
        arrival = self._ask_consumer.arrival(here)
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
            ask_digest=self._digest(here, arrival),
            token=arrival.token,
        )

    def _digest(self, message: Received, arrival: Arrival) -> str:
        """What the id of a dead ask is bound to; empty when it cannot be read. It is used for nothing else."""
        try:
            said = self._ask_consumer.decode(message).said
        except Unprocessable:
            return ""
        return bound_to(said, arrival.caller) if isinstance(said, Ask) else ""


def _remains(message: Received) -> ExpiredRequest | ArchiveInPlace | None:
    """What is kept of a dead message."""
    reason, description = epitaph(message)
    kept = ArchiveInPlace(reason, description)
    source, kind = message.dead_letter_source, message.subject or ""
    if source not in OURS or reason not in _LATE:
        return kept
    if kind == DeadlinePassed.kind:
        return None  # the work that it watched is kept
    work = _WORK.get(kind)
    try:
        request = work.decode(message.body).request.ask_only() if work else None
    except Unprocessable:
        return kept
    if request is None:
        return kept
    return ExpiredRequest(request=request, died_on=source, reason=reason, detail=description)


def epitaph(message: Received) -> tuple[str, str]:
    """The reason and the description that a message died with."""
    return message.dead_letter_reason or "Unknown", message.dead_letter_description or "no description"


def _told(dead_message: DeadMessage) -> str:
    # What a bug said of itself is for us, not for the caller.
    return "something went wrong on our side" if dead_message.reason == Reason.CRASHED else dead_message.description


def _at(message: Received, queue: str) -> Received:
    return replace(message, queue=queue)
