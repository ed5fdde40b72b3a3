"""Duplicate detection: which message ids came in within the window.

Source: learn.microsoft.com/azure/service-bus-messaging/duplicate-detection.
"""

from collections import deque
from collections.abc import Hashable

from servicebus_local.bus.clock import Clock


class History:
    """Remembers every message id for one window, with the sequence number it got."""

    def __init__(self, clock: Clock, window: float) -> None:
        self.window = window
        self._clock = clock
        self._seen: dict[Hashable, int] = {}
        self._oldest: deque[tuple[float, Hashable]] = deque()

    def find(self, message_id: Hashable) -> int | None:
        """Return the sequence number of the message that had this id, if it is remembered."""
        limit = self._clock() - self.window
        while self._oldest and self._oldest[0][0] <= limit:
            del self._seen[self._oldest.popleft()[1]]
        return self._seen.get(message_id)

    def remember(self, message_id: Hashable, sequence: int, since: float | None = None) -> None:
        """Remember an id from now on, or since a moment that is past."""
        self._seen[message_id] = sequence
        self._oldest.append((self._clock() if since is None else since, message_id))
