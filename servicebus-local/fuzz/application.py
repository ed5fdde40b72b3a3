"""An application that does everything a connection lets it do, and a look at what the connection says.

Used by the fuzz target and by the property tests: whatever comes in, nothing is raised, and what
goes out is frames that the specification allows.
"""

from collections.abc import Iterable

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Accepted, Error
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
from servicebus_local.amqp.limits import Limits
from servicebus_local.amqp.link import IncomingLink, OutgoingLink
from servicebus_local.amqp.performatives import Close

SMALL = Limits(links=20, credit=8, window=16, message=2000, partial=4000, unsettled=10, waiting=4000, output=1000)
"""Limits that even a short conversation can meet."""


class Application:
    """Answers every event at once, by turns in one way and another."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.links: dict[IncomingLink | OutgoingLink, None] = {}
        self._turn = 0
        self._written = bytearray()

    def feed(self, chunks: Iterable[bytes]) -> None:
        """Let the connection have input, and what comes of it."""
        for chunk in chunks:
            for event in self.connection.receive(chunk):
                self._handle(event)
            for event in self.connection.pending():
                self._handle(event)
            while output := self.connection.take():  # what is taken may make room for more
                self._written += output

    def _handle(self, event: Event) -> None:
        self._turn += 1
        match event:
            case LinkAsked(link):
                self._on_asked(link)
            case MessageArrived(link, number, settled, _, _):
                if not settled:
                    link.settle(number, Accepted())
            case CreditChanged(link, drain):
                self._on_credit(link, drain)
            case OutcomeArrived(link, number, _, outcome, settled):
                if not settled:
                    link.confirm(number, outcome or Accepted())
            case LinkDetached(link):
                self.links.pop(link, None)
            case Closed():
                assert self.connection.closed

    def _on_asked(self, link: IncomingLink | OutgoingLink) -> None:
        if self._turn % 5 == 4:
            link.refuse(Error("amqp:not-found", "no"))
        elif self._turn % 7 == 6:
            link.accept()
            link.detach(Error("amqp:link:detach-forced", "not now"))
        else:
            self.links[link] = None
            link.accept()

    def _on_credit(self, link: OutgoingLink, drain: bool) -> None:
        for size in (10, 700):
            if link.ready:
                link.send(b"tag", b"x" * size, None if self._turn % 2 else size)
        if self._turn % 3 == 0:
            link.send(b"tag", b"an answer that waits for nothing")
        if drain:
            link.drained()

    def leave(self) -> bytes:
        """Lose the transport; return what was written, which must be well-formed."""
        for event in self.connection.lost():
            self._handle(event)
        assert not self.links, "a link outlives its connection"
        assert not self.connection.take()
        check_output(bytes(self._written))
        return bytes(self._written)


def check_output(written: bytes) -> None:
    """Look at everything a connection wrote: headers, then frames that can be read, nothing after a close."""
    at, kind, closed = 0, frames.AMQP_TYPE, False
    while at < len(written):
        assert not closed, "something was written after the close"
        if written[at : at + 4] == b"AMQP":
            kind = frames.SASL_TYPE if written[at : at + 8] == frames.SASL_HEADER else frames.AMQP_TYPE
            at += 8
            continue
        size = int.from_bytes(written[at : at + 4], "big")
        assert written[at + 4 : at + 6] == bytes((2, kind))
        if size > 8:
            performative, _ = frames.parse(written[at + 8 : at + size])
            closed = isinstance(performative, Close)
        at += size
    assert at == len(written)
