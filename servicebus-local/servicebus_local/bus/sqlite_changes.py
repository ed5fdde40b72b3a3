"""What happened to a store since the last commit, and the statements that write it.

Keys are those of `sqlite_file`. What is deleted is deleted before anything else is written, so the
number of an entity can be used again in the same transaction.
"""

from collections.abc import Sequence
from typing import Any, Final

from servicebus_local.bus.message import Message
from servicebus_local.bus.sqlite_file import PART_BITS, SEQUENCE_BITS
from servicebus_local.bus.sqlite_rows import row_of

PART: Final = 1 << SEQUENCE_BITS
ENTITY: Final = PART << PART_BITS
SWEEP: Final = 256  # after this many message ids of an entity, the expired ones are deleted

_SAVE: Final = "REPLACE INTO entity VALUES (?, ?, ?, ?, ?)"
_ADD: Final = "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHANGE: Final = _ADD.replace("INSERT", "REPLACE")
_LOCK: Final = "INSERT INTO locked VALUES (?)"
_UNLOCK: Final = "DELETE FROM locked WHERE key = ?"
_LEAVE: Final = "INSERT INTO gone VALUES (?)"
_COME_BACK: Final = "DELETE FROM gone WHERE key = ?"
_STATE: Final = "REPLACE INTO session VALUES (?, ?, ?, ?)"
_NO_STATE: Final = "DELETE FROM session WHERE entity = ? AND id = ?"
_REMEMBER: Final = "REPLACE INTO remembered VALUES (?, ?, ?, ?)"
# The oldest are looked at, twice as many as came in, so that it catches up with a window that got shorter.
_FORGET: Final = """
DELETE FROM remembered WHERE until <= ? AND key IN
    (SELECT key FROM remembered WHERE key >= ? AND key < ? ORDER BY key LIMIT ?)
"""
_DELETE: Final = (
    "DELETE FROM entity WHERE id = ?",
    "DELETE FROM counter WHERE entity = ?",
    "DELETE FROM session WHERE entity = ?",
)
_DELETE_BETWEEN: Final = (
    "DELETE FROM message WHERE key >= ? AND key < ?",
    "DELETE FROM locked WHERE key >= ? AND key < ?",
    "DELETE FROM gone WHERE key >= ? AND key < ?",
    "DELETE FROM remembered WHERE key >= ? AND key < ?",
)

Work = list[tuple[str, Sequence[tuple[Any, ...]]]]
"""Statements, each with the rows it is for."""


class Changes:
    """What happened since the last commit, by key."""

    def __init__(self) -> None:
        self.deleted: list[int] = []
        self.saved: dict[int, tuple[Any, ...]] = {}
        self.numbers: dict[int, int] = {}
        self.back: dict[int, None] = {}
        self.removed: dict[int, None] = {}
        self.added: dict[int, Message] = {}
        self.changed: dict[int, Message] = {}
        self.locks: set[int] = set()  # locked now and not before, or the other way round
        self.sessions: dict[tuple[int, str], tuple[bytes, float] | None] = {}
        self.remembered: dict[int, tuple[Any, float, float]] = {}
        self.swept: dict[int, float] = {}

    def forget(self, entity: int) -> None:
        """Drop what happened to an entity that is deleted."""
        by_key: list[dict[int, Any]] = [self.back, self.removed, self.added, self.changed, self.remembered]
        for rows in by_key:
            for key in [key for key in rows if key // ENTITY == entity]:
                del rows[key]
        by_entity: tuple[dict[int, Any], ...] = (self.saved, self.numbers, self.swept)
        for notes in by_entity:
            notes.pop(entity, None)
        self.locks = {key for key in self.locks if key // ENTITY != entity}
        self.sessions = {session: kept for session, kept in self.sessions.items() if session[0] != entity}

    # ------------------------------------------------------------------ what is written

    def work(self, locked: set[int]) -> Work:
        """Return the statements for everything but the sequence numbers; `locked`: the keys that are locked now."""
        work: Work = []
        if self.deleted or self.saved:
            work += self._work_on_entities()
        if self.back:
            back = [(key,) for key in self.back]
            work += [(_COME_BACK, back), (_UNLOCK, back)]
        if self.removed:
            work.append((_LEAVE, [(key,) for key in self.removed]))
        if self.added:
            work.append((_ADD, [row_of(key, message) for key, message in self.added.items()]))
        if self.changed:
            work.append((_CHANGE, [row_of(key, message) for key, message in self.changed.items()]))
        if self.locks:
            work += self._work_on_locks(locked)
        if self.sessions or self.remembered:
            work += self._work_on_memories()
        return work

    def _work_on_entities(self) -> Work:
        work: Work = []
        for number in self.deleted:
            span = (number * ENTITY, (number + 1) * ENTITY)
            work += [(statement, [(number,)]) for statement in _DELETE]
            work += [(statement, [span]) for statement in _DELETE_BETWEEN]
        return [*work, (_SAVE, list(self.saved.values()))]

    def _work_on_locks(self, locked: set[int]) -> Work:
        """Note locks; those of messages that left go with their rows."""
        taken = [(key,) for key in self.locks if key in locked]
        ended = [(key,) for key in self.locks if key not in locked and key not in self.removed]
        return [(statement, rows) for statement, rows in ((_LOCK, taken), (_UNLOCK, ended)) if rows]

    def _work_on_memories(self) -> Work:
        """Write what sessions remember, and the ids of messages; forget ids whose time is over."""
        work: Work = []
        for session, kept in self.sessions.items():
            work.append((_NO_STATE, [session]) if kept is None else (_STATE, [(*session, *kept)]))
        if self.remembered:
            work.append((_REMEMBER, [(key, *kept) for key, kept in self.remembered.items()]))
        for entity, now in self.swept.items():
            work.append((_FORGET, [(now, entity * ENTITY, (entity + 1) * ENTITY, 2 * SWEEP)]))
        return work
