"""What the links of one connection use together: their names, and the bytes they may keep waiting.

A link's name and direction are known once on a connection (specification part 2, 2.6.1); `limits` has the bounds.
"""

from typing import Protocol

from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.errors import LinkViolation
from servicebus_local.amqp.limits import Limits


class NamedLink(Protocol):
    """A link, as far as it is counted here."""

    name: str
    receives: bool
    terms: int
    """The bytes of its attach frame."""

    def fail(self, error: Error) -> None:
        """End the link with an error."""


class Usage:
    """Counts what `Limits` bounds for a connection as a whole."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._links: dict[tuple[str, bool], NamedLink] = {}
        self._terms = 0
        self._partial = 0
        self._waiting = 0

    def free_name(self, name: str, receives: bool) -> None:
        """Detach the link that has this name and direction: it is attached elsewhere now (2.6.1)."""
        holder = self._links.get((name, receives))
        if holder is not None:
            holder.fail(Error("amqp:link:stolen", f"the link {name} was attached again"))

    def add(self, link: NamedLink) -> Error | None:
        """Count a link in; return why it must be refused, if it must."""
        self._links[link.name, link.receives] = link
        self._terms += link.terms
        if len(self._links) > self._limits.links:
            return Error("amqp:resource-limit-exceeded", f"there are {self._limits.links} links on this connection")
        if self._terms > self._limits.terms:
            return Error("amqp:resource-limit-exceeded", "the attach frames of this connection are too large together")
        return None

    def remove(self, link: NamedLink) -> None:
        """Count a link out."""
        del self._links[link.name, link.receives]
        self._terms -= link.terms

    def count_partial(self, size: int) -> None:
        """Count bytes of incomplete messages; raise LinkViolation if they are too many."""
        self._partial += size
        if size > 0 and self._partial > self._limits.partial:
            raise LinkViolation("amqp:resource-limit-exceeded", "too many incomplete messages at the same time")

    def count_waiting(self, size: int) -> bool:
        """Count bytes of messages that wait for the peer's window; tell whether there is room for them."""
        self._waiting += size
        return size <= 0 or self._waiting <= self._limits.waiting
