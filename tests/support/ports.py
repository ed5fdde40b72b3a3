"""The ports that tests hand to the code under test.

`make mutation` puts the wrappers of the crash points around them (`tests/mutation/effects.py`), in which an effect is
lost, done twice or too late. Otherwise they are what they are.
"""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Wiring:
    """What is put around each port."""

    around: Callable[[Any], Any] = staticmethod(lambda port: port)


def wired(port: T) -> T:
    """`port` (a bus, a delivery, a Redis, a clock) as the code under test gets it."""
    found: T = Wiring.around(port)
    return found
