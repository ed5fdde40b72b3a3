"""Storage events of both schemas, as Azure writes them, and malformed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.indexer.events import read_events
from services.indexer.storage_event import Change
from shared.errors import Reason, Unprocessable

CREATED = {
    "topic": "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/acct",
    "subject": "/blobServices/default/containers/docs/blobs/a/new-file.txt",
    "eventType": "Microsoft.Storage.BlobCreated",
    "eventTime": "2026-06-26T18:41:00.9584103Z",
    "id": "831e1650-001e-001b-66ab-eeb76e069631",
    "data": {
        "api": "PutBlockList",
        "eTag": '"0x8D4BCC2E4835CD0"',
        "contentType": "text/plain",
        "contentLength": 524288,
        "blobType": "BlockBlob",
        "url": "https://acct.blob.core.windows.net/docs/a/new-file.txt",
        "sequencer": "00000000000004420000000000028963",
        "storageDiagnostics": {"batchId": "x"},
    },
    "dataVersion": "",
    "metadataVersion": "1",
}


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def event(kind: str = "BlobCreated", path: str = "a/new-file.txt", **data: Any) -> dict[str, Any]:
    subject = f"/blobServices/default/containers/docs/blobs/{path}"
    kept = {"api": "PutBlob", "sequencer": "1", **data}
    return {**CREATED, "eventType": f"Microsoft.Storage.{kind}", "subject": subject, "data": kept}


def cloud(grid: dict[str, Any]) -> dict[str, Any]:
    names = {"topic": "source", "eventType": "type", "eventTime": "time"}
    kept = {names.get(name, name): value for name, value in grid.items() if not name.endswith("ersion")}
    return {**kept, "specversion": "1.0"}


@pytest.mark.parametrize("schema", [dict, cloud], ids=["event grid", "cloud events"])
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one]], ids=["alone", "in a list"])
def test_both_schemas_give_the_same_change(schema: Any, wrap: Any) -> None:
    [found] = read_events(body(wrap(schema(CREATED))))
    assert (found.change, found.container, found.path) == (Change.WRITTEN, "docs", "a/new-file.txt")
    assert found.occurred_at == datetime(2026, 6, 26, 18, 41, 0, 958410, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "change", "previous"),
    [
        (event(), Change.WRITTEN, None),
        (event(api="FlushWithClose"), Change.WRITTEN, None),
        (event(api="SftpCommit"), Change.WRITTEN, None),
        (event("BlobDeleted", api="DeleteFile"), Change.DELETED, None),
        (
            event("BlobRenamed", sourceUrl="https://acct.dfs.core.windows.net/docs/old%20name%2525.txt"),
            Change.RENAMED,
            "old name%25.txt",
        ),
        (
            event("DirectoryRenamed", "new", sourceUrl="https://acct.dfs.core.windows.net/docs/old"),
            Change.DIRECTORY_RENAMED,
            "old",
        ),
        (
            event("BlobRenamed", sourceUrl="http://127.0.0.1:10000/devstoreaccount1/docs/old.txt"),
            Change.RENAMED,
            "old.txt",
        ),
        (event("DirectoryDeleted", "a", recursive="true"), Change.DIRECTORY_DELETED, None),
    ],
)
def test_every_kind_of_change_is_understood(given: dict[str, Any], change: Change, previous: str | None) -> None:
    [found] = read_events(body(given))
    assert (found.change, found.previous_path) == (change, previous)


@pytest.mark.parametrize(
    "ignored",
    [
        event(api="CreateFile"),
        event(api="SftpCreate"),
        event("BlobTierChanged"),
        event("DirectoryCreated", "a"),
        event("AsyncOperationInitiated"),
        event("DirectoryDeleted", "a", recursive="false"),
        {**CREATED, "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "subject": ""},
        {**CREATED, "eventType": "Contoso.OrderPlaced", "subject": "orders/1"},
    ],
)
def test_events_that_change_no_document_are_ignored(ignored: dict[str, Any]) -> None:
    assert read_events(body(ignored)) == ()


def test_a_rename_from_another_container_is_also_a_deletion_there() -> None:
    moved = event("BlobRenamed", sourceUrl="https://acct.dfs.core.windows.net/drafts/x.txt")
    new, gone = read_events(body(moved))
    assert (new.container, new.change) == ("docs", Change.RENAMED)
    assert (gone.container, gone.path, gone.change) == ("drafts", "x.txt", Change.DELETED)


@pytest.mark.parametrize("path", ["ä ö/%20 as it is.md", "a+b&c=d.md", "#1/?.md", "a%2F%2Fb/%2e%2e.md"])
def test_a_path_is_not_decoded(path: str) -> None:
    [found] = read_events(body(event(path=path)))
    assert found.path == path


SECOND_NAMES = [
    "hr//secret/x.md",
    "//x.md",
    "/x.md",
    "hr/x.md//",
    "hr\\secret\\x.md",
    "hr\\/secret/x.md",
    "hr/./x.md",
    "hr/../hr/x.md",
    "hr/\x7fx.md",
    "hr/\x85x.md",
]


@pytest.mark.parametrize("schema", [dict, cloud], ids=["event grid", "cloud events"])
@pytest.mark.parametrize("path", [*SECOND_NAMES, "hr/\0x.md"])
def test_a_second_name_of_a_blob_is_dead_lettered_with_what_to_do(schema: Any, path: str) -> None:
    for kind in ("BlobCreated", "BlobRenamed"):
        with pytest.raises(Unprocessable) as raised:
            read_events(body(schema(event(kind, path, sourceUrl="https://acct.dfs.core.windows.net/docs/old.md"))))
        assert raised.value.reason is Reason.SCHEMA_INVALID
        assert "give it another path" in raised.value.detail


def test_a_second_name_of_a_blob_can_be_deleted() -> None:
    """An earlier version indexed some; reconcile gets rid of them with such an event."""
    for path in ("hr//secret/x.md", "/x.md", "hr\\x.md"):
        [found] = read_events(body(event("BlobDeleted", path)))
        assert (found.change, found.path) == (Change.DELETED, path)
    [moved] = read_events(
        body(event("BlobRenamed", "a.md", sourceUrl="https://acct.dfs.core.windows.net/docs/a//b.md"))
    )
    assert (moved.path, moved.previous_path) == ("a.md", "a//b.md")
    [below] = read_events(body(event("DirectoryDeleted", "a//b/", recursive="true")))
    assert below.path == "a//b"
    with pytest.raises(Unprocessable):
        read_events(body(event("BlobDeleted", "a/../b.md")))


def test_several_events_in_one_message_are_all_read() -> None:
    changes = read_events(body([event(path="a"), cloud(event(path="b")), event("BlobTierChanged")]))
    assert [each.path for each in changes] == ["a", "b"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"not json", Reason.SCHEMA_INVALID),
        (b"\xff\xfe", Reason.POISON_CONTENT),
        (b"[" * 100_000, Reason.POISON_CONTENT),
        (b'"text"', Reason.SCHEMA_INVALID),
        (b"[1]", Reason.SCHEMA_INVALID),
        (body({"specversion": "1.0"}), Reason.SCHEMA_INVALID),
        (body({**CREATED, "subject": "/blobServices/default/containers/docs"}), Reason.SCHEMA_INVALID),
        (body({**CREATED, "subject": None}), Reason.SCHEMA_INVALID),
        (body(event(path="a/../../etc/passwd")), Reason.SCHEMA_INVALID),
        (body(event(path="///")), Reason.SCHEMA_INVALID),
        (body(event(path="a\nb")), Reason.SCHEMA_INVALID),
        (body(event(path="x" * 2000)), Reason.SCHEMA_INVALID),
        (body({**CREATED, "subject": "/blobServices/default/containers/D%2Fx/blobs/a"}), Reason.SCHEMA_INVALID),
        (body(event("BlobRenamed")), Reason.SCHEMA_INVALID),
        (body(event("BlobRenamed", sourceUrl="https://acct.dfs.core.windows.net/")), Reason.SCHEMA_INVALID),
    ],
)
def test_a_body_that_is_not_a_storage_event_is_dead_lettered_at_once(broken: bytes, reason: Reason) -> None:
    with pytest.raises(Unprocessable) as raised:
        read_events(broken)
    assert raised.value.reason is reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.sampled_from([*CREATED, "specversion", "source", "type", "time"]))
def test_an_event_with_any_value_in_a_field_is_read_or_refused(value: object, name: str) -> None:
    for schema in (dict(CREATED), cloud(CREATED)):
        try:
            changes = read_events(body({**schema, name: value}))
        except Unprocessable:
            continue
        assert all(each.path and each.container for each in changes)


@given(
    st.sampled_from(["@evil.example/", "//evil.example/", "\\\\evil\\", "http://169.254.169.254/"]), st.text(max_size=9)
)
def test_addresses_in_an_event_are_used_as_paths_only(trick: str, rest: str) -> None:
    """The event cannot name an account or a host; the only places are containers and paths in them."""
    try:
        changes = read_events(body(event(path=trick + rest, url=f"http://{trick}")))
    except Unprocessable:
        return
    assert [(each.container, each.path.startswith(trick.rstrip("/"))) for each in changes] == [("docs", True)]
