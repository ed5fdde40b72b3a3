"""Keeps entities and messages in one SQLite file: a store that survives the process.

    what happens ──▶ collected in `Changes` ──commit──▶ one transaction ──▶ the file

What cancels out between two commits is never written: a message that came and left, a lock that
was taken and given back. Rows are written as the messages are at the commit, which is never in
the middle of an operation, so what moves between entities moves in one transaction.

Two things are put off because they are cheaper for many messages at once. The row of a message
that left stays until there are some hundred of its kind; until then its key in the table `gone`
says that it left. And a sequence number is noted only when no row has it any more.
"""

import sqlite3
from collections.abc import Hashable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

from servicebus_local.bus import definitions
from servicebus_local.bus.message import Message
from servicebus_local.bus.queue import DEAD_LETTER_QUEUE, TRANSFER_DEAD_LETTER_QUEUE
from servicebus_local.bus.sqlite_changes import ENTITY, PART, SWEEP, Changes, Work
from servicebus_local.bus.sqlite_file import Synchronous, damaged, explain, file_at, open_file
from servicebus_local.bus.sqlite_rows import message_of, packed, unpacked
from servicebus_local.bus.store import Entity, Restored, SessionState, StoreError
from servicebus_local.bus.topics import SUBSCRIPTIONS

_PARTS: Final = ("", f"/{DEAD_LETTER_QUEUE}", f"/{TRANSFER_DEAD_LETTER_QUEUE}")
_TOO_MANY: Final = 256  # rows of messages that left: now they are deleted

_SELECT: Final = "SELECT * FROM message WHERE key >= ? AND key < ? ORDER BY key"
_COUNT: Final = "REPLACE INTO counter VALUES (?, ?)"
_DELETE_GONE: Final = (
    "DELETE FROM message WHERE key IN (SELECT key FROM gone)",
    "DELETE FROM locked WHERE key IN (SELECT key FROM gone)",
    "DELETE FROM gone",
)


def open_store(place: Path, synchronous: Synchronous = "normal") -> "SqliteStore":
    """Open the store in a directory, or in the file that is meant by the name; raises `StoreError`."""
    return SqliteStore(file_at(place), synchronous)


