"""Identities and folders: they are written into stores, so they must never change."""

import json
from datetime import UTC, datetime

import pytest

from shared.vectors.port import Document, DocumentState, document_id, folders_of, stable_id


def test_ids_are_the_same_in_every_process_and_release() -> None:
    assert document_id("larkfield", "handbook", "docs", "a/b.md") == "eb375e72-3649-55bd-9f2e-39e4fa995c70"


def test_parts_cannot_be_shifted_into_one_another() -> None:
    assert len({stable_id("ab", "c"), stable_id("a", "bc"), stable_id("abc"), stable_id("ab", "c", "")}) == 4


@pytest.mark.parametrize(
    ("path", "folders"), [("a.md", []), ("a/b.md", ["a/"]), ("a/b/c.md", ["a/", "a/b/"]), ("a//b.md", ["a/", "a//"])]
)
def test_a_document_is_in_every_folder_above_it(path: str, folders: list[str]) -> None:
    assert folders_of(path) == folders


def test_an_entry_survives_its_payload_and_unknown_fields_are_ignored() -> None:
    entry = Document(
        tenant="larkfield",
        collection="handbook",
        container="handbook",
        path="hr/leave.pdf",
        version=3,
        build_id="e3",
        state=DocumentState.DELETED,
        groups=frozenset({"managers", "employees"}),
        etag='"1"',
        content_hash="00",
        pipeline="parse1",
        title="Leave",
        passages=0,
        updated_at=datetime(2026, 11, 28, tzinfo=UTC),
        finished=True,
    )
    payload = json.loads(json.dumps(entry.payload()))
    assert Document.from_payload({**payload, "new": 1}) == entry
    assert payload["folders"] == folders_of("hr/leave.pdf")
