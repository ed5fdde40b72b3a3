"""Kills its own process at one effect of one piece of work, where the driver says (`run.py`).

An effect is one round trip to a peer: a message sent, a delivery settled, a Redis script, an HTTP call. Its name says
what and to whom (`bus send retrieve.v1 to retrieve`, `redis ledger.DECIDE`, `models POST …/chat/completions`); the
names are listed nowhere. Whose work an effect belongs to is told by a mark that the driver puts into what it asks for.

    BEFORE        the process is killed, the peer heard nothing
    UNANSWERED    the peer has answered, the answer is swallowed on the way, then the process is killed
    AFTER         the peer has confirmed, the process is killed before it does anything with that

In the folder that `RAGBUS_CRASH_POINTS` names:

    armed/{mark}    the one point where that work kills its process; taken away when it does
    marks/{id}      the mark of the work whose request has this id
    seen/{mark}     a line per effect of that work, from the moment on that the driver makes the file
    died/{pid}      one for each process that a trap has killed; what it was at work on
"""

import json
import os
import re
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

FOLDER = "RAGBUS_CRASH_POINTS"
LINKS = "RAGBUS_CRASH_LINKS"
"""Control addresses of the proxies to the peers, `bus=http://… redis=http://…`."""
MARK = re.compile(r"cp-[0-9a-f]{16}")
ANY = 0
"""For `Effect.times`: whichever comes next."""
_REQUEST_ID = re.compile(r"\br[a-z2-7]{26}\b")
# Seconds after which a peer that has said nothing is taken to say nothing.
_SILENT = 4.0
_AT_WORK: ContextVar[str] = ContextVar("mark of the delivery that is being worked on", default="")


class Moment(StrEnum):
    """When in an effect its process is killed."""

    BEFORE = "before"
    UNANSWERED = "unanswered"
    AFTER = "after"


@dataclass(frozen=True, slots=True, order=True)
class Effect:
    """The `times`-th time (from 1) that the work of one mark comes to `name` in one process of `service`."""

    service: str
    name: str
    times: int = 1

    def __str__(self) -> str:
        return f"{self.service}: {self.name}" + ("" if self.times == 1 else f" (time {self.times or 'any'})")

    @property
    def peer(self) -> str:
        """Who is at the other end: `bus`, `redis`, `models`, `vectors`, `lake`."""
        return self.name.partition(" ")[0]


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """Where a process is killed."""

    effect: Effect
    moment: Moment

    def __str__(self) -> str:
        return f"{self.effect}, {self.moment}"


@dataclass(frozen=True, slots=True)
class Begun:
    """An effect under way, and whose it is."""

    mark: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Seen:
    """An effect that some work came to, in which process, and what it was about."""

    effect: Effect
    pid: int
    detail: str


