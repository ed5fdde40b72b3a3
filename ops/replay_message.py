"""Makes a replay of a captured message, which differs from the original everywhere. Pure.

    original                              n-th replay
    {request}/{stage}, …/r2, …/p1         {request}/{stage}/p{n}        so that no broker drops it as a duplicate
    request.run                           p{n}                          also in everything that follows
    answer_by, time to live               now + the original span       at least a minute
    ragbus-attempt, …-first-enqueued-at   removed                       it starts with attempt 1
    traceparent                           a new one                     the original's in ragbus-replay-trace

An `expired.v1` is the archived ask of a request that was late: a `replay.v1` makes the gateway admit it again.
An `ask.v1` keeps its first id in `ragbus-origin`: it is the same request. A request that has its outcome gets no
second one, and the replay ends at the first worker, unless it is a rerun.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ops.captured_message import CapturedMessage
from ops.errors import CommandError
from shared.access.callers import Callers
from shared.bus import port
from shared.bus.port import Outgoing, Property, Received
from shared.contracts.ask import Ask
from shared.contracts.base import read_json
from shared.contracts.deadline import DeadlinePassed
from shared.contracts.expired import ExpiredRequest, ReplayRequest
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import digest, replay_run, request_id, stage_id
from shared.contracts.outcome import RequestOutcome
from shared.contracts.queues import BLOB_EVENTS, DEAD, GENERATE, OUTCOMES, RETRIEVE
from shared.contracts.request import Request
from shared.contracts.retrieve import RetrievePassages
from shared.errors import Unprocessable

REPLAY_FROM = "ragbus-replay-from"
REPLAY_TRACE = "ragbus-replay-trace"
SHORTEST = timedelta(seconds=60)
_Internal = RetrievePassages | GenerateAnswer | ExpiredRequest | ReplayRequest
_STAGES: Mapping[str, tuple[str, type[RetrievePassages] | type[GenerateAnswer]]] = {
    RetrievePassages.kind: (RETRIEVE, RetrievePassages),
    GenerateAnswer.kind: (GENERATE, GenerateAnswer),
}
_LATE: Mapping[str, type[ExpiredRequest] | type[ReplayRequest]] = {
    kind.kind: kind for kind in (ExpiredRequest, ReplayRequest)
}
# Properties of one sending of the message, which a replay drops.
_OF_THE_FIRST = {
    *(
        port.ATTEMPT,
        port.ANSWER_BY,
        port.ENQUEUED_AT,
        port.FIRST_NUMBER,
        port.RUN,
        port.RERUN,
        port.REPLAY_OF,
        REPLAY_FROM,
        REPLAY_TRACE,
    ),
    *(port.TRACEPARENT, port.TRACESTATE, port.DIAGNOSTIC_ID, "DeadLetterReason", "DeadLetterErrorDescription"),
}
_RUN = re.compile(r"p(\d+)")


@dataclass(frozen=True, slots=True)
class Work:
    """The request and the queue of a captured message."""

    queue: str
    request_id: str
    stage: str
    origin: str | None = None
    """Of an ask: the id that its caller chose."""
    request: Request | None = None
    """Of an internal message: the request in its body."""
    earlier: int = 0
    """The replay number of the captured message itself; 0 for an original."""
    ended: bool = False
    """Whether its request certainly has its outcome, because that was sent before the message was archived."""


def work_of(captured: CapturedMessage, callers: Callers, queue: str | None = None) -> Work:
    """The work in a captured message; raises `CommandError` for one that is not work, or cannot be read."""
    message = captured.message
    if message.subject in _STAGES:
        stage, kind = _STAGES[message.subject or ""]
        request = _request(kind, message)
        return Work(queue or stage, request.request_id, stage, request=request, earlier=run_number(request.run))
    if late := _LATE.get(message.subject or ""):
        request = _request(late, message)
        earlier = run_number(request.run)
        return Work(OUTCOMES, request.request_id, "replay", request=request, earlier=earlier, ended=True)
    source = queue or message.dead_letter_source or message.queue
    if source == BLOB_EVENTS:
        # A storage event belongs to no request; reading the lake again is always harmless.
        return Work(BLOB_EVENTS, "e" + digest(message.message_id or str(message.sequence_number)), "look")
    caller = callers.at_queue(source)
    if caller is None or message.subject not in (None, "", Ask.kind):
        raise CommandError(_refusal(message, source, ours=caller is not None))
    origin = str(message.properties.get(port.ORIGIN) or message.message_id or f"{source}#{message.sequence_number}")
    identity = request_id(caller.tenant, caller.name, origin)
    return Work(source, identity, "ask", origin=origin, earlier=run_number(str(message.properties.get(port.RUN, ""))))


def replayed(captured: CapturedMessage, work: Work, number: int, *, rerun: bool, now: datetime) -> Outgoing:
    """The message to send as replay `number`."""
    message = captured.message
    run = replay_run(number)
    answer_by = now + span_of(message, work)
    return Outgoing(
        queue=work.queue,
        body=_body(message, work, run, answer_by, rerun=rerun),
        subject=ReplayRequest.kind if message.subject in _LATE else message.subject or "",
        message_id=stage_id(work.request_id, work.stage, run),
        correlation_id=message.correlation_id,
        session_id=message.session_id,
        reply_to=message.reply_to,
        reply_to_session_id=message.reply_to_session_id,
        time_to_live=answer_by - now,
        content_type=message.content_type,
        properties=_properties(captured, work, run, rerun=rerun),
    )


def span_of(message: Received, work: Work) -> timedelta:
    """The time of the original until its deadline; at least a minute, for work in a debugger."""
    if work.request is not None:
        return max(SHORTEST, work.request.answer_by - work.request.accepted_at)
    life = message.time_to_live
    return max(SHORTEST, life) if life is not None and life < timedelta(days=1) else SHORTEST


def run_number(run: str) -> int:
    """The n of `p{n}`; 0 if it is not a replay."""
    found = _RUN.fullmatch(run)
    return int(found[1]) if found else 0


def _body(message: Received, work: Work, run: str, answer_by: datetime, *, rerun: bool) -> bytes:
    if work.request is None:
        return message.body
    if message.subject in _LATE:
        return ReplayRequest(request=work.request.replaced(run=run, rerun=rerun)).encode()
    # In the JSON, not in the model, so that fields unknown to this version are kept.
    content = read_json(message.body)
    content["request"] |= {"run": run, "rerun": rerun, "answer_by": answer_by.isoformat()}
    # The sentinel belongs to the original.
    content["request"].pop("sentinel", None)
    if rerun:
        # A rerun has an outcome of its own, which the ledger does not know yet.
        content["request"].pop("recorded", None)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _properties(captured: CapturedMessage, work: Work, run: str, *, rerun: bool) -> dict[str, Property]:
    message = captured.message
    kept = {name: value for name, value in message.properties.items() if name not in _OF_THE_FIRST}
    trace = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    lineage: dict[str, Property] = {
        port.REPLAY_OF: message.message_id or "",
        REPLAY_FROM: f"{captured.namespace}/{captured.place}",
        port.TRACEPARENT: trace,
        port.DIAGNOSTIC_ID: trace,
    }
    if port.TRACEPARENT in message.properties:
        lineage[REPLAY_TRACE] = message.properties[port.TRACEPARENT]
    if work.origin is not None:
        lineage |= {port.ORIGIN: work.origin, port.RUN: run, port.RERUN: rerun}
    return kept | lineage


def _request(kind: type[_Internal], message: Received) -> Request:
    try:
        return kind.decode(message.body).request
    except Unprocessable as unreadable:
        raise CommandError(f"{message.message_id} cannot be replayed: {unreadable.detail}; correct its file") from None


def _refusal(message: Received, queue: str, *, ours: bool) -> str:
    kind = message.subject or "a message without a subject"
    if kind in (RequestOutcome.kind, DeadlinePassed.kind):
        work = "the ask.v1, retrieve.v1, generate.v1 or expired.v1"
        return f"{kind} is an outcome or a sentinel, not work: replay {work}"
    if ours:
        return f"{queue} does not accept {kind}: correct `subject` in the file"
    why = "its dead-letter source is unknown" if queue in (DEAD, OUTCOMES) else f"callers.yaml has no queue {queue}"
    return f"{kind} cannot be replayed: {why}; name a caller's queue with --queue"
