"""What the links of one connection share: their names, and the bytes they may keep waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.errors import LinkViolation
from servicebus_local.amqp.limits import Limits

if TYPE_CHECKING:
    from servicebus_local.amqp.link import Link


class Accounts:
    """Counts what is bounded for a connection as a whole."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._links: dict[tuple[str, bool], Link] = {}
        self._terms = 0
        self._partial = 0
        self._waiting = 0

    def free_name(self, name: str, receives: bool) -> None:
        """Detach the link that has this name and direction: it is attached elsewhere now (2.6.1)."""
        holder = self._links.get((name, receives))
        if holder is not None:
            holder.fail(Error("amqp:link:stolen", f"the link {name} was attached again"))

    def join(self, link: Link) -> Error | None:
        """Count a link in; return why it must be refused, if it must."""
        self._links[link.name, link.receives] = link
        self._terms += link.terms
        if len(self._links) > self._limits.links:
            return Error("amqp:resource-limit-exceeded", f"there are {self._limits.links} links on this connection")
        if self._terms > self._limits.terms:
            return Error("amqp:resource-limit-exceeded", "the links of this connection say too much about themselves")
        return None

    def part(self, link: Link) -> None:
        """Count a link out."""
        del self._links[link.name, link.receives]
        self._terms -= link.terms

    def keep(self, size: int) -> None:
        """Count bytes of messages that are not whole yet; raise LinkViolation if they are too many."""
        self._partial += size
        if size > 0 and self._partial > self._limits.partial:
            raise LinkViolation("amqp:resource-limit-exceeded", "too many messages are sent at the same time")

    def hold(self, size: int) -> bool:
        """Count bytes of messages that wait for the peer's window; tell whether there is room for them."""
        self._waiting += size
        return size <= 0 or self._waiting <= self._limits.waiting
