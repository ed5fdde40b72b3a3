"""A queue with the semantics of Azure Service Bus. No I/O, no waiting, time from a clock.

             send                   deliver (peek-lock)
sender ──────────────▶ ACTIVE ───────────────────────────▶ LOCKED ──complete──▶ gone
   │                    ▲   ▲   abandon, lock expiry: +1      │ │
   │ schedule        due│   └── release, session closed: +0 ──┘ └─defer──▶ DEFERRED
   └───────▶ SCHEDULED ─┘                                               receive by sequence
             (then a new sequence number)                               number: LOCKED again

too many deliveries, expiry, or on request: to the dead-letter queue, which is a `Queue`
too, shares the sequence numbers, and knows neither expiry nor a limit of deliveries.

The rules are those of Azure's pages learn.microsoft.com/azure/service-bus-messaging/
message-transfers-locks-settlement, message-deferral, message-expiration, service-bus-dead-letter-queues
and service-bus-auto-forwarding.
"""

from collections.abc import Iterable
from heapq import heappop
from itertools import islice
from math import inf
from typing import Any

from servicebus_local.bus.clock import DueTimes, Timers
from servicebus_local.bus.errors import (
    BusError,
    HopsExceeded,
    InvalidArgument,
    MessageLockLost,
    MessageNotFound,
    NotAllowed,
    SessionLockLost,
)
from servicebus_local.bus.locks import LockTable
from servicebus_local.bus.message import Message, State, with_application_properties
from servicebus_local.bus.messaging_entity import MAX_HOPS, Forward, MessagingEntity
from servicebus_local.bus.observer import Kind, MessageEvent, Observer
from servicebus_local.bus.ready_queue import Consumer, ReadyQueue
from servicebus_local.bus.sessions import Granted, Session, SessionTable
from servicebus_local.bus.store import Store
from servicebus_local.bus.topology import Counts, QueueOptions, Status

DEAD_LETTER_QUEUE = "$DeadLetterQueue"
TRANSFER_DEAD_LETTER_QUEUE = "$Transfer/$DeadLetterQueue"


def _nowhere(target: str, _message: Message) -> None:
    raise NotAllowed(f"there is no entity '{target}' to forward to")


