"""One AMQP connection as a state machine without sockets: bytes in, events and bytes out.

    connection   START ──AMQP 3──▶ SASL ──AMQP 0──▶ HEADERS ──open──▶ OPENED ──close──▶ CLOSED
                 START ────────────AMQP 0──────────────▲      (an error closes from anywhere)
    session      begin ──▶ MAPPED ──end──▶ ENDED: frames that are still on their way are ignored
    link         attach ──▶ ASKED ──accept──▶ ATTACHED ──detach──▶ gone
                              └───refuse: attach without terminus, then detach with the error

`Connection.receive` takes what the peer sent and yields what it means for the application,
which answers through the links before it asks for the next event; `Connection.take` hands out what to write.
Bytes may also appear outside `receive`, when another connection's message arrives here:
`on_output` is called the moment there is something to write.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Final, NamedTuple

from local.broker.amqp import frames
from local.broker.amqp.frames import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Frame,
    FrameReader,
    FramingError,
    Open,
    Outcome,
    Performative,
    Rejected,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Terminus,
    Transfer,
)
from local.broker.amqp.types import Array, DecodeError, Symbol, Ubyte, Uint, Ulong, Ushort

MAX_FRAME_SIZE: Final = 65536
MAX_MESSAGE_SIZE: Final = 256 * 1024
CHANNEL_MAX: Final = 255
_WINDOW: Final = 65536
_CREDIT: Final = 1000
_OUTPUT_LIMIT: Final = 1024 * 1024  # bytes that may wait to be taken before messages have to
# The SDK's sender ignores the role of a disposition: with low ids the outcome of one of our
# deliveries would also settle its own request of the same number, and its reply would be lost.
_FIRST_DELIVERY_ID: Final = 2**28


class LinkAsked(NamedTuple):
    """The peer attaches a link; answer with `accept` or `refuse`, now or later."""

    link: "IncomingLink | OutgoingLink"


class MessageArrived(NamedTuple):
    """A whole message came in; answer with `IncomingLink.settle` unless it is settled."""

    link: "IncomingLink"
    delivery_id: int
    settled: bool
    message_format: int
    payload: bytes


class CreditChanged(NamedTuple):
    """The peer's credit changed; after `drain`, what is not sent now must be given up."""

    link: "OutgoingLink"
    drain: bool


class OutcomeArrived(NamedTuple):
    """The peer says what became of a delivery; answer with `confirm` unless it is settled."""

    link: "OutgoingLink"
    delivery_id: int
    token: Any
    outcome: Outcome | None
    settled: bool


class LinkDetached(NamedTuple):
    """A link is gone, with its session or connection or alone."""

    link: "IncomingLink | OutgoingLink"


class Closed(NamedTuple):
    """Nothing more will come; write what `take` still has and hang up."""

    error: Error | None


Event = LinkAsked | MessageArrived | CreditChanged | OutcomeArrived | LinkDetached | Closed


