"""Links: one direction each, with its credit and its deliveries (specification part 2, 2.6).

    attach ──▶ ASKED ──accept──▶ ATTACHED ──detach, or end of the session──▶ GONE
                 └──refuse, or the peer left: attach without terminus, then detach──▶ GONE

A link is known by its name and direction, on one connection once (2.6.1); on the wire by two
handles, the peer's and ours. Links are not resumed: deliveries of a link that is gone are
forgotten, and a peer that asks is told that nothing of it is known.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

from servicebus_local.amqp import performatives
from servicebus_local.amqp.composites import (
    Error,
    Outcome,
    Rejected,
    Terminus,
    is_transactional,
    read_outcome,
    read_terminus,
)
from servicebus_local.amqp.errors import LinkViolation
from servicebus_local.amqp.limits import Limits
from servicebus_local.amqp.performatives import Attach, Detach, Flow, Performative, Transfer
from servicebus_local.amqp.serial import MASK, ahead
from servicebus_local.amqp.types import Described, Ubyte, Uint, Ulong
from servicebus_local.amqp.usage import Usage

_LONGEST_TAG: Final = 32  # part 2, 2.8.7
_SETTLED, _SECOND = 1, 1  # sender- and receiver-settle-mode


class LinkAsked(NamedTuple):
    """The peer attaches a link; answer with `accept` or `refuse`, now or later."""

    link: IncomingLink | OutgoingLink


class MessageArrived(NamedTuple):
    """A whole message came in; answer with `IncomingLink.settle` unless it is settled."""

    link: IncomingLink
    delivery_id: int
    settled: bool
    message_format: int
    payload: bytes


class CreditChanged(NamedTuple):
    """The peer may take more, or less; after `drain`, credit that is not used now is given up."""

    link: OutgoingLink
    drain: bool


class OutcomeArrived(NamedTuple):
    """The peer says what became of a delivery; answer with `confirm` unless it is settled."""

    link: OutgoingLink
    delivery_id: int
    token: Any
    outcome: Outcome | None
    settled: bool


class LinkDetached(NamedTuple):
    """A link is gone, with its session or connection or alone."""

    link: IncomingLink | OutgoingLink


class LinkConnection(Protocol):
    """What a link needs of its connection."""

    limits: Limits
    usage: Usage
    peer: str
    """The peer's container id."""

    @property
    def congested(self) -> bool:
        """Whether so much waits to be written that the peer may not send more either."""

    @property
    def writable(self) -> bool:
        """Whether one more message may be queued for the peer."""

    def emit(self, event: LinkAsked | MessageArrived | CreditChanged | OutcomeArrived | LinkDetached) -> None:
        """Tell the application."""

    def replenish_later(self, waiting: Replenished) -> None:
        """Call `replenish` when the peer reads again."""

    def answer_flow(self, link: OutgoingLink) -> None:
        """Call `answer_flow` when the application has done what the peer's flow asks for."""


class Replenished(Protocol):
    """A window or credit that is renewed while the peer reads what it is sent."""

    def replenish(self) -> None:
        """Renew it, unless the peer does not read."""


class LinkSession(Protocol):
    """What a link needs of its session."""

    @property
    def connection(self) -> LinkConnection:
        """The connection of the session."""

    def holds(self, link: Link) -> bool:
        """Tell whether a link is still one of this session's."""

    def detach(self, link: Link, error: Error | None) -> None:
        """Close a link from our side."""

    def say(self, performative: Performative) -> None:
        """Send a performative."""

    def flow(self, link: tuple[int, ...] = ()) -> None:
        """Send a flow of the session and one of its links."""

    def drained(self, handle: int, delivery_count: int) -> None:
        """Send the flow that answers a drain."""

    def settle(self, role: bool, delivery_id: int, outcome: Outcome) -> None:
        """Settle one delivery."""

    def has_room(self) -> bool:
        """Tell whether a message sent now would leave now."""

    def send(self, link: OutgoingLink, tag: bytes, payload: bytes, token: Any) -> None:
        """Send a message."""

    def give_back(self, link: OutgoingLink, token: Any) -> None:
        """Let the application have a message again that could not be sent."""


