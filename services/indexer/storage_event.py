"""What the indexer takes from a storage event: a place to look at. The lake says what is there."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Change(StrEnum):
    """What happened to a blob or a directory, in both schemas."""

    WRITTEN = "written"
    DELETED = "deleted"
    RENAMED = "renamed"
    DIRECTORY_RENAMED = "directory_renamed"
    DIRECTORY_DELETED = "directory_deleted"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobChanged:
    """A storage event of Event Grid or CloudEvents, as far as the indexer needs it.

    Source: Azure Blob Storage as an Event Grid source
    (learn.microsoft.com/azure/event-grid/event-schema-blob-storage).
    """

    change: Change
    container: str
    path: str
    previous_path: str | None = None
    """In the same container, for a rename."""
    occurred_at: datetime | None = None
    """With a time zone."""
