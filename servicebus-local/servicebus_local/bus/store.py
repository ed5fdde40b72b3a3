"""Where entities and messages outlive the process: a port, and the adapter that lets them not.

The queues own the messages; a store hears of every change and is asked for them once, at the
start. `commit` comes before acknowledgements leave the process, once for everything that one
turn of the loop changed, so an adapter can write in groups, and a message that moves is never
in two places or in none. A lock itself is not stored, only that there was one: after a restart
its message is available again, one delivery older.

Names are paths: `orders`, `orders/$DeadLetterQueue`, `news/Subscriptions/all`.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple, Protocol

from servicebus_local.bus.filters import Rule
from servicebus_local.bus.message import Message
from servicebus_local.bus.topology import QueueOptions, TopicOptions


class StoreError(Exception):
    """The store cannot be used, or cannot be written to any more; the message is one line and says what to do."""


class Entity(NamedTuple):
    """An entity as it is stored; times are seconds since the Unix epoch."""

    path: str
    options: QueueOptions | TopicOptions
    rules: tuple[Rule, ...]  # of a subscription
    created_at: float
    updated_at: float


class Restored(NamedTuple):
    """A message as it is found again, and whether a receiver had it locked."""

    message: Message
    locked: bool


class SessionState(NamedTuple):
    """What a session remembers, and since when."""

    session_id: str
    state: bytes
    changed_at: float


class Store(Protocol):
    """What the bus needs from a store; everything may raise `StoreError`."""

    @property
    def pending(self) -> bool:
        """Whether something changed since the last commit; nothing that depends on it may be sent before the commit."""
        ...

    # ------------------------------------------------------------------ at the start

    def entities(self) -> Iterable[Entity]:
        """Return what was saved; a topic comes before its subscriptions."""
        ...

    def messages(self, path: str) -> Iterator[Restored]:
        """Return the messages of an entity in sequence order, scheduled and deferred ones too."""
        ...

    def session_states(self, path: str) -> Iterable[SessionState]:
        """Return what sessions remember."""
        ...

    def remembered(self, path: str) -> Iterable[tuple[Hashable, int, float]]:
        """Return message ids for duplicate detection, oldest first: id, sequence number, when."""
        ...

    def last_sequence(self, path: str) -> int:
        """Return the highest sequence number an entity ever gave out."""
        ...

    # ------------------------------------------------------------------ what happens

    def save(self, entity: Entity) -> None:
        """Keep the definition of an entity, new or changed."""
        ...

    def delete(self, path: str) -> None:
        """Forget an entity and everything at and below its path."""
        ...

    def add(self, path: str, message: Message) -> None:
        """Keep a message that was not here."""
        ...

    def change(self, path: str, message: Message) -> None:
        """Keep a message as it is now; it is not locked any more."""
        ...

    def lock(self, path: str, sequence: int) -> None:
        """Note that a receiver has a message."""
        ...

    def unlock(self, path: str, sequence: int) -> None:
        """Note that a message came back as it was; nothing changes for one that was not locked."""
        ...

    def remove(self, path: str, sequence: int) -> None:
        """Forget a message."""
        ...

    def put_session_state(self, path: str, session_id: str, state: bytes | None, now: float) -> None:
        """Keep, or with None forget, what a session remembers from now on."""
        ...

    def remember(self, path: str, message_id: Hashable, sequence: int, now: float, until: float) -> None:
        """Keep a message id for duplicate detection; after `until` it need not be known any more."""
        ...

    def number(self, path: str, sequence: int) -> None:
        """Note the highest sequence number an entity gave out."""
        ...

    def commit(self) -> None:
        """Make everything since the last commit durable, all of it or nothing."""
        ...

    def close(self) -> None:
        """Let go of what the store is kept in; what was not committed is forgotten."""
        ...


class MemoryStore:
    """Keeps nothing: the queues themselves are the memory."""

    pending = False

    def entities(self) -> Iterable[Entity]:
        """Return no entities."""
        return ()

    def messages(self, path: str) -> Iterator[Restored]:
        """Return no messages."""
        return iter(())

    def session_states(self, path: str) -> Iterable[SessionState]:
        """Return no sessions."""
        return ()

    def remembered(self, path: str) -> Iterable[tuple[Hashable, int, float]]:
        """Return no message ids."""
        return ()

    def last_sequence(self, path: str) -> int:
        """Return 0: numbers start at 1."""
        return 0

    def save(self, entity: Entity) -> None:
        """Do nothing."""

    def delete(self, path: str) -> None:
        """Do nothing."""

    def add(self, path: str, message: Message) -> None:
        """Do nothing."""

    def change(self, path: str, message: Message) -> None:
        """Do nothing."""

    def lock(self, path: str, sequence: int) -> None:
        """Do nothing."""

    def unlock(self, path: str, sequence: int) -> None:
        """Do nothing."""

    def remove(self, path: str, sequence: int) -> None:
        """Do nothing."""

    def put_session_state(self, path: str, session_id: str, state: bytes | None, now: float) -> None:
        """Do nothing."""

    def remember(self, path: str, message_id: Hashable, sequence: int, now: float, until: float) -> None:
        """Do nothing."""

    def number(self, path: str, sequence: int) -> None:
        """Do nothing."""

    def commit(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
