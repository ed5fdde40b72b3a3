"""One connection's links, and the nodes they lead to.

the peer sends      to $cbs ─▶ CbsNode     to …/$management ─▶ ManagementNode    else Sender
the peer receives   from either of these: a link for answers                     else Receiver

A link to an entity takes a right, which the tokens shown to $cbs must grant when it is
attached and for as long as it is: when they have expired, it is detached.
"""

import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final, NamedTuple

from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.events import (
    Closed,
    CreditChanged,
    Event,
    LinkAsked,
    LinkDetached,
    MessageArrived,
    OutcomeArrived,
)
from servicebus_local.amqp.link import IncomingLink, OutgoingLink
from servicebus_local.bus.access import Access, Keys
from servicebus_local.bus.clock import Alarm
from servicebus_local.bus.errors import AccessExpired, BusError, EntityNotFound, NotImplementedHere, Unauthorized
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import Right
from servicebus_local.nodes.addresses import CBS, read_address
from servicebus_local.nodes.cbs import CbsNode
from servicebus_local.nodes.entity import Receiver, Sender
from servicebus_local.nodes.fault_injection import NO_FAULTS, FaultInjection
from servicebus_local.nodes.grants import ANY, LISTEN, SEND, Grants, needed
from servicebus_local.nodes.management import LARGEST_REQUEST, ManagementNode
from servicebus_local.nodes.node import Node, error_of

_LOGGER: Final = logging.getLogger("servicebus_local")


class _Use(NamedTuple):
    """What a link is used for: a path, and the rights one of which it takes."""

    path: str
    rights: frozenset[Right]


