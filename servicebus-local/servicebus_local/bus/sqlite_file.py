"""The file of the SQLite store: what is in it, and whether it may be opened.

    entity      what was created: its path, its definition as JSON, when
    counter     the highest sequence number each entity gave out, if no row has it
    message     one row for each message of a queue, a subscription, their dead letters, or a topic
    locked      the keys of messages that receivers have
    gone        the keys of messages that left, whose rows are not deleted yet
    session     what sessions remember
    remembered  the ids of messages that came in, for duplicate detection

The key of a message is  entity · 2⁴² + part · 2⁴⁰ + sequence number, where part 0 is the entity
itself, 1 its dead-letter queue and 2 its transfer dead-letter queue: what belongs together lies
together, in the order in which it is read again. The view `stored` says it in plain words, for
people who look into the file while no broker has it.
"""

import sqlite3
from pathlib import Path
from typing import Final, Literal, get_args

from servicebus_local.bus.store import StoreError

Synchronous = Literal["off", "normal", "full"]
SYNCHRONOUS: Final[tuple[Synchronous, ...]] = get_args(Synchronous)

NAME: Final = "broker.sqlite3"
SEQUENCE_BITS: Final = 40
PART_BITS: Final = 2
APPLICATION_ID: Final = 0x7362_4C42
VERSION: Final = 1

_SUFFIXES: Final = (".sqlite3", ".sqlite", ".db")
_MAGIC: Final = b"SQLite format 3\x00"
# Where the header of a file has its numbers, big-endian: https://www.sqlite.org/fileformat.html, 1.3
_USER_VERSION, _APPLICATION_ID = slice(60, 64), slice(68, 72)
_PATIENCE: Final = 1.0  # seconds; a broker that was told to stop may still be closing the file
_WAL_LIMIT: Final = 16 * 1024 * 1024  # bytes it is cut back to after a transaction larger than that

_SCHEMA: Final = """
CREATE TABLE entity (id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, definition TEXT NOT NULL,
                     created_at REAL NOT NULL, updated_at REAL NOT NULL);
CREATE TABLE counter (entity INTEGER PRIMARY KEY, sequence INTEGER NOT NULL);
CREATE TABLE message (key INTEGER PRIMARY KEY, deferred INTEGER NOT NULL, scheduled INTEGER NOT NULL,
                      delivery_count INTEGER NOT NULL, hops INTEGER NOT NULL, enqueued_at REAL NOT NULL,
                      expires_at REAL NOT NULL, time_to_live REAL NOT NULL, enqueued_sequence INTEGER NOT NULL,
                      scheduled_for REAL, message_id, session_id, dead_letter_source TEXT, header BLOB,
                      annotations BLOB, delivery_annotations BLOB, bare BLOB NOT NULL);
CREATE TABLE locked (key INTEGER PRIMARY KEY);
CREATE TABLE gone (key INTEGER PRIMARY KEY);
CREATE TABLE session (entity INTEGER NOT NULL, id TEXT NOT NULL, state BLOB NOT NULL, changed_at REAL NOT NULL,
                      PRIMARY KEY (entity, id)) WITHOUT ROWID;
CREATE TABLE remembered (key INTEGER PRIMARY KEY, message_id NOT NULL, since REAL NOT NULL, until REAL NOT NULL);
CREATE VIEW stored AS
    SELECT path, (key >> 40) & 3 AS part, key & 0xFFFFFFFFFF AS sequence, key IN locked AS locked, deferred, scheduled,
           delivery_count, message_id, session_id, datetime(enqueued_at, 'unixepoch') AS enqueued, length(bare) AS size
    FROM message JOIN entity ON entity.id = key >> 42 WHERE key NOT IN gone;
"""


def file_at(place: Path) -> Path:
    """Return the file a path stands for: itself if it is one or is named like one, else one in that directory.

    Makes the directory; raises `StoreError` when that is impossible.
    """
    is_file = place.is_file() or (place.suffix in _SUFFIXES and not place.is_dir())
    path = place if is_file else place / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{place} cannot be made ({error.strerror}); choose another place for the data") from error
    return path


def open_file(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """Open the file, or make a new one, and keep every other process out of it.

    Raises `StoreError`, and leaves the file as it is, when it is damaged, not ours, of a
    newer version, in use, or cannot be written.
    """
    _check_header(path)
    try:
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path, synchronous)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise explain(path, error) from error
    return connection


def _check_header(path: Path) -> None:
    """Refuse what is not ours before SQLite touches it: it might repair what it finds."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); choose another place for the data") from error
    if not header:
        return
    if header[:16] != _MAGIC or int.from_bytes(header[_APPLICATION_ID]) != APPLICATION_ID:
        raise StoreError(f"{path} was not written by the local broker; move it away, or choose another place")
    _check_version(int.from_bytes(header[_USER_VERSION]), path)


def _check_version(version: int, path: Path) -> None:
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer local broker (format {version}, this one knows {VERSION}); "
            "use that one, or choose another place"
        )


def _prepare(connection: sqlite3.Connection, path: Path, synchronous: Synchronous) -> None:
    """Lock the file, make its tables if it is new, look for damage, and set how it is written."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        # Made before the switch to WAL, so that the header of the file itself says whose it is.
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    _check_version(connection.execute("PRAGMA user_version").fetchone()[0], path)
    # A tenth of a second for 100,000 messages of 1 KB.
    [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise damaged(path, found)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA fullfsync = ON")  # on macOS nothing less reaches the disk


def damaged(path: Path, what: object) -> StoreError:
    """Say that what is in the file cannot be used."""
    detail = " ".join(str(what).split())
    return StoreError(f"{path} is damaged ({detail}); put a copy back, or move it away to begin without its messages")


def explain(path: Path, error: sqlite3.Error) -> StoreError:
    """Turn an error of SQLite into one line a person can act on."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the rest is detail
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(
                f"{path} is in use by another process, probably another local broker; "
                "stop that one, or choose another place for the data"
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return damaged(path, error)
        case sqlite3.SQLITE_FULL:
            return StoreError(f"{path} cannot be written ({error}); free some space and start again")
        case _:
            return StoreError(f"{path} cannot be used ({error}); see to it that it can be written, and start again")
