"""The file of the SQLite store: which ones are opened, and which are refused and left as they are."""

import sqlite3
from pathlib import Path

import pytest

from servicebus_local.bus.message import Message
from servicebus_local.bus.sqlite_file import APPLICATION_ID, VERSION, file_at
from servicebus_local.bus.sqlite_store import SqliteStore
from servicebus_local.bus.store import Entity, StoreError
from servicebus_local.bus.topology import QueueOptions


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a queue and enough messages for several pages, closed."""
    path = tmp_path / "broker.sqlite3"
    store = SqliteStore(path)
    store.save(Entity("q", QueueOptions(), (), 0.0, 0.0))
    for number in range(1, 51):
        message = Message(b"x" * 1000)
        message.sequence = number
        store.add("q", message)
    store.commit()
    store.close()
    return path


def refusal(path: Path) -> str:
    """Open what must be refused; return why, after a look whether it was left as it was."""
    before = path.read_bytes()
    with pytest.raises(StoreError) as caught:
        SqliteStore(path)
    assert path.read_bytes() == before
    assert [other for other in path.parent.iterdir() if other != path] == []
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_text_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but longer than its header: " * 10)
    assert "was not written by the local broker" in refusal(path)


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite3"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE message (key INTEGER PRIMARY KEY)")
    connection.close()
    assert "was not written by the local broker" in refusal(path)


def test_a_newer_format_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert "newer local broker" in refusal(path)


@pytest.mark.parametrize("page", range(2, 12))
def test_a_damaged_file_is_refused(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xee" * 4096)
    assert "is damaged" in refusal(path)


def test_a_file_that_was_cut_off_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 5 * 4096])
    assert "is damaged" in refusal(path)


def test_an_unreadable_definition_is_reported_as_damage(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("""UPDATE entity SET definition = '{"kind": "stack"}'""")
    connection.commit()
    connection.close()
    assert "the definition of q cannot be read" in refusal(path)


def test_a_file_in_use_is_refused_with_what_to_do(path: Path) -> None:
    store = SqliteStore(path)
    with pytest.raises(StoreError, match="in use by another process, probably another local broker; stop that one"):
        SqliteStore(path)
    store.close()
    SqliteStore(path).close()


def test_a_directory_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broker.sqlite3").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        SqliteStore(tmp_path / "broker.sqlite3")


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made"):
        file_at(tmp_path / "file" / "data")


def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite3"
    path.touch()
    SqliteStore(path).close()
    assert path.read_bytes()[:15] == b"SQLite format 3"


def test_the_header_says_whose_the_file_is_before_anything_is_checkpointed(tmp_path: Path) -> None:
    path = tmp_path / "broker.sqlite3"
    store = SqliteStore(path)
    header = path.read_bytes()[:100]
    store.close()
    assert int.from_bytes(header[60:64], "big") == VERSION
    assert int.from_bytes(header[68:72], "big") == APPLICATION_ID


@pytest.mark.parametrize(
    ("place", "file"),
    [
        ("data", "data/broker.sqlite3"),
        ("deep/below/data", "deep/below/data/broker.sqlite3"),
        ("data.v2", "data.v2/broker.sqlite3"),
        ("mine.sqlite3", "mine.sqlite3"),
        ("deep/mine.db", "deep/mine.db"),
    ],
)
def test_a_place_is_a_directory_unless_it_is_named_like_a_file(tmp_path: Path, place: str, file: str) -> None:
    assert file_at(tmp_path / place) == tmp_path / file
    assert (tmp_path / file).parent.is_dir()


def test_what_is_there_decides_what_a_place_is(tmp_path: Path) -> None:
    (tmp_path / "looks-like-a.db").mkdir()
    (tmp_path / "looks-like-a-directory").touch()
    assert file_at(tmp_path / "looks-like-a.db").name == "broker.sqlite3"
    assert file_at(tmp_path / "looks-like-a-directory").name == "looks-like-a-directory"
