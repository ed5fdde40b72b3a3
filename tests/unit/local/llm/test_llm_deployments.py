"""The list of pretended models."""

from pathlib import Path
from typing import Any

import pytest

from local.llm.deployments import DEFAULT_WINDOW, Deployment, Deployments, load, parse


def test_without_a_file_any_name_works() -> None:
    assert Deployments().find("whatever") == Deployment("whatever", DEFAULT_WINDOW)


@pytest.mark.parametrize(
    "written", ["deployments:\n- {name: a, tpm: 10}\n", '{"deployments": [{"name":"a","tpm":10}]}']
)
def test_yaml_and_json_are_read(tmp_path: Path, written: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(written)
    found = load(path)
    assert found.find("a") == Deployment("a", tpm=10)
    assert found.find("b") is None


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "a list called 'deployments'"),
        ([{"tpm": 3}], "needs a name"),
        ([{"name": "a", "tmp": 3}], "'a' has an unknown field 'tmp'"),
        ([{"name": "a", "rpm": 0}], "rpm must be a whole number above 0, not 0"),
        ([{"name": "a"}, {"name": "a"}], "'a' is there twice"),
    ],
)
def test_a_wrong_file_is_explained(document: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(document)


def test_text_that_is_neither_yaml_nor_json_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("{a: [")
    with pytest.raises(ValueError, match="neither YAML nor JSON"):
        load(path)
