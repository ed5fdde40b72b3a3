"""What the indexer needs from a data lake: properties of a blob, its content at an etag, a list below a prefix."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

# Endings of unfinished and temporary files.
_UNFINISHED = ("~", ".tmp", ".temp", ".part", ".partial", ".swp", ".swx", ".crdownload", ".lock")


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob at one moment; `size` in bytes. Its etag changes whenever its content does."""

    path: str
    etag: str
    size: int
    content_type: str = ""


class Vanished(Exception):
    """The blob was deleted after `head` returned it."""


class Changed(Exception):
    """The blob was overwritten after `head` returned it."""


class Lake(Protocol):
    """Reads blobs. Every method raises `TryLater` when the storage is unavailable."""

    async def head(self, container: str, path: str) -> Blob | None:
        """The blob; None if it does not exist, is noise or a directory, or the container is not in the settings."""

    async def read(self, container: str, path: str, if_match: str) -> bytes:
        """The bytes of the blob with the etag `if_match`; raises `Changed` or `Vanished`."""

    def blobs(self, container: str, prefix: str = "") -> AsyncIterator[Blob]:
        """The blobs whose path begins with `prefix`, ordered by path, without noise and directories."""

    async def close(self) -> None:
        """Close the connections."""


def is_noise(path: str) -> bool:
    """Whether the file is hidden, a lock or unfinished, and therefore not a document."""
    name = path.rpartition("/")[2]
    hidden = any(step.startswith((".", "~$")) for step in path.split("/"))
    return hidden or not name or name.lower().endswith(_UNFINISHED)
