"""Cases: one thing that happens and may be spoilt, an event of a connection or a delivery.

A case goes through the faults that are set, in the order in which they were set. Each one that
strikes changes how the case will end; then it ends so, now or later.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from servicebus_local.amqp.composites import Accepted, Error, Rejected
from servicebus_local.amqp.events import Event, LinkAsked, MessageArrived, OutcomeArrived
from servicebus_local.amqp.link import IncomingLink
from servicebus_local.amqp.types import NULL, DecodeError, Int, Symbol
from servicebus_local.bus.errors import BusError, Unauthorized
from servicebus_local.bus.message import read_body, reply
from servicebus_local.faults.delays import Direction
from servicebus_local.faults.fault import Fault, LinkKind, Occasion, Point, Where
from servicebus_local.nodes.addresses import CBS, Address, read_address
from servicebus_local.nodes.fault_injection import Link, Peer

_STATUS: Final = {each.condition: each.status for each in reversed(BusError.__subclasses__())}


@dataclass
class Case:
    """Something that happens, and how it will end."""

    occasion: Occasion
    link: Link
    direction: Direction
    proceed: Callable[[bool], None]
    """Does it; with True, without an answer to the client."""
    refuse: Callable[[Fault], None] | None = None
    lose_lock: Callable[[], None] | None = None

    delay: float = 0.0
    refusal: Fault | None = None
    ignored: bool = False
    silent: bool = False
    cut: Where | None = None
    detach: Error | None = None
    lock_lost_after: float | None = None

    @property
    def in_order(self) -> bool:
        """Whether it must not be overtaken by what follows on the link."""
        return self.occasion.at in ("send", "outcome", "delivery")

    def happen(self) -> None:
        """Do what is left to be done."""
        if self.refusal is not None and self.refuse is not None:
            self.refuse(self.refusal)
        elif not self.ignored:
            self.proceed(self.silent)


def strike(fault: Fault, case: Case) -> bool:
    """Change how a case will end; tell whether other faults may change it further."""
    match fault.do:
        case "delay":
            case.delay += fault.seconds
        case "refuse":
            case.refusal = fault
        case "ignore":
            case.ignored = True
        case "swallow":
            case.silent = True
        case "drop":
            case.cut = fault.where
        case "detach":
            case.detach = error_of(fault)
        case "lose-lock":
            case.lock_lost_after = fault.seconds
    return fault.do not in ("refuse", "ignore")


def address_of(link: Link) -> Address | None:
    """Return the path a link leads to; None when it has none, or leads to a node without faults."""
    terminus = link.target if isinstance(link, IncomingLink) else link.source
    return None if terminus is None or terminus.address is None else read_address(terminus.address)


def kind_of(link: Link, address: Address) -> LinkKind:
    """Return what a link is for."""
    if address.management or address.path == CBS:
        return "management"
    return "sender" if isinstance(link, IncomingLink) else "receiver"


def case_of(peer: Peer, event: Event) -> Case | None:
    """Return what a fault may spoil about an event; None when that is nothing."""
    if not isinstance(event, LinkAsked | MessageArrived | OutcomeArrived):
        return None
    address = address_of(event.link)
    if address is None:
        return None
    kind = kind_of(event.link, address)
    match event:
        case LinkAsked():
            return None if address.path == CBS else _attach(peer, event, address, kind)
        case OutcomeArrived():
            return _outcome(peer, event, address, kind)
        case MessageArrived() if kind == "management":
            return _request(peer, event, address)
        case MessageArrived():
            return _message(peer, event, address, kind)


def _attach(peer: Peer, event: LinkAsked, address: Address, kind: LinkKind) -> Case:
    link = event.link
    return Case(
        Occasion("attach", address.path, peer.connection.peer, kind),
        link,
        "in",
        lambda _silent: peer.proceed(event),
        lambda fault: link.refuse(error_of(fault)),
    )


def _outcome(peer: Peer, event: OutcomeArrived, address: Address, kind: LinkKind) -> Case:
    def refuse(fault: Fault) -> None:
        if not event.settled:
            event.link.confirm(event.delivery_id, Rejected(error_of(fault)))

    return Case(
        Occasion("outcome", address.path, peer.connection.peer, kind),
        event.link,
        "in",
        lambda silent: peer.proceed(event._replace(settled=event.settled or silent)),
        refuse,
    )


def _message(peer: Peer, event: MessageArrived, address: Address, kind: LinkKind) -> Case:
    def refuse(fault: Fault) -> None:
        if not event.settled:
            event.link.settle(event.delivery_id, Rejected(error_of(fault)))

    return Case(
        Occasion("send", address.path, peer.connection.peer, kind),
        event.link,
        "in",
        lambda silent: peer.proceed(event._replace(settled=event.settled or silent)),
        refuse,
    )


def _request(peer: Peer, event: MessageArrived, address: Address) -> Case:
    """A request, to $management or $cbs: what it asks for is in its application properties."""
    try:
        properties, application, _ = read_body(event.payload)
    except DecodeError:
        properties, application = {}, {}
    is_token = address.path == CBS
    entity = read_address(str(application.get("name", ""))).path if is_token else address.path
    operation = "" if is_token else str(application.get("operation", ""))

    def proceed(silent: bool) -> None:
        peer.silent = silent
        peer.proceed(event)
        peer.silent = False

    def refuse(fault: Fault) -> None:
        event.link.settle(event.delivery_id, Accepted())
        answer = _denial(fault) if is_token else _refusal(fault)
        peer.answer(event.link, reply(properties.get("message-id", NULL), answer, None), properties.get("reply-to"))

    at: Point = "token" if is_token else "request"
    occasion = Occasion(at, entity, peer.connection.peer, "management", operation)
    return Case(occasion, event.link, "in", proceed, refuse)


# --------------------------------------------------------------------------- refusals as the protocol has them


def error_of(fault: Fault) -> Error:
    """Return the error that a client gets when it is refused, or its link is closed."""
    return Error(fault.condition, fault.description)


def _refusal(fault: Fault) -> dict[str, object]:
    return {
        "statusCode": Int(_STATUS.get(fault.condition, BusError.status)),
        "statusDescription": fault.description,
        "errorCondition": Symbol(fault.condition),
    }


def _denial(fault: Fault) -> dict[str, object]:
    status = _STATUS.get(fault.condition, Unauthorized.status)
    return {"status-code": Int(status), "status-description": fault.description}
