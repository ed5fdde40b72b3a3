"""Which connections the HTTP endpoint keeps when there are too many.

    arrived ──▶ unauthenticated ──valid key──▶ working ◀──next request──▶ idle
                       │                          │                         │
              the oldest is dropped        429 beyond a caller's     a caller's longest idle
              for a newer one              share                     makes room for its next

Peers without a key and other callers cannot keep a caller with a key out.
"""

from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Limits:
    """The limits of a connection, in seconds and bytes."""

    body: int = 128 * 1024
    """Of a request's body; more is 413."""
    header_bytes: int = 16 * 1024
    headers: int = 100
    """The most header fields of a request; more of them or of their bytes is 431."""
    header_seconds: float = 10.0
    """From a connection, or a request's first byte, to the end of its headers."""
    body_seconds: float = 10.0
    body_rate: float = 4096.0
    """A body is complete within `body_seconds` and one second more for every `body_rate` bytes that came."""
    idle_seconds: float = 75.0
    """Between two requests. Longer than a proxy's usual 60 s, so that the proxy closes first."""
    write_seconds: float = 30.0
    """How long a peer may leave a response unread."""
    unauthenticated: int = 256
    """Connections that have not sent a valid key; beyond them the oldest is dropped."""
    per_caller: int = 256
    """Connections, and requests, of one caller; beyond them its longest idle is dropped, or the request gets 429."""
    total: int = 4096

    def within(self, descriptors: int) -> "Limits":
        """These limits for a process with this many `descriptors`, of which connections use at most half."""
        total = max(2, min(self.total, descriptors // 2))
        return replace(self, total=total, unauthenticated=min(self.unauthenticated, max(1, total // 2)))


class Droppable(Protocol):
    """A connection, as this module needs it."""

    def drop(self) -> None:
        """Close at once, unanswered."""


class Connections:
    """All open connections of the HTTP endpoint. Dictionaries keep their order: the oldest first."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._unauthenticated: dict[Droppable, None] = {}
        self._working: dict[Droppable, str] = {}
        self._idle: dict[Droppable, str] = {}
        self._of_caller: dict[str, int] = {}
        self.dropped = 0
        """How many were dropped to make room since the start."""

    def __len__(self) -> int:
        return len(self._unauthenticated) + len(self._working) + len(self._idle)

    def arrived(self, connection: Droppable) -> None:
        """A new connection, which has sent nothing yet."""
        if len(self) >= self.limits.total:
            # Every connection is busy; drop the new one.
            oldest = next(iter(self._unauthenticated or self._idle), connection)
            self._drop(oldest)
            if oldest is connection:
                return
        self._add_unauthenticated(connection)

    def begins(self, connection: Droppable, caller: str) -> bool:
        """A request with a key of `caller` begins; False when all connections that the caller may have are busy."""
        if self._working.get(connection) == caller:
            return True  # it is pipelined
        self.left(connection)
        if self._of_caller.get(caller, 0) >= self.limits.per_caller:
            longest_idle = next((idle for idle, of in self._idle.items() if of == caller), None)
            if longest_idle is None:
                return False
            self._drop(longest_idle)
        self._working[connection] = caller
        self._of_caller[caller] = self._of_caller.get(caller, 0) + 1
        return True

    def rests(self, connection: Droppable) -> None:
        """Every request of `connection` has its response."""
        caller = self._working.pop(connection, None)
        if caller is not None:
            self._idle[connection] = caller

    def refused(self, connection: Droppable) -> None:
        """`connection` gets an error and is closed; until then it counts as one without a key."""
        self.left(connection)
        self._add_unauthenticated(connection)

    def left(self, connection: Droppable) -> None:
        """`connection` is closed."""
        self._unauthenticated.pop(connection, None)
        caller = self._working.pop(connection, None) or self._idle.pop(connection, None)
        if caller is not None:
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]

    def _add_unauthenticated(self, connection: Droppable) -> None:
        if len(self._unauthenticated) >= self.limits.unauthenticated:
            self._drop(next(iter(self._unauthenticated)))
        self._unauthenticated[connection] = None

    def _drop(self, connection: Droppable) -> None:
        self.left(connection)
        self.dropped += 1
        connection.drop()
