"""Where messages come into an entity, a queue or a topic alike.

    send ──checks──▶ seen before? ──▶ due now? ──▶ number it ──▶ `_place`
                       │ dropped        │ no: SCHEDULED until it is, under a number of its own

What lies behind `_place` is the entity's own: a queue keeps the message, a topic copies it
to its subscriptions. Numbers and schedules are those of
learn.microsoft.com/azure/service-bus-messaging/message-sequencing, `peek` is that of message-browsing.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from math import inf
from typing import Protocol

from servicebus_local.bus.clock import DueTimes, Timers
from servicebus_local.bus.errors import BusError, EntityDisabled, EntityNotFound, MessageNotFound, QuotaExceeded
from servicebus_local.bus.history import History
from servicebus_local.bus.message import Message, State
from servicebus_local.bus.observer import Kind, MessageEvent, Observer
from servicebus_local.bus.store import MemoryStore, Store
from servicebus_local.bus.topology import Counts, QueueOptions, TopicOptions

PEEK_LIMIT = 1024 * 1024  # bytes in the answer to one peek
MAX_HOPS = 4  # auto-forwarding chains longer than this end in the transfer dead-letter queue, as in Azure

Forward = Callable[[str, Message], None]
"""Puts a message into another entity; raises `BusError` when that is impossible."""


class User(Protocol):
    """A link that is attached to an entity."""

    @property
    def sends(self) -> bool:
        """Whether it sends here; otherwise it receives."""
        ...

    def lost(self, error: BusError) -> None:
        """Learn that it may not be here any more."""
        ...


class MessagingEntity:
    """The part of a queue or topic that takes messages in."""

    options: QueueOptions | TopicOptions

    def __init__(
        self,
        name: str,
        options: QueueOptions | TopicOptions,
        timers: Timers,
        store: Store | None = None,
        sequences: Iterator[int] | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.messages: dict[int, Message] = {}
        self.size = 0
        self.users: dict[User, None] = {}
        self.deleted = False
        self.observer: Observer | None = None
        self.created_at = self.updated_at = self.accessed_at = timers.clock()
        self.used_at = self.created_at  # by a client; a copy from a topic does not count
        self._timers = timers
        self._store = store or MemoryStore()
        self._sequences = sequences or count(self._store.last_sequence(name) + 1)
        self._scheduled = 0
        self._schedule = DueTimes(timers, self._is_scheduled, self._on_due)
        self._history = History(timers.clock, options.duplicate_window) if options.duplicate_detection else None

    def counts(self) -> Counts:
        """Count the messages."""
        return Counts(active=len(self.messages) - self._scheduled, scheduled=self._scheduled, size=self.size)

    # ------------------------------------------------------------------ who watches

    def observe(self, observer: Observer | None) -> None:
        """Report to this observer, or to none, what happens to messages from now on."""
        self.observer = observer

    def _tell(
        self,
        kind: Kind,
        message: Message | None,
        token: bytes | None = None,
        *,
        reason: str | None = None,
        target: str | None = None,
    ) -> None:
        if self.observer is not None:
            self.observer(MessageEvent(kind, self.name, message, token, None, None, reason, target))

    # ------------------------------------------------------------------ who is here

    def join(self, user: User) -> None:
        """Attach a link, unless the entity is disabled for it."""
        self._check_status(sends=user.sends)
        self.accessed_at = self.used_at = self._timers.clock()
        self.users[user] = None

    def part(self, user: User) -> None:
        """Detach a link."""
        self.users.pop(user, None)
        self.used_at = self._timers.clock()

    def _check_status(self, *, sends: bool) -> None:
        if self.deleted:
            raise EntityNotFound(f"The messaging entity '{self.name}' could not be found.")
        status = self.options.status
        if not (status.sends if sends else status.receives):
            raise EntityDisabled(f"The messaging entity '{self.name}' is {status.value}.")

    def _turn_out(self, *, senders: bool, receivers: bool, error: BusError) -> None:
        for user in [user for user in self.users if (senders if user.sends else receivers)]:
            user.lost(error)

    def _apply_status(self) -> None:
        """Turn those out whom the status does not allow any more."""
        status = self.options.status
        disabled = EntityDisabled(f"The messaging entity '{self.name}' is {status.value}.")
        self._turn_out(senders=not status.sends, receivers=not status.receives, error=disabled)

    def end(self) -> None:
        """Be deleted: all links are detached, and all messages forgotten."""
        self.deleted = True
        gone = EntityNotFound(f"The messaging entity '{self.name}' was deleted.")
        self._turn_out(senders=True, receivers=True, error=gone)
        self._schedule.stop()
        for message in self.messages.values():
            self._tell(Kind.PURGED, message)
        self.messages.clear()
        self.size = self._scheduled = 0

    # ------------------------------------------------------------------ coming in

    def check(self, message: Message) -> None:
        """Refuse a message this entity cannot take."""
        if self.options.max_size != inf and self.total_size + message.size > self.options.max_size:
            raise QuotaExceeded(
                f"The maximum entity size of '{self.name}' has been reached or exceeded: "
                f"{self.total_size} of {self.options.max_size:.0f} bytes are in use."
            )

    @property
    def total_size(self) -> int:
        """The bytes that count against the maximum size."""
        return self.size

    def send(self, messages: Iterable[Message]) -> list[int]:
        """Take in all messages or none; return their sequence numbers. Duplicates are dropped silently."""
        messages = list(messages)
        self._check_status(sends=True)
        self.used_at = self._timers.clock()
        for message in messages:
            self.check(message)
        return [self._take_in(message) for message in messages]

    def _take_in(self, message: Message) -> int:
        """Take in one message, now or when it is due; return its number, or that of the one it repeats."""
        if message.message_id is None:
            message.name()
        history = self._history
        duplicate_of = history.find(message.message_id) if history is not None else None
        if duplicate_of is not None:
            message.sequence = duplicate_of
            self._tell(Kind.DUPLICATE, message)
            return duplicate_of
        now = self._timers.clock()
        if message.scheduled_for is not None and message.scheduled_for > now:
            sequence = self._put_aside(message)
        else:
            sequence = self._enqueue(message)
        if history is not None:
            history.remember(message.message_id, sequence)
            self._store.remember(self.name, message.message_id, sequence, now, now + history.window)
        return sequence

    def _enqueue(self, message: Message) -> int:
        """Number a message and put it where it belongs now."""
        self._number(message)
        self.accessed_at = message.enqueued_at = now = self._timers.clock()
        message.time_to_live = min(message.time_to_live, self.options.default_time_to_live)
        message.expires_at = now + message.time_to_live
        if self.observer is not None:
            self._tell(Kind.SENT, message)
        self._place(message)
        return message.sequence

    def _place(self, message: Message) -> None:
        raise NotImplementedError

    def _number(self, message: Message) -> None:
        message.sequence = next(self._sequences)
        self._store.number(self.name, message.sequence)

    def _keep(self, message: Message) -> None:
        self._hold(message)
        self._store.add(self.name, message)

    def _hold(self, message: Message) -> None:
        self.messages[message.sequence] = message
        self.size += message.size

    def _drop(self, message: Message) -> None:
        del self.messages[message.sequence]
        self.size -= message.size
        self._store.remove(self.name, message.sequence)

    # ------------------------------------------------------------------ scheduling

    def _put_aside(self, message: Message) -> int:
        message.state = State.SCHEDULED
        self._number(message)
        message.enqueued_at = self._timers.clock()
        self._tell(Kind.SCHEDULED, message)
        self._keep(message)
        self._await_due(message)
        return message.sequence

    def _await_due(self, message: Message) -> None:
        self._scheduled += 1
        self._schedule.add(message.scheduled_for or 0.0, message.sequence)

    def cancel_scheduled(self, sequences: Iterable[int]) -> None:
        """Forget scheduled messages that are not due yet: all of them or none; raises `MessageNotFound`."""
        sequences = list(sequences)
        for sequence in sequences:
            if not self._is_scheduled(sequence):
                raise MessageNotFound(f"There is no scheduled message with the sequence number {sequence}.")
        for sequence in dict.fromkeys(sequences):
            self._scheduled -= 1
            self._tell(Kind.CANCELLED, self.messages[sequence])
            self._drop(self.messages[sequence])

    def _is_scheduled(self, sequence: int) -> bool:
        message = self.messages.get(sequence)
        return message is not None and message.state is State.SCHEDULED

    def _on_due(self, sequence: int) -> None:
        message = self.messages[sequence]
        self._scheduled -= 1
        self._tell(Kind.ACTIVATED, message)
        self._drop(message)
        message.enqueued_sequence = message.enqueued_sequence or sequence
        message.state = State.ACTIVE
        self._enqueue(message)
        self.used_at = self.accessed_at

    def purge(self) -> int:
        """Forget every message, scheduled ones too; return how many that were."""
        purged = list(self.messages.values())
        for message in purged:
            self._tell(Kind.PURGED, message)
            self._drop(message)
        self._scheduled = 0
        return len(purged)

    # ------------------------------------------------------------------ looking

    def peek(self, start: int, limit: int, session_id: str | None = None) -> list[Message]:
        """Return messages in sequence order from `start`, in whatever state they are.

        Fewer than asked for when they would not fit a reply; the next peek goes on from there.
        """
        self.used_at = self._timers.clock()
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

    # ------------------------------------------------------------------ after a restart

    def recall(self) -> None:
        """Take up what the store remembers of what was here, before any message moves."""
        history = self._history
        if history is None:
            return
        forgotten = self._timers.clock() - history.window
        for message_id, sequence, since in self._store.remembered(self.name):
            if since > forgotten:
                history.remember(message_id, sequence, since)

    def restore(self) -> None:
        """Take up the messages the store has kept."""
        for message, locked in self._store.messages(self.name):
            self._hold(message)
            if message.state is State.SCHEDULED:
                self._await_due(message)
            else:
                self._take_up(message, locked=locked)

    def _take_up(self, message: Message, *, locked: bool) -> None:
        raise NotImplementedError

    def _set_duplicate_window(self, window: float) -> None:
        if not self.options.duplicate_detection:
            self._history = None
        elif self._history is None:
            self._history = History(self._timers.clock, window)
        else:
            self._history.window = window
