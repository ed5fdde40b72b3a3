"""Scan, send, save the checkpoint; in that order, so that a crash repeats an event and never loses one."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.lake import checkpoint, events
from local.lake.checkpoint import Checkpoint
from local.lake.diff import diff
from local.lake.events import Container, Event
from local.lake.scan import Stat, scan

_log = logging.getLogger("local.lake")
_SECOND = 1_000_000_000


@dataclass
class Watch:
    """One folder, watched. `root` and `kept_in` (the checkpoint's file) are absolute; `interval` is in seconds.

    `send` returns when the queue has the event. `clock`: nanoseconds since 1970. `ready`: everything was announced
    once. `trouble`: why the folder cannot be read now.
    """

    root: Path
    container: Container
    kept_in: Path
    send: Callable[[Event], Awaitable[None]]
    interval: float = 0.25
    clock: Callable[[], int] = time.time_ns
    ready: bool = False
    trouble: str | None = None
    sent: Counter[str] = field(default_factory=Counter)
    _announced: Checkpoint = field(init=False)
    _unfinished: dict[str, Stat] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._announced = checkpoint.load(self.kept_in, self.container.name)

    async def run(self) -> None:
        """Watch until cancelled; wait while the folder cannot be read."""
        while True:
            try:
                await self.once()
                self.trouble = None
            except OSError as error:
                if self.trouble is None:
                    _log.warning("trouble with %s, trying again until it is gone (%s)", self.root, error)
                self.trouble = str(error)
            await asyncio.sleep(self.interval)

    async def once(self) -> None:
        """Send the events since the checkpoint, then move it. Raises `OSError`."""
        seen = await asyncio.to_thread(
            scan,
            self.root,
            self._announced.files,
            self._unfinished,
            now=self.clock(),
            interval=int(self.interval * _SECOND),
            omit=self.kept_in,
        )
        self._warn_of("its name is not UTF-8", seen.unnameable)
        self._warn_of("it cannot be read", seen.unreadable)
        self._warned.intersection_update([*seen.unnameable, *seen.unreadable])
        sequencer = self._announced.sequencer
        for change in diff(self._announced.files, seen.files):
            sequencer = max(sequencer + 1, self.clock())
            event = events.event(change, self.container, sequencer=sequencer, at=self.clock())
            await self.send(event)
            self.sent[event.kind] += 1
            _log.info("%s %s", event.kind, change.path)
        self._unfinished = seen.unfinished
        if seen.files != self._announced.files:
            self._announced = Checkpoint(self.container.name, sequencer, seen.files)
            await asyncio.to_thread(checkpoint.save, self.kept_in, self._announced)
        self.ready = True

    def counts(self) -> dict[str, Any]:
        """The counts on the health page."""
        return {
            "files": len(self._announced.files),
            "unfinished": len(self._unfinished),
            "sent": dict(self.sent),
            "ignored": sorted(self._warned),
        }

    def _warn_of(self, reason: str, paths: Iterable[str]) -> None:
        for path in paths:
            if path not in self._warned:
                self._warned.add(path)
                _log.warning("ignoring %s: %s", path, reason)
