"""What the faults do to the bytes of one direction of a connection. Pure: bytes in, bytes and an end out.

open ──the byte of a fault is reached──▶ closed, reset     both ends are told
  └────bytes are swallowed─────────────▶ dead              no byte passes again
"""

import random
from collections.abc import Callable, Sequence
from enum import Enum, auto

from local.proxy.faults import BlackHole, Direction, Fault, HalfOpen, Latency, Reset, Truncate


class End(Enum):
    """How a connection ends."""

    CLOSED = auto()
    """With a FIN, perhaps in the middle of a message."""
    RESET = auto()
    """With an RST."""


class Flow:
    """One direction (`UP` or `DOWN`) of a connection, and the faults that apply to it."""

    def __init__(self, direction: Direction, swallowed: Callable[[Direction, int], None]) -> None:
        """`swallowed` is called with the direction and the number of swallowed bytes."""
        self._direction = direction
        self._swallowed = swallowed
        self._faults: tuple[Fault, ...] = ()
        self._passed = 0
        self._dead = False

    def obey(self, faults: Sequence[Fault]) -> End | None:
        """Apply `faults`, which count bytes from now on; returns an end if they end the connection at once."""
        self._faults = tuple(fault for fault in faults if fault.direction.covers(self._direction))
        self._passed = 0
        left, end = self._limit()
        return end if left == 0 else None

    def through(self, data: bytes) -> tuple[bytes, End | None]:
        """The bytes of `data` that pass, and an end if the connection ends after them."""
        if self.silent:
            self._dead = self._dead or bool(data)
            self._swallowed(self._direction, len(data))
            return b"", None
        left, end = self._limit()
        self._passed += len(data)
        return (data, None) if left is None or len(data) < left else (data[:left], end)

    @property
    def silent(self) -> bool:
        """Whether no byte passes: some were lost before, or there is a black hole now."""
        return self._dead or self._has(BlackHole)

    @property
    def hides_the_end(self) -> bool:
        """Whether the other end is not told when this one closes."""
        return self.silent or self._has(HalfOpen)

    def delay(self, chance: random.Random) -> float:
        """The delay of the next bytes, in seconds."""
        slow = [fault for fault in self._faults if isinstance(fault, Latency)]
        return sum(max(0.0, each.seconds + chance.uniform(-each.jitter, each.jitter)) for each in slow)

    def _limit(self) -> tuple[int | None, End | None]:
        """The bytes that may still pass, and the end that follows; both None without a limit."""
        limits = [
            (max(0, fault.after - self._passed), End.RESET if isinstance(fault, Reset) else End.CLOSED)
            for fault in self._faults
            if isinstance(fault, Reset | Truncate)
        ]
        return min(limits, key=lambda limit: limit[0], default=(None, None))

    def _has(self, kind: type[Fault]) -> bool:
        return any(isinstance(fault, kind) for fault in self._faults)
