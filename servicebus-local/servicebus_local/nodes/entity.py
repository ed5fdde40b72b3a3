"""A queue at the end of a link: the peer sends into it, or receives from it."""

from functools import partial

from servicebus_local.amqp.composites import Accepted, Modified, Outcome, Rejected, Released
from servicebus_local.amqp.events import CreditChanged, MessageArrived, OutcomeArrived
from servicebus_local.amqp.link import IncomingLink, OutgoingLink
from servicebus_local.amqp.types import DecodeError, Described, Symbol
from servicebus_local.bus.errors import BusError, InvalidArgument
from servicebus_local.bus.message import BATCH_FORMAT, Message, read, read_batch, render
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.ready_queue import ReadyQueue
from servicebus_local.bus.sessions import Session
from servicebus_local.nodes.fault_injection import NO_FAULTS, FaultInjection
from servicebus_local.nodes.node import Node, error_of

SESSION_FILTER = Symbol("com.microsoft:session-filter")
_TIMEOUT = "com.microsoft:timeout"
_LOCKED_UNTIL = Symbol("com.microsoft:locked-until-utc")
_DEFAULT_SESSION_TIMEOUT = 65.0  # seconds; what the SDK says it waits when it names none
_DOTNET_EPOCH_TICKS = 621355968000000000


class Sender(Node):
    """Puts what the peer sends into a queue or topic."""

    sends = True

    def __init__(self, entity: MessagingEntity, link: IncomingLink) -> None:
        self._entity = entity
        self._link = link

    def attach(self) -> None:
        """Accept the link, or raise."""
        self._entity.join(self)
        self._link.accept()

    def lost(self, error: BusError) -> None:
        """Tell the peer that this link is over."""
        self._link.detach(error_of(error))

    def on_detached(self) -> None:
        """Leave the entity."""
        self._entity.part(self)

    def on_message(self, event: MessageArrived) -> None:
        """Take in a message, or the messages of a batch."""
        outcome: Outcome = Accepted()
        try:
            batch = event.message_format == BATCH_FORMAT
            self._entity.send(read_batch(event.payload) if batch else [read(event.payload)])
        except BusError as refusal:
            outcome = Rejected(error_of(refusal))
        except DecodeError as error:
            outcome = Rejected(error_of(InvalidArgument(f"The message cannot be read: {error}.")))
        if not event.settled:
            event.link.settle(event.delivery_id, outcome)


class Receiver(Node):
    """Hands a queue's messages to the peer, and its outcomes to the queue."""

    sends = False

    def __init__(self, queue: Queue, link: OutgoingLink, faults: FaultInjection = NO_FAULTS) -> None:
        self.name = link.name
        self.container = link.connection.peer
        self.deletes = link.settles_first
        self._queue = queue
        self._link = link
        self._faults = faults
        self._drain: object | None = None  # the request to drain that waits until held deliveries are out
        self._ready_queue: ReadyQueue | None = None

    # ------------------------------------------------------------------ attaching

    def attach(self) -> None:
        """Accept the link, or raise; a session that is not free yet is accepted later."""
        filters = (self._link.source.filters if self._link.source else None) or {}
        if SESSION_FILTER not in filters:
            self._ready_queue = self._queue.subscribe(self)
            self._link.accept()
            return
        session_id = filters[SESSION_FILTER]
        if isinstance(session_id, Described):  # as some clients do; the Azure SDK does not
            session_id = session_id.value
        if session_id is None:
            asked = self._link.properties.get(_TIMEOUT)
            timeout = asked / 1000 if isinstance(asked, int) else _DEFAULT_SESSION_TIMEOUT
            self._queue.accept_next_session(self, timeout, self._granted)
        elif isinstance(session_id, str):
            self._granted(self._queue.accept_session(self, session_id))
        else:
            raise InvalidArgument("A session id must be a string.")

    def _granted(self, session: Session) -> None:
        self._ready_queue = session
        ticks = _DOTNET_EPOCH_TICKS + int(session.locked_until * 1000) * 10_000
        self._link.accept({SESSION_FILTER: session.id}, {_LOCKED_UNTIL: ticks})

    # ------------------------------------------------------------------ what the queue asks

    @property
    def ready(self) -> bool:
        """Whether the peer has given credit and can be written to."""
        if self._faults.armed:
            left = self._link.credit - self._faults.held(self._link)
            return self._link.ready and left > 0 and self._drain is None
        return self._link.ready

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        """Send a message; the delivery tag is the lock token in the byte order of .NET."""
        tag = b"\x00"
        if token is not None:
            tag = token[3::-1] + token[5:3:-1] + token[7:5:-1] + token[8:]
        if self._faults.armed:
            send = partial(self._send_late, tag, render(message, until, token), token)
            self._faults.deliver(self._queue, self._link, token, send)
        else:
            self._link.send(tag, render(message, until, token), token)

    def _send_late(self, tag: bytes, payload: bytes, token: bytes | None) -> None:
        """Send what may have waited, unless the link is gone: its messages stay locked."""
        if self._link.attached:
            self._link.send(tag, payload, token)

    def lost(self, error: BusError) -> None:
        """Tell the peer that this link is over."""
        if self._link.attached:
            self._link.detach(error_of(error))
        else:
            self._link.refuse(error_of(error))

    # ------------------------------------------------------------------ what the peer says

    def on_credit(self, event: CreditChanged) -> None:
        """Send what there is; what is left of a drained credit is given up."""
        self._drain = None
        self.resume()
        if event.drain and self._faults.armed:
            drain = self._drain = object()
            self._faults.after_held(self._link, partial(self._on_held_out, drain))
        elif event.drain:
            self._link.drained()

    def resume(self) -> None:
        """Send what there is, as far as the peer wants it."""
        if self._ready_queue is not None:
            self._queue.dispatch(self._ready_queue)

    def _on_held_out(self, drain: object) -> None:
        """Give up what is left of the credit, unless the peer has asked for something else, or is gone."""
        if self._drain is drain:
            self._drain = None
            if self._link.attached:
                self._link.drained()

    def on_outcome(self, event: OutcomeArrived) -> None:
        """Apply the outcome and answer with it, or with the reason why it was not applied.

        The answer to a rejection that was applied carries no error.
        """
        applied: Outcome = Released() if event.outcome is None else event.outcome
        if isinstance(applied, Rejected):
            applied = Rejected()
        try:
            self._apply(event.token, event.outcome)
        except BusError as refusal:
            applied = Rejected(error_of(refusal))
        if not event.settled:
            self._link.confirm(event.delivery_id, applied)

    def _apply(self, token: bytes, outcome: Outcome | None) -> None:
        match outcome:
            case Accepted():
                self._queue.complete(token)
            case Released() | None:
                self._queue.release(token)
            case Modified(_, True, changes):
                self._queue.defer(token, changes)
            case Modified(_, False, changes):
                self._queue.abandon(token, changes)
            case Rejected(error):
                changes = dict(error.info or {}) if error else {}
                reason = changes.pop("DeadLetterReason", None)
                description = changes.pop("DeadLetterErrorDescription", error.description if error else None)
                self._queue.dead_letter(token, _text(reason), _text(description), changes)

    def on_detached(self) -> None:
        """Leave the queue."""
        self._queue.unsubscribe(self)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
