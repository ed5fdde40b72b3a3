"""The other end of a connection, written by hand: it says performatives and hears what comes back."""

from typing import Any, TypeVar

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Error, Terminus, read_error
from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.events import Event, LinkAsked
from servicebus_local.amqp.frames import Frame, FrameReader
from servicebus_local.amqp.limits import DEFAULT_LIMITS, Limits
from servicebus_local.amqp.link import IncomingLink, OutgoingLink
from servicebus_local.amqp.performatives import Attach, Begin, Close, Detach, End, Flow, Open, Performative, Transfer
from servicebus_local.amqp.types import Described, Uint, Ulong

P = TypeVar("P", bound=Performative)

SENDING, RECEIVING = 1, 2  # the peer's handles
ACCEPTED = Described(Ulong(0x24), [])


def encoded(channel: int, performative: Performative, payload: bytes = b"") -> bytes:
    """Write a frame as a peer would."""
    data = frames.frame(channel, performative) + payload
    return len(data).to_bytes(4, "big") + data[4:]


class Peer:
    """A peer with a session on channel 1, unless it is told otherwise."""

    def __init__(
        self,
        *,
        max_frame_size: int = 65536,
        window: int = 1000,
        limits: Limits = DEFAULT_LIMITS,
        begin: bool = True,
        **options: Any,
    ) -> None:
        self.connection = Connection(limits=limits)
        self._reader = FrameReader(1 << 24)
        self.send(frames.AMQP_HEADER)
        self.say(0, Open(container_id="peer", max_frame_size=Uint(max_frame_size), **options))
        if begin:
            self.begin(1, window)
        self.hear()

    def begin(self, channel: int, window: int = 1000, **options: Any) -> list[Event]:
        """Begin a session."""
        return self.say(channel, Begin(None, Uint(0), Uint(window), Uint(1000), **options))

    # ------------------------------------------------------------------ saying

    def send(self, data: bytes) -> list[Event]:
        """Send bytes; return the events they make."""
        return list(self.connection.receive(data))

    def say(self, channel: int, performative: Performative, payload: bytes = b"") -> list[Event]:
        """Send a frame; return the events it makes."""
        return self.send(encoded(channel, performative, payload))

    def ask(self, attach: Attach, channel: int = 1) -> IncomingLink | OutgoingLink:
        """Attach a link; return it without an answer."""
        *_, asked = self.say(channel, attach)
        assert isinstance(asked, LinkAsked)
        return asked.link

    def attach_sender(self, name: str = "s", handle: int = SENDING, channel: int = 1, **fields: Any) -> IncomingLink:
        """Attach a link the peer sends on, and let it be accepted."""
        ends = {"source": Terminus("me").as_source(), "target": Terminus("q").as_target()} | fields
        link = self.ask(Attach(name, Uint(handle), False, **ends), channel)
        assert isinstance(link, IncomingLink)
        link.accept()
        return link

    def attach_receiver(
        self, name: str = "r", handle: int = RECEIVING, channel: int = 1, credit: int = 0, **fields: Any
    ) -> OutgoingLink:
        """Attach a link the peer receives on, and let it be accepted."""
        ends = {"source": Terminus("q").as_source(), "target": Terminus("me").as_target()} | fields
        link = self.ask(Attach(name, Uint(handle), True, **ends), channel)
        assert isinstance(link, OutgoingLink)
        link.accept()
        if credit:
            self.give(credit, handle=handle)
        return link

    def give(
        self, credit: int, seen: int = 0, *, handle: int = RECEIVING, window: int = 1000, got: int = 0, **flags: Any
    ) -> list[Event]:
        """Give credit to the broker."""
        session = (Uint(got), Uint(window), Uint(0), Uint(9))
        return self.say(1, Flow(*session, Uint(handle), Uint(seen), Uint(credit), **flags))

    def transfer(self, number: int, payload: bytes, handle: int = SENDING, **fields: Any) -> list[Event]:
        """Send a message, or a part of one."""
        usual: dict[str, Any] = {"delivery_tag": b"t", "message_format": Uint(0)} | fields
        return self.say(1, Transfer(Uint(handle), Uint(number), **usual), payload)

    # ------------------------------------------------------------------ hearing

    def hear(self) -> list[tuple[Performative, bytes]]:
        """Read the frames the broker has written since."""
        units = self._reader.feed(self.connection.take())
        return [frames.parse(unit.body) for unit in units if isinstance(unit, Frame) and unit.body]

    def heard(self, kind: type[P]) -> list[P]:
        """Read the frames the broker has written since; return those of a kind."""
        return [performative for performative, _ in self.hear() if isinstance(performative, kind)]

    def last_error(self) -> tuple[type, str]:
        """Return what ended last, and the condition."""
        said = [frame for frame, _ in self.hear() if isinstance(frame, Detach | End | Close)]
        error = read_error(said[-1].error)
        assert isinstance(error, Error)
        return type(said[-1]), error.condition
