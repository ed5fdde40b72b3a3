"""Faults that strike at once: at the connections, links and locks that are there."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from servicebus_local.bus.errors import MessageLockLost
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.faults.cases import address_of, error_of, kind_of
from servicebus_local.faults.fault import Fault, Occasion
from servicebus_local.faults.sockets import Sockets
from servicebus_local.nodes.fault_injection import Link, Peer


def happen(fault: Fault, namespace: Namespace, sockets: Sockets) -> int:
    """Let it happen; return how many connections, links or locks were hit."""
    match fault.do:
        case "lose-lock":
            return _lose_locks(namespace.queue(fault.entity or ""), fault)
        case "detach":
            links = [link for peer in sockets.peers() for link in list(_links(fault, peer)) if link.attached]
            for link in links:
                link.detach(error_of(fault))
            return len(links)
        case "drop":
            peers = list(_peers(fault, sockets))
            for peer in peers:
                sockets.cut(peer.connection, fault.where)
            return len(peers)
        case _:
            return _hold(fault, namespace, sockets)


def _lose_locks(queue: Queue, fault: Fault) -> int:
    if fault.session is not None:
        queue.sessions.expire(queue.sessions.held(fault.session))
        return 1
    tokens = queue.tokens()
    if fault.sequence is not None:
        if fault.sequence not in tokens:
            raise MessageLockLost(f"The message {fault.sequence} of '{queue.name}' is not locked.")
        queue.lose_lock(tokens[fault.sequence])
        return 1
    for token in tokens.values():
        with suppress(MessageLockLost):  # it went with the session of one before
            queue.lose_lock(token)
    return len(tokens)


def _hold(fault: Fault, namespace: Namespace, sockets: Sockets) -> int:
    reading = fault.do == "stop-reading"
    chosen, timers = list(_peers(fault, sockets)), namespace.timers
    for peer in chosen:
        sockets.hold(peer.connection, reading=reading, writing=not reading)
        let_go = partial(sockets.let_go, peer.connection, reading=reading, writing=not reading)
        timers.at(timers.clock() + fault.seconds, let_go)
    return len(chosen)


def _peers(fault: Fault, sockets: Sockets) -> Iterator[Peer]:
    """Return the connections that are meant: a link of any kind to the entity will do."""
    for peer in sockets.peers():
        if not peer.connection.peer.startswith(fault.container):
            continue
        if fault.entity is None or any(_leads_to(fault.entity, link) for link in peer.links):
            yield peer


def _leads_to(entity: str, link: Link) -> bool:
    address = address_of(link)
    return address is not None and address.path.lower() == entity.strip("/").lower()


def _links(fault: Fault, peer: Peer) -> Iterator[Link]:
    for link in peer.links:
        address = address_of(link)
        if address is None:
            continue
        occasion = Occasion("now", address.path, peer.connection.peer, kind_of(link, address))
        if fault.matches(occasion):
            yield link