class Queue(MessagingEntity):
    """One queue or subscription, or a dead-letter queue of one."""

    options: QueueOptions

    def __init__(
        self,
        name: str,
        options: QueueOptions,
        timers: Timers,
        *,
        store: Store | None = None,
        forward: Forward = _nowhere,
        parent: "Queue | None" = None,
    ) -> None:
        super().__init__(name, options, timers, store, parent._sequences if parent is not None else None)
        self._forward = forward
        self._parent = parent
        self._ready_queue = ReadyQueue()
        self._locks = LockTable(timers, options.lock_duration, self._on_lock_expired)
        self._expiries = DueTimes(timers, self.messages.__contains__, self._on_expired)
        self.sessions = SessionTable(timers, options.lock_duration, self._on_session_released)
        self.dead_letters = self if parent is not None else self._sub_queue(DEAD_LETTER_QUEUE)
        self.transfer_dead_letters = self if parent is not None else self._sub_queue(TRANSFER_DEAD_LETTER_QUEUE)

    def _sub_queue(self, name: str) -> "Queue":
        return Queue(f"{self.name}/{name}", _of_sub_queue(self.options), self._timers, store=self._store, parent=self)

    @property
    def is_dead_letter_queue(self) -> bool:
        """Whether this is a dead-letter queue of another queue."""
        return self._parent is not None

    def counts(self) -> Counts:
        """Count the messages; locked and deferred ones are active, as in Azure."""
        return Counts(
            active=len(self.messages) - self._scheduled,
            scheduled=self._scheduled,
            dead_lettered=0 if self.is_dead_letter_queue else len(self.dead_letters.messages),
            transfer_dead_lettered=0 if self.is_dead_letter_queue else len(self.transfer_dead_letters.messages),
            size=self.total_size,
        )

    @property
    def total_size(self) -> int:
        """The bytes that count against the maximum size: dead letters do too."""
        if self.is_dead_letter_queue:
            return self.size
        return self.size + self.dead_letters.size + self.transfer_dead_letters.size

    @property
    def waiting(self) -> int:
        """How many receivers have asked for a message and wait for it."""
        return sum(consumer.ready for consumer in self._ready_queue.consumers)

    # ------------------------------------------------------------------ coming and going as a whole

    def update(self, options: QueueOptions) -> None:
        """Change how the queue behaves, from now on; what is locked keeps the lock it has."""
        self.options, self.updated_at = options, self._timers.clock()
        self._locks.duration = self.sessions.duration = options.lock_duration
        self._set_duplicate_window(options.duplicate_window)
        for part in self._sub_queues():
            part.update(_of_sub_queue(options))
        self._apply_status()
        if options.forward_to is not None:
            self._forward_backlog(options.forward_to)

    def end(self) -> None:
        """Be deleted, with the dead letters."""
        for part in self._sub_queues():
            part.end()
        super().end()
        self._expiries.stop()
        self._locks.stop()
        self.sessions.stop()

    def recall(self) -> None:
        """Take up what sessions remember, and the ids of messages that came in."""
        super().recall()
        for session_id, state, changed_at in self._store.session_states(self.name):
            self.sessions.restore(session_id, state, changed_at)

    def restore(self) -> None:
        """Take up the messages the store has kept: those that were locked are one delivery older."""
        for part in self._sub_queues():
            part.restore()
        super().restore()
        if self.options.forward_to is not None:
            self._forward_backlog(self.options.forward_to)

    def observe(self, observer: Observer | None) -> None:
        """Report to this observer, or to none, what happens here and in the dead-letter queues."""
        super().observe(observer)
        for part in self._sub_queues():
            part.observe(observer)

    def _sub_queues(self) -> "tuple[Queue, ...]":
        return () if self.is_dead_letter_queue else (self.dead_letters, self.transfer_dead_letters)

    def _take_up(self, message: Message, *, locked: bool) -> None:
        if message.expires_at != inf:
            self._expiries.add(message.expires_at, message.sequence)
        self._return(message, failed=locked)

    # ------------------------------------------------------------------ coming in

    def check(self, message: Message) -> None:
        """Refuse a message this queue cannot hold."""
        if self.is_dead_letter_queue:
            raise NotAllowed("A dead-letter queue cannot be sent to.")
        super().check(message)
        if self.options.requires_session and not isinstance(message.session_id, str):
            raise NotAllowed(
                "The SessionId was not set on a message, and it cannot be sent to the entity. "
                "Entities that have session support enabled can only receive messages that have a SessionId."
            )

    def take_copy(self, message: Message) -> None:
        """Take in what a topic has chosen for this subscription."""
        if self.options.requires_session and not isinstance(message.session_id, str):
            self._number(message)
            message.enqueued_at = self._timers.clock()
            self._pass_to_dead_letters(
                message,
                "Session ID is null.",
                "Session enabled entity doesn't allow a message whose session identifier is null.",
            )
            return
        self._enqueue(message)

    def _place(self, message: Message) -> None:
        """Make a message available here, or where this queue forwards to."""
        if self.options.forward_to is not None:
            self._forward_active(message, self.options.forward_to)
            return
        self._keep(message)
        if message.expires_at != inf:
            self._expiries.add(message.expires_at, message.sequence)
        self._make_available(message)

    def _hold(self, message: Message) -> None:
        super()._hold(message)
        if self.options.requires_session and message.session_id is not None:
            self.sessions.session(message.session_id).members += 1

    def _drop(self, message: Message) -> None:
        super()._drop(message)
        session = self._session_of(message)
        if session is not None:
            session.members -= 1
            session.forget_gone(self.messages)
            self.sessions.settle(session)

    def _session_of(self, message: Message) -> Session | None:
        return self.sessions.find(message.session_id) if self.options.requires_session else None

    def _make_available(self, message: Message) -> None:
        message.state = State.ACTIVE
        ready_queue = self._session_of(message) or self._ready_queue
        ready_queue.offer(message.sequence)
        if isinstance(ready_queue, Session):
            self.sessions.settle(ready_queue)
        self.dispatch(ready_queue)

    # ------------------------------------------------------------------ going on to another queue

    def _forward_active(self, message: Message, target: str) -> None:
        try:
            self._hop(message, target)
        except BusError as refusal:
            self._tell(Kind.DEAD_LETTERED, message, reason=refusal.reason, target=self.transfer_dead_letters.name)
            self._to_transfer_dead_letters(message, refusal)
        else:
            self._tell(Kind.FORWARDED, message, target=target)

    def _forward_backlog(self, target: str) -> None:
        for message in [message for message in self.messages.values() if message.state is State.ACTIVE]:
            self._drop(message)
            self._forward_active(message, target)

    def _hop(self, message: Message, target: str) -> None:
        if message.hops >= MAX_HOPS:
            raise HopsExceeded(
                "The maximum number of allowed hops when forwarding between queues has been exceeded. "
                f"This value is set to {MAX_HOPS}."
            )
        copy = message.copy()
        copy.hops = message.hops + 1
        self._forward(target, copy)

    # ------------------------------------------------------------------ going out

    def subscribe(self, consumer: Consumer) -> ReadyQueue:
        """Let a receiver take turns on this queue; raises `NotAllowed`."""
        if self.options.requires_session:
            raise NotAllowed(
                f"'{self.name}' requires sessions: it is not possible to create a receiver without a session."
            )
        self._check_receivable()
        self.join(consumer)
        self._ready_queue.consumers.append(consumer)
        return self._ready_queue

    def accept_session(self, consumer: Consumer, session_id: str) -> Session:
        """Give a receiver the session it names."""
        self._check_sessions()
        session = self.sessions.accept(consumer, session_id)
        self.join(consumer)
        self._notify_of_session(Kind.SESSION_ACCEPTED, session, consumer)
        return session

    def accept_next_session(self, consumer: Consumer, timeout: float, granted: Granted) -> None:
        """Give a receiver the next session with messages, or tell it that there was none in time."""
        self._check_sessions()
        self.join(consumer)

        def accepted(session: Session) -> None:
            self._notify_of_session(Kind.SESSION_ACCEPTED, session, consumer)
            granted(session)

        self.sessions.accept_next(consumer, timeout, accepted)

    def _notify_of_session(self, kind: Kind, session: Session, consumer: Consumer | None = None) -> None:
        if self.observer is not None:
            self.observer(MessageEvent(kind, self.name, consumer=consumer, session_id=session.id))

    def _check_sessions(self) -> None:
        if not self.options.requires_session:
            raise NotAllowed(f"'{self.name}' does not require sessions: a session receiver cannot be created.")
        self._check_receivable()

    def _check_receivable(self) -> None:
        if self.options.forward_to is not None:
            raise NotAllowed(f"'{self.name}' forwards its messages to '{self.options.forward_to}'.")
        self._check_status(sends=False)

    def unsubscribe(self, consumer: Consumer) -> None:
        """Let a receiver go. What it has locked stays locked; a session it held is freed."""
        self.part(consumer)
        if self.options.requires_session:
            self.sessions.leave(consumer)
        elif consumer in self._ready_queue.consumers:
            self._ready_queue.consumers.remove(consumer)

    def dispatch(self, ready_queue: ReadyQueue) -> None:
        """Hand out what is ready to those who want it, turn by turn."""
        while ready_queue.ready:
            consumer = ready_queue.next_consumer()
            if consumer is None:
                return
            message = self._next(ready_queue)
            if message is None:
                return
            token, until = None, None
            if consumer.deletes:
                self._drop(message)
            else:
                token, until = self._lock(message, ready_queue if isinstance(ready_queue, Session) else None)
            if self.observer is not None:
                self.observer(MessageEvent(Kind.DELIVERED, self.name, message, token, consumer))
            consumer.deliver(message, token, until)

    def _next(self, ready_queue: ReadyQueue) -> Message | None:
        """Take the first ready message that has not expired."""
        now = self._timers.clock()
        while ready_queue.ready:
            message = self.messages.get(heappop(ready_queue.ready))
            if message is None or message.state is not State.ACTIVE:
                continue
            if message.expires_at > now:
                return message
            self._expire(message)
        return None

    def _lock(self, message: Message, session: Session | None) -> tuple[bytes, float]:
        """Lock a message, in a session for as long as that is held; return the token and when the lock ends."""
        message.state = State.LOCKED
        self._store.lock(self.name, message.sequence)
        if session is None:
            return self._locks.acquire(message.sequence)
        token = self._locks.acquire_within_session(message.sequence)
        session.tokens[token] = None
        return token, session.locked_until

    # ------------------------------------------------------------------ settling

    def complete(self, token: bytes) -> None:
        """The message is done with."""
        message = self._unlock(token)
        if self.observer is not None:
            self._tell(Kind.COMPLETED, message, token)
        self._drop(message)

    def abandon(self, token: bytes, changes: dict[str, Any] | None = None) -> None:
        """The delivery failed: count it and make the message available again."""
        message = self._unlock(token)
        self._edit(message, changes)
        self._tell(Kind.ABANDONED, message, token)
        self._return(message, failed=True)

    def release(self, token: bytes) -> None:
        """The message was not looked at: make it available again as it was."""
        message = self._unlock(token)
        self._tell(Kind.RELEASED, message, token)
        self._return(message, failed=False)

    def defer(self, token: bytes, changes: dict[str, Any] | None = None) -> None:
        """Count the delivery and put the message aside until it is asked for by its sequence number."""
        message = self._unlock(token)
        self._edit(message, changes)
        self._tell(Kind.DEFERRED, message, token)
        message.deferred = True
        self._count_delivery(message)
        self._store.change(self.name, message)
        self._return(message, failed=False)

    def dead_letter(
        self, token: bytes, reason: str | None, description: str | None, changes: dict[str, Any] | None = None
    ) -> None:
        """Move the message to the dead-letter queue with its reason.

        Raises `MessageLockLost`, and `NotAllowed` among dead letters.
        """
        if self.is_dead_letter_queue:
            raise NotAllowed(f"'{self.name}' is a dead-letter queue: its messages cannot be dead-lettered.")
        message = self._unlock(token)
        self._edit(message, changes)
        self._to_dead_letters(message, reason, description)

    def renew(self, token: bytes) -> float:
        """Start the lock's time again; return when it ends.

        Raises `MessageLockLost`, and `NotAllowed` for a message of a session.
        """
        message = self.messages[self._locks.sequence_of(token)]
        if self._session_of(message) is not None:
            raise NotAllowed("A message of a session has no lock of its own: renew the session's.")
        self._tell(Kind.LOCK_RENEWED, message, token)
        return self._locks.renew(token)

    def lose_lock(self, token: bytes) -> None:
        """End a lock, or that of the message's session, as if its time were over."""
        message = self.messages[self._locks.sequence_of(token)]
        session = self._session_of(message)
        if session is not None:
            self.sessions.expire(session)
        else:
            self._on_lock_expired(self._locks.release(token))

    def tokens(self) -> dict[int, bytes]:
        """Return the tokens of the locks on messages, by sequence number."""
        return self._locks.tokens()

    def purge(self) -> int:
        """Forget every message, locked ones too; return how many that were."""
        self._locks.stop()
        self._ready_queue.ready.clear()
        self.sessions.forget_tokens()
        return super().purge()

    def delete_oldest(self, limit: int, before: float, session_id: str | None = None) -> int:
        """Forget messages that came in before a moment and wait or are deferred; return how many that were."""
        eligible = (
            message
            for _, message in sorted(self.messages.items())
            if message.state in (State.ACTIVE, State.DEFERRED)
            and message.enqueued_at < before
            and session_id in (None, message.session_id)
        )
        deleted = list(islice(eligible, limit))
        for message in deleted:
            self._tell(Kind.PURGED, message)
            self._drop(message)
        self._ready_queue.forget_gone(self.messages)
        return len(deleted)

    def _unlock(self, token: bytes) -> Message:
        try:
            message = self.messages[self._locks.release(token)]
        except MessageLockLost as lost:
            if self.options.requires_session:
                raise SessionLockLost("The session lock has expired, or the message was settled.") from lost
            raise
        session = self._session_of(message)
        if session is not None:
            session.tokens.pop(token, None)
        return message

    def _edit(self, message: Message, changes: dict[str, Any] | None) -> None:
        if changes:
            self._rewrite(message, with_application_properties(message.bare, changes))

    def _rewrite(self, message: Message, bare: bytes) -> None:
        if message.sequence in self.messages:
            self.size += len(bare) - len(message.bare)
        message.bare = bare

    def _return(self, message: Message, *, failed: bool) -> None:
        """Make a message available again, or put it aside again, unless it has used up its deliveries or its time."""
        if failed:
            self._count_delivery(message)
        if failed and message.delivery_count >= self.options.max_delivery_count:
            tried = f"Message could not be consumed after {message.delivery_count} delivery attempts."
            self._to_dead_letters(message, "MaxDeliveryCountExceeded", tried)
        elif not message.deferred and message.expires_at <= self._timers.clock():
            self._expire(message)
        else:
            message.state = State.DEFERRED if message.deferred else State.ACTIVE
            if failed:
                self._store.change(self.name, message)
            else:
                self._store.unlock(self.name, message.sequence)
            if not message.deferred:
                self._make_available(message)

    def _count_delivery(self, message: Message) -> None:
        """Count a delivery that did not settle a message; among dead letters nothing is counted."""
        message.delivery_count += not self.is_dead_letter_queue

    # ------------------------------------------------------------------ time

    def _on_lock_expired(self, sequence: int) -> None:
        message = self.messages[sequence]
        self._tell(Kind.LOCK_LOST, message)
        self._return(message, failed=True)

    def _on_session_released(self, session: Session, expired: bool) -> None:
        """Take back what the receiver of a session had not settled."""
        self._notify_of_session(Kind.SESSION_LOST if expired else Kind.SESSION_RELEASED, session)
        for token in session.take_tokens():
            message = self.messages[self._locks.release(token)]
            self._tell(Kind.LOCK_LOST if expired else Kind.RELEASED, message, token)
            self._return(message, failed=expired)

    def _on_expired(self, sequence: int) -> None:
        message = self.messages[sequence]
        if message.state is State.ACTIVE:  # a lock outlives the time to live, and a deferred one ends when asked for
            self._expire(message)
            self._ready_queue.forget_gone(self.messages)

    def _expire(self, message: Message) -> None:
        if self.options.dead_lettering_on_expiration:
            self._to_dead_letters(message, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            self._tell(Kind.EXPIRED, message)
            self._drop(message)

    # ------------------------------------------------------------------ dead letters

    def _to_dead_letters(self, message: Message, reason: str | None, description: str | None) -> None:
        self._drop(message)
        self._pass_to_dead_letters(message, reason, description)

    def _pass_to_dead_letters(self, message: Message, reason: str | None, description: str | None) -> None:
        """Write the reason on a message that left this queue, and pass it on."""
        named = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        changes = {name: text for name, text in named.items() if text is not None}
        if changes:
            self._rewrite(message, with_application_properties(message.bare, changes))
        target = self.options.forward_dead_letters_to
        self._tell(Kind.DEAD_LETTERED, message, reason=reason, target=target or self.dead_letters.name)
        if target is None:
            self.dead_letters.adopt(message)
        else:
            self._forward_dead_letter(message, target)

    def _forward_dead_letter(self, message: Message, target: str) -> None:
        source, message.dead_letter_source = message.dead_letter_source, self.name
        try:
            self._hop(message, target)
        except BusError as refusal:
            message.dead_letter_source = source
            self._to_transfer_dead_letters(message, refusal)

    def _to_transfer_dead_letters(self, message: Message, refusal: BusError) -> None:
        """Keep what could not be forwarded where Azure keeps it; why it died before stays readable."""
        changes = {"DeadLetterReason": refusal.reason, "DeadLetterErrorDescription": refusal.description}
        message.bare = with_application_properties(message.bare, changes)
        self.transfer_dead_letters.adopt(message)

    def adopt(self, message: Message) -> None:
        """Take a dead letter in: it keeps its number and its count, and never expires."""
        message.deferred, message.expires_at, message.state = False, inf, State.ACTIVE
        if message.sequence in self.messages:
            self._number(message)
        self._tell(Kind.DEAD_LETTER_ARRIVED, message)
        self._keep(message)
        self._make_available(message)

    # ------------------------------------------------------------------ asking by number

    def receive_deferred(
        self, sequences: Iterable[int], *, deletes: bool, session_id: str | None = None
    ) -> list[tuple[Message, bytes | None, float | None]]:
        """Lock, or take out, deferred messages by their sequence numbers: all of them or none.

        Only here does a deferred message expire: the documentation of deferral says so.
        """
        messages = [self._deferred(sequence, session_id) for sequence in sequences]
        received: list[tuple[Message, bytes | None, float | None]] = []
        for message in messages:
            if deletes:
                self._tell(Kind.DELIVERED, message)
                self._drop(message)
                received.append((message, None, None))
            else:
                token, until = self._lock(message, self._session_of(message))
                self._tell(Kind.DELIVERED, message, token)
                received.append((message, token, until))
        return received

    def _deferred(self, sequence: int, session_id: str | None) -> Message:
        """Return a deferred message of this session, or of any if sessions are not required; else raise."""
        if not isinstance(sequence, int):
            raise InvalidArgument("a sequence number must be an integer")
        message = self.messages.get(sequence)
        of_session = message is not None and (not self.options.requires_session or message.session_id == session_id)
        if message is not None and message.state is State.DEFERRED and of_session:
            if message.expires_at > self._timers.clock():
                return message
            self._expire(message)
        raise MessageNotFound(
            "Failed to lock one or more specified messages. The message does not exist: "
            f"no deferred message here has the sequence number {sequence}."
        )

    # ------------------------------------------------------------------ session state

    def set_session_state(self, session: Session, state: bytes | None) -> None:
        """Change what a session remembers."""
        self.sessions.set_state(session, state)
        self._store.put_session_state(self.name, session.id, state, self._timers.clock())


def _of_sub_queue(options: QueueOptions) -> QueueOptions:
    """Return how a dead-letter queue behaves: no expiry, no end of deliveries."""
    status = options.status if options.status is not Status.SEND_DISABLED else Status.ACTIVE
    return QueueOptions(lock_duration=options.lock_duration, max_delivery_count=2**31, status=status)
