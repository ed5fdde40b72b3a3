"""One AMQP connection as a state machine without sockets: bytes in, events and bytes out.

    connection   HEADER ──AMQP 3──▶ SASL ──outcome──▶ HEADER ──AMQP 0──▶ OPENING ──open──▶ OPENED
                 from anywhere, after an error or a goodbye: CLOSING ──the peer's close──▶ ENDED
    session      begin ──▶ MAPPED ──end──▶ gone          see `session`
    link         attach ──▶ ASKED ──▶ ATTACHED ──▶ GONE   see `link`

`Connection.receive` takes what the peer sent and yields what it means for the application,
which answers through the links before it asks for the next event; `Connection.take` hands out
what to write. Bytes may also appear outside `receive`, when another connection's message arrives
here, and so may events: `on_output` is called the moment there is something to write, and
`pending` has the events. Time is told with `tick`.

A peer that breaks the protocol is told so and loses the link, session or connection it did it
with (`errors`); a peer that asks for too much likewise (`limits`).
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.connection_state import ConnectionState
from servicebus_local.amqp.errors import ConnectionViolation, SessionViolation
from servicebus_local.amqp.events import Closed, Event
from servicebus_local.amqp.frames import Frame, FrameReader, FramingError
from servicebus_local.amqp.limits import DEFAULT_LIMITS, Limits
from servicebus_local.amqp.link import Link, OutgoingLink, Replenished
from servicebus_local.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    End,
    InvalidField,
    Open,
    Performative,
    SaslInit,
    SaslOutcome,
    SaslResponse,
)
from servicebus_local.amqp.sasl import OFFER, Authenticate, Exchange
from servicebus_local.amqp.session import SESSION_HANDLERS, Session
from servicebus_local.amqp.time_outs import TimeOuts
from servicebus_local.amqp.types import DecodeError, Symbol, Uint, Ushort
from servicebus_local.amqp.usage import Usage

PROPERTIES: Final = {Symbol("product"): "servicebus-local", Symbol("version"): "1.0"}
_SHORTEST_IDLE: Final = 0.02  # seconds; no heartbeat can be promised more often than twice in it


class Connection:
    """The broker's end of one AMQP connection.

    `on_output` is called when there is something to write, `authenticate` judges the name and
    password of SASL PLAIN (the others prove nothing here), `idle_time_out` is announced to the
    peer in seconds, and kept by `tick`.
    """

    def __init__(
        self,
        container_id: str = "local-broker",
        on_output: Callable[[], None] = lambda: None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        authenticate: Authenticate = lambda _user, _password: True,
        idle_time_out: float | None = None,
    ) -> None:
        self.container_id = container_id
        self.limits = limits
        self.peer = ""
        self.user = ""  # authenticated by password; empty for all others
        self.idle_time_out = idle_time_out
        self.peer_idle_time_out: float | None = None
        self.state = ConnectionState.HEADER
        self.closed = False  # our close is queued: nothing will be written after it
        self.held_back = False  # the application asked to write and was told to wait
        self.heard = False
        self.max_frame_size = frames.SMALLEST_MAX_FRAME
        self._channel_max = 0xFFFF
        self._on_output = on_output
        self._output: list[bytes] = []
        self._queued = 0
        self._paused = False
        self._events: list[Event] = []
        self._reader = FrameReader(limits.max_frame_size)
        self._unreadable = False
        self._sasl = Exchange(authenticate)
        self._behind_sasl = False
        self._sessions: dict[int, Session] = {}
        self._channels: set[int] = set()  # those of ours that are taken
        self._ended: set[int] = set()  # the peer's, where frames may still be on their way
        self.usage = Usage(limits)
        self._to_replenish: dict[Any, None] = {}  # sessions and incoming links
        self._flows_to_answer: dict[Any, None] = {}  # outgoing links
        self._time_outs = TimeOuts(self)
        self._handlers: dict[type, Callable[[int, Any, bytes], None]] = {}

    # ------------------------------------------------------------------ input

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes from the peer; yield what happens, frame by frame."""
        self.heard = True
        if self._unreadable:
            return
        try:
            for unit in self._reader.feed(data):
                if self.closed:
                    self._on_late(unit)
                elif isinstance(unit, Frame):
                    self._on_frame(*unit)
                else:
                    self._on_header(unit)
                if self._events:
                    events, self._events = self._events, []
                    yield from events
                if self._flows_to_answer:
                    links, self._flows_to_answer = self._flows_to_answer, {}
                    for link in links:
                        link.answer_flow()
        except FramingError as error:
            self._on_framing_error(error)
        except InvalidField as error:
            self.close(Error("amqp:invalid-field", str(error)))
        except DecodeError as error:
            self.close(Error("amqp:decode-error", str(error)))
        except ConnectionViolation as broken:
            self.close(broken.error)
        yield from self.pending()

    def pending(self) -> list[Event]:
        """Return the events that came of something else than input, and forget them."""
        events, self._events = self._events, []
        return events

    def lost(self) -> list[Event]:
        """Learn that the transport is gone; return what that ends."""
        self.abandon()
        self._end_sessions()
        return self.pending()

    def _on_late(self, unit: bytes | Frame) -> None:
        """Ignore everything after our close but the peer's close (2.4.3)."""
        if not isinstance(unit, Frame) or not unit.body:
            return
        with suppress(DecodeError):
            if isinstance(frames.parse(unit.body)[0], Close):
                self.state = ConnectionState.ENDED

    def _on_framing_error(self, error: FramingError) -> None:
        """Read no further; answer a header that is none with one that would be accepted (2.2)."""
        self._unreadable = True
        if self.state is ConnectionState.HEADER:
            self._turn_away(frames.AMQP_HEADER if self._behind_sasl else frames.SASL_HEADER)
        else:
            self.close(Error("amqp:connection:framing-error", str(error)))

    # ------------------------------------------------------------------ output

    def take(self) -> bytes:
        """Return everything there is to write, and forget it."""
        output = b"".join(self._output)
        self._output.clear()
        self._queued = 0
        if self._to_replenish and not self._paused:
            self._replenish()
        return output

    @property
    def paused(self) -> bool:
        """Whether the transport has more to write than it should."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        if self._to_replenish and not self.congested:
            self._replenish()

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that the peer may not send more either."""
        return self._paused or self._queued >= self.limits.output

    @property
    def writable(self) -> bool:
        """Whether one more message may be queued for the peer."""
        if self._queued < self.limits.output and not self._paused:
            return True
        self.held_back = True
        return False

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer."""
        if not self._output:
            self._on_output()
        self._output.append(data)
        self._queued += len(data)

    def say(self, channel: int, performative: Performative) -> bool:
        """Queue a performative, without its optional parts if they make it too long; return False if it still is."""
        data = frames.frame(channel, performative)
        if len(data) > self.max_frame_size:
            data = frames.frame(channel, _shortened(performative))
        if len(data) > self.max_frame_size:
            return False
        self.write(data)
        return True

    def replenish_later(self, waiting: Replenished) -> None:
        """Remember whose window or credit is to be renewed when the peer reads again."""
        self._to_replenish[waiting] = None

    def part(self, link: Link) -> None:
        """Drop what is owed to a link that is gone."""
        self.usage.remove(link)
        self._to_replenish.pop(link, None)
        self._flows_to_answer.pop(link, None)

    def _replenish(self) -> None:
        waiting, self._to_replenish = self._to_replenish, {}
        for each in waiting:
            each.replenish()

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> float | None:
        """Do what is due at `now`, in seconds of any clock; return when to call again, None for never.

        Call it when the transport is there, when `state` has changed, and at the time it returned.
        """
        return self._time_outs.tick(now)

    def heartbeat(self) -> None:
        """Queue an empty frame, so that the peer's idle time-out does not strike."""
        if not self.closed:
            self.write(frames.EMPTY_FRAME)

    def give_up(self, error: Error) -> None:
        """End the connection without waiting for the peer, which does not answer."""
        self.close(error)
        self.abandon()

    def abandon(self) -> None:
        """Wait no longer for the peer's close."""
        self.state = ConnectionState.ENDED
        self.closed = True

    # ------------------------------------------------------------------ closing

    @property
    def finished(self) -> bool:
        """Whether the peer's close is here, or no longer waited for; until then input is read and ignored."""
        return self.state is ConnectionState.ENDED

    def close(self, error: Error | None = None) -> None:
        """End everything on this connection and say so to the peer."""
        if self.closed:
            return
        if self.state is ConnectionState.OPENING:
            self._write_open()  # a close must follow an open (2.4.3)
        if self.state in (ConnectionState.OPENING, ConnectionState.OPENED):
            self.say(0, Close(error))
        self.state = ConnectionState.CLOSING
        self.closed = True
        self._end_sessions()
        self._events.append(Closed(error))

    def _turn_away(self, header: bytes) -> None:
        """Answer a header with the one that would be accepted (2.2), and close."""
        self.write(header)
        self.close()

    def emit(self, event: Event) -> None:
        """Add to what the running `receive` yields, or to what `pending` returns."""
        self._events.append(event)

    def _end_sessions(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.ended = True
            session.drop_links()
        self._channels.clear()

    # ------------------------------------------------------------------ headers and SASL

    def _on_header(self, header: bytes) -> None:
        if header == frames.AMQP_HEADER:
            self._reader.frame_type = frames.AMQP_TYPE
            self.state = ConnectionState.OPENING
            self._handlers = {Open: self._on_open}
            self.write(header)
        elif header == frames.SASL_HEADER and not self._behind_sasl:
            self._reader.frame_type = frames.SASL_TYPE
            self.state = ConnectionState.SASL
            self._handlers = {SaslInit: self._on_sasl_init}
            self.write(header + frames.frame(0, OFFER))
        else:
            same_layer = header[4] == frames.AMQP_HEADER[4] or self._behind_sasl
            self._turn_away(frames.AMQP_HEADER if same_layer else frames.SASL_HEADER)

    def _on_sasl_init(self, _channel: int, init: SaslInit, _payload: bytes) -> None:
        self._handlers = {SaslResponse: self._on_sasl_response}
        self._on_sasl_answer(self._sasl.on_init(init))

    def _on_sasl_response(self, _channel: int, response: SaslResponse, _payload: bytes) -> None:
        self._on_sasl_answer(self._sasl.on_response(response))

    def _on_sasl_answer(self, answer: Performative) -> None:
        self.say(0, answer)
        if not isinstance(answer, SaslOutcome):
            return
        if answer.code:
            self.close()
            return
        self.user = self._sasl.user
        self.state = ConnectionState.HEADER
        self._behind_sasl = True
        self._reader.expect_header()

    # ------------------------------------------------------------------ frames

    def _on_frame(self, channel: int, body: bytes) -> None:
        """Hand a frame to its session, or else to the handler that the connection's state has for it."""
        if not body:
            if self.state is ConnectionState.OPENED:
                return  # a heartbeat (2.4.5)
            raise ConnectionViolation("amqp:illegal-state", "an empty frame before the open")
        performative, payload = frames.parse(body)
        session = self._sessions.get(channel)
        on_session = SESSION_HANDLERS.get(type(performative))
        if session is not None and on_session is not None:
            try:
                on_session(session, performative, payload)
            except SessionViolation as broken:
                session.end(broken.error)
            return
        handler = self._handlers.get(type(performative))
        if handler is None:
            name = type(performative).__name__.lower()
            raise ConnectionViolation("amqp:illegal-state", f"{name} is not expected here")
        handler(channel, performative, payload)

    def _on_stray_frame(self, channel: int, performative: Performative, _payload: bytes) -> None:
        """Ignore what was on its way when its session ended: the SDK even detaches after its own end."""
        if channel in self._ended:
            return
        self._check_channel(channel)
        name = type(performative).__name__.lower()
        raise ConnectionViolation("amqp:illegal-state", f"{name} on channel {channel}, where no session began")

    def _check_channel(self, channel: int) -> None:
        if channel > self.limits.channel_max:
            above = f"channel {channel} is above {self.limits.channel_max}"
            raise ConnectionViolation("amqp:connection:framing-error", above)

    # ------------------------------------------------------------------ open and close

    def _on_open(self, _channel: int, opening: Open, _payload: bytes) -> None:
        largest, idle = opening.max_frame_size, (opening.idle_time_out or 0) / 1000
        self.peer = opening.container_id
        if largest is not None and largest < frames.SMALLEST_MAX_FRAME:
            raise ConnectionViolation("amqp:invalid-field", f"a max-frame-size of {largest}")
        if 0 < idle < _SHORTEST_IDLE:
            raise ConnectionViolation("amqp:not-allowed", f"an idle time-out of {idle:g} seconds cannot be kept")
        self.max_frame_size = frames.UNLIMITED if largest is None else largest
        self.peer_idle_time_out = idle if idle > 0 else None
        self._channel_max = 0xFFFF if opening.channel_max is None else opening.channel_max
        self._write_open()
        self.state = ConnectionState.OPENED
        self._handlers = dict.fromkeys(SESSION_HANDLERS, self._on_stray_frame)
        self._handlers |= {Begin: self._on_begin, Close: self._on_close}

    def _write_open(self) -> None:
        idle = self.idle_time_out
        answer = Open(
            container_id=self.container_id,
            max_frame_size=Uint(self.limits.max_frame_size),
            channel_max=Ushort(self.limits.channel_max),
            idle_time_out=None if idle is None else Uint(int(idle * 1000)),
            properties=PROPERTIES,
        )
        self.say(0, answer)

    def _on_close(self, _channel: int, _close: Close, _payload: bytes) -> None:
        self.close()
        self.state = ConnectionState.ENDED

    # ------------------------------------------------------------------ sessions

    def _on_begin(self, channel: int, begin: Begin, _payload: bytes) -> None:
        self._check_channel(channel)
        if begin.remote_channel is not None:
            raise ConnectionViolation("amqp:not-allowed", "a begin with a remote-channel, which answers no begin")
        if channel in self._sessions:
            raise ConnectionViolation("amqp:illegal-state", f"channel {channel} has a session already")
        session = Session(self, self._free_channel(channel), channel, begin)
        self._sessions[channel] = session
        self._channels.add(session.channel)
        self._ended.discard(channel)
        answer = Begin(
            remote_channel=Ushort(channel),
            next_outgoing_id=Uint(self.limits.first_transfer_id),
            incoming_window=Uint(self.limits.window),
            outgoing_window=Uint(self.limits.window),
            handle_max=Uint(self.limits.handle_max),
        )
        session.say(answer)

    def _free_channel(self, wish: int) -> int:
        """Choose our channel: the peer's own number, else the lowest that it can take."""
        if wish not in self._channels and wish <= self._channel_max:
            return wish
        free = next(number for number in range(len(self._channels) + 1) if number not in self._channels)
        if free > self._channel_max:
            raise ConnectionViolation("amqp:not-allowed", f"a channel-max of {self._channel_max} leaves no channel")
        return free

    def forget(self, session: Session) -> None:
        """Take a session off its channels; frames that are on their way to it are ignored."""
        self._sessions.pop(session.peer_channel, None)
        self._channels.discard(session.channel)
        self._ended.add(session.peer_channel)

    # ------------------------------------------------------------------ flows of links

    def answer_flow(self, link: OutgoingLink) -> None:
        """Tell the peer the state of a link when the application has done what its flow asks for."""
        self._flows_to_answer[link] = None


def _shortened(performative: Performative) -> Performative:
    """Leave out the optional parts: the description of an error, the properties of an attach."""
    match performative:
        case Close(error) | End(error) if error is not None:
            return performative._replace(error=error._replace(description=None, info=None))
        case Detach(_, _, error) if error is not None:
            return performative._replace(error=error._replace(description=None, info=None))
        case Attach():
            return performative._replace(properties=None)
        case _:
            return performative
