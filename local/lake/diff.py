"""What happened between two scans of the folder. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """One file as it was seen. Times are nanoseconds, as the file system has them."""

    size: int
    modified: int
    changed: int
    inode: int
    digest: str

    def written_since(self, before: "File") -> bool:
        """Whether it was written. Saving the same bytes again counts, as a second upload does in Azure."""
        return (self.digest, self.modified) != (before.digest, before.modified)


Snapshot = Mapping[str, File]


@dataclass(frozen=True)
class Created:
    """A file is new or was overwritten; Azure does not tell these apart."""

    path: str
    file: File


@dataclass(frozen=True)
class Deleted:
    """A file is gone; `file` is what it was."""

    path: str
    file: File


@dataclass(frozen=True)
class Renamed:
    """A file has another name now."""

    source: str
    path: str
    file: File


Change = Created | Deleted | Renamed


def diff(before: Snapshot, after: Snapshot) -> list[Change]:
    """The changes that lead from one snapshot to the other; no path occurs in two of them, so their order is free."""
    renamed = sorted(_renames(before, after), key=lambda one: one.source)
    sources, targets = {one.source for one in renamed}, {one.path for one in renamed}
    deleted = [Deleted(path, before[path]) for path in sorted(before.keys() - after.keys() - sources)]
    written = [
        Created(path, after[path])
        for path in sorted(after.keys() - targets)
        if path not in before or after[path].written_since(before[path])
    ]
    return [*deleted, *renamed, *written]


def _renames(before: Snapshot, after: Snapshot) -> Iterator[Renamed]:
    """Pair what vanished with what appeared: the same content, and among several of them the same inode.

    An inode alone proves nothing, file systems reuse it at once; and all empty files have the same content.
    """
    vanished = sorted(before.keys() - after.keys())
    for path in sorted(after.keys() - before.keys(), key=lambda one: (after[one].inode, one)):
        file = after[path]
        alike = [
            source
            for source in vanished
            if before[source].digest == file.digest and (file.size > 0 or before[source].inode == file.inode)
        ]
        if alike:
            source = min(alike, key=lambda one: (before[one].inode != file.inode, one))
            vanished.remove(source)
            yield Renamed(source, path, file)
