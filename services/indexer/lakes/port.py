"""What the indexer needs of a data lake: look at a blob, read exactly what was looked at, list a prefix."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

# Names that programs give to files which are not finished or not meant to be seen.
_UNFINISHED = ("~", ".tmp", ".temp", ".part", ".partial", ".swp", ".swx", ".crdownload", ".lock")


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as it was at one moment; its etag changes whenever its content does."""

    path: str
    etag: str
    size: int
    content_type: str = ""


class Vanished(Exception):
    """The blob is gone since it was looked at."""


class Changed(Exception):
    """The blob is another one since it was looked at."""


class Lake(Protocol):
    """Reads blobs. Raises `TryLater` when the storage is away."""

    async def head(self, container: str, path: str) -> Blob | None:
        """The blob, or none if there is none (or it is not a document, or the container is not ours)."""

    async def read(self, container: str, path: str, if_match: str) -> bytes:
        """The content, if the etag still is `if_match`; raises `Changed` or `Vanished`."""

    def blobs(self, container: str, prefix: str = "") -> AsyncIterator[Blob]:
        """All documents below a prefix, in the order of their paths."""

    async def close(self) -> None:
        """Close what connections there are."""


def is_noise(path: str) -> bool:
    """Whether a file is hidden, a lock or half-written, and so no document."""
    name = path.rpartition("/")[2]
    hidden = any(step.startswith((".", "~$")) for step in path.split("/"))
    return hidden or not name or name.lower().endswith(_UNFINISHED)
