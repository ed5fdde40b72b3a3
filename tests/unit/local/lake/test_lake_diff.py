"""What happened between two looks, and that telling it is enough to follow the folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.lake.diff import Change, Created, Deleted, File, Renamed, Snapshot, diff
from local.lake.events import Container, Schema, etag, event

A, B, EMPTY = "a" * 64, "b" * 64, sha256().hexdigest()


def file(digest: str = A, *, inode: int = 1, modified: int = 10, size: int = 5) -> File:
    """A file as a look would see it."""
    return File(size, modified, modified, inode, digest)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({}, {}, []),
        ({}, {"a": file()}, [Created("a", file())]),
        ({"a": file()}, {}, [Deleted("a", file())]),
        ({"a": file()}, {"a": file(B)}, [Created("a", file(B))]),
        ({"a": file()}, {"a": file(modified=11)}, [Created("a", file(modified=11))]),
        ({"a": file()}, {"a": replace(file(), changed=99, inode=7)}, []),  # chmod, or restored from a backup
        ({"a": file()}, {"b": file()}, [Renamed("a", "b", file())]),
        ({"a": file()}, {"b": file(inode=2, modified=11)}, [Renamed("a", "b", file(inode=2, modified=11))]),
        # the file system gave the freed inode to another file
        ({"a": file()}, {"b": file(B)}, [Deleted("a", file()), Created("b", file(B))]),
        # all empty files are alike
        (
            {"a": file(EMPTY, size=0)},
            {"b": file(EMPTY, size=0, inode=2)},
            [Deleted("a", file(EMPTY, size=0)), Created("b", file(EMPTY, size=0, inode=2))],
        ),
        # among files of the same content the inode tells which went where
        (
            {"a": file(inode=1), "b": file(inode=2)},
            {"c": file(inode=2), "d": file(inode=1)},
            [Renamed("a", "d", file(inode=1)), Renamed("b", "c", file(inode=2))],
        ),
        # one was copied, then removed; one copy stays
        (
            {"a": file()},
            {"b": file(inode=2), "c": file(inode=3)},
            [Renamed("a", "b", file(inode=2)), Created("c", file(inode=3))],
        ),
        # renamed over another: the folder has one file less
        ({"a": file(B, inode=2), "b": file()}, {"b": file(B, inode=2)}, [
            Deleted("a", file(B, inode=2)), Created("b", file(B, inode=2)),
        ]),
    ],
)  # fmt: skip
def test_changes(before: Snapshot, after: Snapshot, changes: list[Change]) -> None:
    assert diff(before, after) == changes


# ------------------------------------------------------------------ the law

NAMES = st.sampled_from(["a.md", "b.md", "sub/c d.txt", "sub/ü#1%.pdf", "x/y/z"])
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(["", "one", "two"])),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("delete"), NAMES, st.just("")),
    st.tuples(st.just("look"), st.just(""), st.just("")),
)


@dataclass
class Folder:
    """A folder in memory whose freed inodes are reused at once, as ext4's are."""

    files: dict[str, File] = field(default_factory=dict)
    now: int = 0

    def do(self, operation: str, path: str, other: str) -> None:
        """Put, rename or delete."""
        self.now += 1
        if operation == "put":
            digest = sha256(other.encode()).hexdigest()
            inode = self.files[path].inode if path in self.files else self._free_inode()
            self.files[path] = File(len(other), self.now, self.now, inode, digest)
        elif operation == "rename" and path in self.files:
            self.files[other] = replace(self.files.pop(path), changed=self.now)
        elif operation == "delete":
            self.files.pop(path, None)

    def _free_inode(self) -> int:
        used = {one.inode for one in self.files.values()}
        return next(inode for inode in range(1, 99) if inode not in used)


@dataclass
class Reader:
    """Someone who knows the folder from its events alone, in either schema."""

    contents: dict[str, str] = field(default_factory=dict)

    def read(self, body: str, contents_by_etag: dict[str, str]) -> None:
        """Follow one event."""
        told = json.loads(body)
        kind, data = told.get("type") or told["eventType"], told["data"]
        path = told["subject"].split("/blobs/", 1)[1]
        if kind == "Microsoft.Storage.BlobCreated":
            assert self._path(data["url"]) == path
            self.contents[path] = contents_by_etag[data["eTag"]]
        elif kind == "Microsoft.Storage.BlobDeleted":
            del self.contents[path]
        else:
            assert self._path(data["destinationUrl"]) == path
            self.contents[path] = self.contents.pop(self._path(data["sourceUrl"]))

    def _path(self, url: str) -> str:
        return unquote(url.split("/lake/", 1)[1])


@given(st.lists(OPERATIONS, max_size=40), st.sampled_from(list(Schema)), st.randoms())
def test_the_events_lead_from_one_folder_to_the_other(
    operations: Sequence[tuple[str, str, str]], schema: Schema, random: Random
) -> None:
    folder, reader, seen, contents = Folder(), Reader(), dict[str, File](), dict[str, str]()
    for operation in [*operations, ("look", "", "")]:
        folder.do(*operation)
        if operation[0] != "look":
            continue
        contents |= {etag(one): one.digest for one in folder.files.values()}
        changes = diff(seen, folder.files)
        random.shuffle(changes)  # their order is free
        for number, change in enumerate(changes):
            told = event(change, Container("lake", schema=schema), sequencer=number, at=0)
            reader.read(told.body, contents)
        seen = dict(folder.files)
        assert reader.contents == {path: one.digest for path, one in folder.files.items()}
