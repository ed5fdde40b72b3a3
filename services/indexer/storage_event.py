"""What a storage event tells us: somewhere to look. What is there, only the lake can say."""

from enum import StrEnum

from pydantic import AwareDatetime

from shared.contracts.base import MessagePart


class Change(StrEnum):
    """What happened to a blob or a directory, whichever schema told it."""

    WRITTEN = "written"
    DELETED = "deleted"
    RENAMED = "renamed"
    DIRECTORY_RENAMED = "directory_renamed"
    DIRECTORY_DELETED = "directory_deleted"
    IGNORED = "ignored"


class BlobChanged(MessagePart):
    """A storage event of Event Grid or CloudEvents, as far as the indexer needs it.

    Source: Azure Blob Storage as an Event Grid source
    (learn.microsoft.com/azure/event-grid/event-schema-blob-storage).
    """

    change: Change
    container: str
    path: str
    previous_path: str | None = None
    occurred_at: AwareDatetime | None = None
