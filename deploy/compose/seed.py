"""Upload a folder into the lake and send the events to `blob-events`, as Event Grid would.

For `docker compose run --rm seed`: Azurite sends no events. Run it again after a change; only new passages are
embedded.
"""

import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from azure.core.exceptions import ResourceExistsError
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.storage.blob import BlobServiceClient, ContainerClient

QUEUE = "blob-events"


def upload(folder: Path, container: ContainerClient) -> Iterator[dict[str, Any]]:
    """Upload every file; yields an event for each."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        put = container.upload_blob(name, file.read_bytes(), overwrite=True)
        properties = put.get_blob_properties()
        yield event(container.container_name, name, put.url, properties.etag, properties.size)


def event(container: str, name: str, url: str, etag: str, size: int) -> dict[str, Any]:
    """`Microsoft.Storage.BlobCreated` in Event Grid's schema."""
    return {
        "id": str(uuid.uuid4()),
        "topic": "/subscriptions/local/resourceGroups/local/providers/Microsoft.Storage/storageAccounts/ragbus",
        "subject": f"/blobServices/default/containers/{container}/blobs/{name}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": datetime.now(UTC).isoformat(),
        "data": {
            "api": "PutBlob",
            "eTag": etag.strip('"'),
            "contentLength": size,
            "blobType": "BlockBlob",
            "url": url,
            "sequencer": f"{time.time_ns():032x}",
        },
        "dataVersion": "",
        "metadataVersion": "1",
    }


def send(events: list[dict[str, Any]], connection_string: str) -> None:
    """Send one message per event, over one connection, a hundred at a time (a batch has room for 256 KiB)."""
    messages = [ServiceBusMessage(json.dumps(each), message_id=each["id"]) for each in events]
    with ServiceBusClient.from_connection_string(connection_string) as client, client.get_queue_sender(QUEUE) as sender:
        for start in range(0, len(messages), 100):
            sender.send_messages(messages[start : start + 100])


def main(folder: Path) -> None:
    """Upload, then send the events."""
    lake = BlobServiceClient.from_connection_string(os.environ["RAGBUS_LAKE_CONNECTION_STRING"])
    container = lake.get_container_client(os.environ["RAGBUS_LAKE_CONTAINER"])
    try:
        container.create_container()
    except ResourceExistsError:
        sys.stdout.write("the container exists already\n")
    events = list(upload(folder, container))
    send(events, os.environ["RAGBUS_SERVICEBUS_CONNECTION_STRING"])
    sys.stdout.write(f"{len(events)} documents uploaded, their events sent to {QUEUE}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
