"""What faults need of the sockets."""

from collections.abc import Iterable
from typing import Protocol

from servicebus_local.amqp.link import LinkConnection
from servicebus_local.faults.fault import Where
from servicebus_local.nodes.fault_injection import Peer


class Sockets(Protocol):
    """The connections, and what can be done to them from below."""

    def peers(self) -> Iterable[Peer]:
        """Return who is connected."""
        ...

    def flush(self, connection: LinkConnection) -> None:
        """Write what there is to write now."""
        ...

    def cut(self, connection: LinkConnection, where: Where) -> None:
        """Break a connection: before what waits to be written, within its last frame, or after it."""
        ...

    def hold(self, connection: LinkConnection, *, reading: bool, writing: bool) -> None:
        """Stop reading from a socket, or writing to it."""
        ...

    def let_go(self, connection: LinkConnection, *, reading: bool, writing: bool) -> None:
        """Go on."""
        ...
