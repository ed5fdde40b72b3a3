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
    found, _ = load(path)
    assert found.find("a") == Deployment("a", tpm=10)
    assert found.find("b") is None


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([{"tpm": 3}], "needs a name"),
        ([{"name": "a", "tmp": 3}], "'a' has an unknown field 'tmp'"),
        ([{"name": "a", "rpm": 0}], "rpm must be a whole number above 0, not 0"),
        ([{"name": "a", "tpm": True}], "tpm must be a whole number above 0, not True"),
        ([{"name": "a", "dialect": "cohere"}], "dialect must be one of chat, reasoning, vllm, ollama, llamacpp"),
        ([{"name": "a", "shortens": 1}], "shortens must be true or false, not 1"),
        ([{"name": "a"}, {"name": "a"}], "'a' is there twice"),
        ([], "must be a list of at least one"),
    ],
)
def test_a_wrong_deployment_is_explained(document: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse({"deployments": document})


@pytest.mark.parametrize("document", [{}, None, [], {"models": []}])
def test_a_file_without_either_list_is_explained(document: Any) -> None:
    with pytest.raises(ValueError, match="a list called 'deployments', or 'faults'"):
        parse(document)


def test_a_file_may_hold_faults_alone() -> None:
    found, rules = parse({"faults": [{"fault": "html-200", "probability": 0.1}]})
    assert found.find("any") is not None
    assert [(rule.fault, rule.probability) for rule in rules] == [("html-200", 0.1)]
    with pytest.raises(ValueError, match="unknown fault 'htlm-200'"):
        parse({"faults": [{"fault": "htlm-200"}]})


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("gpt-4o", "chat"),
        ("o3-mini", "reasoning"),
        ("gpt-5-nano", "reasoning"),
        ("vllm-a", "vllm"),
        ("ollama", "ollama"),
    ],
)
def test_without_a_file_the_name_says_what_it_speaks(name: str, dialect: str) -> None:
    found = Deployments().find(name)
    assert found is not None
    assert found.dialect == dialect


def test_text_that_is_neither_yaml_nor_json_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("{a: [")
    with pytest.raises(ValueError, match="neither YAML nor JSON"):
        load(path)
