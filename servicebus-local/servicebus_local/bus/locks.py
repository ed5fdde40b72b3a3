"""Peek-locks: who may settle a message, and until when.

Every lock of a queue lasts equally long, so locks expire in the order in which they were
taken or renewed. That order is the order of the table itself, and one alarm for the first
entry is all the waiting there is. When the duration is changed, the locks from before keep
their end, and until they are gone the first one is searched for.
"""

from collections.abc import Callable
from itertools import count
from math import inf
from os import urandom

from servicebus_local.bus.clock import Alarm, Timers
from servicebus_local.bus.errors import MessageLockLost


class LockTable:
    """The locks of one queue, by token; a token is sixteen random bytes."""

    def __init__(self, timers: Timers, duration: float, on_expired: Callable[[int], None]) -> None:
        self._timers = timers
        self._duration = duration
        self._mixed = False
        self._on_expired = on_expired
        self._locks: dict[bytes, tuple[int, float]] = {}
        self._alarm: Alarm | None = None
        self._prefix, self._numbers = urandom(8), count(1)

    def __len__(self) -> int:
        return len(self._locks)

    @property
    def duration(self) -> float:
        """How long a lock lasts that is taken or renewed now, in seconds."""
        return self._duration

    @duration.setter
    def duration(self, seconds: float) -> None:
        self._mixed = self._mixed or (bool(self._locks) and seconds != self._duration)
        self._duration = seconds

    def stop(self) -> None:
        """Forget every lock."""
        self._locks.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def acquire(self, sequence: int) -> tuple[bytes, float]:
        """Lock a message; return the token and when the lock ends, in seconds since 1970."""
        until = self._timers.clock() + self._duration
        token = self._prefix + next(self._numbers).to_bytes(8, "big")
        self._locks[token] = (sequence, until)
        if self._alarm is None or self._mixed:
            self._watch(until)
        return token, until

    def _watch(self, until: float) -> None:
        """Set the alarm so that it rings when this lock ends, or before."""
        if self._alarm is not None and self._alarm.due > until:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None:
            self._alarm = self._timers.at(until, self._expire)

    def acquire_within_session(self, sequence: int) -> bytes:
        """Lock a message for as long as its session is locked."""
        token = self._prefix + next(self._numbers).to_bytes(8, "big")
        self._locks[token] = (sequence, inf)
        return token

    def tokens(self) -> dict[int, bytes]:
        """Return the tokens by sequence number."""
        return {sequence: token for token, (sequence, _) in self._locks.items()}

    def sequence_of(self, token: bytes) -> int:
        """Return the sequence number of the message locked under `token`; raises `MessageLockLost`."""
        try:
            return self._locks[token][0]
        except KeyError:
            raise MessageLockLost(_LOST) from None

    def renew(self, token: bytes) -> float:
        """Start the lock's time again; return when it ends, in seconds since 1970. Raises `MessageLockLost`."""
        sequence = self.sequence_of(token)
        del self._locks[token]
        until = self._timers.clock() + self._duration
        self._locks[token] = (sequence, until)
        if self._mixed:
            self._watch(until)
        return until

    def release(self, token: bytes) -> int:
        """Give the lock up; return the sequence number of its message. Raises `MessageLockLost`."""
        try:
            return self._locks.pop(token)[0]
        except KeyError:
            raise MessageLockLost(_LOST) from None

    def _expire(self) -> None:
        """End every lock that is due; the alarm stays set meanwhile, so that redelivery sets none."""
        now = self._timers.clock()
        while (first := self._first()) is not None and first[1] <= now:
            self._on_expired(self.release(first[0]))
        self._alarm = None if first is None else self._timers.at(first[1], self._expire)

    def _first(self) -> tuple[bytes, float] | None:
        """Return the lock that ends first, and when."""
        if self._mixed:
            self._mixed = bool(self._locks)
            ends = ((until, token) for token, (_, until) in self._locks.items())
            until, token = min(ends, default=(inf, b""))
            return (token, until) if token else None
        for token, (_, until) in self._locks.items():
            return token, until
        return None


_LOST = (
    "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue, "
    "or was received by a different receiver instance."
)
