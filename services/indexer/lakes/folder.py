"""`Lake` over folders of this machine: each container is a folder, each file in it a blob."""

import asyncio
import errno
import mimetypes
import os
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from services.indexer.lakes.port import Blob, Changed, Vanished, is_noise
from services.indexer.sources import fault_of_path
from shared.errors import TryLater
from shared.text import escaped

# Errors of paths at which there is no file, and none at a later look: a blob may have a longer name than a file, and
# links in a circle lead nowhere (`resolve` passes over them from Python 3.13 on).
NEVER = (errno.ENAMETOOLONG, errno.ELOOP)


class FolderLake:
    """`folders`: the folder of each container. Nothing outside of them is read.

    A file is a blob under one name only: that of its real place, letter by letter. So symbolic links are no blobs,
    neither files nor folders, and where the file system knows neither case nor Unicode forms the other spellings are
    none. A hard link cannot be told from a file: it is one more document, with the rights of its own place.

    A folder that is not there is a disk that is not mounted: `TryLater`, or all its documents would be removed.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = {container: folder.resolve() for container, folder in folders.items()}

    async def head(self, container: str, path: str) -> Blob | None:
        """See `Lake`."""
        return await asyncio.to_thread(self._head, container, path)

    async def read(self, container: str, path: str, if_match: str) -> bytes:
        """See `Lake`."""
        return await asyncio.to_thread(self._read, container, path, if_match)

    async def blobs(self, container: str, prefix: str = "") -> AsyncIterator[Blob]:
        """See `Lake`."""
        for blob in await asyncio.to_thread(self._list, container, prefix):
            yield blob

    async def close(self) -> None:
        """There is nothing to close."""

    def _head(self, container: str, path: str, *, is_listed: bool = False) -> Blob | None:
        file = self._file(container, path, is_listed=is_listed)
        if file is None:
            return None
        try:
            status = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as broken:
            if broken.errno in NEVER:
                return None
            raise TryLater(f"{escaped(path)} cannot be read: {broken.strerror}") from broken
        if not stat.S_ISREG(status.st_mode):
            return None
        return Blob(path, _etag(status), status.st_size, mimetypes.guess_type(path)[0] or "")

    def _read(self, container: str, path: str, if_match: str) -> bytes:
        file = self._file(container, path)
        if file is None:
            raise Vanished(path)
        try:
            with file.open("rb") as opened:
                _require(path, os.fstat(opened.fileno()), if_match)
                data = opened.read()
                # Again: a file may also be overwritten in place while it is read.
                _require(path, os.fstat(opened.fileno()), if_match)
        except (FileNotFoundError, NotADirectoryError) as gone:
            raise Vanished(path) from gone
        except OSError as broken:
            if broken.errno in NEVER:
                raise Vanished(path) from broken
            raise TryLater(f"{escaped(path)} cannot be read: {broken.strerror}") from broken
        return data

    def _list(self, container: str, prefix: str) -> list[Blob]:
        root = self._root(container)
        if root is None:
            return []
        found: list[Blob] = []
        for folder, _, names in os.walk(root):
            paths = ((Path(folder) / name).relative_to(root).as_posix() for name in names)
            heads = (self._head(container, path, is_listed=True) for path in paths if path.startswith(prefix))
            found += [blob for blob in heads if blob is not None]
        return sorted(found, key=lambda blob: blob.path)

    def _file(self, container: str, path: str, *, is_listed: bool = False) -> Path | None:
        """The file of a blob; None for noise, and for any name but that of the file's real place. Raises `TryLater`.

        `is_listed`: the path is spelled as its folders spell it.
        """
        root = self._root(container)
        if root is None or is_noise(path) or fault_of_path(path):
            return None
        file = root / path
        try:
            return file if file.resolve() == file and (is_listed or _is_spelled(root, path)) else None
        except (FileNotFoundError, NotADirectoryError, RuntimeError):
            return None  # RuntimeError: links in a circle, before Python 3.13
        except OSError as broken:
            if broken.errno in NEVER:
                return None
            raise TryLater(f"{escaped(path)} cannot be read: {broken.strerror}") from broken

    def _root(self, container: str) -> Path | None:
        root = self._folders.get(container)
        if root is not None and not root.is_dir():
            raise TryLater(f"the lake folder {root} does not exist")
        return root


def _is_spelled(root: Path, path: str) -> bool:
    """Whether each step of `path` is what its folder calls it."""
    folder = root
    for step in path.split("/"):
        if step not in {entry.name for entry in folder.iterdir()}:
            return False
        folder /= step
    return True


def _etag(status: os.stat_result) -> str:
    return f'"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"'


def _require(path: str, status: os.stat_result, if_match: str) -> None:
    """Raise `Changed` unless the file has the etag `if_match`."""
    if _etag(status) != if_match:
        raise Changed(path)
