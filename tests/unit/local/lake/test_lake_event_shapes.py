"""Events look as Azure's do."""

import json
from typing import Any

import pytest

from local.lake.diff import Change, Created, Deleted, File, Renamed
from local.lake.events import Container, Event, Schema, content_type, etag, event

FILE = File(524288, 1_700_000_000_000_000_000, 0, 7, "ab" * 32)
PATH = "hr/Leave policy #1 (50%) ü.md"
ENCODED = "hr/Leave%20policy%20%231%20%2850%25%29%20%C3%BC.md"
TOPIC = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/local"
    "/providers/Microsoft.Storage/storageAccounts/devlake"
)
BASE = "https://devlake.blob.core.windows.net/docs"
DIAGNOSTICS = {"clientRequestId", "requestId", "sequencer", "storageDiagnostics"}


def sent(change: Change, schema: Schema = Schema.EVENT_GRID) -> tuple[Event, dict[str, Any]]:
    """The message and its parsed body."""
    message = event(change, Container("docs", schema=schema), sequencer=0x442, at=1_498_502_460_958_410_300)
    return message, json.loads(message.body)


def test_a_created_blob_in_event_grids_own_schema() -> None:
    message, body = sent(Created(PATH, FILE))
    data = body.pop("data")
    assert body == {
        "topic": TOPIC,
        "subject": f"/blobServices/default/containers/docs/blobs/{PATH}",
        "eventType": "Microsoft.Storage.BlobCreated",
        "eventTime": "2017-06-26T18:41:00.9584103Z",
        "id": message.id,
        "dataVersion": "",
        "metadataVersion": "1",
    }
    assert data["sequencer"] == "00000000000000000000000000000442"
    assert {name: data[name] for name in data.keys() - DIAGNOSTICS} == {
        "api": "PutBlob",
        "eTag": etag(FILE),
        "contentType": "text/markdown",
        "contentLength": 524288,
        "blobType": "BlockBlob",
        "url": f"{BASE}/{ENCODED}",
    }
    assert data["eTag"].startswith('"0x')


def test_cloud_events_carry_the_same_data() -> None:
    message, body = sent(Created(PATH, FILE), Schema.CLOUD_EVENTS)
    assert body.pop("data") == sent(Created(PATH, FILE))[1]["data"]
    assert body == {
        "source": TOPIC,
        "subject": f"/blobServices/default/containers/docs/blobs/{PATH}",
        "type": "Microsoft.Storage.BlobCreated",
        "time": "2017-06-26T18:41:00.9584103Z",
        "id": message.id,
        "specversion": "1.0",
    }
    assert message.content_type == "application/cloudevents+json; charset=utf-8"


def test_a_deleted_blob_has_neither_etag_nor_length() -> None:
    data = sent(Deleted("a.txt", FILE))[1]["data"]
    assert data.keys() - DIAGNOSTICS == {"api", "contentType", "blobType", "url"}
    assert data["api"] == "DeleteBlob"


def test_a_renamed_blob_has_two_urls_and_the_new_subject() -> None:
    _, body = sent(Renamed("old name.txt", "new.txt", FILE))
    assert body["eventType"] == "Microsoft.Storage.BlobRenamed"
    assert body["subject"].endswith("/blobs/new.txt")
    assert body["dataVersion"] == "1"
    assert {name: body["data"][name] for name in body["data"].keys() - DIAGNOSTICS} == {
        "api": "RenameFile",
        "destinationUrl": f"{BASE}/new.txt",
        "sourceUrl": f"{BASE}/old%20name.txt",
    }


def test_message_properties_are_event_grids() -> None:
    message, _ = sent(Created("a.txt", FILE))
    assert message.properties == {
        "aeg-subscription-name": "LOCAL-LAKE",
        "aeg-delivery-count": "0",
        "aeg-event-type": "Notification",
        "aeg-metadata-version": "1",
        "aeg-data-version": "",
        "aeg-output-event-id": message.id,
    }


def test_every_sequencer_has_an_id_of_its_own() -> None:
    ids = {event(Created("a", FILE), Container("docs"), sequencer=number, at=0).id for number in range(100)}
    assert len(ids) == 100


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.md", "text/markdown"),
        ("a.PDF", "application/pdf"),
        ("a.b/c", "application/octet-stream"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.txt", "text/plain"),
        ("a.zzz", "application/octet-stream"),
    ],
)
def test_the_type_follows_the_suffix(path: str, expected: str) -> None:
    assert content_type(path) == expected
