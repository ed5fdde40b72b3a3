"""Serial numbers: 32 bits that wrap around (RFC 1982, as part 2 of the specification, 2.8.10, wants)."""

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def ahead(number: int, other: int) -> int:
    """Return how far `number` is ahead of `other`; 0 if it is behind."""
    distance = (number - other) & MASK
    return distance if distance < _HALF else 0


def within(number: int, first: int, last: int) -> bool:
    """Tell whether `number` is one of those from `first` to `last`."""
    return (number - first) & MASK <= (last - first) & MASK
