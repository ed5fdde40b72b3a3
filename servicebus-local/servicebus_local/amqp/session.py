"""One session: numbers deliveries, keeps the windows, routes frames to links (specification part 2, 2.5).

    begin ──▶ MAPPED ──end, of either side, or a violation──▶ gone: what is still on its way is ignored

Transfers are counted against two windows. Ours is opened again before it is used up, unless the
peer does not read what it is sent. Within the peer's, messages leave at once; what does not fit,
the rest of a large message or an answer that was not held back, waits in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Error, Outcome, Rejected, Released, encode_outcome, read_outcome
from servicebus_local.amqp.errors import ConnectionViolation, LinkViolation, SessionViolation
from servicebus_local.amqp.link import (
    IncomingLink,
    Link,
    LinkAsked,
    LinkConnection,
    LinkDetached,
    OutcomeArrived,
    OutgoingLink,
)
from servicebus_local.amqp.performatives import Attach, Begin, Detach, Disposition, End, Flow, Performative, Transfer
from servicebus_local.amqp.serial import MASK, ahead, within
from servicebus_local.amqp.types import Uint

AnyLink = IncomingLink | OutgoingLink


class _Delivery:
    """A message on its way out, as far as it has not left."""

    __slots__ = ("at", "fields", "link", "payload", "tag", "token")

    def __init__(self, link: OutgoingLink, tag: bytes, payload: bytes, token: Any, fields: bytes = b"") -> None:
        self.link = link
        self.tag = tag
        self.payload = payload
        self.token = token
        self.fields = fields  # encoded when the first frame leaves
        self.at = 0


class SessionConnection(LinkConnection, Protocol):
    """What a session needs of its connection."""

    max_frame_size: int

    def write(self, data: bytes) -> None:
        """Queue bytes for the peer."""

    def say(self, channel: int, performative: Performative) -> bool:
        """Queue a performative; False if it is too long for the peer."""

    def part(self, link: Link) -> None:
        """Drop what is owed to a link that is gone."""

    def forget(self, session: Session) -> None:
        """Take a session off its channels."""


class Session:
    """A channel in each direction, and the links on it."""

    def __init__(self, connection: SessionConnection, channel: int, peer_channel: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = channel
        self.peer_channel = peer_channel
        self.ended = False
        self._links: dict[int, AnyLink] = {}  # by the peer's handle
        self._handles: set[int] = set()  # those of ours that are taken
        self._handle_max = MASK if begin.handle_max is None else begin.handle_max
        self._leaving: dict[int, int] = {}  # handles we detached; how many messages may be on their way
        self._next_delivery_id = connection.limits.first_delivery_id
        self._most_unsettled = connection.limits.unsettled
        self._unsettled: dict[int, tuple[OutgoingLink, Any]] = {}
        self._next_incoming_id = begin.next_outgoing_id & MASK
        self._window = self._incoming_room = connection.limits.window
        self._next_outgoing_id = connection.limits.first_transfer_id
        self._outgoing_room = begin.incoming_window
        self._waiting: deque[_Delivery] = deque()
        self._held_back = False  # a link asked for room, and there was none

    # ------------------------------------------------------------------ frames

    def say(self, performative: Performative) -> None:
        """Send a performative; one that is too long for the peer ends the session (2.8.15)."""
        if not self.ended and not self.connection.say(self.channel, performative):
            self.end(Error("amqp:frame-size-too-small", f"the peer takes {self.connection.max_frame_size} bytes"))

    def flow(self, link: tuple[int, ...] = ()) -> None:
        """Send a flow, of the session alone or of one of its links too."""
        if not self.ended:
            self.connection.write(frames.flow_frame(self.channel, self._state(), link))

    def drained(self, handle: int, delivery_count: int) -> None:
        """Send the flow that answers a drain."""
        if not self.ended:
            self.connection.write(frames.drained_frame(self.channel, self._state(), handle, delivery_count))

    def settle(self, role: bool, delivery_id: int, outcome: Outcome) -> None:
        """Settle one delivery; an error that is too long for the peer is sent as its condition alone."""
        if self.ended:
            return
        data = frames.disposition_frame(self.channel, role, delivery_id, encode_outcome(outcome))
        if len(data) > self.connection.max_frame_size and isinstance(outcome, Rejected) and outcome.error:
            short = encode_outcome(Rejected(Error(outcome.error.condition)))
            data = frames.disposition_frame(self.channel, role, delivery_id, short)
        self.connection.write(data)

    def _state(self) -> tuple[int, int, int, int]:
        """Return the four session fields of a flow."""
        return self._next_incoming_id, self._incoming_room, self._next_outgoing_id, self._window

    # ------------------------------------------------------------------ links

    def holds(self, link: Link) -> bool:
        """Tell whether a link is still one of this session's."""
        return self._links.get(link.peer_handle) is link

    def _on_attach(self, attach: Attach, _payload: bytes) -> None:
        limits = self.connection.limits
        if not 0 <= attach.handle <= limits.handle_max:
            raise ConnectionViolation(
                "amqp:connection:framing-error", f"handle {attach.handle} is above {limits.handle_max}"
            )
        if attach.handle in self._links:
            raise SessionViolation("amqp:session:handle-in-use", f"handle {attach.handle} is in use")
        self._leaving.pop(attach.handle, None)
        self.connection.usage.free_name(attach.name, not attach.role)
        handle = self._free_handle(attach.handle)
        link = OutgoingLink(self, attach, handle) if attach.role else IncomingLink(self, attach, handle)
        self._links[attach.handle] = link
        self._handles.add(handle)
        refusal = self.connection.usage.add(link) or _refusal(attach)
        if refusal is None:
            self.connection.emit(LinkAsked(link))
        else:
            link.refuse(refusal)

    def _free_handle(self, wish: int) -> int:
        """Choose our handle: the peer's own number, else the lowest that it can take."""
        if wish not in self._handles and wish <= self._handle_max:
            return wish
        free = next(number for number in range(len(self._handles) + 1) if number not in self._handles)
        if free > self._handle_max:
            raise SessionViolation("amqp:not-allowed", f"a handle-max of {self._handle_max} leaves no handle")
        return free

    def _on_detach(self, detach: Detach, _payload: bytes) -> None:
        link = self._links.get(detach.handle)
        if link is not None:
            link.leave(closed=detach.closed is True)
            self._forget(link.peer_handle)
        elif self._leaving.pop(detach.handle, None) is None:  # else the answer to a detach of ours
            raise _unattached(detach.handle)

    def detach(self, link: Link, error: Error | None) -> None:
        """Close a link from our side; what was on its way is ignored until the peer answers."""
        self.say(Detach(Uint(link.handle), True, error))
        self._leaving[link.peer_handle] = link.credit if isinstance(link, IncomingLink) else 0
        self._forget(link.peer_handle)

    def _forget(self, peer_handle: int) -> None:
        """Remove a link and what it had under way; locks live on in the queue."""
        link = self._links.pop(peer_handle, None)
        if link is None:
            return  # what was said last was too long for the peer, and ended the session
        link.attached = False
        link.forget()
        self._handles.discard(link.handle)
        self.connection.part(link)
        self.connection.emit(LinkDetached(link))
        if not isinstance(link, OutgoingLink):
            return
        gone = [number for number, (owner, _) in self._unsettled.items() if owner is link]
        for number in gone:
            del self._unsettled[number]
        kept = [delivery for delivery in self._waiting if delivery.link is not link]
        if len(kept) < len(self._waiting):
            self._drop_waiting()
            for delivery in kept:
                self._hold(delivery)

    def drop_links(self) -> None:
        """Forget every link, and send the peer nothing."""
        self._unsettled.clear()
        self._drop_waiting()
        for peer_handle in list(self._links):
            self._forget(peer_handle)

    def _on_end(self, _end: End, _payload: bytes) -> None:
        self.end(None)

    def end(self, error: Error | None) -> None:
        """End this session, for the peer's wish or with an error of it."""
        if self.ended:
            return
        self.say(End(error))
        self.ended = True
        self.drop_links()
        self.connection.forget(self)

    # ------------------------------------------------------------------ messages in

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id = (self._next_incoming_id + 1) & MASK
        self._incoming_room -= 1
        if self._incoming_room < 0:
            raise SessionViolation("amqp:session:window-violation", "the incoming window was closed")
        link = self._links.get(transfer.handle)
        if isinstance(link, IncomingLink):
            try:
                link.on_transfer(transfer, payload)
            except LinkViolation as broken:
                link.fail(broken.error)
        else:
            self._on_stray_transfer(transfer, link)
        if self._incoming_room <= self._window // 2:
            self.replenish()

    def _on_stray_transfer(self, transfer: Transfer, link: OutgoingLink | None) -> None:
        """Ignore what may have been on its way when we detached its link, and no more (2.6.5)."""
        if link is not None:
            raise SessionViolation("amqp:not-allowed", f"the peer receives on handle {transfer.handle}")
        left = self._leaving.get(transfer.handle)
        if left is None:
            raise _unattached(transfer.handle)
        if left < 0:
            raise SessionViolation("amqp:session:errant-link", f"handle {transfer.handle} was detached")
        self._leaving[transfer.handle] = left if transfer.more else left - 1

    def replenish(self) -> None:
        """Open our window again, unless the peer does not read what it is sent."""
        if self.ended:
            return
        if self.connection.congested:
            self.connection.replenish_later(self)
            return
        self._incoming_room = self._window
        self.flow()

    # ------------------------------------------------------------------ flow

    def _on_flow(self, flow: Flow, _payload: bytes) -> None:
        """Take over the state of the peer's end (2.5.6)."""
        self._next_incoming_id = flow.next_outgoing_id & MASK
        first = self.connection.limits.first_transfer_id
        received = first if flow.next_incoming_id is None else flow.next_incoming_id
        self._outgoing_room = flow.incoming_window - ahead(self._next_outgoing_id, received)
        self._send_waiting()
        if flow.handle is None:
            if flow.echo:
                self.flow()
        elif link := self._links.get(flow.handle):
            link.on_flow(flow)
        elif flow.handle not in self._leaving:
            raise _unattached(flow.handle)
        if self._held_back:
            self._wake_links()

    def has_room(self) -> bool:
        """Tell whether a message sent now would leave now; if not, links are told when it would."""
        if self._outgoing_room > 0 and not self._waiting and len(self._unsettled) < self._most_unsettled:
            return True
        self._held_back = True
        return False

    def _wake_links(self) -> None:
        """Tell the links that were held back, as soon as there is room."""
        self._held_back = False
        if not self.has_room():
            return
        for link in self._links.values():
            if isinstance(link, OutgoingLink):
                link.woken()

    # ------------------------------------------------------------------ messages out

    def send(self, link: OutgoingLink, tag: bytes, payload: bytes, token: Any) -> None:
        """Send a message in as many frames as the peer's frame size asks for, when it has room."""
        if self.ended:
            return
        if self._waiting or self._outgoing_room <= 0:
            self._hold(_Delivery(link, tag, payload, token))
            return
        fields = self._begin_delivery(link, tag, token)
        if len(payload) + len(fields) + frames.TRANSFER_OVERHEAD <= self.connection.max_frame_size:
            self._write_transfer(fields, False, payload)
            return
        delivery = _Delivery(link, tag, payload, token, fields)
        if not self._advance(delivery):
            self._hold(delivery)

    def _advance(self, delivery: _Delivery) -> bool:
        """Send what the window allows; tell whether that was the last frame."""
        if self._outgoing_room <= 0:
            return False
        fields = delivery.fields
        if not fields:
            fields = delivery.fields = self._begin_delivery(delivery.link, delivery.tag, delivery.token)
        payload, at = delivery.payload, delivery.at
        part = self.connection.max_frame_size - len(fields) - frames.TRANSFER_OVERHEAD
        while at + part < len(payload):
            self._write_transfer(fields, True, payload[at : at + part])
            at = delivery.at = at + part
            if self._outgoing_room <= 0:
                return False
        self._write_transfer(fields, False, payload[at:] if at else payload)
        return True

    def _begin_delivery(self, link: OutgoingLink, tag: bytes, token: Any) -> bytes:
        """Number a delivery; with a token, remember it until its outcome comes."""
        number = self._next_delivery_id
        self._next_delivery_id = (number + 1) & MASK
        if token is not None:
            self._unsettled[number] = (link, token)
        return frames.transfer_fields(link.handle, number, tag, token is None)

    def _write_transfer(self, fields: bytes, more: bool, payload: bytes) -> None:
        self._outgoing_room -= 1
        self._next_outgoing_id = (self._next_outgoing_id + 1) & MASK
        self.connection.write(frames.transfer_frame(self.channel, fields, more, payload))

    def _hold(self, delivery: _Delivery) -> None:
        """Keep a delivery for later, or end the session if too much waits already."""
        self._waiting.append(delivery)
        if not self.connection.usage.count_waiting(len(delivery.payload)):
            self.end(Error("amqp:resource-limit-exceeded", "too many messages wait for the session's window"))

    def _send_waiting(self) -> None:
        while self._waiting and self._advance(self._waiting[0]):
            self.connection.usage.count_waiting(-len(self._waiting.popleft().payload))

    def _drop_waiting(self) -> None:
        self.connection.usage.count_waiting(-sum(len(delivery.payload) for delivery in self._waiting))
        self._waiting.clear()

    # ------------------------------------------------------------------ outcomes

    def _on_disposition(self, disposition: Disposition, _payload: bytes) -> None:
        if not disposition.role:
            return  # the peer, as a sender, agrees with our outcome
        outcome, settled = read_outcome(disposition.state), disposition.settled is True
        if outcome is None and not settled:
            return  # received, or nothing: it is still at work
        first, last = disposition.first, disposition.last
        numbers = [first]
        if last is not None and last != first:  # the range is the peer's claim: only what is unsettled is looked at
            numbers = [number for number in self._unsettled if within(number, first, last)]
        for number in numbers:
            if number not in self._unsettled:
                continue
            link, token = self._unsettled.pop(number)
            final = link.default_outcome if outcome is None else outcome
            self.connection.emit(OutcomeArrived(link, number, token, final, settled))
        if self._held_back:
            self._wake_links()

    def give_back(self, link: OutgoingLink, token: Any) -> None:
        """Let the application have a message again that could not be sent."""
        if token is not None:
            self.connection.emit(OutcomeArrived(link, 0, token, Released(), True))


SESSION_HANDLERS: Final[dict[type, Callable[[Session, Any, bytes], None]]] = {
    Attach: Session._on_attach,
    Flow: Session._on_flow,
    Transfer: Session._on_transfer,
    Disposition: Session._on_disposition,
    Detach: Session._on_detach,
    End: Session._on_end,
}


def _unattached(handle: int) -> SessionViolation:
    return SessionViolation("amqp:session:unattached-handle", f"no link uses handle {handle}")


def _refusal(attach: Attach) -> Error | None:
    """Return why no such attach can be granted; None if it can."""
    if attach.snd_settle_mode not in (None, 0, 1, 2) or attach.rcv_settle_mode not in (None, 0, 1):
        return Error("amqp:invalid-field", "a settle mode that does not exist")
    if attach.role and attach.incomplete_unsettled:
        return Error("amqp:not-implemented", "links are not resumed here; attach without an unsettled map")
    return None
