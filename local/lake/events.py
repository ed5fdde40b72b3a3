"""A change as the event that Azure Event Grid delivers to a Service Bus queue: one JSON object per message. Pure.

The shapes are those of Microsoft's "Azure Blob Storage as an Event Grid source" and "Service Bus as an event handler".
"""

import json
import mimetypes
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from local.lake.diff import Change, Created, Deleted, File, Renamed

Json = dict[str, Any]


class Schema(Enum):
    """The two schemas of an event subscription."""

    EVENT_GRID = "eventgrid"
    CLOUD_EVENTS = "cloudevents"


@dataclass(frozen=True)
class Container:
    """The container and storage account that the events name, and their schema."""

    name: str
    account: str = "devlake"
    schema: Schema = Schema.EVENT_GRID

    @property
    def topic(self) -> str:
        """The storage account as a resource."""
        return (
            "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
            f"/providers/Microsoft.Storage/storageAccounts/{self.account}"
        )

    def subject(self, path: str) -> str:
        """The `subject` of the blob's events, not encoded."""
        return f"/blobServices/default/containers/{self.name}/blobs/{path}"

    def url(self, path: str) -> str:
        """The blob's URL, encoded."""
        return f"https://{self.account}.blob.core.windows.net/{self.name}/{quote(path)}"


@dataclass(frozen=True)
class Event:
    """One message for the queue."""

    id: str
    kind: str
    body: str
    properties: dict[str, str]
    content_type: str | None


_TYPES = {
    ".md": "text/markdown",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".eml": "message/rfc822",
    ".yaml": "application/yaml",
}
_KINDS = {Created: "BlobCreated", Deleted: "BlobDeleted", Renamed: "BlobRenamed"}


def event(change: Change, container: Container, *, sequencer: int, at: int) -> Event:
    """The event for a change; `sequencer` grows with every event, `at` is nanoseconds since 1970."""
    id_ = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{container.url('')}#{sequencer}"))
    kind, version = _KINDS[type(change)], "1" if isinstance(change, Renamed) else ""
    data = _data(change, container) | {
        "clientRequestId": str(uuid.uuid5(uuid.NAMESPACE_URL, id_)),
        "requestId": f"{id_[:-6]}000000",
        "sequencer": f"{sequencer:032X}",
        "storageDiagnostics": {"batchId": str(uuid.uuid5(uuid.NAMESPACE_OID, id_))},
    }
    properties = {
        "aeg-subscription-name": "LOCAL-LAKE",
        "aeg-delivery-count": "0",
        "aeg-event-type": "Notification",
        "aeg-metadata-version": "1",
        "aeg-data-version": version,
        "aeg-output-event-id": id_,
    }
    body = {"subject": container.subject(change.path), "id": id_, "data": data}
    # Event Grid's own schema has been seen without one (Azure/azure-service-bus#286), so readers must not need it.
    mime = None
    if container.schema is Schema.CLOUD_EVENTS:
        mime = "application/cloudevents+json; charset=utf-8"
        body |= {
            "source": container.topic,
            "type": f"Microsoft.Storage.{kind}",
            "time": _time(at),
            "specversion": "1.0",
        }
    else:
        body |= {"topic": container.topic, "eventType": f"Microsoft.Storage.{kind}", "eventTime": _time(at)}
        body |= {"dataVersion": version, "metadataVersion": "1"}
    return Event(id_, kind, json.dumps(body, ensure_ascii=False), properties, mime)


def etag(file: File) -> str:
    """A blob's eTag, in the quotes that HTTP wants; it changes with every write."""
    return f'"0x{sha256(f"{file.digest} {file.modified}".encode()).hexdigest()[:15].upper()}"'


def content_type(path: str) -> str:
    """The content type for the path's suffix."""
    suffix = path[path.rfind(".") :].lower() if "." in path else ""
    return _TYPES.get(suffix) or mimetypes.guess_type(f"name{suffix}")[0] or "application/octet-stream"


def _data(change: Change, container: Container) -> Json:
    blob = {"contentType": content_type(change.path), "blobType": "BlockBlob", "url": container.url(change.path)}
    match change:
        case Created(file=file):
            return {"api": "PutBlob", "eTag": etag(file), "contentLength": file.size} | blob
        case Deleted():
            return {"api": "DeleteBlob"} | blob
        case Renamed(source=source, path=path):
            return {
                "api": "RenameFile",
                "destinationUrl": container.url(path),
                "sourceUrl": container.url(source),
            }


def _time(at: int) -> str:
    """Seven decimals, one more than Python's own reader keeps, as Azure writes it."""
    seconds, rest = divmod(at, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 100:07d}Z"
