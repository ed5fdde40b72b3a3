"""Where messages outlive the process: a port, and the adapter that lets them not.

The queues own the messages; a store hears of every change and is asked for them once, at
the start. `commit` comes before acknowledgements leave the process, once for everything
that one turn of the loop changed, so an adapter can write in groups. Locks are not stored:
after a restart a locked message is available again, one delivery older.
"""

from collections.abc import Iterable
from typing import Protocol

from local.broker.bus.message import Message


class Store(Protocol):
    """What the queues need from a store."""

    def load(self, queue: str) -> Iterable[Message]:
        """Return the messages of a queue in sequence order."""
        ...

    def put(self, queue: str, message: Message) -> None:
        """Keep a message, new or changed."""
        ...

    def remove(self, queue: str, sequence: int) -> None:
        """Forget a message."""
        ...

    def put_session_state(self, queue: str, session_id: str, state: bytes | None) -> None:
        """Keep, or with None forget, what a session remembers."""
        ...

    def commit(self) -> None:
        """Make everything since the last commit durable."""
        ...


class MemoryStore:
    """Keeps nothing: the queues themselves are the memory."""

    def load(self, queue: str) -> Iterable[Message]:
        """Return no messages."""
        return ()

    def put(self, queue: str, message: Message) -> None:
        """Do nothing."""

    def remove(self, queue: str, sequence: int) -> None:
        """Do nothing."""

    def put_session_state(self, queue: str, session_id: str, state: bytes | None) -> None:
        """Do nothing."""

    def commit(self) -> None:
        """Do nothing."""
