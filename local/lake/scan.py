"""Scans the folder: which files are there, complete, and with a name that a blob can have."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from local.lake.diff import File, Snapshot

_TEMPORARY_STARTS = (".", "~$")
_TEMPORARY_ENDS = (".tmp", ".part")


@dataclass(frozen=True)
class Stat:
    """What the file system says of a file; times in nanoseconds."""

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, seen: os.stat_result) -> "Stat":
        """From the operating system's answer."""
        return cls(seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino)

    def matches(self, file: File | None) -> bool:
        """Whether this is the file we know, so that its digest need not be computed again."""
        return file is not None and self == Stat(file.size, file.modified, file.changed, file.inode)


@dataclass
class Found:
    """One walk through the folder."""

    files: dict[str, Stat] = field(default_factory=dict)
    """By path below the root."""
    unreadable: list[str] = field(default_factory=list)  # folders, as `name/`, and files
    unnameable: list[str] = field(default_factory=list)  # not UTF-8, so no blob can be called that


@dataclass(frozen=True)
class Scan:
    """The snapshot that may be announced, and what is not in it yet: files being written, or never: the rest."""

    files: dict[str, File]
    unfinished: dict[str, Stat]
    unreadable: list[str]
    unnameable: list[str]


def scan(root: Path, before: Snapshot, unfinished: dict[str, Stat], *, now: int, interval: int, omit: Path) -> Scan:
    """The folder's snapshot; a file that is being written or cannot be read stays as in `before`. Raises `OSError`.

    `unfinished`: from the last scan. A file is finished when two scans find it unchanged, or when it was last written
    longer ago than the interval between scans. `omit`: a file to leave out. Times are nanoseconds.
    """
    found, still_open = walk(root, omit), {}
    # What cannot be read is not gone.
    closed = tuple(one for one in found.unreadable if one.endswith("/"))
    files = {
        path: file for path, file in before.items() if path in found.unreadable or (closed and path.startswith(closed))
    }
    for path, seen in found.files.items():
        known = before.get(path)
        if seen.matches(known):
            files[path] = before[path]
            continue
        if unfinished.get(path) == seen or seen.modified <= now - interval:
            try:
                with (root / path).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                continue
            except OSError:
                found.unreadable.append(path)
            else:
                files[path] = File(seen.size, seen.modified, seen.changed, seen.inode, digest)
                continue
        else:
            still_open[path] = seen
        files |= {path: known} if known else {}
    return Scan(files, still_open, found.unreadable, found.unnameable)


def walk(root: Path, omit: Path) -> Found:
    """Every file below `root` that counts. Raises `OSError` for an unreadable root: a lost disk is no empty lake."""
    found, folders = Found(), [""]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            if not folder:
                raise
            continue  # removed during the scan
        except PermissionError:
            if not folder:
                raise
            found.unreadable.append(f"{folder}/")
            continue
        for entry in entries:
            folders += _visit(entry, f"{folder}/{entry.name}".lstrip("/"), root, omit, found)
    return found


def ignored(name: str) -> bool:
    """Whether a file or folder of this name is hidden or temporary, so no document."""
    return name.startswith(_TEMPORARY_STARTS) or name.lower().endswith(_TEMPORARY_ENDS)


def nameable(path: str) -> bool:
    """Whether a blob can have this path: UTF-8."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _visit(entry: "os.DirEntry[str]", path: str, root: Path, omit: Path, found: Found) -> Iterator[str]:
    """Note a file, yield a folder. A link is neither: the right to read a document depends on its place."""
    if ignored(entry.name) or Path(entry.path) == omit:
        return
    if not nameable(entry.name):
        found.unnameable.append(path.encode("utf-8", "backslashreplace").decode())
        return
    try:
        if entry.is_dir(follow_symlinks=False):
            yield path
        elif not entry.is_symlink():
            seen = entry.stat()
            if stat.S_ISREG(seen.st_mode):
                found.files[path] = Stat.of(seen)
    except FileNotFoundError:
        return  # removed during the scan
    except OSError:
        found.unreadable.append(path)
