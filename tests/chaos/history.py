"""The checker of a history: what was asked, what came back, what the model was paid for, what broke meanwhile. Pure.

    check(History(asked, replied, paid, interruptions, readers)) == []      # the delivery guarantee was kept

A history is what the outside can see, so it does not matter who ran it: chaos, crash points, a system test. What is
asserted is `docs/explanation/delivery.md`:

    outcome     every accepted request has one, and no second one; none is there without a request
    address     it comes on the caller's own queue, in the session asked for, under the id that duplicates share
    content     it belongs to its question, rests on citations, and holds nothing that its caller may not read
    time        `expired` is not said before the deadline, or before no further attempt fits
    money       the model is paid once per request, and once more only where something broke in between

The idea of judging a run by its history: Jepsen (jepsen.io). Times are seconds since the epoch, of one clock.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# Between what we write down and when it happened lies a busy machine: a call may be noted by the model this long
# after its caller was killed.
SLACK = 3.0
# How much of an answer is shown in a sentence.
_SHOWN = 60


class Sent(StrEnum):
    """What the sender knows of a message it sent."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    """The connection broke before the broker said anything: it may have the message or not."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, however often its message was sent."""

    request_id: str
    message_id: str
    caller: str
    question: str
    reply_queue: str
    session: str
    deadline: float
    sent: Sent = Sent.OK
    expects: tuple[str, ...] = ()
    """An answer to this question holds one of these; empty: no matter what it says."""


@dataclass(frozen=True, slots=True)
class Replied:
    """One message on a reply queue; the same `sequence` twice is one message that was received twice."""

    queue: str
    session: str
    sequence: int
    message_id: str
    request_id: str
    correlation_id: str
    outcome: str
    code: str = ""
    text: str = ""
    documents: tuple[str, ...] = ()
    """What it cites."""
    quotes: tuple[str, ...] = ()
    """What it cites them with."""
    at: float = 0.0
    """When it was received."""

    @classmethod
    def of(
        cls, queue: str, body: Mapping[str, Any], *, session: str, sequence: int, message_id: str, at: float
    ) -> "Replied":
        """From the body of an `answer.v1` and what the broker says of the message."""
        return cls(
            queue=queue,
            session=session,
            sequence=sequence,
            message_id=message_id,
            request_id=body["request_id"],
            correlation_id=body["correlation_id"],
            outcome=body["outcome"],
            code=body["code"],
            text=body["text"],
            documents=tuple(citation["path"] for citation in body["citations"]),
            quotes=tuple(citation["quote"] for citation in body["citations"]),
            at=at,
        )