class ProtocolViolation(Exception):
    """The peer broke the protocol; the connection ends with this error."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.error = Error(condition, description)


class Connection:
    """The broker's end of one AMQP connection."""

    def __init__(self, container_id: str = "local-broker", on_output: Callable[[], None] = lambda: None) -> None:
        self.container_id = container_id
        self.peer = ""
        self.peer_idle_time_out: float | None = None
        self.closed = False
        self.paused = False  # the transport has more to write than it should
        self.held_back = False  # somebody asked and was told not to write
        self.max_frame_size = frames.UNLIMITED
        self._on_output = on_output
        self._output: list[bytes] = []
        self._queued = 0
        self._events: list[Event] = []
        self._reader = FrameReader(MAX_FRAME_SIZE)
        self._sessions: dict[int, Session] = {}
        self._handlers: dict[type, Callable[[int, Any, bytes], None]] = {
            SaslInit: self._on_sasl_init,
            Open: self._on_open,
            Begin: self._on_begin,
            Close: self._on_close,
        }

    # ------------------------------------------------------------------ input and output

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes from the peer; yield what happens, frame by frame."""
        try:
            for unit in self._reader.feed(data):
                if self.closed:
                    break
                if isinstance(unit, Frame):
                    self._on_frame(unit)
                else:
                    self._on_header(unit)
                if self._events:
                    yield from self._drain()
        except FramingError as error:
            self.close(Error("amqp:connection:framing-error", str(error)))
        except DecodeError as error:
            self.close(Error("amqp:decode-error", str(error)))
        except ProtocolViolation as broken:
            self.close(broken.error)
        yield from self._drain()

    def lost(self) -> list[Event]:
        """Learn that the transport is gone; return what that ends."""
        self.closed = True
        self._end_sessions()
        return self._drain()

    def _drain(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def take(self) -> bytes:
        """Return everything there is to write, and forget it."""
        output = b"".join(self._output)
        self._output.clear()
        self._queued = 0
        return output

    @property
    def writable(self) -> bool:
        """Whether one more message may be queued for the peer."""
        if self._queued < _OUTPUT_LIMIT and not self.paused:
            return True
        self.held_back = True
        return False

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer."""
        if not self._output:
            self._on_output()
        self._output.append(data)
        self._queued += len(data)

    def heartbeat(self) -> None:
        """Queue an empty frame, so that the peer's idle time-out does not strike."""
        if not self.closed:
            self.write(frames.EMPTY_FRAME)

    def close(self, error: Error | None = None) -> None:
        """End everything on this connection and say so to the peer."""
        if self.closed:
            return
        self.closed = True
        if Open not in self._handlers:  # before the open, a close would not be understood
            self.write(frames.frame(0, Close(error)))
        self._end_sessions()
        self._events.append(Closed(error))

    def emit(self, event: Event) -> None:
        """Add to what the running `receive` returns."""
        self._events.append(event)

    def _end_sessions(self) -> None:
        for session in self._sessions.values():
            session.drop_links()
        self._sessions.clear()

    # ------------------------------------------------------------------ headers and SASL

    def _on_header(self, header: bytes) -> None:
        if header == frames.SASL_HEADER:
            mechanisms = Array(0xA3, [Symbol("ANONYMOUS"), Symbol("MSSBCBS"), Symbol("PLAIN")])
            self.write(frames.SASL_HEADER + frames.frame(0, SaslMechanisms(mechanisms)))
        else:
            self.write(frames.AMQP_HEADER)
            if header != frames.AMQP_HEADER:
                self.close(Error("amqp:connection:framing-error", "only AMQP 1.0 is spoken here"))

    def _on_sasl_init(self, _channel: int, _init: SaslInit, _payload: bytes) -> None:
        """Let everybody in: who may do what is told by the tokens sent to $cbs."""
        del self._handlers[SaslInit]
        self.write(frames.frame(0, SaslOutcome(Ubyte(0))))
        self._reader.expect_header()

    # ------------------------------------------------------------------ frames

    def _on_frame(self, unit: Frame) -> None:
        if not unit.body:
            return  # a heartbeat
        performative, payload = frames.parse(unit.body)
        handler = self._handlers.get(type(performative))
        if handler is not None:
            handler(unit.channel, performative, payload)
        else:
            self._on_session_frame(unit.channel, performative, payload)

    def _on_session_frame(self, channel: int, performative: Performative, payload: bytes) -> None:
        session = self._sessions.get(channel)
        if session is None:
            name = type(performative).__name__.lower()
            raise ProtocolViolation("amqp:not-allowed", f"{name} on channel {channel}, where no session began")
        session.on_frame(performative, payload)

    def _on_open(self, _channel: int, performative: Open, _payload: bytes) -> None:
        self.peer = performative.container_id
        if performative.max_frame_size is not None:
            self.max_frame_size = max(512, performative.max_frame_size)
        if performative.idle_time_out:
            self.peer_idle_time_out = performative.idle_time_out / 1000
        answer = Open(
            container_id=self.container_id,
            max_frame_size=Uint(MAX_FRAME_SIZE),
            channel_max=Ushort(CHANNEL_MAX),
        )
        del self._handlers[Open]
        self.write(frames.frame(0, answer))

    def _on_begin(self, channel: int, begin: Begin, _payload: bytes) -> None:
        if Open in self._handlers:
            raise ProtocolViolation("amqp:not-allowed", "begin before open")
        if channel > CHANNEL_MAX:
            raise ProtocolViolation("amqp:not-allowed", f"channel {channel} is above {CHANNEL_MAX}")
        self._sessions[channel] = Session(self, channel, begin)
        answer = Begin(
            remote_channel=Ushort(channel),
            next_outgoing_id=Uint(0),
            incoming_window=Uint(_WINDOW),
            outgoing_window=Uint(_WINDOW),
        )
        self.write(frames.frame(channel, answer))

    def _on_close(self, _channel: int, _close: Close, _payload: bytes) -> None:
        self.close()


