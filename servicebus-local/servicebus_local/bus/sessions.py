"""Sessions: messages that belong together, and the one receiver that holds them.

    FREE ──accept──▶ HELD ──renew──▶ HELD
      ▲                │  the receiver leaves: its messages return as they were
      └────────────────┤
                       └  the lock ends: its messages return with one more delivery counted

The lock ends one second after the moment that its receiver was told, as Azure does not end it to the
millisecond either: a receiver that waits exactly as long as its lock lasts comes to its own end first.

"Next available" is the session that has waited longest with a message ready; when there is
none, the receiver waits in line until its own time-out.

The rules are those of learn.microsoft.com/azure/service-bus-messaging/message-sessions, the end of the lock
those of Azure/azure-service-bus#694.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from servicebus_local.bus.clock import Alarm, Timers
from servicebus_local.bus.errors import (
    InvalidArgument,
    SessionCannotBeLocked,
    SessionLockLost,
    TimedOut,
)
from servicebus_local.bus.ready_queue import Consumer, ReadyQueue

GRACE: Final = 1.0  # seconds between the moment a lock was promised until and its end


class Session(ReadyQueue):
    """One session of a queue: a ready_queue with a memory and a lock."""

    def __init__(self, session_id: str) -> None:
        super().__init__()
        self.id = session_id
        self.state: bytes | None = None
        self.state_changed_at: float | None = None
        self.locked_until = 0.0
        self.alarm: Alarm | None = None
        self.members = 0  # messages in any state
        self.tokens: dict[bytes, None] = {}  # locks on messages, valid while the session is held
        self.returning = False  # its messages are being taken back: it cannot be accepted yet

    @property
    def holder(self) -> Consumer | None:
        """The receiver that has the session locked."""
        return self.consumers[0] if self.consumers else None

    def take_tokens(self) -> list[bytes]:
        """Hand over the locks on messages that were not settled."""
        tokens = list(self.tokens)
        self.tokens.clear()
        return tokens

    @property
    def idle(self) -> bool:
        """Whether nothing would be lost by forgetting this session."""
        return not self.members and self.state is None and not self.consumers


Granted = Callable[[Session], None]


class Waiter:
    """A receiver in line for the next available session."""

    def __init__(self, consumer: Consumer, granted: Granted, alarm: Alarm) -> None:
        self.consumer = consumer
        self.granted = granted
        self.alarm = alarm


class SessionTable:
    """The sessions of one queue."""

    def __init__(self, timers: Timers, lock_duration: float, on_released: Callable[[Session, bool], None]) -> None:
        self._timers = timers
        self.duration = lock_duration  # of the locks that are taken or renewed from now on, in seconds
        self._on_released = on_released
        self._sessions: dict[str, Session] = {}
        self._available: dict[str, None] = {}
        self._waiters: deque[Waiter] = deque()

    def session(self, session_id: str) -> Session:
        """Return the session with this id, which begins to exist when it is named."""
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = Session(session_id)
        return session

    def find(self, session_id: str | None) -> Session | None:
        """Return the session with this id, if it exists."""
        return self._sessions.get(session_id) if session_id is not None else None

    @property
    def waiting(self) -> int:
        """How many receivers wait in line for any session."""
        return len(self._waiters)

    def listed(self, updated_after: float | None = None) -> list[str]:
        """Return the ids of sessions with messages or state, or with state changed since then."""
        if updated_after is None:
            return [s.id for s in self._sessions.values() if s.members or s.state is not None]
        changed = (s for s in self._sessions.values() if s.state_changed_at is not None)
        return [s.id for s in changed if (s.state_changed_at or 0.0) > updated_after]

    def stop(self) -> None:
        """Forget every session and every waiting receiver."""
        for waiter in self._waiters:
            waiter.alarm.cancel()
        for session in self._sessions.values():
            if session.alarm is not None:
                session.alarm.cancel()
        self._sessions.clear()
        self._available.clear()
        self._waiters.clear()

    # ------------------------------------------------------------------ accepting

    def accept(self, consumer: Consumer, session_id: str) -> Session:
        """Lock a session by its id, whether it has messages or not; raises `SessionCannotBeLocked` if it is held."""
        session = self.session(session_id)
        if session.holder is not None:
            raise SessionCannotBeLocked(
                f"The requested session '{session_id}' cannot be accepted. It may be locked by another receiver."
            )
        self._available.pop(session.id, None)
        session.consumers.append(consumer)
        self._extend(session)
        return session

    def accept_next(self, consumer: Consumer, timeout: float, granted: Granted) -> None:
        """Lock the next available session and hand it to `granted`, now or before `timeout` ends."""
        session_id = next(iter(self._available), None)
        if session_id is not None:
            granted(self.accept(consumer, session_id))
            return
        alarm = self._timers.at(self._timers.clock() + timeout, lambda: self._give_up(waiter))
        waiter = Waiter(consumer, granted, alarm)
        self._waiters.append(waiter)

    def _give_up(self, waiter: Waiter) -> None:
        self._waiters.remove(waiter)
        waiter.consumer.lost(TimedOut("No session with messages became available in time."))

    def _extend(self, session: Session) -> float:
        if session.alarm is not None:
            session.alarm.cancel()
        session.locked_until = self._timers.clock() + self.duration
        session.alarm = self._timers.at(session.locked_until + GRACE, lambda: self.expire(session))
        return session.locked_until

    # ------------------------------------------------------------------ holding

    def held(self, session_id: str, link_name: str | None = None) -> Session:
        """Return a session that is locked, by the receiver on this link if one is named; raises `SessionLockLost`."""
        if not isinstance(session_id, str):
            raise InvalidArgument("a session id must be a string")
        session = self._sessions.get(session_id)
        holder = session.holder if session is not None else None
        if session is None or holder is None or link_name not in (None, holder.name):
            raise SessionLockLost(f"The session lock on '{session_id}' has expired or was never held here.")
        return session

    def renew(self, session: Session) -> float:
        """Start the lock's time again; return when it ends."""
        return self._extend(session)

    def restore(self, session_id: str, state: bytes, changed_at: float) -> None:
        """Take up what a session remembered when it was stored."""
        session = self.session(session_id)
        session.state, session.state_changed_at = state, changed_at

    def set_state(self, session: Session, state: bytes | None) -> None:
        """Change what the session remembers; None forgets it."""
        session.state = state
        session.state_changed_at = self._timers.clock()

    # ------------------------------------------------------------------ letting go

    def forget_tokens(self) -> None:
        """Forget which messages are ready or locked: all of them are gone."""
        for session in self._sessions.values():
            session.tokens.clear()
            session.ready.clear()

    def expire(self, session: Session) -> None:
        """End the lock on a session: its messages return, and its receiver is told."""
        holder = session.holder
        self._release(session, expired=True)
        if holder is not None:
            holder.lost(SessionLockLost(f"The lock on session '{session.id}' has expired."))

    def leave(self, consumer: Consumer) -> None:
        """Free the sessions that this receiver holds, and drop its wait for one."""
        for waiter in [waiter for waiter in self._waiters if waiter.consumer is consumer]:
            waiter.alarm.cancel()
            self._waiters.remove(waiter)
        for session in [s for s in self._sessions.values() if s.holder is consumer]:
            self._release(session, expired=False)

    def _release(self, session: Session, *, expired: bool) -> None:
        if session.alarm is not None:
            session.alarm.cancel()
            session.alarm = None
        session.consumers.clear()
        session.returning = True
        self._on_released(session, expired)
        session.returning = False
        self.settle(session)

    def settle(self, session: Session) -> None:
        """Put a session where it belongs now: offered to the next receiver, or forgotten."""
        if session.holder is not None or session.returning:
            return
        if session.ready:
            self._available[session.id] = None
            while self._waiters and self._available:
                waiter = self._waiters.popleft()
                waiter.alarm.cancel()
                waiter.granted(self.accept(waiter.consumer, next(iter(self._available))))
        else:
            self._available.pop(session.id, None)
            if session.idle:
                self._sessions.pop(session.id, None)
