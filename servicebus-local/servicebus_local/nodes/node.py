"""What a link leads to, as the container that routes events sees it."""

from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.events import CreditChanged, MessageArrived, OutcomeArrived
from servicebus_local.bus.errors import BusError


class Node:
    """The broker's side of one link. Each kind overrides what it cares for."""

    def on_message(self, event: MessageArrived) -> None:
        """Take a message the peer sent."""

    def on_credit(self, event: CreditChanged) -> None:
        """Learn that the peer has changed its credit, or asks for a drain."""

    def resume(self) -> None:
        """Go on sending after the peer was too slow for a while."""

    def on_outcome(self, event: OutcomeArrived) -> None:
        """Learn what the peer did with a message."""

    def on_detached(self) -> None:
        """Let go of everything this link held."""


def error_of(refusal: BusError) -> Error:
    """Return a refusal as an AMQP error."""
    return Error(refusal.condition, refusal.description)
