"""Where the nodes let somebody spoil what they do: a port, and nobody at it.

While `armed` is not set, that one look is all it costs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from servicebus_local.amqp.events import Event
from servicebus_local.amqp.link import OutgoingLink
from servicebus_local.bus.queue import Queue

if TYPE_CHECKING:
    from servicebus_local.nodes.container import Container


class Interference(Protocol):
    """Whoever may spoil things."""

    armed: bool
    """Whether to ask."""

    def intercept(self, peer: "Container", event: Event) -> bool:
        """Look at an event before it is handled; tell whether that is not to be done any more."""
        ...

    def deliver(self, queue: Queue, link: OutgoingLink, token: bytes | None, send: Callable[[], None]) -> None:
        """Put a delivery on the wire by `send`, now or later."""
        ...

    def held(self, link: OutgoingLink) -> int:
        """Return how many deliveries wait before they go out on a link: they have used up credit already."""
        ...

    def after_held(self, link: OutgoingLink, action: Callable[[], None]) -> None:
        """Do something when the deliveries that wait now are out."""
        ...


class Peace:
    """Nobody spoils anything."""

    armed = False

    def intercept(self, peer: "Container", event: Event) -> bool:
        """Let it happen."""
        return False

    def deliver(self, queue: Queue, link: OutgoingLink, token: bytes | None, send: Callable[[], None]) -> None:
        """Send it."""
        send()

    def held(self, link: OutgoingLink) -> int:
        """Return 0."""
        return 0

    def after_held(self, link: OutgoingLink, action: Callable[[], None]) -> None:
        """Do it."""
        action()


PEACE: Final[Interference] = Peace()
