"""Time for the bus: a clock that is asked, and one heap of alarms.

An alarm holds a function and nothing else, never a message: what waits for hours must
not keep a body alive. The owner of the loop asks `next_due` and calls `fire`.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from time import time
from typing import Final

Clock = Callable[[], float]
"""Returns seconds since the Unix epoch."""

_SWEEP_FROM: Final = 1024  # entries of no use, below which looking for them is not worth it


class Alarm:
    """A handle on something that will happen; `cancel` makes sure it does not."""

    __slots__ = ("_on_cancel", "action", "due")

    def __init__(self, due: float, action: Callable[[], None] | None, on_cancel: Callable[[], None]) -> None:
        self.due = due
        self.action = action
        self._on_cancel = on_cancel

    def cancel(self) -> None:
        """Never ring. Harmless when it has rung already."""
        if self.action is not None:
            self.action = None
            self._on_cancel()


class ManualClock:
    """A clock for tests: it stands still until it is moved."""

    def __init__(self, start: float | None = None) -> None:
        self.now = time() if start is None else start

    def __call__(self) -> float:
        """Return the time it shows."""
        return self.now


class Timers:
    """The only place where the bus waits.

    Cancelled alarms are swept out when they outweigh the living: a connection whose token
    lasts for hours must not leave its alarm behind until then.
    """

    def __init__(self, clock: Clock = time, on_change: Callable[[], None] = lambda: None) -> None:
        self.clock = clock
        self.on_change = on_change
        self._heap: list[tuple[float, int, Alarm]] = []
        self._ties = count()
        self._cancelled = 0  # of those in the heap

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, due: float, action: Callable[[], None]) -> Alarm:
        """Call `action` once, at `due` or as soon after it as `fire` is called."""
        alarm = Alarm(due, action, self._on_cancel)
        heappush(self._heap, (due, next(self._ties), alarm))
        if self._heap[0][2] is alarm:
            self.on_change()
        return alarm

    def next_due(self) -> float | None:
        """Return when the next alarm is due; None when there is none."""
        while self._heap and self._heap[0][2].action is None:
            heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def fire(self) -> None:
        """Ring everything that is due by the clock, earliest first."""
        now = self.clock()
        while (due := self.next_due()) is not None and due <= now:
            alarm = heappop(self._heap)[2]
            action, alarm.action = alarm.action, None
            if action is not None:
                action()

    def advance(self, clock: ManualClock, seconds: float) -> None:
        """Move a manual clock, stopping at every alarm on the way to let it ring."""
        end = clock.now + seconds
        while (due := self.next_due()) is not None and due <= end:
            clock.now = max(clock.now, due)
            self.fire()
        clock.now = end

    def _on_cancel(self) -> None:
        self._cancelled += 1
        if self._cancelled > max(_SWEEP_FROM, len(self._heap) // 2):
            self._heap = sorted(entry for entry in self._heap if entry[2].action is not None)
            self._cancelled = 0


class DueTimes:
    """Which of many numbered things is due first, with one alarm for all of them.

    Numbers are forgotten lazily: `alive` tells whether one still matters, so that a
    completed message costs nothing here, and dead numbers are swept out when they
    outweigh the living.
    """

    def __init__(self, timers: Timers, alive: Callable[[int], bool], on_due: Callable[[int], None]) -> None:
        self._timers = timers
        self._alive = alive
        self._on_due = on_due
        self._heap: list[tuple[float, int]] = []
        self._alarm: Alarm | None = None
        self._sweep_at = _SWEEP_FROM

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, due: float, number: int) -> None:
        """Call `on_due(number)` at `due`, if it is alive then."""
        heappush(self._heap, (due, number))
        if len(self._heap) >= self._sweep_at:
            self._heap = sorted(entry for entry in self._heap if self._alive(entry[1]))
            self._sweep_at = max(_SWEEP_FROM, 2 * len(self._heap))
        if self._alarm is None or due < self._alarm.due:
            self._arm()

    def stop(self) -> None:
        """Forget everything."""
        self._heap.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._timers.at(self._heap[0][0], self._ring) if self._heap else None

    def _ring(self) -> None:
        self._alarm = None
        now = self._timers.clock()
        while self._heap and self._heap[0][0] <= now:
            number = heappop(self._heap)[1]
            if self._alive(number):
                self._on_due(number)
        if self._alarm is None:
            self._arm()
