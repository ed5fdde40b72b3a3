"""Storage events as they arrive on `blob-events`: both schemas, one event per message."""

import json
from pathlib import Path
from typing import Any

import pytest
from azure.core.messaging import CloudEvent
from azure.eventgrid import EventGridEvent
from jsonschema import Draft202012Validator

from ops.reference import asyncapi
from services.indexer.events import read_events
from services.indexer.storage_event import Change

GOLDEN = Path(__file__).parent / "golden" / "storage"
CHANGES = {
    "cloudevents-blob-created": (Change.WRITTEN, "remote-work.md", None),
    "cloudevents-blob-deleted": (Change.DELETED, "faq.md", None),
    "cloudevents-blob-renamed": (Change.RENAMED, "archive/expenses-2025.docx", "expenses-2025.docx"),
    "cloudevents-directory-deleted": (Change.DIRECTORY_DELETED, "archive", None),
    "eventgrid-blob-created": (Change.WRITTEN, "remote-work.md", None),
    "eventgrid-blob-created-adls": (Change.WRITTEN, "managers/salary bands.pdf", None),
    "eventgrid-blob-deleted": (Change.DELETED, "faq.md", None),
    "eventgrid-blob-renamed": (Change.RENAMED, "archive/expenses-2025.docx", "expenses-2025.docx"),
    "eventgrid-directory-deleted": (Change.DIRECTORY_DELETED, "archive", None),
    "eventgrid-directory-renamed": (Change.DIRECTORY_RENAMED, "leadership", "managers"),
}


def body(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def test_every_event_is_looked_at() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_an_event_says_where_to_look(name: str) -> None:
    (change,) = read_events(body(name))
    assert (change.change, change.path, change.previous_path) == CHANGES[name]
    assert change.container == "handbook"


@pytest.mark.parametrize("name", CHANGES)
def test_a_list_of_one_is_read_too(name: str) -> None:
    assert read_events(b"[" + body(name) + b"]") == read_events(body(name))


@pytest.mark.parametrize("name", CHANGES)
def test_the_sdk_reads_the_golden_as_its_own(name: str) -> None:
    event = json.loads(body(name))
    if name.startswith("cloudevents"):
        cloud: CloudEvent[Any] = CloudEvent.from_dict(event)
        assert cloud.subject == event["subject"]
    else:
        assert EventGridEvent.from_dict(event).subject == event["subject"]


@pytest.mark.parametrize("name", CHANGES)
def test_the_published_schema_takes_it(name: str) -> None:
    schemas = asyncapi.document((), {}, {}, "0")["components"]["schemas"]
    Draft202012Validator(schemas["StorageEvent"]).validate(json.loads(body(name)))
