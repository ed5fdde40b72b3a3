"""From envelopes to messages on the bus, and copies of a delivery for later."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.bus.port import (
    ADMISSION,
    ANSWER_BY,
    ASK,
    ATTEMPT,
    CALLER,
    ENQUEUED_AT,
    FIRST_NUMBER,
    ORIGIN,
    TENANT,
    Outgoing,
    Property,
    Received,
)
from shared.contracts.envelope import Envelope
from shared.contracts.ids import MAX_ID, digest, retry_id
from shared.contracts.queues import OUTCOMES
from shared.telemetry import traces

# The minimum time to live; the consumer checks the deadline itself.
SHORTEST_LIFE = timedelta(seconds=1)
# A broker's own limit; a time to live beyond 49 days does not fit into AMQP's milliseconds.
LONGEST_LIFE = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Identity:
    """What all copies of a message share: the id that its retries build on, and its deadline."""

    base_id: str
    origin: str | None = None
    deadline: datetime | None = None


# `/r`, an attempt, a dot and a sequence number of 64 bits.
_MARK = 32


def internal_identity(message: Received) -> Identity:
    """The identity of a message that one of our workers sent: its own id, and the deadline it carries or lives to.

    On `dead` an ask has the id that its caller chose: if it is too long for a retry's suffix, its digest is used.
    """
    base = message.message_id or digest(message.queue, str(message.sequence_number))
    fits = len(base) <= MAX_ID - _MARK
    return Identity(base if fits else digest(message.queue, base), deadline=_deadline(message))


def _deadline(message: Received) -> datetime | None:
    said = when(message.properties.get(ANSWER_BY))
    if said is not None or message.enqueued_at is None or message.time_to_live is None:
        return said
    return message.enqueued_at + message.time_to_live


def outgoing(envelope: Envelope, now: datetime) -> Outgoing:
    """The message for `envelope`, with the current trace in its properties."""
    properties: dict[str, Property] = {}
    trace: dict[str, str] = {}
    if envelope.queue == OUTCOMES and envelope.request is not None:
        # For the gateway, which stores outcomes by caller; only our own identities may send to that queue.
        properties |= {TENANT: envelope.request.tenant, CALLER: envelope.request.caller}
        properties |= {ASK: envelope.request.ask_digest, ADMISSION: envelope.request.admission}
    if envelope.request is not None and envelope.expires_at == envelope.request.answer_by:
        # For its retries: the time to live is in whole seconds.
        properties[ANSWER_BY] = envelope.request.answer_by.isoformat()
    traces.inject(trace)
    starts = max(now, envelope.not_before) if envelope.not_before else now
    return Outgoing(
        queue=envelope.queue,
        body=envelope.message.encode(),
        subject=envelope.message.kind,
        message_id=envelope.message_id,
        correlation_id=envelope.correlation_id,
        session_id=envelope.session_id,
        time_to_live=life(starts, envelope.expires_at),
        enqueue_at=envelope.not_before,
        properties={**properties, **trace},
    )


def retry_copy(message: Received, identity: Identity, at: datetime) -> Outgoing:
    """The next attempt at `message`, visible from `at`."""
    attempt = message.attempt + 1
    return _copy(message, identity, at, attempt, retry_id(identity.base_id, attempt))


def handed_back(message: Received, identity: Identity, at: datetime) -> Outgoing:
    """The same attempt again, visible from `at`: this worker stops, or a quota is used up until then.

    Abandoning it would count as a failed delivery. The sequence number keeps the id out of the duplicate window.
    """
    back = f"{retry_id(identity.base_id, message.attempt)}.{message.sequence_number}"
    return _copy(message, identity, at, message.attempt, back)


def when(value: Property | None) -> datetime | None:
    """The moment in a property of ours; None if it is not one."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment if moment is not None and moment.tzinfo is not None else None


def life(now: datetime, expires_at: datetime | None) -> timedelta | None:
    """The time to live from `now` to `expires_at`; never zero, which a broker may read as no limit.

    In whole seconds, rounded up: the SDK cuts fractions off (`ServiceBusMessage.time_to_live`), so that a message
    would die before its deadline, a little more at every hop.
    """
    if expires_at is None:
        return None
    left = timedelta(seconds=math.ceil((expires_at - now).total_seconds()))
    return min(LONGEST_LIFE, max(SHORTEST_LIFE, left))


def _copy(message: Received, identity: Identity, at: datetime, attempt: int, message_id: str) -> Outgoing:
    return Outgoing(
        queue=message.queue,
        body=message.body,
        subject=message.subject or "",
        message_id=message_id,
        correlation_id=message.correlation_id,
        session_id=message.session_id,
        reply_to=message.reply_to,
        reply_to_session_id=message.reply_to_session_id,
        time_to_live=life(at, identity.deadline),
        enqueue_at=at,
        content_type=message.content_type,
        properties={**message.properties, **_marks(message, identity, attempt)},
    )


def _marks(message: Received, identity: Identity, attempt: int) -> Mapping[str, Property]:
    marks: dict[str, Property] = {ATTEMPT: attempt}
    if identity.origin is not None:
        marks[ORIGIN] = identity.origin
        marks[FIRST_NUMBER] = str(message.first_number)
    if identity.deadline is not None:
        marks[ANSWER_BY] = identity.deadline.isoformat()
    if message.enqueued_at is not None:
        marks.setdefault(ENQUEUED_AT, message.properties.get(ENQUEUED_AT, message.enqueued_at.isoformat()))
    return marks
