"""What is delayed: on each link and in each direction, what comes later waits behind it."""

from collections.abc import Callable
from typing import Literal

from servicebus_local.bus.clock import Alarm, Timers
from servicebus_local.nodes.fault_injection import Link

Direction = Literal["in", "out"]


class _Line:
    def __init__(self) -> None:
        self.due = 0.0
        self.alarms: dict[Alarm, None] = {}


class Delays:
    """What was delayed and has not happened yet."""

    def __init__(self, timers: Timers, on_empty: Callable[[], None]) -> None:
        self._timers = timers
        self._on_empty = on_empty
        self._lines: dict[tuple[Link, Direction], _Line] = {}

    def __len__(self) -> int:
        return sum(len(line.alarms) for line in self._lines.values())

    def waiting(self, link: Link, direction: Direction) -> int:
        """Return how many things wait on a link."""
        line = self._lines.get((link, direction))
        return 0 if line is None else len(line.alarms)

    def put(
        self, link: Link, direction: Direction, seconds: float, action: Callable[[], None], *, in_order: bool = True
    ) -> None:
        """Do something later, unless the link is gone by then; in order, after all that waits there already."""
        line = self._lines.setdefault((link, direction), _Line())
        due = self._timers.clock() + seconds
        if in_order:
            due = line.due = max(due, line.due)

        def ring() -> None:
            del line.alarms[alarm]
            if not line.alarms:
                del self._lines[link, direction]
            action()
            if not self._lines:
                self._on_empty()

        alarm = self._timers.at(due, ring)
        line.alarms[alarm] = None

    def forget(self, link: Link) -> None:
        """Drop what waits on a link that is gone."""
        for direction in ("in", "out"):
            line = self._lines.pop((link, direction), None)
            for alarm in line.alarms if line is not None else ():
                alarm.cancel()
        if not self._lines:
            self._on_empty()
