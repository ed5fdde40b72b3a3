"""What lies on disk after a crash is a whole collection, or none."""

from pathlib import Path

import pytest

from local.vectors.collections import Collections
from local.vectors.definitions import read_definition
from local.vectors.errors import CannotStart, Refusal
from local.vectors.ownership import owned

EMPTY = read_definition({})


def test_a_half_created_and_a_half_deleted_collection_are_swept_away(tmp_path: Path) -> None:
    with Collections(tmp_path) as collections:
        collections.create("kept", EMPTY)
        collections.create("doomed", EMPTY)
    (tmp_path / "doomed.collection").rename(tmp_path / "doomed.collection.gone")
    (tmp_path / "early.collection.new").mkdir()
    with Collections(tmp_path) as collections:
        assert collections.names() == ["kept"]
    assert [home.name for home in tmp_path.iterdir()] == ["kept.collection"]


def test_what_is_not_a_collection_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "handbook").mkdir()
    (tmp_path / "notes.new").mkdir()
    with Collections(tmp_path) as collections:
        assert len(collections) == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_collection_may_be_created_again_where_a_creation_failed(tmp_path: Path) -> None:
    with Collections(tmp_path) as collections:
        (tmp_path / "a.collection.new" / "shard").mkdir(parents=True)
        collections.create("a", EMPTY)
        assert "a" in collections


@pytest.mark.parametrize("name", ["Größe", "a.collection.new", "with space", "..", "%2F"])
def test_a_name_survives_its_directory(tmp_path: Path, name: str) -> None:
    with Collections(tmp_path) as collections:
        collections.create(name, EMPTY)
    with Collections(tmp_path) as collections:
        assert collections.names() == [name]
        assert collections.delete(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "x" * 300])
def test_a_name_qdrant_would_not_take_is_refused(tmp_path: Path, name: str) -> None:
    with Collections(tmp_path) as collections, pytest.raises(Refusal, match="cannot be the name"):
        collections.create(name, EMPTY)


def test_deleting_a_missing_collection_returns_false(tmp_path: Path) -> None:
    with Collections(tmp_path) as collections:
        assert not collections.delete("nowhere")


@pytest.mark.parametrize("damaged", ["collection.json", "shard/edge_config.json"])
def test_a_damaged_collection_stops_the_start_and_is_named(tmp_path: Path, damaged: str) -> None:
    with Collections(tmp_path) as collections:
        collections.create("handbook", EMPTY)
    (tmp_path / "handbook.collection" / damaged).write_text("{")
    with pytest.raises(CannotStart, match=r"handbook\.collection cannot be opened"), Collections(tmp_path):
        pass


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(CannotStart, match="in use by process"), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotStart, match="cannot write to"), owned(tmp_path / "file"):
        pass
