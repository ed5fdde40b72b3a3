"""What faults need of the rest of the broker: the peers, and hands on their sockets."""

from collections.abc import Iterable
from typing import Protocol

from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.events import Event
from servicebus_local.amqp.link import IncomingLink, OutgoingLink
from servicebus_local.faults.fault import Where

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
        """Send an answer to whoever asked on a link."""
        ...


class Sockets(Protocol):
    """The connections, and what can be done to them from below."""

    def peers(self) -> Iterable[Peer]:
        """Return who is connected."""
        ...

    def flush(self, connection: Connection) -> None:
        """Write what there is to write now."""
        ...

    def cut(self, connection: Connection, where: Where) -> None:
        """Break a connection: before what waits to be written, within its last frame, or after it."""
        ...

    def hold(self, connection: Connection, *, reading: bool, writing: bool) -> None:
        """Stop reading from a socket, or writing to it."""
        ...

    def let_go(self, connection: Connection, *, reading: bool, writing: bool) -> None:
        """Go on."""
        ...
