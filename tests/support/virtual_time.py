"""A clock that runs as fast as the code does: hours of waiting, in no time, for work without sockets."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

from tests.support.builders import NOW

T = TypeVar("T")


class Hourglass(selectors.DefaultSelector):
    """Where a loop would wait for a socket, lets the time pass instead; none passes while a socket is ready."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            self.passed += timeout or 0.0
        return ready


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop whose time is the hourglass's."""

    def __init__(self) -> None:
        self.hourglass = Hourglass()
        super().__init__(self.hourglass)

    def time(self) -> float:
        return self.hourglass.passed


def in_no_time(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, whose waits are skipped."""
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(work)


def virtual_clock() -> datetime:
    """`NOW` when the loop began, and later as it goes on."""
    return NOW + timedelta(seconds=asyncio.get_running_loop().time())