class Session:
    """A channel: numbers deliveries, keeps the windows, routes frames to links."""

    def __init__(self, connection: Connection, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = channel
        self._ended = False
        self._links: dict[int, IncomingLink | OutgoingLink] = {}
        self._detaching: set[int] = set()  # we detached; the peer may not have heard yet
        self._delivery_ids = count(_FIRST_DELIVERY_ID)
        self._unsettled: dict[int, tuple[OutgoingLink, Any]] = {}
        self._next_incoming_id = begin.next_outgoing_id
        self._incoming_room = _WINDOW
        self._next_outgoing_id = 0
        self._outgoing_room = begin.incoming_window
        self._waiting_for_room: deque[bytes] = deque()
        self._handlers: dict[type, Callable[[Any, bytes], None]] = {
            Attach: self._on_attach,
            Flow: self._on_flow,
            Transfer: self._on_transfer,
            Disposition: self._on_disposition,
            Detach: self._on_detach,
            End: self._on_end,
        }

    def on_frame(self, performative: Performative, payload: bytes) -> None:
        """Handle a frame of this channel; after End they are late ones, and ignored."""
        if self._ended:
            return
        handler = self._handlers.get(type(performative))
        if handler is None:
            name = type(performative).__name__
            raise ProtocolViolation("amqp:not-allowed", f"{name} is not expected here")
        handler(performative, payload)

    def write(self, data: bytes) -> None:
        """Queue one frame for the peer."""
        self.connection.write(data)

    def window(self) -> tuple[int, int, int, int]:
        """Return the four session fields of a flow."""
        return self._next_incoming_id & 0xFFFFFFFF, self._incoming_room, self._next_outgoing_id, _WINDOW

    def drop_links(self) -> None:
        """Detach every link without a word to the peer."""
        links, self._links = self._links, {}
        self._unsettled.clear()
        for link in links.values():
            link.attached = False
            self.connection.emit(LinkDetached(link))

    # ------------------------------------------------------------------ links

    def _on_attach(self, attach: Attach, _payload: bytes) -> None:
        if attach.handle in self._links:
            return self._end(Error("amqp:session:handle-in-use", f"handle {attach.handle} is in use"))
        link = OutgoingLink(self, attach) if attach.role else IncomingLink(self, attach)
        self._links[attach.handle] = link
        self._detaching.discard(attach.handle)
        self.connection.emit(LinkAsked(link))
        return None

    def _on_detach(self, detach: Detach, _payload: bytes) -> None:
        link = self._links.get(detach.handle)
        if link is None:
            self._detaching.discard(detach.handle)  # the answer to a detach of ours
            return
        self.write(frames.frame(self.channel, Detach(Uint(detach.handle), True)))
        self._forget(link)

    def detach(self, link: "IncomingLink | OutgoingLink", error: Error | None) -> None:
        """Close a link from our side; what the peer still sends on it is ignored."""
        self.write(frames.frame(self.channel, Detach(Uint(link.handle), True, error)))
        self._detaching.add(link.handle)
        self._forget(link)

    def _forget(self, link: "IncomingLink | OutgoingLink") -> None:
        """Remove a link and what it had under way; locks live on in the queue."""
        link.attached = False
        self._links.pop(link.handle, None)
        self.connection.emit(LinkDetached(link))
        gone = [number for number, (owner, _) in self._unsettled.items() if owner is link]
        for number in gone:
            del self._unsettled[number]

    def _on_end(self, _end: End, _payload: bytes) -> None:
        self._end(None)

    def _end(self, error: Error | None) -> None:
        self.write(frames.frame(self.channel, End(error)))
        self._ended = True
        self.drop_links()

    # ------------------------------------------------------------------ messages in

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id += 1
        self._incoming_room -= 1
        if self._incoming_room <= _WINDOW // 2:
            self._incoming_room = _WINDOW
            self.write(frames.flow_frame(self.channel, self.window()))
        link = self._links.get(transfer.handle)
        if isinstance(link, IncomingLink):
            link.on_transfer(transfer, payload)
        elif transfer.handle not in self._detaching:
            self._end(Error("amqp:session:unattached-handle", f"no sender uses handle {transfer.handle}"))

    # ------------------------------------------------------------------ messages out

    def _on_flow(self, flow: Flow, _payload: bytes) -> None:
        self._next_incoming_id = flow.next_outgoing_id
        self._incoming_room = _WINDOW
        received = self._next_outgoing_id if flow.next_incoming_id is None else flow.next_incoming_id
        self._outgoing_room = received + flow.incoming_window - self._next_outgoing_id
        self._use_room()
        link = None if flow.handle is None else self._links.get(flow.handle)
        if isinstance(link, OutgoingLink):
            link.on_flow(flow)
        if flow.echo and link is None:
            self.write(frames.flow_frame(self.channel, self.window()))

    def next_delivery(self, link: "OutgoingLink", token: Any) -> int:
        """Number a delivery; with a token, remember it until its outcome comes."""
        number = next(self._delivery_ids)
        if token is not None:
            self._unsettled[number] = (link, token)
        return number

    def transfer(self, fields: bytes, payload: bytes) -> None:
        """Send a message in as many frames as the peer's frame size asks for."""
        room = self.connection.max_frame_size - len(fields) - 16
        at, last = 0, len(payload) - room
        while at < last:
            self._send(frames.transfer_frame(self.channel, fields, True, payload[at : at + room]))
            at += room
        self._send(frames.transfer_frame(self.channel, fields, False, payload[at:] if at else payload))

    def _send(self, data: bytes) -> None:
        if self._outgoing_room <= 0:
            self._waiting_for_room.append(data)
            return
        self._outgoing_room -= 1
        self._next_outgoing_id = (self._next_outgoing_id + 1) & 0xFFFFFFFF
        self.write(data)

    def _use_room(self) -> None:
        while self._waiting_for_room and self._outgoing_room > 0:
            self._send(self._waiting_for_room.popleft())

    def _on_disposition(self, disposition: Disposition, _payload: bytes) -> None:
        if not disposition.role:
            return  # the peer, as a sender, agrees with our outcome
        outcome, settled = frames.read_outcome(disposition.state), bool(disposition.settled)
        if outcome is None and not settled:
            return
        for number in self._numbers(disposition.first, disposition.last):
            link, token = self._unsettled.pop(number)
            self.connection.emit(OutcomeArrived(link, number, token, outcome, settled))

    def _numbers(self, first: int, last: int | None) -> list[int]:
        """Return the unsettled deliveries from first to last; the range is the peer's claim."""
        if last is None or last == first:
            return [first] if first in self._unsettled else []
        return [number for number in self._unsettled if first <= number <= last]


class Link:
    """What both directions share: identity, attach, detach."""

    def __init__(self, session: Session, attach: Attach) -> None:
        self.session = session
        self.name = attach.name
        self.handle = attach.handle
        self.source = frames.read_terminus(attach.source)
        self.target = frames.read_terminus(attach.target)
        self.properties: dict[Any, Any] = attach.properties or {}
        self.settles_first = attach.snd_settle_mode == 1
        self.rcv_settle_mode = attach.rcv_settle_mode or 0
        self.attached = False

    @property
    def connection(self) -> Connection:
        """The connection this link lives on."""
        return self.session.connection

    def refuse(self, error: Error) -> None:
        """Turn the attach down, in the words of the specification: attach, then detach."""
        self._answer(None, None, None)
        self.detach(error)

    def detach(self, error: Error | None = None) -> None:
        """Close the link from our side."""
        self.session.detach(self, error)  # type: ignore[arg-type]  # every Link is one of the two

    def _answer(self, source: Terminus | None, target: Terminus | None, properties: Any) -> None:
        raise NotImplementedError


class IncomingLink(Link):
    """A link on which the peer sends."""

    def __init__(self, session: Session, attach: Attach) -> None:
        super().__init__(session, attach)
        self._delivery_count = attach.initial_delivery_count or 0
        self._credit = 0
        self._first: Transfer | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def accept(self) -> None:
        """Let the peer send."""
        self.attached = True
        self._answer(self.source or Terminus(), self.target, None)
        self._grant()

    def _answer(self, source: Terminus | None, target: Terminus | None, properties: Any) -> None:
        answer = Attach(
            name=self.name,
            handle=Uint(self.handle),
            role=True,
            snd_settle_mode=Ubyte(0),
            rcv_settle_mode=Ubyte(0),
            source=source.as_source() if source else None,
            target=target.as_target() if target else None,
            max_message_size=Ulong(MAX_MESSAGE_SIZE),
            properties=properties,
        )
        self.session.write(frames.frame(self.session.channel, answer))

    def _grant(self) -> None:
        self._credit = _CREDIT
        link = (self.handle, self._delivery_count, self._credit)
        self.session.write(frames.flow_frame(self.session.channel, self.session.window(), link))

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Collect the frames of a message and announce it when it is whole."""
        if self._first is None:
            self._first = transfer
            if transfer.delivery_id is None:
                raise ProtocolViolation("amqp:invalid-field", "the first transfer of a message needs its id")
        self._size += len(payload)
        if self._size <= MAX_MESSAGE_SIZE:
            self._parts.append(payload)
        if transfer.more:
            return
        first, parts, size = self._first, self._parts, self._size
        self._first, self._parts, self._size = None, [], 0
        self._delivery_count = (self._delivery_count + 1) & 0xFFFFFFFF
        self._credit -= 1
        if not transfer.aborted:
            self._announce(first, parts, size, bool(first.settled or transfer.settled))
        if self._credit <= _CREDIT // 2 and self.attached:
            self._grant()

    def _announce(self, first: Transfer, parts: list[bytes], size: int, settled: bool) -> None:
        if size > MAX_MESSAGE_SIZE:
            too_large = f"the message has {size} bytes, the limit is {MAX_MESSAGE_SIZE}"
            self.settle(first.delivery_id or 0, Rejected(Error("amqp:link:message-size-exceeded", too_large)))
            return
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        arrived = MessageArrived(self, first.delivery_id or 0, settled, first.message_format or 0, payload)
        self.connection.emit(arrived)

    def settle(self, delivery_id: int, outcome: Outcome) -> None:
        """Tell the peer what became of its message."""
        state = frames.encode_outcome(outcome)
        self.session.write(frames.disposition_frame(self.session.channel, True, delivery_id, state))


class OutgoingLink(Link):
    """A link on which the peer receives."""

    def __init__(self, session: Session, attach: Attach) -> None:
        super().__init__(session, attach)
        self.credit = 0
        self._delivery_count = 0

    @property
    def ready(self) -> bool:
        """Whether a message sent now would leave now."""
        return self.credit > 0 and self.attached and self.session.connection.writable

    def accept(self, filters: dict[Any, Any] | None = None, properties: dict[Any, Any] | None = None) -> None:
        """Let the peer receive; filters are those that are in force."""
        self.attached = True
        address = self.source.address if self.source else None
        self._answer(Terminus(address, filters), self.target or Terminus(), properties)

    def _answer(self, source: Terminus | None, target: Terminus | None, properties: Any) -> None:
        answer = Attach(
            name=self.name,
            handle=Uint(self.handle),
            role=False,
            snd_settle_mode=Ubyte(1 if self.settles_first else 0),
            rcv_settle_mode=Ubyte(self.rcv_settle_mode),
            source=source.as_source() if source else None,
            target=target.as_target() if target else None,
            initial_delivery_count=Uint(0),
            max_message_size=Ulong(MAX_MESSAGE_SIZE),
            properties=properties,
        )
        self.session.write(frames.frame(self.session.channel, answer))

    def on_flow(self, flow: Flow) -> None:
        """Take over the peer's credit (part 2, 2.6.7)."""
        seen = self._delivery_count if flow.delivery_count is None else flow.delivery_count
        if flow.link_credit is not None:
            self.credit = (seen + flow.link_credit - self._delivery_count) & 0xFFFFFFFF
        if self.credit > 0x7FFFFFFF:
            self.credit = 0  # the peer took credit back that is already used up
        self.connection.emit(CreditChanged(self, bool(flow.drain)))

    def send(self, tag: bytes, payload: bytes, token: Any = None) -> None:
        """Send a message; with a token its outcome is awaited, without it is settled."""
        session = self.session
        number = session.next_delivery(self, token)
        self._delivery_count = (self._delivery_count + 1) & 0xFFFFFFFF
        self.credit = max(0, self.credit - 1)
        session.transfer(frames.transfer_fields(self.handle, number, tag, token is None), payload)

    def drained(self) -> None:
        """Give up the credit that is left, as the peer asked."""
        self._delivery_count = (self._delivery_count + self.credit) & 0xFFFFFFFF
        self.credit = 0
        session = self.session
        session.write(frames.drained_frame(session.channel, session.window(), self.handle, self._delivery_count))

    def confirm(self, delivery_id: int, outcome: Outcome) -> None:
        """Settle a delivery with the outcome that was applied."""
        state = frames.encode_outcome(outcome)
        self.session.write(frames.disposition_frame(self.session.channel, False, delivery_id, state))