class SqliteStore:
    """Keeps everything in a file, which no other process can open meanwhile.

    `synchronous` says when the system is made to write what it was given: "full" at every commit,
    "normal" from time to time, "off" never. A process that is killed loses nothing in any case,
    a machine that loses power loses nothing with "full", the last commits with "normal", and
    perhaps the whole file with "off". Raises `StoreError` when the file cannot be used.
    """

    def __init__(self, path: Path, synchronous: Synchronous = "normal") -> None:
        self.pending = False
        self.path = path
        self._connection = open_file(path, synchronous)
        self._cursor = self._connection.cursor()
        self._failure: StoreError | None = None
        self._changes = Changes()
        self._ids: dict[str, int] = {}
        self._bases: dict[str, int] = {}  # the key before the first, by path
        self._highest: dict[int, int] = {}  # numbers, by entity
        self._uncounted: set[int] = set()  # entities whose highest number is that of a row
        self._ids_since_sweep: dict[int, int] = {}
        try:
            self._gone = {key for [key] in self._rows("SELECT key FROM gone")}
            self._locked = {key for [key] in self._rows("SELECT key FROM locked")} - self._gone
            self._entities = self._load_entities()
            self._uncounted.update(self._highest)
        except StoreError:
            self._connection.close()
            raise
        self._new_ids = count(max(self._ids.values(), default=0) + 1)
        self._free_ids: list[int] = []

    # ------------------------------------------------------------------ at the start

    def entities(self) -> Iterable[Entity]:
        """Return what was saved, as it was when the file was opened; a topic comes before its subscriptions."""
        return sorted(self._entities, key=lambda entity: f"/{SUBSCRIPTIONS}/" in entity.path)

    def _load_entities(self) -> list[Entity]:
        found = []
        statement = "SELECT id, path, definition, created_at, updated_at FROM entity ORDER BY id"
        for number, path, definition, created_at, updated_at in self._rows(statement):
            try:
                options, rules = definitions.read(definition)
            except (ValueError, KeyError, TypeError) as error:
                raise damaged(self.path, f"the definition of {path} cannot be read: {error!r}") from error
            self._number_entity(path, number)
            self._highest[number] = self._load_highest(number)
            found.append(Entity(path, options, rules, created_at, updated_at))
        return found

    def _number_entity(self, path: str, number: int) -> None:
        self._ids[path] = number
        for part, ending in enumerate(_PARTS):
            self._bases[path + ending] = number * ENTITY + part * PART

    def messages(self, path: str) -> Iterator[Restored]:
        """Return the messages of an entity in sequence order."""
        base = self._bases[path]
        for row in self._rows(_SELECT, base, base + PART):
            if row[0] not in self._gone:
                yield Restored(message_of(base, row), row[0] in self._locked)

    def session_states(self, path: str) -> Iterable[SessionState]:
        """Return what sessions remember; nothing for a dead-letter queue, which has none."""
        if path not in self._ids:
            return ()
        statement = "SELECT id, state, changed_at FROM session WHERE entity = ?"
        return [SessionState(*row) for row in self._rows(statement, self._ids[path])]

    def remembered(self, path: str) -> Iterable[tuple[Hashable, int, float]]:
        """Return message ids for duplicate detection, those that may be forgotten too."""
        base = self._bases[path]
        statement = "SELECT key, message_id, since FROM remembered WHERE key >= ? AND key < ? ORDER BY since, key"
        for key, message_id, since in self._rows(statement, base, base + PART):
            yield unpacked(message_id), key - base, since

    def last_sequence(self, path: str) -> int:
        """Return the highest sequence number an entity ever gave out; 0 for a new one."""
        return self._highest.get(self._ids.get(path, 0), 0)

    def _load_highest(self, entity: int) -> int:
        known = [sequence for [sequence] in self._rows("SELECT sequence FROM counter WHERE entity = ?", entity)]
        for base in range(entity * ENTITY, (entity + 1) * ENTITY, PART):
            rows = self._rows("SELECT max(key) FROM message WHERE key >= ? AND key < ?", base, base + PART)
            known += [key - base for [key] in rows if key is not None]
        return max(known, default=0)

    def _rows(self, statement: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(statement, parameters)
        except sqlite3.Error as error:
            raise explain(self.path, error) from error

    # ------------------------------------------------------------------ entities

    def save(self, entity: Entity) -> None:
        """Keep the definition of an entity, new or changed."""
        definition = definitions.write(entity.options, entity.rules)
        if entity.path not in self._ids:
            self._number_entity(entity.path, self._free_ids.pop() if self._free_ids else next(self._new_ids))
        number = self._ids[entity.path]
        self._changes.saved[number] = (number, entity.path, definition, entity.created_at, entity.updated_at)
        self.pending = True

    def delete(self, path: str) -> None:
        """Forget an entity, its dead letters, and the subscriptions of a topic."""
        below = f"{path}/{SUBSCRIPTIONS}/"
        for doomed in [known for known in self._ids if known == path or known.startswith(below)]:
            number = self._ids.pop(doomed)
            for ending in _PARTS:
                del self._bases[doomed + ending]
            self._ids_since_sweep.pop(number, None)
            self._highest.pop(number, None)
            self._uncounted.discard(number)
            self._locked = {key for key in self._locked if key // ENTITY != number}
            self._gone = {key for key in self._gone if key // ENTITY != number}
            self._changes.forget(number)
            self._changes.deleted.append(number)
            self._free_ids.append(number)  # what is deleted is deleted before anything else is written
        self.pending = True

    def number(self, path: str, sequence: int) -> None:
        """Note the highest sequence number an entity gave out."""
        entity = self._bases[path] // ENTITY
        self._highest[entity] = self._changes.numbers[entity] = sequence
        self.pending = True

    # ------------------------------------------------------------------ messages

    def add(self, path: str, message: Message) -> None:
        """Keep a message that was not here."""
        key, changes = self._bases[path] + message.sequence, self._changes
        if key in changes.removed:
            del changes.removed[key]
            changes.changed[key] = message
        elif key in self._gone:
            self._gone.discard(key)
            changes.back[key] = None
            changes.changed[key] = message
        else:
            changes.added[key] = message
        self.pending = True

    def change(self, path: str, message: Message) -> None:
        """Keep a message as it is now; it is not locked any more."""
        key, changes = self._bases[path] + message.sequence, self._changes
        self._set_locked(key, False)
        if key not in changes.added:
            changes.changed[key] = message
        self.pending = True

    def lock(self, path: str, sequence: int) -> None:
        """Note that a receiver has a message."""
        self._set_locked(self._bases[path] + sequence, True)

    def unlock(self, path: str, sequence: int) -> None:
        """Note that a message came back as it was; nothing changes for one that was not locked."""
        self._set_locked(self._bases[path] + sequence, False)

    def _set_locked(self, key: int, locked: bool) -> None:
        if (key in self._locked) is not locked:
            self._locked ^= {key}
            self._changes.locks ^= {key}
            self.pending = True

    def remove(self, path: str, sequence: int) -> None:
        """Forget a message."""
        key, changes = self._bases[path] + sequence, self._changes
        self._set_locked(key, False)
        changes.changed.pop(key, None)
        if changes.added.pop(key, None) is None:
            changes.removed[key] = None
        self.pending = True

    # ------------------------------------------------------------------ sessions and duplicates

    def put_session_state(self, path: str, session_id: str, state: bytes | None, now: float) -> None:
        """Keep, or with None forget, what a session remembers from now on."""
        self._changes.sessions[self._ids[path], session_id] = None if state is None else (state, now)
        self.pending = True

    def remember(self, path: str, message_id: Hashable, sequence: int, now: float, until: float) -> None:
        """Keep a message id; every now and then, forget those of the entity whose time is over."""
        entity = self._ids[path]
        self._changes.remembered[entity * ENTITY + sequence] = (packed(message_id), now, until)
        seen = self._ids_since_sweep.get(entity, 0) + 1
        if seen >= SWEEP:
            self._changes.swept[entity] = now
        self._ids_since_sweep[entity] = seen % SWEEP
        self.pending = True

    # ------------------------------------------------------------------ the file

    def commit(self) -> None:
        """Write everything since the last commit in one transaction.

        When that fails, nothing of it is in the file, and every commit after it fails too.
        """
        if self._failure is not None:
            raise self._failure
        if not self.pending:
            return
        try:
            self._write(self._work(self._changes))
        except sqlite3.Error as error:
            self._failure = explain(self.path, error)
            raise self._failure from error
        self._changes = Changes()
        self.pending = False

    def close(self) -> None:
        """Let go of the file; what was not committed is forgotten."""
        self._cursor.close()
        self._connection.close()

    def _write(self, work: Work) -> None:
        """Run the statements in one transaction; raises `sqlite3.Error`."""
        execute, executemany = self._cursor.execute, self._cursor.executemany
        if len(work) == 1 and len(work[0][1]) == 1:
            execute(work[0][0], work[0][1][0])  # one statement for one row is a transaction of its own
            return
        if not work:
            return  # everything cancelled out
        execute("BEGIN")
        for statement, rows in work:
            if len(rows) == 1:
                execute(statement, rows[0])
            else:
                executemany(statement, rows)
        execute("COMMIT")

    def _work(self, changes: Changes) -> Work:
        """Return the statements for what changed, for the numbers that no row has, and for rows that may go now."""
        work = changes.work(self._locked)
        noted = []
        for entity, sequence in changes.numbers.items():
            if entity * ENTITY + sequence in changes.added:
                self._uncounted.add(entity)
            else:
                self._uncounted.discard(entity)
                noted.append((entity, sequence))
        if noted:
            work.append((_COUNT, noted))
        self._gone.update(changes.removed)
        if len(self._gone) >= _TOO_MANY:
            # The rows of messages that left are deleted; the numbers that only they may have had are noted.
            work.append((_COUNT, [(entity, self._highest[entity]) for entity in self._uncounted]))
            work += [(statement, [()]) for statement in _DELETE_GONE]
            self._uncounted.clear()
            self._gone.clear()
        return work