class Link:
    """What both directions share: identity, attach, detach."""

    def __init__(self, session: LinkSession, attach: Attach, handle: int) -> None:
        self.session = session
        self.name = attach.name
        self.handle = handle
        self.peer_handle = attach.handle
        self.receives = not attach.role  # we do, and the peer sends
        self.source = read_terminus(attach.source)
        self.target = read_terminus(attach.target)
        self.properties: dict[Any, Any] = attach.properties or {}
        self.settles_first = attach.snd_settle_mode == _SETTLED
        self.rcv_settle_mode = attach.rcv_settle_mode or 0
        self.attached = False
        self.terms = len(performatives.write(attach))
        self._answered = False
        self._asked = attach

    @property
    def connection(self) -> LinkConnection:
        """The connection this link lives on."""
        return self.session.connection

    @property
    def gone(self) -> bool:
        """Whether the peer, or the broker, has ended this link."""
        return not self.session.holds(self)

    def refuse(self, error: Error) -> None:
        """Turn the attach down, in the words of the specification: attach, then detach (2.6.3)."""
        if not self.gone:
            self._answer(None, None, None)
            self.session.detach(self, error)

    def detach(self, error: Error | None = None) -> None:
        """Close the link from our side."""
        if not self.gone:
            self.session.detach(self, error)

    def fail(self, error: Error) -> None:
        """End the link with an error, whether it was accepted yet or not."""
        if self._answered:
            self.detach(error)
        else:
            self.refuse(error)

    def leave(self, *, closed: bool) -> None:
        """Answer the peer's detach in kind; one that was never answered is answered first."""
        if not self._answered:
            self._answer(None, None, None)
        self.session.say(Detach(Uint(self.handle), closed))

    def forget(self) -> None:
        """Drop what will not become whole any more."""

    def _answer(self, source: Terminus | None, target: Terminus | None, properties: Any) -> None:
        """Answer the peer's attach, then forget all of it but where it leads: the rest may be large."""
        asked, self._answered = self._asked, True
        settle_mode = asked.snd_settle_mode  # some clients insist on their wish; null means mixed
        if self.settles_first:
            settle_mode = _SETTLED
        answer = Attach(
            name=self.name,
            handle=Uint(self.handle),
            role=self.receives,
            snd_settle_mode=None if settle_mode is None else Ubyte(settle_mode),
            rcv_settle_mode=Ubyte(self.rcv_settle_mode),
            source=source.as_source() if source else None,
            target=target.as_target() if target else None,
            unsettled=None if asked.unsettled is None else {},  # asked to resume: nothing is left of it
            initial_delivery_count=None if self.receives else Uint(0),
            max_message_size=Ulong(self.connection.limits.message) if self.receives else None,
            properties=properties,
        )
        self._asked = Attach(name=self.name)
        self.properties = {}
        self.source = self.source and Terminus(self.source.address)
        self.target = self.target and Terminus(self.target.address)
        self.session.say(answer)


