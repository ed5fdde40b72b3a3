"""What a connection tells the application, and how each is answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from servicebus_local.amqp.composites import Error, Outcome

if TYPE_CHECKING:
    from servicebus_local.amqp.link import IncomingLink, OutgoingLink


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


class Closed(NamedTuple):
    """Nothing more will come; write what `take` still has and hang up."""

    error: Error | None


Event = LinkAsked | MessageArrived | CreditChanged | OutcomeArrived | LinkDetached | Closed