@dataclass(frozen=True, slots=True)
class Paid:
    """One call that the model charged for."""

    question: str
    at: float
    worker: str = ""
    """Who made it, where that is known."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """Something that may make the model be asked again: a worker that was killed, a lock that was lost."""

    what: str
    at: float
    until: float = 0.0
    """When it was over; left out: at once."""
    worker: str = ""
    """The worker that it struck; empty: all of them."""

    def hit(self, paid: Paid, takes: float) -> bool:
        """Whether it can have come between a call and the end of what the call was for, `takes` seconds later."""
        struck = not self.worker or not paid.worker or self.worker == paid.worker
        began, ended = self.at, max(self.at, self.until)
        return struck and ended >= paid.at - SLACK and began <= paid.at + takes + SLACK


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of a run."""

    asked: Sequence[Asked]
    replied: Sequence[Replied]
    paid: Sequence[Paid] = ()
    interruptions: Sequence[Interruption] = ()
    readers: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By document: which callers may read it. Empty: citations are not checked."""
    secrets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By word: which callers may be told it."""
    early: float = 0.0
    """Seconds before its deadline that a request may be given up, where another attempt would come too late."""
    takes: float = 60.0
    """Seconds from the model's answer to the end of the delivery it was for, at the most."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """By question: how often a worker that sent a delivery's work anew was killed before it settled that delivery.

    Then there are two messages, and each may cost a call.
    """
    extra_calls: int | None = None
    """The most calls beyond one per request, where the run can count its crashes; None: it cannot."""


def check(history: History) -> list[str]:
    """What breaks the guarantee, each as a sentence that names the request; nothing is what should come back."""
    return [*_outcomes(history), *_each_reply(history), *_money(history)]


def messages(replied: Sequence[Replied]) -> list[Replied]:
    """The replies, each once: a message received twice was there once."""
    return list({(reply.queue, reply.sequence): reply for reply in reversed(replied)}.values())[::-1]


def outcomes(history: History) -> Counter[str]:
    """How many requests ended how; `none` for those without an outcome."""
    ended = {reply.request_id: reply.outcome for reply in reversed(messages(history.replied))}
    return Counter(ended.get(asked.request_id, "none") for asked in history.asked)


def extra_calls(history: History) -> int:
    """How many calls the model was paid for beyond one per request."""
    asked = Counter(asked.question for asked in history.asked)
    paid = Counter(paid.question for paid in history.paid)
    return sum((paid - asked).values())


# ---------------------------------------------------------------------- outcomes


def _outcomes(history: History) -> Iterator[str]:
    heard = _by_request(history.replied)
    for asked in history.asked:
        replies = heard.get(asked.request_id, [])
        if not replies and asked.sent is Sent.OK:
            yield f"{_name(asked)} was accepted and has no outcome"
        if replies and asked.sent is Sent.REFUSED:
            yield f"{_name(asked)} was refused by the broker, yet has an outcome: {replies[0].outcome}"
        if len(replies) > 1:
            yield f"{_name(asked)} has {len(replies)} outcomes: {'; '.join(map(_shown, replies))}"


def _by_request(replied: Sequence[Replied]) -> dict[str, list[Replied]]:
    found: dict[str, list[Replied]] = defaultdict(list)
    for reply in messages(replied):
        found[reply.request_id].append(reply)
    return found


# ---------------------------------------------------------------------- each reply by itself


def _each_reply(history: History) -> Iterator[str]:
    known = {asked.request_id: asked for asked in history.asked}
    for reply in messages(history.replied):
        asked = known.get(reply.request_id)
        if asked is None:
            yield f"an outcome without a request: {_shown(reply)} on {reply.queue}, request {reply.request_id}"
            continue
        faults = [*_address(asked, reply), *_content(asked, reply, history), *_time(asked, reply, history.early)]
        yield from (f"{_name(asked)}: {fault}" for fault in faults)


def _address(asked: Asked, reply: Replied) -> Iterator[str]:
    if reply.queue != asked.reply_queue:
        yield f"its outcome went to {reply.queue}, which is not its caller's; {asked.reply_queue} is"
    if reply.session != asked.session:
        yield f"its outcome is in session {reply.session!r}, not in {asked.session!r}"
    if reply.correlation_id != asked.message_id:
        yield f"its outcome answers {reply.correlation_id!r}"
    if reply.message_id != f"{asked.request_id}/reply":
        yield f"its outcome has the message id {reply.message_id!r}, by which no duplicate is detected"


def _content(asked: Asked, reply: Replied, history: History) -> Iterator[str]:
    told = " ".join((reply.text, *reply.quotes))
    for word, callers in history.secrets.items():
        if word in told and asked.caller not in callers:
            yield f"{asked.caller} was told {word!r}, which only {_listed(callers)} may know"
    if history.readers:
        yield from _citations(asked, reply, history.readers)
    if reply.outcome != "answered":
        return
    if not reply.documents:
        yield f"it was answered from nothing: {reply.text[:_SHOWN]!r}"
    if asked.expects and not any(word in reply.text for word in asked.expects):
        yield f"its answer belongs to another question: {reply.text[:_SHOWN]!r} to {asked.question!r}"


def _citations(asked: Asked, reply: Replied, readers: Mapping[str, frozenset[str]]) -> Iterator[str]:
    for document in dict.fromkeys(reply.documents):
        if document not in readers:
            yield f"it cites {document}, which is not in the lake"
        elif asked.caller not in readers[document]:
            yield f"it cites {document}, which only {_listed(readers[document])} may read"


def _time(asked: Asked, reply: Replied, early: float) -> Iterator[str]:
    # Receiving takes time, so this is said too rarely and never wrongly.
    if reply.outcome == "expired" and reply.at + early < asked.deadline:
        yield f"it was told to have expired {asked.deadline - reply.at:.1f} s before its deadline"


# ---------------------------------------------------------------------- money


def _money(history: History) -> Iterator[str]:
    calls: dict[str, list[Paid]] = defaultdict(list)
    for paid in history.paid:
        calls[paid.question].append(paid)
    askers: dict[str, list[Asked]] = defaultdict(list)
    for asked in history.asked:
        askers[asked.question].append(asked)
    for question, paid_for in calls.items():
        if question in askers:
            yield from _unexplained(askers[question], paid_for, history)
        else:
            yield f"the model was paid for a question that was not asked: {question!r}"
    extra = extra_calls(history)
    if history.extra_calls is not None and extra > history.extra_calls:
        yield f"{extra} model calls beyond one per request, and {history.extra_calls} are explained by what broke"


def _unexplained(askers: Sequence[Asked], calls: Sequence[Paid], history: History) -> Iterator[str]:
    """Each call beyond one per request needs another one that was interrupted; several may ask the same question."""
    if len(calls) <= len(askers):
        return
    hit = [call for call in calls if any(broken.hit(call, history.takes) for broken in history.interruptions)]
    if len(calls) - len(askers) > len(hit) + history.copies.get(askers[0].question, 0):
        who = " and ".join(map(_name, askers))
        yield f"{who}: the model was paid {len(calls)} times, and {len(hit)} of these calls were interrupted"


# ---------------------------------------------------------------------- words


def _name(asked: Asked) -> str:
    return f"request {asked.request_id} ({asked.caller}, message {asked.message_id})"


def _shown(reply: Replied) -> str:
    return f"{reply.outcome} {reply.text[:_SHOWN]!r} as {reply.message_id}"


def _listed(callers: frozenset[str]) -> str:
    return ", ".join(sorted(callers)) or "no caller"