class IncomingLink(Link):
    """A link on which the peer sends."""

    def __init__(self, session: LinkSession, attach: Attach, handle: int) -> None:
        super().__init__(session, attach, handle)
        self.rcv_settle_mode = 0  # we settle first, whatever the sender would like: its outcome is final
        limits = session.connection.limits
        self._delivery_count = (attach.initial_delivery_count or 0) & MASK
        self._credit = 0
        self._low_credit = limits.credit // 2
        self.largest = limits.message  # bytes of a message; the application may raise it when it accepts the link
        self._first: Transfer | None = None
        self._settled = False
        self._parts = bytearray()
        self._size = 0
        self._presettled: int | None = None

    @property
    def credit(self) -> int:
        """How many messages the peer may still send."""
        return self._credit

    def accept(self) -> None:
        """Let the peer send."""
        if self.gone:
            return
        self.attached = True
        self._answer(self.source or Terminus(), self.target, None)
        self.grant()

    def grant(self) -> None:
        """Give the peer credit again, unless it does not read what it is sent."""
        if self.connection.congested:
            self.connection.replenish_later(self)
            return
        self._credit = self.connection.limits.credit
        self._tell_flow()

    replenish = grant

    def _tell_flow(self) -> None:
        self.session.flow((self.handle, self._delivery_count, self._credit))

    def on_flow(self, flow: Flow) -> None:
        """Take over the sender's count: it may have given credit up (2.6.7)."""
        if flow.delivery_count is not None:
            skipped = ahead(flow.delivery_count, self._delivery_count)
            self._delivery_count = (self._delivery_count + skipped) & MASK
            self._credit = max(0, self._credit - skipped)
        if not self.attached:
            return
        if self._credit <= self._low_credit:
            self.grant()
        elif flow.echo:
            self._tell_flow()

    # ------------------------------------------------------------------ messages

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Collect the frames of a message and announce it when it is whole (2.6.14)."""
        first = self._first
        if first is not None:
            self._check_next(first, transfer)
            self._settled = self._settled or transfer.settled is True
            self._on_part(first, transfer, payload)
            return
        self._check_first(transfer)
        self._settled = transfer.settled is True
        if transfer.more or transfer.aborted:
            self._on_part(transfer, transfer, payload)
            return
        self._announce(transfer, payload)
        self._count()

    def _on_part(self, first: Transfer, transfer: Transfer, payload: bytes) -> None:
        """Take one of several frames of a message."""
        if transfer.aborted:
            self._drop()
            self._count()
            return
        self._first = first
        self._size += len(payload)
        if self._size > self.largest:
            self._drop_parts()  # of a message that is too large nothing is kept, only its size
        else:
            self._parts += payload
            self.connection.usage.count_partial(len(payload))
        if not transfer.more:
            self._announce(first, bytes(self._parts))
            self._drop()
            self._count()

    def _check_first(self, transfer: Transfer) -> None:
        """Look at what the first frame of a delivery must have (2.7.5)."""
        _, number, tag, _, settled, _, mode, _, _, _, _ = transfer
        if number is None or not 0 <= number <= MASK:
            raise LinkViolation("amqp:invalid-field", "the first transfer of a delivery needs a delivery-id")
        if tag is None or len(tag) > _LONGEST_TAG:
            raise LinkViolation("amqp:invalid-field", f"a delivery needs a tag of at most {_LONGEST_TAG} bytes")
        if self._credit <= 0:
            raise LinkViolation("amqp:link:transfer-limit-exceeded", "there was no credit for this transfer")
        if mode == _SECOND and not settled:
            raise LinkViolation("amqp:invalid-field", "on this link the receiver settles first")

    def _check_next(self, first: Transfer, transfer: Transfer) -> None:
        """Look whether a frame goes on with the delivery that was begun."""
        for name in ("delivery_id", "delivery_tag", "message_format"):
            value = getattr(transfer, name)
            if value is not None and value != getattr(first, name):
                raise LinkViolation("amqp:not-allowed", f"another {name.replace('_', '-')} before the delivery's end")

    def _drop_parts(self) -> None:
        self.connection.usage.count_partial(-len(self._parts))
        self._parts = bytearray()

    def forget(self) -> None:
        """Drop the message that will not become whole."""
        self._drop_parts()

    def _drop(self) -> None:
        """Forget a message of several frames, complete or not."""
        self._drop_parts()
        self._first, self._size = None, 0

    def _count(self) -> None:
        """Count a delivery, accepted or not, and renew the credit when half of it is used."""
        self._delivery_count = (self._delivery_count + 1) & MASK
        self._credit -= 1
        if self._credit <= self._low_credit:
            self.grant()

    def _announce(self, first: Transfer, payload: bytes) -> None:
        """Hand a message over; a resumed one is not known here and must be ignored (2.7.5)."""
        if first.resume:
            return
        number = first.delivery_id or 0
        size = self._size or len(payload)
        if size > self.largest:
            too_large = f"the message has {size} bytes, the limit is {self.largest}"
            self._refuse(number, "amqp:link:message-size-exceeded", too_large)
        elif first.state is not None and is_transactional(first.state):
            self._refuse(number, "amqp:transaction:unknown-id", "there are no transactions here")
        else:
            self._presettled = number if self._settled else None
            arrived = MessageArrived(self, number, self._settled, first.message_format or 0, payload)
            self.session.connection.emit(arrived)

    def _refuse(self, number: int, condition: str, reason: str) -> None:
        """Reject a delivery; one that came settled has no outcome, so its link is detached: raises `LinkViolation`."""
        if self._settled:
            raise LinkViolation(condition, reason)
        self.settle(number, Rejected(Error(condition, reason)))

    def settle(self, delivery_id: int, outcome: Outcome) -> None:
        """Tell the peer what became of its message; one that came settled is not spoken of."""
        if delivery_id != self._presettled:
            self.session.settle(True, delivery_id, outcome)


class OutgoingLink(Link):
    """A link on which the peer receives."""

    def __init__(self, session: LinkSession, attach: Attach, handle: int) -> None:
        super().__init__(session, attach, handle)
        self.credit = 0
        self.available = 0  # what the application says waits for credit
        self.default_outcome = read_outcome(self.source.default_outcome) if self.source else None
        self._max_message_size = attach.max_message_size or 0
        self._delivery_count = 0
        self._draining = False

    @property
    def ready(self) -> bool:
        """Whether a message sent now would leave now."""
        if self.credit <= 0 or not self.attached:
            return False
        return self.session.has_room() and self.session.connection.writable

    def accept(self, filters: dict[Any, Any] | None = None, properties: dict[Any, Any] | None = None) -> None:
        """Let the peer receive; filters are those that are in force."""
        if self.gone:
            return
        self.attached = True
        source = self.source or Terminus()
        in_force = _described_as_asked(source.filters or {}, filters or {})
        self._answer(source._replace(filters=in_force), self.target or Terminus(), properties)
        if self.credit or self._draining:  # the peer did not wait for the answer
            self.connection.emit(CreditChanged(self, self._draining))

    # ------------------------------------------------------------------ credit

    def on_flow(self, flow: Flow) -> None:
        """Take over the peer's credit (2.6.7)."""
        if flow.link_credit is not None:
            seen = 0 if flow.delivery_count is None else flow.delivery_count
            self.credit = max(0, flow.link_credit - ahead(self._delivery_count, seen))
        self._draining = flow.drain is True
        if flow.echo and not self._draining:
            self.connection.answer_flow(self)
        self.connection.emit(CreditChanged(self, self._draining))

    def woken(self) -> None:
        """Tell the application that there is room again."""
        if self.credit > 0 and self.attached:
            self.connection.emit(CreditChanged(self, False))

    def answer_flow(self) -> None:
        """Tell the peer the state of this link, after what it asked for has been done."""
        if self.attached:
            self.session.flow((self.handle, self._delivery_count, self.credit, self.available))

    def drained(self) -> None:
        """Give up the credit that is left, if the peer still asks for a drain (2.6.7)."""
        if not self._draining or not self.attached:
            return
        self._delivery_count = (self._delivery_count + self.credit) & MASK
        self.credit = 0
        self._draining = False
        self.session.drained(self.handle, self._delivery_count)

    # ------------------------------------------------------------------ messages

    def send(self, tag: bytes, payload: bytes, token: Any = None) -> None:
        """Send a message; with a token its outcome is awaited, without it is settled.

        One that is larger than the peer can take ends the link, and its outcome is none (2.7.3).
        """
        if 0 < self._max_message_size < len(payload):
            self.session.give_back(self, token)
            reason = f"a message of {len(payload)} bytes is here, {self._max_message_size} are accepted"
            self.detach(Error("amqp:link:message-size-exceeded", reason))
            return
        self._delivery_count = (self._delivery_count + 1) & MASK
        if self.credit > 0:
            self.credit -= 1
        self.session.send(self, tag, payload, token)

    def confirm(self, delivery_id: int, outcome: Outcome) -> None:
        """Settle a delivery with the outcome that was applied."""
        self.session.settle(False, delivery_id, outcome)


def _described_as_asked(asked: dict[Any, Any], in_force: dict[Any, Any]) -> dict[Any, Any]:
    """Return the filters in force, each a described type where the peer's was one: some clients read nothing else."""
    return {
        name: Described(asked[name].descriptor, value)
        if isinstance(asked.get(name), Described) and not isinstance(value, Described)
        else value
        for name, value in in_force.items()
    }
