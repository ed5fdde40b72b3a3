"""Where the nodes let faults be injected: a port with nothing behind it by default.

While `armed` is not set, that one look is all it costs.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.events import Event
from servicebus_local.amqp.link import IncomingLink, OutgoingLink
from servicebus_local.bus.queue import Queue

Link = IncomingLink | OutgoingLink


class Peer(Protocol):
    """One client's connection, as the nodes see it."""

    silent: bool
    """Set, answers to requests are lost."""

    @property
    def connection(self) -> Connection:
        """The connection."""
        ...

    @property
    def links(self) -> Iterable[Link]:
        """The links to entities, and to their management."""
        ...

    def proceed(self, event: Event) -> None:
        """Deal with an event as if there were no faults."""
        ...

    def answer(self, request: IncomingLink, payload: bytes, reply_to: str | None) -> None:
        """Send an answer to the client that asked on a link."""
        ...


class FaultInjection(Protocol):
    """Faults that may be injected."""

    armed: bool
    """Whether to ask."""

    def intercept(self, peer: Peer, event: Event) -> bool:
        """See an event before it is handled; return whether a fault has consumed it."""
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


class NoFaults:
    """Nothing goes wrong on purpose."""

    armed = False

    def intercept(self, peer: Peer, event: Event) -> bool:
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


NO_FAULTS: Final[FaultInjection] = NoFaults()
