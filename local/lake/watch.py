"""Look, tell, remember; in that order, so that a crash repeats an event and never swallows one."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.lake import events, state
from local.lake.diff import diff
from local.lake.events import Container, Event
from local.lake.scan import Stat, look
from local.lake.state import State

_log = logging.getLogger("local.lake")
_SECOND = 1_000_000_000


@dataclass
class Watch:
    """One folder, watched. `root` and `kept_in` are absolute; `send` returns when the event is safe."""

    root: Path
    container: Container
    kept_in: Path
    send: Callable[[Event], Awaitable[None]]
    interval: float = 0.25
    clock: Callable[[], int] = time.time_ns
    ready: bool = False
    trouble: str | None = None
    sent: Counter[str] = field(default_factory=Counter)
    _state: State = field(init=False)
    _unsettled: dict[str, Stat] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._state = state.load(self.kept_in, self.container.name)

    async def run(self) -> None:
        """Watch until cancelled. A folder that cannot be read is waited for."""
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
        """Announce what changed since the last time, then remember it."""
        seen = await asyncio.to_thread(
            look,
            self.root,
            self._state.files,
            self._unsettled,
            now=self.clock(),
            interval=int(self.interval * _SECOND),
            omit=self.kept_in,
        )
        self._warn_of("its name is not UTF-8", seen.unnameable)
        self._warn_of("it cannot be read", seen.unreadable)
        self._warned.intersection_update([*seen.unnameable, *seen.unreadable])
        sequencer = self._state.sequencer
        for change in diff(self._state.files, seen.files):
            sequencer = max(sequencer + 1, self.clock())
            event = events.event(change, self.container, sequencer=sequencer, at=self.clock())
            await self.send(event)
            self.sent[event.kind] += 1
            _log.info("%s %s", event.kind, change.path)
        self._unsettled = seen.unsettled
        if seen.files != self._state.files:
            self._state = State(self.container.name, sequencer, seen.files)
            await asyncio.to_thread(state.save, self.kept_in, self._state)
        self.ready = True

    def counts(self) -> dict[str, Any]:
        """What the health page says."""
        return {
            "files": len(self._state.files),
            "unsettled": len(self._unsettled),
            "sent": dict(self.sent),
            "ignored": sorted(self._warned),
        }

    def _warn_of(self, reason: str, paths: Iterable[str]) -> None:
        for path in paths:
            if path not in self._warned:
                self._warned.add(path)
                _log.warning("ignoring %s: %s", path, reason)
