"""What time asks of one connection: heartbeats, and an end to silence.

A peer that announced an idle time-out hears something twice within it. One that does not come as
far as its open frame, does not answer a close, or breaks an idle time-out that was announced to
it, is given up. The clock is the caller's; input is noticed when the clock is next looked at, so
reading costs nothing, and a silent peer is found after two to three times the time it was told.
"""

from typing import Protocol

from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.connection_state import ConnectionState
from servicebus_local.amqp.limits import Limits


class Watched(Protocol):
    """A connection, as far as time can see it."""

    state: ConnectionState
    limits: Limits
    heard: bool
    idle_time_out: float | None
    peer_idle_time_out: float | None

    def heartbeat(self) -> None:
        """Queue an empty frame."""

    def give_up(self, error: Error) -> None:
        """End it, and wait for nothing."""

    def abandon(self) -> None:
        """Wait no longer for the peer's close."""


class TimeOuts:
    """Keeps the time of one connection."""

    def __init__(self, connection: Watched) -> None:
        self._connection = connection
        self._state: ConnectionState | None = None
        self._begun: float | None = None
        self._since = 0.0  # when the state was entered
        self._heard = 0.0  # when something was known to have come in
        self._next_beat = 0.0

    def tick(self, now: float) -> float | None:
        """Do what is due; return when to look again, None for never."""
        state = self._connection.state
        if self._begun is None:
            self._begun = now
        if state is not self._state:
            self._state, self._since, self._heard, self._next_beat = state, now, now, now
        match state:
            case ConnectionState.ENDED:
                return None
            case ConnectionState.OPENED:
                times = [self._beat(now), self._listen(now)]
                return min((time for time in times if time is not None), default=None)
            case ConnectionState.CLOSING:
                deadline = self._since + self._connection.limits.closing
                if now < deadline:
                    return deadline
                self._connection.abandon()
            case _:
                seconds = self._connection.limits.opening
                if now < self._begun + seconds:
                    return self._begun + seconds
                late = f"no open frame came within {seconds:g} seconds"
                self._connection.give_up(Error("amqp:connection:forced", late))
        return None

    def _beat(self, now: float) -> float | None:
        """Send a heartbeat when one is due; return when the next one is, None if the peer asked for none."""
        idle = self._connection.peer_idle_time_out
        if idle is None:
            return None
        if now >= self._next_beat:
            self._connection.heartbeat()
            self._next_beat = now + idle / 2
        return self._next_beat

    def _listen(self, now: float) -> float | None:
        """Look whether anything came in; the peer has twice the idle time-out that was announced to it (2.4.5)."""
        idle = self._connection.idle_time_out
        if idle is None:
            return None
        if self._connection.heard:
            self._connection.heard, self._heard = False, now
        if now < self._heard + 2 * idle:
            return min(now + idle, self._heard + 2 * idle)
        silent = f"nothing came for {now - self._heard:g} seconds, {idle:g} were announced"
        self._connection.give_up(Error("amqp:connection:forced", silent))
        return None
