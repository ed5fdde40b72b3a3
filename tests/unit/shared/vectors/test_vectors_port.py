"""Identities and folders: they are written into stores, so they must never change."""

import pytest

from shared.vectors.port import document_id, folders_of, stable_id


def test_ids_are_the_same_in_every_process_and_for_ever() -> None:
    assert document_id("larkfield", "handbook", "docs", "a/b.md") == "eb375e72-3649-55bd-9f2e-39e4fa995c70"


def test_parts_cannot_be_shifted_into_one_another() -> None:
    assert len({stable_id("ab", "c"), stable_id("a", "bc"), stable_id("abc"), stable_id("ab", "c", "")}) == 4


@pytest.mark.parametrize(
    ("path", "folders"), [("a.md", []), ("a/b.md", ["a/"]), ("a/b/c.md", ["a/", "a/b/"]), ("a//b.md", ["a/", "a//"])]
)
def test_a_document_is_in_every_folder_above_it(path: str, folders: list[str]) -> None:
    assert folders_of(path) == folders
