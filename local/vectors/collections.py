"""The collections of one data directory, each one shard of the engine.

    DIR/owner.lock                       see ownership.py
    DIR/handbook.collection/             a collection called handbook
        collection.json                  its name, and the request that created it
        shard/                           the engine's files: segments and write-ahead log
    DIR/….collection.new                 being created; removed at the next start
    DIR/….collection.gone                being deleted; removed at the next start

Creating and deleting end in one rename, so a crash leaves either a whole collection or none.
Acknowledged writes are in the write-ahead log before the answer leaves, and survive `kill -9`.

One thread writes; others may read meanwhile (see app.py).
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import quote

import qdrant_edge as edge

from local.vectors.bodies import Json
from local.vectors.definitions import Definition, describe, describe_index, read_definition
from local.vectors.errors import CannotStart, Refusal, engine, missing, taken, wrong

T = TypeVar("T")

_SUFFIX, _NEW, _GONE = ".collection", ".new", ".gone"
_FORBIDDEN = set('<>:"/\\|?*\0')
_LONGEST_NAME = 200  # as a directory name, escaped; file systems end at 255


class Collection:
    """A named shard and how it was defined."""

    def __init__(self, home: Path, definition: Definition, shard: edge.EdgeShard) -> None:
        self.home = home
        self.definition = definition
        self.operations = 0
        self._shard = shard
        self._unflushed = False

    def ask(self, question: Callable[[edge.EdgeShard], T]) -> T:
        """The result of `question`, which reads the shard; raises `Refusal`."""
        with engine(blames=400):
            return question(self._shard)

    def write(self, *operations: edge.UpdateOperation) -> None:
        """Apply `operations` in order; when this returns they survive a crash. Raises `Refusal`."""
        self.operations += 1
        self._unflushed = True
        with engine(blames=500):
            for operation in operations:
                self._shard.update(operation)

    def flush(self) -> None:
        """Move what is only in the log into the segments, so that the log can be shortened."""
        if self._unflushed:
            with engine(blames=500):
                self._shard.flush()
            self._unflushed = False

    def close(self) -> None:
        """Flush and let go of the files."""
        with engine(blames=500):
            self._shard.close()

    def describe(self) -> dict[str, Json]:
        """The collection's info as Qdrant returns it."""
        info = self.ask(lambda shard: shard.info())
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": info.indexed_vectors_count,
            "points_count": info.points_count,
            "segments_count": info.segments_count,
            "config": describe(self.definition),
            "payload_schema": {field: describe_index(index) for field, index in info.payload_schema.items()},
        }


class Collections:
    """Every collection below one directory, which this process owns."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._open: dict[str, Collection] = {}

    def __enter__(self) -> Self:
        """Remove what a crash left half done, then open the rest; raises `CannotStart` for a damaged collection."""
        for unfinished in (*self._data.glob(f"*{_SUFFIX}{_NEW}"), *self._data.glob(f"*{_SUFFIX}{_GONE}")):
            shutil.rmtree(unfinished)
        for home in sorted(self._data.glob(f"*{_SUFFIX}")):
            try:
                kept = json.loads((home / "collection.json").read_text(encoding="utf-8"))
                name, definition = kept["name"], read_definition(kept["created"])
            except (OSError, ValueError, KeyError, TypeError, Refusal) as error:
                raise _unreadable(home, error) from error
            self._open[name] = _opened(home, definition)
        return self

    def __exit__(self, *_: object) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def __getitem__(self, name: str) -> Collection:
        if name not in self._open:
            raise missing(f"Collection `{name}` doesn't exist!")
        return self._open[name]

    def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return sorted(self._open)

    def create(self, name: str, definition: Definition) -> None:
        """Create an empty collection; raises `Refusal` when it exists or its name cannot be a directory's."""
        if name in self._open:
            raise taken(name)
        escaped = quote(name, safe=" ")
        if not name or _FORBIDDEN & set(name) or len(escaped) > _LONGEST_NAME:
            raise wrong(f"{name!r} cannot be the name of a collection")
        home = self._data / f"{escaped}{_SUFFIX}"
        draft = home.with_name(home.name + _NEW)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        with engine(blames=400):
            edge.EdgeShard.create(str(draft / "shard"), definition.config).close()
        created = {"name": name, "created": definition.created}
        (draft / "collection.json").write_text(json.dumps(created, indent=2), encoding="utf-8")
        draft.rename(home)
        self._open[name] = _opened(home, definition)

    def delete(self, name: str) -> bool:
        """Delete a collection; return whether there was one."""
        collection = self._open.pop(name, None)
        if collection is None:
            return False
        collection.close()
        gone = collection.home.with_name(collection.home.name + _GONE)
        shutil.rmtree(gone, ignore_errors=True)
        shutil.rmtree(collection.home.rename(gone))
        return True

    def flush(self) -> None:
        """Flush every collection that was written to since it was last flushed."""
        for collection in list(self._open.values()):
            collection.flush()


def _opened(home: Path, definition: Definition) -> Collection:
    try:
        with engine(blames=500):
            return Collection(home, definition, edge.EdgeShard.load(str(home / "shard")))
    except Refusal as refusal:
        raise _unreadable(home, refusal) from refusal


def _unreadable(home: Path, why: Exception) -> CannotStart:
    return CannotStart(f"{home} cannot be opened ({why}); move it away and index its documents again")
