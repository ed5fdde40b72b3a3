"""What a connection tells the application; those about a link are defined with the links."""

from typing import NamedTuple

from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.link import CreditChanged, LinkAsked, LinkDetached, MessageArrived, OutcomeArrived

__all__ = [
    "Closed",
    "CreditChanged",
    "Event",
    "LinkAsked",
    "LinkDetached",
    "MessageArrived",
    "OutcomeArrived",
]


class Closed(NamedTuple):
    """Nothing more will come; write what `take` still has and hang up."""

    error: Error | None


Event = LinkAsked | MessageArrived | CreditChanged | OutcomeArrived | LinkDetached | Closed
