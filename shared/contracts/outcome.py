"""`answer.v1`: the one outcome of a request."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar

from pydantic import AwareDatetime, Field, JsonValue

from shared.contracts.base import Message, MessagePart
from shared.contracts.request import Request

_WORD = re.compile(r"[A-Z][A-Za-z]{1,63}")

ID_REUSED = "this id belongs to another question; send a new or corrected question under a new id"


class Outcome(StrEnum):
    """How a request ended."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    REFUSED = "refused"
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Code(StrEnum):
    """The reason, as one stable word; `docs/reference/outcomes.md` explains each.

    A word that this release does not know is read and passed on as it is: while a deployment rolls, a newer worker may
    have sent it.
    """

    OK = "Ok"
    NOT_IN_DOCUMENTS = "NotInDocuments"
    UNGROUNDED = "Ungrounded"
    PROMPT_LEAK = "PromptLeak"
    SCHEMA_INVALID = "SchemaInvalid"
    SCHEMA_UNSUPPORTED = "SchemaUnsupported"
    UNKNOWN_USE_CASE = "UnknownUseCase"
    NOT_ALLOWED = "NotAllowed"
    REPLY_TO_NOT_ALLOWED = "ReplyToNotAllowed"
    QUESTION_TOO_LONG = "QuestionTooLong"
    ID_REUSED = "IdReused"
    BUDGET_EXCEEDED = "BudgetExceeded"
    OVERLOADED = "Overloaded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    RETRIES_EXHAUSTED = "RetriesExhausted"
    NO_MODEL_FITS = "NoModelFits"
    MODEL_REFUSED = "ModelRefused"
    CONTENT_FILTERED = "ContentFiltered"
    TRUNCATED = "Truncated"
    EMPTY_ANSWER = "EmptyAnswer"
    REASONING_ONLY = "ReasoningOnly"
    TOOL_CALLED = "ToolCalled"
    INVALID_STRUCTURE = "InvalidStructure"
    INVALID_REPLY = "InvalidReply"
    POISON_CONTENT = "PoisonContent"
    PAYLOAD_TOO_LARGE = "PayloadTooLarge"
    UNAUTHORIZED = "Unauthorized"
    MISCONFIGURED = "Misconfigured"
    CRASHED = "Crashed"
    CANCELLED = "Cancelled"

    @classmethod
    def _missing_(cls, value: object) -> "Code | None":
        if not isinstance(value, str) or not _WORD.fullmatch(value):
            return None
        word = str.__new__(cls, value)
        word._name_, word._value_ = value, value
        return word


class CacheState(StrEnum):
    """Whether the answer cache was used."""

    HIT = "hit"
    MISS = "miss"
    OFF = "off"


class Citation(MessagePart):
    """One passage that supports the answer, checked against the retrieved ones."""

    marker: int = Field(ge=1, description="the n of [n] in the text")
    path: str = Field(description="its path in the lake; invisible characters are written as \\u202e")
    version: int = Field(description="the version of the document in the index")
    title: str
    section: str = ""
    page: int | None = None
    start: int
    end: int
    quote: str = Field(description="the sentence of the passage that supports the statement")
    score: float
    pointers: tuple[str, ...] = Field(
        default=(), description="the strings of `data` that it supports, as JSON Pointers (RFC 6901)"
    )


class Span(MessagePart):
    """A part of `text`, or of a value of `data`, in characters."""

    pointer: str = Field(default="", description="the value of `data`, as a JSON Pointer (RFC 6901); empty: `text`")
    start: int = Field(ge=0)
    end: int = Field(ge=0, description="the character after the last")


class ModelCall(MessagePart):
    """One call of a model that was paid for, whatever came of it; the question's embedding is one, too."""

    deployment: str
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    cost: float = Field(default=0.0, ge=0, description="USD")
    result: str = Field(default="ok", description="`ok`, or why the call brought no answer")
    estimated: bool = Field(default=False, description="true when the provider sent no count and these are estimates")
    overrun: int = Field(default=0, ge=0, description="tokens that the provider counted beyond what was reserved")