class Container:
    """Routes what happens on one connection."""

    def __init__(
        self, namespace: Namespace, keys: Keys, connection: Connection, faults: FaultInjection = NO_FAULTS
    ) -> None:
        self.connection = connection
        self.silent = False  # answers to requests are lost
        self._namespace = namespace
        self._keys = keys
        self._faults = faults
        self._grants = Grants(keys.wall_clock)
        self._alarm: Alarm | None = None
        self._watched = inf  # the moment the alarm is for
        self._reply_links: list[OutgoingLink] = []
        self._nodes: dict[OutgoingLink | IncomingLink, Node] = {}
        self._uses: dict[OutgoingLink | IncomingLink, _Use] = {}
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
        if self._grants.next_expiry <= self._keys.wall_clock():
            self._end_expired()
        if not self._faults.armed or not self._faults.intercept(self, event):
            self._handlers[type(event)](event)

    def proceed(self, event: Event) -> None:
        """Let the node of the link deal with an event that was held up."""
        self._handlers[type(event)](event)

    @property
    def links(self) -> list[OutgoingLink | IncomingLink]:
        """The links to entities, and to their management."""
        return list(self._uses)

    def resume(self) -> None:
        """Go on sending after the peer was too slow for a while."""
        for node in list(self._nodes.values()):
            node.resume()

    def login(self, name: str, key: str) -> bool:
        """Take the name of a policy and its key in place of tokens; tell whether they are right."""
        try:
            granted = self._keys.login(name, key)
        except Unauthorized:
            return False
        for access in granted:
            self._grants.add(access)
        return True

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
            self._uses.pop(link, None)
            link.refuse(error_of(refusal))
        else:
            self._watch()

    def _attach_incoming(self, link: IncomingLink) -> None:
        """Make the node that the peer's target names; raises a `BusError` if the peer may not send to it."""
        if link.target is None:
            raise NotImplementedHere("Transactions are not there.")
        address = read_address(link.target.address)
        if address.path == CBS:
            self._nodes[link] = CbsNode(self._keys, self._namespace.find, self._grant, partial(self.answer, link))
            link.accept()
        elif address.management:
            entity = self._use(link, address.path, ANY)
            require = partial(self._grants.require, address.path)
            link.largest = LARGEST_REQUEST
            self._nodes[link] = ManagementNode(self._namespace, entity, require, partial(self.answer, link))
            link.accept()
        else:
            sender = self._nodes[link] = Sender(self._use(link, address.path, SEND), link)
            sender.attach()

    def _attach_outgoing(self, link: OutgoingLink) -> None:
        """Make the receiver that the peer's source names, or a link for answers; raises a `BusError`."""
        address = read_address(link.source.address if link.source else None)
        if address.path == CBS or address.management:
            if address.management:
                self._use(link, address.path, ANY)
            link.settles_first = True  # an answer is never settled by the peer
            self._reply_links.append(link)
            link.accept()
            return
        self._use(link, address.path, LISTEN)
        receiver = self._nodes[link] = Receiver(self._namespace.queue(address.path), link, self._faults)
        receiver.attach()

    def _use(self, link: OutgoingLink | IncomingLink, path: str, rights: frozenset[Right]) -> MessagingEntity:
        """Return the entity at a path, if the connection may use it so."""
        if not path:
            raise EntityNotFound("The address of the link names no messaging entity.")
        self._grants.require(path, rights)
        entity = self._namespace.find(path)
        self._uses[link] = _Use(path, rights)
        return entity

    def _on_detached(self, event: LinkDetached) -> None:
        node = self._nodes.pop(event.link, None)
        if node is not None:
            node.on_detached()
        elif isinstance(event.link, OutgoingLink) and event.link in self._reply_links:
            self._reply_links.remove(event.link)
        if self._uses.pop(event.link, None) is not None:
            self._watch()

    # ------------------------------------------------------------------ what tokens allow

    def _grant(self, access: Access) -> None:
        self._grants.add(access)
        self._watch()

    def _watch(self) -> None:
        """Set the alarm that ends links with their tokens even if no event comes.

        Tokens end by the wall's clock, alarms ring by that of the bus. Where a test moves the
        one and not the other, an early alarm is ignored, and the next event finds out.
        """
        wanted = self._grants.next_expiry if self._uses else inf
        if wanted == self._watched:
            return
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._watched = wanted
        if wanted != inf:
            left, timers = wanted - self._keys.wall_clock(), self._namespace.timers
            self._alarm = timers.at(timers.clock() + max(0.0, left), self._end_expired)

    def _end_expired(self) -> None:
        """Detach what no valid token allows any more."""
        if not self._grants.expire():
            return
        for link, use in list(self._uses.items()):
            if self._grants.allow(use.path, use.rights):
                continue
            why = f"The link '{link.name}' is force detached. Code: RenewToken. Details: {needed(use.path, use.rights)}"
            error, node = AccessExpired(why), self._nodes.get(link)
            if isinstance(node, Sender | Receiver):
                node.lost(error)
            else:
                link.detach(error_of(error))
            self._on_detached(LinkDetached(link))
        self._watch()

    # ------------------------------------------------------------------ what happens on links

    def _on_message(self, event: MessageArrived) -> None:
        node = self._nodes.get(event.link)
        if node is not None:
            node.on_message(event)

    def _on_credit(self, event: CreditChanged) -> None:
        node = self._nodes.get(event.link)
        if node is not None:
            node.on_credit(event)
        elif event.drain:
            event.link.drained()  # answers never wait for credit

    def _on_outcome(self, event: OutcomeArrived) -> None:
        node = self._nodes.get(event.link)
        if node is not None:
            node.on_outcome(event)

    def _on_closed(self, event: Closed) -> None:
        """Nothing to do: every link was detached before."""

    # ------------------------------------------------------------------ answers

    def answer(self, request: IncomingLink, payload: bytes, reply_to: str | None) -> None:
        """Send an answer to the client that asked on a link.

        Credit is not looked at: the SDK gives 10 000 once and never again, and counts on
        answers coming none the less.
        """
        if self.silent:
            return
        link = self._reply_link(request, reply_to)
        if link is None:
            address = request.target.address if request.target else None
            _LOGGER.warning("%s: an answer was dropped, no link receives from %s", self.connection.peer, address)
            return
        link.send(b"\x00", payload)

    def _reply_link(self, request: IncomingLink, reply_to: str | None) -> OutgoingLink | None:
        """Choose the link that receives from the node the request went to.

        There can be several. The one the request asks for is best, by its target or, as some
        clients do, by its name; then one of the same session; then the newest.
        """
        node = read_address(request.target.address if request.target else None).node

        def fitness(link: OutgoingLink) -> tuple[bool, bool]:
            names = (link.name, link.target.address if link.target else None)
            return reply_to is not None and reply_to in names, link.session is request.session

        candidates = [
            link
            for link in reversed(self._reply_links)
            if link.source is not None and read_address(link.source.address).node == node
        ]
        return max(candidates, key=fitness, default=None)
