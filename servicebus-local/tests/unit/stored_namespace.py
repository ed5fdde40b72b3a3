"""What the tests of the durable store share: a namespace on a file, a receiver, and a kill."""

import shutil
import weakref
from itertools import count
from pathlib import Path
from typing import Any

from servicebus_local.amqp.types import encode, encode_list
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import BusError
from servicebus_local.bus.message import Message, read
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.sessions import Session
from servicebus_local.bus.sqlite_store import SqliteStore
from servicebus_local.bus.topology import Topology


def message(name: str, session_id: str | None = None, **changes: Any) -> Message:
    """Make a message as a sender writes it; what the broker reads from other sections is given by name."""
    fields = [name, *[None] * 9, session_id]
    made = read(b"\x00\x53\x73" + encode_list(fields) + b"\x00\x53\x75" + encode(b"body of " + name.encode()))
    for field, value in changes.items():
        setattr(made, field, value)
    return made


class FakeReceiver:
    """A receiver that takes what it asks for."""

    name = "receiver"
    container = "receiver"
    sends = False

    def __init__(self, *, deletes: bool = False) -> None:
        self.deletes = deletes
        self.credit = 0
        self.taken: list[tuple[Message, bytes]] = []

    @property
    def ready(self) -> bool:
        return self.credit > 0

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        self.credit -= 1
        self.taken.append((message, token or b""))

    def lost(self, error: BusError) -> None:
        raise AssertionError(error)

    def take(self, queue: Queue, credit: int = 1) -> list[tuple[Message, bytes]]:
        """Ask for messages and return those that come at once."""
        self.credit = credit
        ready_queue = queue.subscribe(self)
        queue.dispatch(ready_queue)
        self.credit = 0
        queue.unsubscribe(self)
        taken, self.taken = self.taken, []
        return taken


class StoredNamespace:
    """A namespace with a store, and what may happen to both."""

    def __init__(self, folder: Path, topology: Topology, now: float = 1000.0) -> None:
        self._files = (folder / f"{number}.sqlite3" for number in count())
        self.clock = ManualClock(now)
        self.open(next(self._files), topology)

    def open(self, path: Path, topology: Topology) -> None:
        """Begin with what a file holds."""
        self.timers = Timers(self.clock)
        self.store = SqliteStore(path, "off")
        self.close = weakref.finalize(self, self.store.close)  # Python 3.13 warns of a database that is left open
        self.namespace = Namespace(topology, self.timers, self.store)

    def __getitem__(self, path: str) -> Queue:
        return self.namespace.queue(path)

    def advance(self, seconds: float) -> None:
        """Let time pass, as the broker does."""
        self.timers.advance(self.clock, seconds)

    def kill(self, topology: Topology | None = None, seconds: float = 0.0) -> None:
        """End without a word, then begin again with what the files hold at this moment, some time later."""
        old, new = self.store.path, next(self._files)
        for ending in ("", "-wal"):
            if (part := old.with_name(old.name + ending)).exists():
                shutil.copy(part, new.with_name(new.name + ending))
        self.close()
        self.clock.now += seconds
        self.open(new, topology or Topology())

    def restart(self, topology: Topology | None = None, seconds: float = 0.0) -> None:
        """Commit, then be killed."""
        self.store.commit()
        self.kill(topology, seconds)

    def lock(self, path: str, credit: int = 1) -> list[bytes]:
        """Lock messages that are not of a session; return the tokens."""
        return [token for _, token in FakeReceiver().take(self[path], credit)]

    def hold(self, path: str, session_id: str, credit: int = 0) -> Session:
        """Hold a session and lock some of its messages."""
        receiver = FakeReceiver()
        session = self[path].accept_session(receiver, session_id)
        receiver.credit = credit
        self[path].dispatch(session)
        receiver.credit = 0
        return session