class Usage(MessagePart):
    """The tokens of all calls of a request, as the providers counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = Field(default=False, description="true when a provider sent no count and these are estimates")
    overrun: int = Field(default=0, ge=0, description="of these, tokens beyond what was reserved for their calls")

    @classmethod
    def of(cls, calls: Iterable[ModelCall]) -> "Usage":
        """The sum of `calls`."""
        calls = tuple(calls)
        return cls(
            prompt_tokens=sum(call.prompt_tokens for call in calls),
            completion_tokens=sum(call.completion_tokens for call in calls),
            estimated=any(call.estimated for call in calls),
            overrun=sum(call.overrun for call in calls),
        )


class Cost(MessagePart):
    """What the model calls of this request cost."""

    amount: float = 0.0
    currency: str = "USD"

    @classmethod
    def of(cls, calls: Iterable[ModelCall]) -> "Cost":
        """The sum of `calls`, in USD; each costs a whole number of millionths."""
        return cls(amount=round(sum(call.cost for call in calls), 6))


NO_USAGE, NO_COST = Usage(), Cost()
# An outcome lists at most so many calls; `usage` and `cost` are the sums of all.
MOST_CALLS = 100


class Plan(MessagePart):
    """Which deployment answered and why."""

    deployment: str
    model: str
    region: str
    context_window: int
    passages_used: int
    passages_offered: int
    why: str


class RequestOutcome(Message):
    """The outcome. Every ask gets exactly one; asks with one id and question get the same, unless it was retryable."""

    kind: ClassVar[str] = "answer.v1"

    request_id: str
    correlation_id: str
    use_case: str = ""
    outcome: Outcome
    code: Code = Field(description="the reason; later releases may add words, so decide by `outcome` and `retryable`")
    message: str = Field(default="", description="a sentence for a person")
    retryable: bool = False
    retry_after: float | None = Field(default=None, ge=0, description="seconds")
    text: str = Field(
        default="",
        description="plain text, which may have Markdown's emphasis, lists, tables and code; no HTML elements, images, "
        "links or control sequences; [n] is an entry of `citations`, and nothing else is",
    )
    truncated: bool = Field(
        default=False, description="the text was cut, and `code` is `Truncated`; `message` says why"
    )
    citations: tuple[Citation, ...] = ()
    data: JsonValue = Field(
        default=None,
        description="the answer in the structure of the use case's `output_schema`, without marks; `text` is the same "
        "for people, a line for each value, with its marks",
    )
    unverified: tuple[Span, ...] = Field(
        default=(), description="the sentences of `text`, or the values of `data`, that no citation supports"
    )
    usage: Usage = NO_USAGE
    cost: Cost = NO_COST
    calls: tuple[ModelCall, ...] = Field(
        default=(), description="the calls that `usage` and `cost` add up, of all attempts; the latest hundred"
    )
    cache: CacheState = CacheState.OFF
    plan: Plan | None = None
    trace_id: str = ""
    run: str = Field(default="", description="p{n} when this is the outcome of a rerun")
    accepted_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None


def cancelled(request: Request, now: datetime) -> RequestOutcome:
    """The outcome of a request that its caller cancelled."""
    return ending(request, Outcome.CANCELLED, Code.CANCELLED, "cancelled by the caller", finished_at=now)


def overloaded(request: Request, now: datetime, *, wait: float, chance: float) -> RequestOutcome:
    """The outcome of a request that cannot finish in time because of overload.

    `wait`: seconds until another attempt makes sense. `chance` in 0..1 spreads it from half to one and a half, so that
    callers that were refused together do not return together.
    """
    return ending(
        request,
        Outcome.REFUSED,
        Code.OVERLOADED,
        "there is more work than can finish before the deadline; ask again after retry_after",
        retryable=True,
        retry_after=round(max(1.0, wait) * (0.5 + chance), 1),
        finished_at=now,
    )


def over_budget(request: Request, wait: float | None, now: datetime) -> RequestOutcome:
    """The outcome of a request for which a budget has too little left.

    `wait`: seconds until it has enough; None: it never has, because a limit is lower than one question needs.
    """
    whose = f"the budget of tenant {request.tenant}, use case {request.use_case} or caller {request.caller}"
    message = (
        f"{whose} has too little left for this question; ask again in {math.ceil(wait)} s"
        if wait is not None
        else f"{whose} is smaller than what this question may need; its operator can raise it"
    )
    return ending(
        request,
        Outcome.REFUSED,
        Code.BUDGET_EXCEEDED,
        message,
        retryable=wait is not None,
        retry_after=wait,
        finished_at=now,
    )


def id_reused(request: Request, now: datetime) -> RequestOutcome:
    """The outcome of an ask whose id belongs to another question; it is never decided."""
    return ending(request, Outcome.REFUSED, Code.ID_REUSED, ID_REUSED, finished_at=now)


def charged(answer: RequestOutcome, calls: Sequence[ModelCall]) -> RequestOutcome:
    """`answer` with the calls that were made for it, and their usage and cost."""
    # All of it is validated; only fields that have values of their own type are replaced.
    return answer.model_copy(
        update={"usage": Usage.of(calls), "cost": Cost.of(calls), "calls": tuple(calls[-MOST_CALLS:])}
    )


def again_at(answer: RequestOutcome) -> float | None:
    """When (seconds since the epoch) the same ask is admitted again; None: never, the outcome is final."""
    if not answer.retryable:
        return None
    if answer.finished_at is None:
        return 0.0
    return (answer.finished_at + timedelta(seconds=answer.retry_after or 0)).timestamp()


def repeated(answer: RequestOutcome, now: datetime) -> RequestOutcome:
    """A stored outcome for a repeat at `now`: `retry_after` is what is left of it."""
    if answer.retry_after is None or answer.finished_at is None:
        return answer
    left = answer.retry_after - (now - answer.finished_at).total_seconds()
    return answer.replaced(retry_after=max(0.0, round(left, 3)))


def ending(
    request: Request,
    outcome: Outcome,
    code: Code,
    message: str = "",
    *,
    text: str = "",
    truncated: bool = False,
    citations: tuple[Citation, ...] = (),
    data: JsonValue = None,
    unverified: tuple[Span, ...] = (),
    cache: CacheState = CacheState.OFF,
    plan: Plan | None = None,
    retryable: bool = False,
    retry_after: float | None = None,
    finished_at: datetime | None = None,
) -> RequestOutcome:
    """The outcome of `request`; see `charged` for what it costs."""
    return RequestOutcome(
        request_id=request.request_id,
        correlation_id=request.correlation_id,
        use_case=request.use_case,
        outcome=outcome,
        code=code,
        message=message,
        retryable=retryable,
        retry_after=retry_after,
        text=text,
        truncated=truncated,
        citations=citations,
        data=data,
        unverified=unverified,
        cache=cache,
        plan=plan,
        run=request.run if request.rerun else "",
        accepted_at=request.accepted_at,
        finished_at=finished_at,
    )
