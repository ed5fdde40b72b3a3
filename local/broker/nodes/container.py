"""One connection's links, and the nodes they lead to.

the peer sends      to $cbs ─▶ CbsNode     to …/$management ─▶ ManagementNode    else Sender
the peer receives   from either of these: a link for answers                     else Receiver
"""

from collections.abc import Callable
from typing import Any

from local.broker.amqp.endpoint import (
    Closed,
    Connection,
    CreditChanged,
    Event,
    IncomingLink,
    LinkAsked,
    LinkDetached,
    MessageArrived,
    OutcomeArrived,
    OutgoingLink,
)
from local.broker.amqp.frames import Error
from local.broker.amqp.types import DecodeError
from local.broker.bus.errors import BusError, NotImplementedHere, Unauthorized
from local.broker.bus.namespace import Namespace
from local.broker.bus.queue import Queue
from local.broker.nodes.addresses import CBS, Address, covers, read_address
from local.broker.nodes.cbs import CbsNode, Keys
from local.broker.nodes.entity import Receiver, Sender
from local.broker.nodes.management import ManagementNode
from local.broker.nodes.node import Node, error_of


class Container:
    """Routes what happens on one connection."""

    def __init__(self, namespace: Namespace, keys: Keys, connection: Connection) -> None:
        self._namespace = namespace
        self._keys = keys
        self._connection = connection
        self._granted: set[str] = set()
        self._reply_links: list[OutgoingLink] = []
        self._nodes: dict[OutgoingLink | IncomingLink, Node] = {}
        self._handlers: dict[type, Callable[[Any], None]] = {
            LinkAsked: self._on_asked,
            MessageArrived: self._on_message,
            CreditChanged: self._on_credit,
            OutcomeArrived: self._on_outcome,
            LinkDetached: self._on_detached,
            Closed: self._on_closed,
        }

    def handle(self, event: Event) -> None:
        """Let the node of the link deal with an event."""
        self._handlers[type(event)](event)

    def resume(self) -> None:
        """Go on sending after the peer was too slow for a while."""
        for link, node in list(self._nodes.items()):
            if isinstance(link, OutgoingLink):
                node.on_credit(CreditChanged(link, drain=False))

    # ------------------------------------------------------------------ links come and go

    def _on_asked(self, event: LinkAsked) -> None:
        link = event.link
        try:
            if isinstance(link, IncomingLink):
                self._attach_incoming(link)
            else:
                self._attach_outgoing(link)
        except BusError as refusal:
            self._nodes.pop(link, None)
            link.refuse(error_of(refusal))

    def _attach_incoming(self, link: IncomingLink) -> None:
        if link.target is None:
            raise NotImplementedHere("Transactions are not there.")
        self._nodes[link] = self._node_for(link, read_address(link.target.address))
        link.accept()

    def _node_for(self, link: IncomingLink, address: Address) -> Node:
        if address.path == CBS:
            return CbsNode(self._keys, self._namespace.find, self._granted.add, self._answering(link))
        queue = self._entity(address)
        if address.management:
            return ManagementNode(queue, self._answering(link))
        return Sender(queue)

    def _attach_outgoing(self, link: OutgoingLink) -> None:
        address = read_address(link.source.address if link.source else None)
        if address.path == CBS or address.management:
            if address.management:
                self._entity(address)
            link.settles_first = True  # nobody will ever settle an answer
            self._reply_links.append(link)
            link.accept()
            return
        receiver = Receiver(self._entity(address), link)
        self._nodes[link] = receiver
        receiver.attach()

    def _entity(self, address: Address) -> Queue:
        if not any(covers(granted, address.path) for granted in self._granted):
            raise Unauthorized(f"No token was shown that opens '{address.path}'.")
        return self._namespace.find(address.path)

    def _on_detached(self, event: LinkDetached) -> None:
        node = self._nodes.pop(event.link, None)
        if node is not None:
            node.on_detached()
        elif isinstance(event.link, OutgoingLink) and event.link in self._reply_links:
            self._reply_links.remove(event.link)

    # ------------------------------------------------------------------ what happens on them

    def _on_message(self, event: MessageArrived) -> None:
        node = self._nodes.get(event.link)
        if node is None:
            return
        try:
            node.on_message(event)
        except DecodeError as error:
            self._connection.close(Error("amqp:decode-error", str(error)))

    def _on_credit(self, event: CreditChanged) -> None:
        node = self._nodes.get(event.link)
        if node is not None:
            node.on_credit(event)

    def _on_outcome(self, event: OutcomeArrived) -> None:
        node = self._nodes.get(event.link)
        if node is not None:
            node.on_outcome(event)

    def _on_closed(self, event: Closed) -> None:
        """Nothing to do: every link was detached before."""

    # ------------------------------------------------------------------ answers

    def _answering(self, link: IncomingLink) -> Callable[..., None]:
        address = link.target.address if link.target else None
        return lambda payload, reply_to=None: self._answer(address, reply_to, payload)

    def _answer(self, node: str | None, reply_to: str | None, payload: bytes) -> None:
        """Send an answer on the link that reads from this node, the newest if there are several.

        Credit is not looked at: the SDK gives 10 000 once and never again, and counts on
        answers coming none the less.
        """
        candidates = [link for link in self._reply_links if link.source is not None and link.source.address == node]
        wanted = [link for link in candidates if link.target is not None and link.target.address == reply_to]
        for link in (wanted or candidates)[-1:]:
            link.send(b"\x00", payload)