class Folder:
    """What the driver and its workers tell each other, on disk: it survives a killed process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for part in ("armed", "marks", "seen", "died"):
            (path / part).mkdir(parents=True, exist_ok=True)

    def arm(self, mark: str, point: Point) -> None:
        """Have the process killed in which the work of `mark` comes to `point`."""
        (self.path / "armed" / mark).write_text(str(point))

    def is_armed(self, mark: str) -> bool:
        """Whether nothing was killed there yet."""
        return (self.path / "armed" / mark).exists()

    def disarm(self, mark: str) -> None:
        """Kill nothing there any more."""
        (self.path / "armed" / mark).unlink(missing_ok=True)

    def spring(self, mark: str, point: Point) -> bool:
        """Whether this is the point; true once, in one process."""
        armed = self.path / "armed" / mark
        with suppress(FileNotFoundError):
            if armed.read_text() in (str(point), str(replace(point, effect=replace(point.effect, times=ANY)))):
                armed.unlink()
                return True
        return False

    def name(self, request_id: str, mark: str) -> None:
        """Say whose work a request is: where its mark cannot be seen, its id can."""
        (self.path / "marks" / request_id).write_text(mark)

    def mark_of(self, said: str) -> str:
        """Whose work `said`, a message or a key, belongs to; empty: to no single piece of work."""
        if found := MARK.search(said):
            return found.group()
        for request_id in _REQUEST_ID.findall(said):
            with suppress(FileNotFoundError):
                return (self.path / "marks" / str(request_id)).read_text()
        return ""

    def watch(self, mark: str) -> None:
        """Write down and count the effects of the work of `mark` from now on."""
        (self.path / "seen" / mark).touch()

    def is_watched(self, mark: str) -> bool:
        """Whether the effects of that work are counted yet."""
        return (self.path / "seen" / mark).exists()

    def note(self, mark: str, effect: Effect, detail: str) -> None:
        """Write down that the work of `mark` has come to `effect`."""
        with (self.path / "seen" / mark).open("a") as seen:
            seen.write(f"{effect.service}\t{effect.name}\t{effect.times}\t{os.getpid()}\t{detail}\n")

    def seen(self, mark: str) -> list[Seen]:
        """The effects of the work of `mark` since it is watched, in order."""
        with suppress(FileNotFoundError):
            lines = [line.split("\t") for line in (self.path / "seen" / mark).read_text().splitlines()]
            return [
                Seen(Effect(service, name, int(times)), int(pid), detail) for service, name, times, pid, detail in lines
            ]
        return []

    def note_death(self, mark: str) -> None:
        """Write down that this process is killed at the point of `mark`."""
        (self.path / "died" / str(os.getpid())).write_text(mark)

    def died(self) -> dict[int, str]:
        """The processes that were killed by a trap, and the mark of the work that each was killed at."""
        return {int(file.name): file.read_text() for file in (self.path / "died").iterdir()}


class Trap:
    """Stands at every effect of one worker."""

    def __init__(self, folder: Folder, service: str, links: Mapping[str, str]) -> None:
        """`links`: where the proxy to a peer is told to swallow its answers."""
        self._folder = folder
        self._service = service
        self._links = links
        self._times: Counter[tuple[str, str]] = Counter()

    @classmethod
    def of(cls, service: str, environment: Mapping[str, str]) -> "Trap | None":
        """The trap of `service`; None where `environment` names no folder."""
        if FOLDER not in environment:
            return None
        links = dict(link.split("=", 1) for link in environment.get(LINKS, "").split())
        return cls(Folder(Path(environment[FOLDER])), service, links)

    def take_up(self, message: str) -> None:
        """What the task at hand, and those it starts, do from now on is work on `message`."""
        _AT_WORK.set(self._folder.mark_of(message))

    async def around(
        self, name: str, call: Callable[[], Awaitable[T]], *about: Any, detail: str = "", shared: bool = False
    ) -> T:
        """The result of `call`, which is the effect `name`; `about` tells whose work it is where no delivery does.

        `shared`: it belongs to the service, not to one piece of work.
        """
        begun = self.begin(name, *about, detail=detail, shared=shared)
        result = await call()
        self.end(begun)
        return result

    def begin(self, name: str, *about: Any, detail: str = "", shared: bool = False) -> Begun | None:
        """The process is about to do `name`; None when this work is not watched."""
        mark = "" if shared else _AT_WORK.get() or self._folder.mark_of(" ".join(map(str, about)))
        mark = mark or self._service
        if not self._folder.is_watched(mark):
            return None
        self._times[mark, name] += 1
        effect = Effect(self._service, name, self._times[mark, name])
        self._folder.note(mark, effect, detail)
        if self._folder.spring(mark, Point(effect, Moment.BEFORE)):
            self._die(mark)
        if self._folder.spring(mark, Point(effect, Moment.UNANSWERED)):
            self._swallow(mark, effect.peer)
        return Begun(mark, effect)

    def end(self, begun: Begun | None) -> None:
        """The peer has confirmed it."""
        if begun is not None and self._folder.spring(begun.mark, Point(begun.effect, Moment.AFTER)):
            self._die(begun.mark)

    def _die(self, mark: str) -> None:
        self._folder.note_death(mark)
        kill()

    def _swallow(self, mark: str, peer: str) -> None:
        """From now on nothing that `peer` says arrives, and when it has said something the process is killed."""
        control = f"{self._links[peer]}/control"
        before = _swallowed(control)
        _ask(f"{control}/faults", b'[{"fault": "black-hole", "direction": "down"}]')

        def killing() -> None:
            give_up = time.monotonic() + _SILENT
            while _swallowed(control) == before and time.monotonic() < give_up:
                time.sleep(0.01)
            self._die(mark)

        threading.Thread(target=killing, daemon=True).start()


def _swallowed(control: str) -> int:
    """Bytes from the peer that did not arrive."""
    return int(json.loads(_ask(f"{control}/connections"))["swallowed"]["down"])


def _ask(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, body, timeout=30) as reply:
        said: bytes = reply.read()
    return said


def kill() -> NoReturn:
    """End this worker as `kill -9` does, with what it has started."""
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("still alive")
