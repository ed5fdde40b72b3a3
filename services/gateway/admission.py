"""Admission of asks, by queue or HTTP. Pure: an arrival and the rules in, a request or a refusal out.

What the queue or the API key says (caller, tenant, groups, where replies may go) wins over anything a message says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.access.callers import Caller
from shared.access.use_cases import UseCase
from shared.contracts.ask import Ask, ask_digest
from shared.contracts.fit import LARGEST_REQUEST, weight
from shared.contracts.ids import MAX_ID, request_id
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.contracts.request import ReplyTo, Request
from shared.llm.tokens import count_tokens

# A broker gives messages without a time to live the queue's default, which is no deadline that a caller chose.
NOT_A_DEADLINE = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An ask as it arrived, by queue or HTTP. Only `caller` is trusted."""

    caller: Caller
    message_id: str
    at: datetime
    """When it reached the broker, or the HTTP endpoint."""
    correlation_id: str | None = None
    reply_to: str | None = None
    reply_queues: tuple[str, ...] = ()
    """Where its outcome may go; empty: to the caller's own reply queues. Over HTTP it is `outcomes`."""
    reply_session: str | None = None
    time_to_live: timedelta | None = None
    answer_by: datetime | None = None
    """The deadline that an earlier attempt was given."""
    run: str = ""
    rerun: bool = False
    admitted_by: datetime | None = None
    """Until when its caller waits for admission; None: as long as it can finish in time."""
    token: str = ""
    """Identifies this sending of the ask: its redeliveries and retries share it, a repeat has another."""
    over_http: bool = False
    """Whether nothing delivers it again if this process dies; then a repeat continues what the first one began."""
    repeatable: bool = True
    """Whether another ask can come with its id."""
    identity: str = ""
    """The request id, if it is known already; otherwise `message_id` determines it."""

    @property
    def own_reply_queues(self) -> tuple[str, ...]:
        """The queues that its outcome may go to, at least one; the first is the default."""
        return self.reply_queues or self.caller.reply_queues

    @property
    def is_replay(self) -> bool:
        """Whether an operator sent it again, for the same outcome."""
        return bool(self.run) and not self.rerun


@dataclass(frozen=True, slots=True)
class Admitted:
    """Work to be done."""

    request: Request
    use_case: UseCase


@dataclass(frozen=True, slots=True)
class Refused:
    """An outcome instead of work."""

    request: Request
    answer: RequestOutcome


def admit(ask: Ask, arrival: Arrival, use_cases: Mapping[str, UseCase], now: datetime) -> Admitted | Refused:
    """Check everything that needs no other service: rights, sizes, the deadline.

    What is refused has a `Request` as well, so that its outcome can be addressed.
    """
    caller, name = arrival.caller, resolved(ask, arrival.caller)
    use_case = use_cases.get(name)
    protocol = "http" if arrival.over_http else ""
    identity = arrival.identity or request_id(caller.tenant, caller.name, arrival.message_id, protocol)
    request = Request(
        request_id=identity,
        tenant=caller.tenant,
        caller=caller.name,
        groups=tuple(sorted(caller.groups)),
        use_case=name,
        question=ask.question,
        conversation=ask.conversation,
        accepted_at=now,
        answer_by=_answer_by(arrival, use_case, now),
        correlation_id=(arrival.correlation_id or arrival.message_id)[:MAX_ID],
        reply_to=reply_address(arrival, identity),
        run=arrival.run,
        rerun=arrival.rerun,
        ask_digest=bound_to(ask, caller),
        token=arrival.token,
    )
    refusal = _refusal(request, arrival, use_case)
    if refusal is not None:
        code, why = refusal
        return Refused(request, ending(request, Outcome.REFUSED, code, why, finished_at=now))
    if request.is_late(now):
        late = "the deadline had passed when the gateway read the ask"
        answer = ending(request, Outcome.EXPIRED, Code.DEADLINE_EXCEEDED, late, retryable=True, finished_at=now)
        return Refused(request, answer)
    assert use_case is not None
    return Admitted(request, use_case)


def resolved(ask: Ask, caller: Caller) -> str:
    """The name of the use case; empty when a caller with several names none."""
    return ask.use_case or (caller.use_cases[0] if len(caller.use_cases) == 1 else "")


def bound_to(ask: Ask, caller: Caller) -> str:
    """The digest that the id of `ask` is bound to."""
    return ask_digest(ask, resolved(ask, caller), caller.groups)


def reply_address(arrival: Arrival, request: str) -> ReplyTo:
    """Where the caller is answered: the queue it asked for if it is its own, else its first.

    The session is the one it asked for, else the id of its `request`.
    """
    own = arrival.own_reply_queues
    queue = next((q for q in own if arrival.reply_to and q.lower() == _entity(arrival.reply_to)), own[0])
    session = arrival.reply_session or request
    return ReplyTo(queue=queue, session=session[:MAX_ID])


def _refusal(request: Request, arrival: Arrival, use_case: UseCase | None) -> tuple[Code, str] | None:
    """Why the caller may not ask this, with a sentence for it; None: it may."""
    caller, name = arrival.caller, request.use_case
    if not name:
        return Code.UNKNOWN_USE_CASE, f"name a use_case: one of {', '.join(caller.use_cases)}"
    if use_case is None:
        return Code.UNKNOWN_USE_CASE, f"there is no use case {name!r}"
    if name not in caller.use_cases:
        return Code.NOT_ALLOWED, f"{caller.name} may not use {name!r}"
    if arrival.reply_to and _entity(arrival.reply_to) not in {q.lower() for q in arrival.own_reply_queues}:
        return (
            Code.REPLY_TO_NOT_ALLOWED,
            "reply_to is not one of this caller's reply queues; this outcome is in the first of them",
        )
    tokens, longest = count_tokens(request.question), use_case.question_tokens
    if tokens > longest:
        return Code.QUESTION_TOO_LONG, f"the question has about {tokens} tokens, {longest} are allowed; shorten it"
    size, most = weight(request), LARGEST_REQUEST
    if size > most:
        return (
            Code.PAYLOAD_TOO_LARGE,
            f"question and conversation take {size // 1024} KiB as JSON, {most // 1024} are allowed; shorten the "
            "conversation",
        )
    return None


def _answer_by(arrival: Arrival, use_case: UseCase | None, now: datetime) -> datetime:
    """The deadline: what the caller asked for, inside what its use case allows."""
    if use_case is None:
        return now + timedelta(seconds=60)
    asked = arrival.time_to_live
    allowed = use_case.deadline.allowed(asked if asked is not None and asked < NOT_A_DEADLINE else None)
    due = min(arrival.at + allowed, now + timedelta(seconds=use_case.deadline.longest))
    # A property may be forged, so it can shorten the deadline but not extend it.
    return due if arrival.answer_by is None else min(due, arrival.answer_by)


def _entity(reply_to: str) -> str:
    """The queue in a reply_to, which some libraries write as an address."""
    return reply_to.rstrip("/").rsplit("/", 1)[-1].lower()
