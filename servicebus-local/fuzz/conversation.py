"""Conversations as clients have them, made of frames that are right, and ways to spoil them."""

from collections.abc import Callable, Iterator
from random import Random

from fuzz.wire import varied_frame
from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Terminus
from servicebus_local.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    SaslResponse,
    Transfer,
)
from servicebus_local.amqp.types import Array, Described, Symbol, Ubyte, Uint, Ulong, Ushort

_NUMBERS = (0, 1, 2, 5, 9, 255, 256, 2**28, 2**28 + 3, 2**31 - 1, 2**31, 2**32 - 1)
_STATES = (
    None,
    Described(Ulong(0x23), [Uint(1), Ulong(2)]),
    Described(Ulong(0x24), []),
    Described(Ulong(0x25), [Described(Ulong(0x1D), [Symbol("a:b"), "text", {Symbol("k"): Uint(7)}])]),
    Described(Symbol("amqp:released:list"), []),
    Described(Ulong(0x27), [True, False, {Symbol("k"): "v"}]),
    Described(Ulong(0x34), [b"txn"]),
)


class Speaker:
    """Says what a client might say next, keeping in mind what it began and attached."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._channels: list[int] = []
        self._links: list[tuple[int, int, bool]] = []
        self._delivery = 0
        self._unfinished: dict[tuple[int, int], tuple[Uint, bytes]] = {}

    def greeting(self) -> Iterator[bytes]:
        """Come as far as an open connection."""
        random = self._random
        if random.random() < 0.5:
            yield frames.SASL_HEADER
            if random.random() < 0.3:
                yield self._frame(0, SaslInit(Symbol("PLAIN")))
                yield self._frame(0, SaslResponse(b"\0name\0key"))
            else:
                yield self._frame(0, SaslInit(Symbol(random.choice(("ANONYMOUS", "MSSBCBS", "EXTERNAL")))))
        yield frames.AMQP_HEADER
        largest, idle = random.choice((None, Uint(512), Uint(65536))), random.choice((None, Uint(0), Uint(60_000)))
        channels = random.choice((None, Ushort(2), Ushort(65535)))
        yield self._frame(0, Open("client", "host", largest, channels, idle))

    def next(self) -> bytes:
        """Say one thing more."""
        step = self._random.choice(_STEPS)
        return step(self)

    def begin(self) -> bytes:
        """Begin a session."""
        fresh = [number for number in range(5) if number not in self._channels]
        if not fresh and self._random.random() < 0.97:
            return self.attach()
        channel = self._random.choice(fresh) if fresh else self._channel()
        self._channels.append(channel)
        window = Uint(self._random.choice((0, 1, 5, 2**31 - 1, 2**32 - 1)))
        handles = self._random.choice((None, Uint(0), Uint(255)))
        return self._frame(channel, Begin(None, self._number(), window, self._number(), handles))

    def attach(self) -> bytes:
        """Attach a link."""
        random = self._random
        channel, role = self._channel(), random.random() < 0.5
        taken = {handle for at, handle, _ in self._links if at == channel}
        fresh = [number for number in range(8) if number not in taken]
        handle = random.choice(fresh) if fresh and random.random() < 0.95 else random.randrange(8)
        self._links.append((channel, handle, role))
        source = Terminus("q", {Symbol("filter"): random.choice((None, "x", Described(Ulong(2**40), "y")))})
        outcomes = random.choice((None, Symbol("amqp:accepted:list"), Array(0xA3, [Symbol("amqp:accepted:list")])))
        source = source._replace(outcomes=outcomes, default_outcome=random.choice(_STATES))
        modes = random.choice((None, Ubyte(0), Ubyte(1))), random.choice((None, Ubyte(0), Ubyte(1)))
        unsettled = random.choice((None, {}, {b"tag": None}))
        largest = random.choice((None, Ulong(0), Ulong(500), Ulong(2**64 - 1)))
        name, count = f"link {random.randrange(40)}", None if role else self._number()
        ends = source.as_source(), Terminus("me").as_target()
        return self._frame(channel, Attach(name, Uint(handle), role, *modes, *ends, unsettled, None, count, largest))

    def flow(self) -> bytes:
        """Give credit, windows, or both."""
        random = self._random
        chosen = self._link(receives=random.random() < 0.8)
        if chosen is None:
            return self.attach()
        channel, handle = chosen
        session = (self._number(), Uint(random.choice((0, 3, 2**32 - 1))), self._number(), self._number())
        if random.random() < 0.3:
            return self._frame(channel, Flow(*session, echo=True))
        link = (Uint(handle), self._number(), Uint(random.choice((0, 1, 20, 2**32 - 1))))
        return self._frame(channel, Flow(*session, *link, None, random.random() < 0.3, random.random() < 0.3))

    def transfer(self) -> bytes:
        """Send a message, or a part of one."""
        random = self._random
        link = self._link(receives=random.random() < 0.01)
        if link is None:
            return self.attach()
        more, aborted = random.random() < 0.4, random.random() < 0.1
        number, tag = self._unfinished.pop(link) if link in self._unfinished else self._new_delivery()
        if more:
            self._unfinished[link] = number, tag
        settled, state = random.choice((None, True, False)), random.choice(_STATES)
        resume, (channel, handle) = random.choice((None, None, True)), link
        said = Transfer(Uint(handle), number, tag, Uint(0), settled, more, None, state, resume, aborted)
        return self._frame(channel, said, b"x" * random.choice((0, 1, 500, 1500)))

    def _new_delivery(self) -> tuple[Uint, bytes]:
        self._delivery += self._random.random() < 0.9
        return Uint(self._delivery), b"t" * self._random.choice((1, 1, 1, 1, 32, 32, 33, 0))

    def disposition(self) -> bytes:
        """Say what became of deliveries."""
        random = self._random
        last = random.choice((None, self._number()))
        settled = random.choice((None, True, False))
        said = Disposition(random.random() < 0.8, self._number(), last, settled, random.choice(_STATES))
        return self._frame(self._channel(), said)

    def detach(self) -> bytes:
        """Detach a link."""
        channel, handle = self._link(receives=self._random.random() < 0.5) or (0, 0)
        self._links = [link for link in self._links if link[:2] != (channel, handle)]
        return self._frame(channel, Detach(Uint(handle), self._random.random() < 0.7))

    def end(self) -> bytes:
        """End a session."""
        channel = self._channel()
        self._channels = [number for number in self._channels if number != channel]
        self._links = [link for link in self._links if link[0] != channel]
        return self._frame(channel, End())

    def heartbeat(self) -> bytes:
        """Say nothing."""
        return frames.EMPTY_FRAME

    def farewell(self) -> bytes:
        """Close."""
        return self._frame(0, Close())

    def _channel(self) -> int:
        return self._random.choice(self._channels or [0])

    def _link(self, *, receives: bool) -> tuple[int, int] | None:
        links = [(channel, handle) for channel, handle, role in self._links if role is receives]
        return self._random.choice(links) if links else None

    def _number(self) -> Uint:
        return Uint(self._random.choice(_NUMBERS))

    def _frame(self, channel: int, performative: Performative, payload: bytes = b"") -> bytes:
        return varied_frame(self._random, channel, performative, payload)


_STEPS: tuple[Callable[[Speaker], bytes], ...] = (
    *[Speaker.begin] * 3,
    *[Speaker.attach] * 6,
    *[Speaker.flow] * 6,
    *[Speaker.transfer] * 8,
    *[Speaker.disposition] * 4,
    *[Speaker.detach] * 2,
    Speaker.end,
    Speaker.heartbeat,
)


def conversation(random: Random, steps: int) -> list[bytes]:
    """Say everything a client might say, more or less in order."""
    speaker = Speaker(random)
    said = [*speaker.greeting(), speaker.begin(), speaker.attach()]
    said += [speaker.next() for _ in range(steps)]
    return [*said, speaker.farewell()] if random.random() < 0.5 else said


def spoiled(random: Random, said: list[bytes]) -> bytes:
    """Damage a conversation: bits, bytes, whole frames; or leave it as it is."""
    said = list(said)
    for _ in range(random.randrange(4)):
        random.choice(_DAMAGES)(random, said)
    return b"".join(said)


def _drop(random: Random, said: list[bytes]) -> None:
    if said:
        del said[random.randrange(len(said))]


def _repeat(random: Random, said: list[bytes]) -> None:
    if said:
        said.insert(random.randrange(len(said)), random.choice(said))


def _swap(random: Random, said: list[bytes]) -> None:
    if said:
        one, other = random.randrange(len(said)), random.randrange(len(said))
        said[one], said[other] = said[other], said[one]


def _cut(random: Random, said: list[bytes]) -> None:
    if said:
        at = random.randrange(len(said))
        said[at] = said[at][: random.randrange(len(said[at]) + 1)]


def _scratch(random: Random, said: list[bytes]) -> None:
    """Change a byte after the frame's header, so that the stream goes on."""
    at = random.randrange(len(said)) if said else 0
    if said and len(said[at]) > 8:
        damaged = bytearray(said[at])
        damaged[random.randrange(8, len(damaged))] = random.randrange(256)
        said[at] = bytes(damaged)


def _garbage(random: Random, said: list[bytes]) -> None:
    said.insert(random.randrange(len(said) + 1), random.randbytes(random.randrange(1, 40)))


_DAMAGES: tuple[Callable[[Random, list[bytes]], None], ...] = (
    _drop,
    _repeat,
    _swap,
    _cut,
    _scratch,
    _scratch,
    _garbage,
)


def chunks(random: Random, data: bytes) -> Iterator[bytes]:
    """Cut a stream anywhere."""
    at = 0
    while at < len(data):
        size = random.choice((1, 3, 8, 100, 1000, len(data)))
        yield data[at : at + size]
        at += size
