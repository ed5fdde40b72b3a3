"""What becomes of the bytes of one direction of one connection. Pure: bytes in, bytes and an end out.

open ──the byte of a fault is reached──▶ closed, reset     both ends hear of it
  └────bytes are swallowed─────────────▶ dead              neither end receives anything
"""

import random
from collections.abc import Callable, Sequence
from enum import Enum, auto

from local.proxy.faults import BlackHole, Direction, Fault, HalfOpen, Latency, Reset, Truncate


class End(Enum):
    """How a connection ends."""

    CLOSED = auto()
    """In good order (FIN), perhaps in the middle of what was being sent."""
    RESET = auto()
    """With an RST."""


class Flow:
    """One direction (`UP` or `DOWN`) of a connection, and the faults that concern it."""

    def __init__(self, direction: Direction, swallowed: Callable[[Direction, int], None]) -> None:
        """`swallowed` is called with the direction and how many bytes were swallowed."""
        self._direction = direction
        self._swallowed = swallowed
        self._faults: tuple[Fault, ...] = ()
        self._passed = 0
        self._dead = False

    def obey(self, faults: Sequence[Fault]) -> End | None:
        """Have `faults` from now on, whose bytes are counted from here; returns how the connection ends at once."""
        self._faults = tuple(fault for fault in faults if fault.direction.covers(self._direction))
        self._passed = 0
        left, end = self._limit()
        return end if left == 0 else None

    def through(self, data: bytes) -> tuple[bytes, End | None]:
        """What of `data` comes through, and how the connection ends after that, if it does."""
        if self.silent:
            self._dead = self._dead or bool(data)
            self._swallowed(self._direction, len(data))
            return b"", None
        left, end = self._limit()
        self._passed += len(data)
        return (data, None) if left is None or len(data) < left else (data[:left], end)

    @property
    def silent(self) -> bool:
        """Whether nothing comes through: a gap before, or a black hole now."""
        return self._dead or self._has(BlackHole)

    @property
    def hides_the_end(self) -> bool:
        """Whether the other end is not told when this one leaves."""
        return self.silent or self._has(HalfOpen)

    def delay(self, chance: random.Random) -> float:
        """How many seconds later the next bytes arrive."""
        slow = [fault for fault in self._faults if isinstance(fault, Latency)]
        return sum(max(0.0, each.seconds + chance.uniform(-each.jitter, each.jitter)) for each in slow)

    def _limit(self) -> tuple[int | None, End | None]:
        """How many bytes may still pass, and what happens then."""
        limits = [
            (max(0, fault.after - self._passed), End.RESET if isinstance(fault, Reset) else End.CLOSED)
            for fault in self._faults
            if isinstance(fault, Reset | Truncate)
        ]
        return min(limits, key=lambda limit: limit[0], default=(None, None))

    def _has(self, kind: type[Fault]) -> bool:
        return any(isinstance(fault, kind) for fault in self._faults)
