"""A queue with the semantics of Azure Service Bus. No I/O, no waiting, time from a clock.

             send                   deliver (peek-lock)
sender ──────────────▶ ACTIVE ───────────────────────────▶ LOCKED ──complete──▶ gone
   │                    ▲   ▲   abandon, lock expiry: +1      │ │
   │ schedule        due│   └── release, session closed: +0 ──┘ └─defer──▶ DEFERRED
   └───────▶ SCHEDULED ─┘                                               receive by sequence
             (then a new sequence number)                               number: LOCKED again

too many deliveries, expiry, or on request: to the dead-letter queue, which is a `Queue`
too, shares the sequence numbers, and knows neither expiry nor a limit of deliveries.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop
from itertools import count
from math import inf
from typing import Any

from local.broker.bus.clock import DueTimes, Timers
from local.broker.bus.errors import (
    BusError,
    InvalidArgument,
    MessageLockLost,
    MessageNotFound,
    NotAllowed,
    SessionLockLost,
)
from local.broker.bus.history import History
from local.broker.bus.lane import Consumer, Lane
from local.broker.bus.locks import LockTable
from local.broker.bus.message import Message, State, with_application_properties
from local.broker.bus.sessions import Granted, Session, SessionTable
from local.broker.bus.store import MemoryStore, Store

DEAD_LETTER_QUEUE = "$DeadLetterQueue"
PEEK_LIMIT = 1024 * 1024  # bytes in the answer to one peek
MAX_HOPS = 4  # auto-forwarding chains longer than this are dead-lettered, as in Azure


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How one queue behaves; durations in seconds."""

    lock_duration: float = 60.0
    max_delivery_count: int = 10
    default_time_to_live: float = inf
    dead_lettering_on_expiration: bool = False
    requires_session: bool = False
    duplicate_detection: bool = False
    duplicate_window: float = 20.0
    forward_to: str | None = None
    forward_dead_letters_to: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages a queue holds, by where they are."""

    active: int
    scheduled: int
    dead_lettered: int
    size: int


Forward = Callable[[str, Message], None]
"""Puts a message into another queue; raises `BusError` when that is impossible."""


def _nowhere(target: str, _message: Message) -> None:
    raise NotAllowed(f"there is no queue '{target}' to forward to")


class Queue:
    """One queue, or the dead-letter queue of one."""

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
        self.name = name
        self.options = options
        self.messages: dict[int, Message] = {}
        self.size = 0
        self._timers = timers
        self._store = store or MemoryStore()
        self._forward = forward
        self._parent = parent
        self._sequences: Iterator[int] = parent._sequences if parent is not None else count(1)
        self._lane = Lane()
        self._scheduled = 0
        self._locks = LockTable(timers, options.lock_duration, self._on_lock_expired)
        self._history = History(timers.clock, options.duplicate_window) if options.duplicate_detection else None
        self._expiries = DueTimes(timers, self.messages.__contains__, self._on_expired)
        self._schedule = DueTimes(timers, self._is_scheduled, self._on_due)
        self.sessions = SessionTable(timers, options.lock_duration, self._on_session_released)
        self.dead_letters = self if parent is not None else self._sub_queue(store)

    def _sub_queue(self, store: Store | None) -> "Queue":
        options = QueueOptions(lock_duration=self.options.lock_duration, max_delivery_count=2**31)
        return Queue(f"{self.name}/{DEAD_LETTER_QUEUE}", options, self._timers, store=store, parent=self)

    @property
    def is_dead_letter_queue(self) -> bool:
        """Whether this is the dead-letter queue of another queue."""
        return self._parent is not None

    def counts(self) -> Counts:
        """Count the messages; locked and deferred ones are active, as in Azure."""
        return Counts(
            active=len(self.messages) - self._scheduled,
            scheduled=self._scheduled,
            dead_lettered=0 if self.is_dead_letter_queue else len(self.dead_letters.messages),
            size=self.size + (0 if self.is_dead_letter_queue else self.dead_letters.size),
        )

    @property
    def waiting(self) -> int:
        """How many receivers have asked for a message and wait for it."""
        return sum(consumer.ready for consumer in self._lane.consumers)

    # ------------------------------------------------------------------ coming in

    def check(self, message: Message) -> None:
        """Refuse a message this queue can never hold."""
        if self.is_dead_letter_queue:
            raise NotAllowed("A dead-letter queue cannot be sent to.")
        if self.options.requires_session and not isinstance(message.session_id, str):
            raise NotAllowed(
                "The SessionId was not set on a message, and it cannot be sent to the entity. "
                "Entities that have session support enabled can only receive messages that have a SessionId."
            )

    def send(self, messages: Iterable[Message]) -> list[int]:
        """Take in all messages or none; return their sequence numbers. Duplicates are dropped silently."""
        messages = list(messages)
        for message in messages:
            self.check(message)
        return [self._take_in(message) for message in messages]

    def _take_in(self, message: Message) -> int:
        duplicate_of = self._find_duplicate(message)
        if duplicate_of is not None:
            return duplicate_of
        now = self._timers.clock()
        if message.scheduled_for is not None and message.scheduled_for > now:
            sequence = self._put_aside(message)
        else:
            sequence = self._enqueue(message)
        if self._history is not None and message.message_id is not None:
            self._history.remember(message.message_id, sequence)
        return sequence

    def _find_duplicate(self, message: Message) -> int | None:
        if self._history is None or message.message_id is None:
            return None
        return self._history.find(message.message_id)

    def _put_aside(self, message: Message) -> int:
        message.state = State.SCHEDULED
        self._number(message)
        self._keep(message)
        self._scheduled += 1
        self._schedule.add(message.scheduled_for or 0.0, message.sequence)
        return message.sequence

    def _enqueue(self, message: Message) -> int:
        """Number a message and make it available here, or where this queue forwards to."""
        self._number(message)
        message.enqueued_at = now = self._timers.clock()
        message.time_to_live = min(message.time_to_live, self.options.default_time_to_live)
        message.expires_at = now + message.time_to_live
        if self.options.forward_to is not None:
            self._forward_active(message, self.options.forward_to)
            return message.sequence
        self._keep(message)
        if message.expires_at != inf:
            self._expiries.add(message.expires_at, message.sequence)
        self._make_available(message)
        return message.sequence

    def _number(self, message: Message) -> None:
        message.sequence = next(self._sequences)
        if not message.enqueued_sequence:
            message.enqueued_sequence = message.sequence

    def _keep(self, message: Message) -> None:
        self.messages[message.sequence] = message
        self.size += message.size
        if self.options.requires_session and message.session_id is not None:
            self.sessions.session(message.session_id).members += 1
        self._store.put(self.name, message)

    def _drop(self, message: Message) -> None:
        del self.messages[message.sequence]
        self.size -= message.size
        self._store.remove(self.name, message.sequence)
        session = self._session_of(message)
        if session is not None:
            session.members -= 1
            self.sessions.settle(session)

    def _session_of(self, message: Message) -> Session | None:
        return self.sessions.find(message.session_id) if self.options.requires_session else None

    def _make_available(self, message: Message) -> None:
        message.state = State.ACTIVE
        lane = self._session_of(message) or self._lane
        lane.offer(message.sequence)
        if isinstance(lane, Session):
            self.sessions.settle(lane)
        self.pump(lane)

    # ------------------------------------------------------------------ going on to another queue

    def _forward_active(self, message: Message, target: str) -> None:
        try:
            self._hop(message, target)
        except BusError as refusal:
            self._bury(message, "AutoForwardFailed", refusal.description)

    def _hop(self, message: Message, target: str) -> None:
        if message.hops >= MAX_HOPS:
            raise NotAllowed(f"The message was forwarded {MAX_HOPS} times already.")
        copy = message.copy()
        copy.hops = message.hops + 1
        self._forward(target, copy)

    # ------------------------------------------------------------------ going out

    def subscribe(self, consumer: Consumer) -> Lane:
        """Let a receiver take turns on this queue."""
        if self.options.requires_session:
            raise NotAllowed(
                f"'{self.name}' requires sessions: it is not possible to create a receiver without a session."
            )
        self._check_receivable()
        self._lane.consumers.append(consumer)
        return self._lane

    def accept_session(self, consumer: Consumer, session_id: str) -> Session:
        """Give a receiver the session it names."""
        self._check_sessions()
        return self.sessions.accept(consumer, session_id)

    def accept_next_session(self, consumer: Consumer, timeout: float, granted: Granted) -> None:
        """Give a receiver the next session with messages, or tell it that there was none in time."""
        self._check_sessions()
        self.sessions.accept_next(consumer, timeout, granted)

    def _check_sessions(self) -> None:
        if not self.options.requires_session:
            raise NotAllowed(f"'{self.name}' does not require sessions: a session receiver cannot be created.")
        self._check_receivable()

    def _check_receivable(self) -> None:
        if self.options.forward_to is not None:
            raise NotAllowed(f"'{self.name}' forwards its messages to '{self.options.forward_to}'.")

    def unsubscribe(self, consumer: Consumer) -> None:
        """Let a receiver go. What it has locked stays locked; a session it held is freed."""
        if self.options.requires_session:
            self.sessions.leave(consumer)
        elif consumer in self._lane.consumers:
            self._lane.consumers.remove(consumer)

    def pump(self, lane: Lane) -> None:
        """Hand out what is ready to those who want it, turn by turn."""
        while lane.ready:
            consumer = lane.next_consumer()
            if consumer is None:
                return
            message = self._next(lane)
            if message is None:
                return
            self._deliver(message, consumer, lane)

    def _next(self, lane: Lane) -> Message | None:
        """Take the first ready message that has not expired."""
        now = self._timers.clock()
        while lane.ready:
            message = self.messages.get(heappop(lane.ready))
            if message is None or message.state is not State.ACTIVE:
                continue
            if message.expires_at > now:
                return message
            self._expire(message)
        return None

    def _deliver(self, message: Message, consumer: Consumer, lane: Lane) -> None:
        if consumer.deletes:
            self._drop(message)
            consumer.deliver(message, None, None)
            return
        token, until = self._lock(message, lane if isinstance(lane, Session) else None)
        consumer.deliver(message, token, until)

    def _lock(self, message: Message, session: Session | None) -> tuple[bytes, float]:
        message.state = State.LOCKED
        if session is None:
            return self._locks.acquire(message.sequence)
        token = self._locks.acquire_within_session(message.sequence)
        session.tokens[token] = None
        return token, session.locked_until

    # ------------------------------------------------------------------ settling

    def complete(self, token: bytes) -> None:
        """The message is done with."""
        self._drop(self._unlock(token))

    def abandon(self, token: bytes, changes: dict[str, Any] | None = None) -> None:
        """The delivery failed: count it and make the message available again."""
        message = self._unlock(token)
        self._edit(message, changes)
        self._return(message, failed=True)

    def release(self, token: bytes) -> None:
        """The message was not looked at: make it available again as it was."""
        self._return(self._unlock(token), failed=False)

    def defer(self, token: bytes, changes: dict[str, Any] | None = None) -> None:
        """Put the message aside until it is asked for by its sequence number."""
        message = self._unlock(token)
        self._edit(message, changes)
        message.deferred = True
        self._return(message, failed=False)

    def dead_letter(
        self, token: bytes, reason: str | None, description: str | None, changes: dict[str, Any] | None = None
    ) -> None:
        """Move the message to the dead-letter queue with its reason."""
        message = self._unlock(token)
        self._edit(message, changes)
        self._to_dead_letters(message, reason, description)

    def renew(self, token: bytes) -> float:
        """Start the lock's time again; return when it ends."""
        message = self.messages[self._locks.sequence_of(token)]
        if self._session_of(message) is not None:
            raise NotAllowed("A message of a session has no lock of its own: renew the session's.")
        return self._locks.renew(token)

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
        """Make a message available again, unless it has used up its deliveries or its time."""
        message.delivery_count += failed
        if message.delivery_count >= self.options.max_delivery_count:
            tried = f"Message could not be consumed after {message.delivery_count} delivery attempts."
            self._to_dead_letters(message, "MaxDeliveryCountExceeded", tried)
        elif message.expires_at <= self._timers.clock():
            self._expire(message)
        else:
            self._store.put(self.name, message)
            if message.deferred:
                message.state = State.DEFERRED
            else:
                self._make_available(message)

    # ------------------------------------------------------------------ time

    def _on_lock_expired(self, sequence: int) -> None:
        self._return(self.messages[sequence], failed=True)

    def _on_session_released(self, session: Session, expired: bool) -> None:
        """Take back what the receiver of a session had not settled."""
        for token in session.take_tokens():
            self._return(self.messages[self._locks.release(token)], failed=expired)

    def _on_expired(self, sequence: int) -> None:
        message = self.messages[sequence]
        if message.state in (State.ACTIVE, State.DEFERRED):  # a lock outlives the time to live
            self._expire(message)

    def _expire(self, message: Message) -> None:
        if self.options.dead_lettering_on_expiration:
            self._to_dead_letters(message, "TTLExpiredException", "The message expired and was dead lettered.")
        else:
            self._drop(message)

    # ------------------------------------------------------------------ scheduling

    def cancel_scheduled(self, sequence: int) -> None:
        """Forget a scheduled message that is not due yet."""
        if not self._is_scheduled(sequence):
            raise MessageNotFound(f"There is no scheduled message with the sequence number {sequence}.")
        self._scheduled -= 1
        self._drop(self.messages[sequence])

    def _is_scheduled(self, sequence: int) -> bool:
        message = self.messages.get(sequence)
        return message is not None and message.state is State.SCHEDULED

    def _on_due(self, sequence: int) -> None:
        message = self.messages[sequence]
        self._scheduled -= 1
        self._drop(message)
        self._enqueue(message)

    # ------------------------------------------------------------------ dead letters

    def _to_dead_letters(self, message: Message, reason: str | None, description: str | None) -> None:
        self._drop(message)
        self._bury(message, reason, description)

    def _bury(self, message: Message, reason: str | None, description: str | None) -> None:
        """Write the reason on a message that left this queue, and pass it on."""
        named = {"DeadLetterReason": reason, "DeadLetterErrorDescription": description}
        changes = {name: text for name, text in named.items() if text is not None}
        if changes:
            self._rewrite(message, with_application_properties(message.bare, changes))
        target = self.options.forward_dead_letters_to
        if target is not None and self._forwards_dead_letter(message, target):
            return
        self.dead_letters.adopt(message)

    def _forwards_dead_letter(self, message: Message, target: str) -> bool:
        source, message.dead_letter_source = message.dead_letter_source, self.name
        try:
            self._hop(message, target)
        except BusError:
            message.dead_letter_source = source
            return False
        return True

    def adopt(self, message: Message) -> None:
        """Take a dead letter in: it keeps its number and its count, and never expires."""
        message.deferred, message.expires_at = False, inf
        if message.sequence in self.messages:
            self._number(message)
        self._keep(message)
        self._make_available(message)

    # ------------------------------------------------------------------ looking and asking by number

    def peek(self, start: int, limit: int, session_id: str | None = None) -> list[Message]:
        """Return messages in sequence order from `start`, in whatever state they are.

        Fewer than asked for when they would not fit a reply; the next peek goes on from there.
        """
        order, found, size = sorted(self.messages), list[Message](), 0
        for sequence in order[bisect_left(order, start) :]:
            message = self.messages[sequence]
            if session_id is not None and message.session_id != session_id:
                continue
            size += message.size
            if len(found) >= limit or (found and size > PEEK_LIMIT):
                break
            found.append(message)
        return found

    def receive_deferred(
        self, sequences: Iterable[int], *, deletes: bool, session_id: str | None = None
    ) -> list[tuple[Message, bytes | None, float | None]]:
        """Lock, or take out, deferred messages by their sequence numbers: all of them or none."""
        messages = [self._deferred(sequence, session_id) for sequence in sequences]
        if deletes:
            for message in messages:
                self._drop(message)
            return [(message, None, None) for message in messages]
        return [(message, *self._lock(message, self._session_of(message))) for message in messages]

    def _deferred(self, sequence: int, session_id: str | None) -> Message:
        if not isinstance(sequence, int):
            raise InvalidArgument("a sequence number must be an integer")
        message = self.messages.get(sequence)
        if message is None or message.state is not State.DEFERRED:
            raise MessageNotFound(f"There is no deferred message with the sequence number {sequence}.")
        if self.options.requires_session and message.session_id != session_id:
            raise SessionLockLost(f"The message {sequence} belongs to another session.")
        return message

    # ------------------------------------------------------------------ session state

    def set_session_state(self, session: Session, state: bytes | None) -> None:
        """Change what a session remembers."""
        self.sessions.set_state(session, state)
        self._store.put_session_state(self.name, session.id, state)
