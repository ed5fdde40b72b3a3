"""The files of a configuration, each right by itself, and what is wrong between them."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ops.checks.configuration import configuration
from ops.checks.consistency import Configuration, contradictions
from ops.findings import Level
from ops.target import Target
from services.indexer.sources import Sources
from shared.access.callers import Callers
from shared.access.use_cases import UseCase, read_use_cases
from shared.llm.deployments import Deployments
from tests.support.builders import a_use_case

NORTH = a_use_case(deployments=("small",), regions=("northeurope",))
WEST = a_use_case(deployments=("small",), regions=("westeurope",))
EXAMPLE = Path(__file__).parents[3] / "examples/onboarding"


def a_configuration(
    *,
    use_case: UseCase | None = None,
    caller: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
    chat: dict[str, Any] | None = None,
    embedding: dict[str, Any] | None = None,
    tokens_per_minute: int = 9_000,
) -> Configuration:
    """One of each, which go together, but for what is changed."""
    model = {"provider": "azure", "endpoint": "http://x", "api_version": "1", "model": "m", "region": "westeurope"}
    welcome = {"name": "welcome-app", "tenant": "acme", "groups": ["employees"], "use_cases": ["onboarding"]}
    handbook = {"container": "docs", "tenant": "acme", "collection": "handbook", "groups": ["employees"]}
    made = use_case or a_use_case(deployments=("small",))
    return Configuration(
        callers=Callers.model_validate(
            {"tenants": {"acme": {"tokens_per_minute": tokens_per_minute}}, "callers": [welcome | (caller or {})]}
        ),
        use_cases={made.name: made},
        sources=Sources.model_validate({"sources": [handbook | (source or {})]}),
        models=Deployments.model_validate(
            {
                "deployments": [
                    {"name": "small", "context_window": 4000, **model, **(chat or {})},
                    {"name": "vectors", "kind": "embedding", "dimensions": 3, "context_window": 8000}
                    | model
                    | (embedding or {}),
                ]
            }
        ),
        embeddings="vectors",
    )


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        (
            {
                "use_case": a_use_case(deployments=("small",), regions=("northeurope",)),
                "embedding": {"region": "northeurope"},
            },
            Level.FAIL,
            "no deployment may answer, so every ask fails: use case onboarding allows the regions northeurope, "
            "but small is in westeurope",
        ),
        (
            {"chat": {"context_window": 900}},
            Level.FAIL,
            "no deployment may answer, so every ask fails: prompt, question",
        ),
        (
            {"source": {"collection": "other"}},
            Level.FAIL,
            "use case onboarding: sources.yaml has no source for its collection handbook",
        ),
        ({"source": {"tenant": "acne"}}, Level.FAIL, "source docs/: callers.yaml has no tenant acne"),
        ({"embedding": {"name": "elsewhere"}}, Level.FAIL, "models.yaml has no embedding deployment 'vectors'"),
        ({"tokens_per_minute": 3_999}, Level.FAIL, "tenant acme has 3999 tokens per minute, but a call of use case"),
        (
            {"source": {"groups": ["employees", "employes"]}},
            Level.WARN,
            "source docs/: no caller of acme has",
        ),
        ({"caller": {"groups": []}}, Level.WARN, "caller welcome-app may read no source of handbook"),
        ({"caller": {"use_cases": []}}, Level.WARN, "use case onboarding: no caller may use it"),
        (
            {
                "use_case": a_use_case(deployments=("small",), regions=("westeurope",)),
                "embedding": {"region": "eastus"},
            },
            Level.WARN,
            "use case onboarding allows westeurope, but its questions are embedded in eastus",
        ),
    ],
)
def test_what_is_wrong_between_the_files_is_named(changes: dict[str, Any], level: Level, said: str) -> None:
    found = list(contradictions(a_configuration(**changes)))
    assert [(each.level, each.said[: len(said)]) for each in found if each.said.startswith(said)] == [(level, said)]
    assert all(each.fix for each in found)


def test_files_that_go_together_have_no_finding() -> None:
    assert list(contradictions(a_configuration())) == []


def test_the_example_goes_together() -> None:
    example = Configuration(
        Callers.read(EXAMPLE / "callers.yaml"),
        read_use_cases(EXAMPLE / "use_cases"),
        Sources.read(EXAMPLE / "sources.yaml"),
        Deployments.read(EXAMPLE / "models.yaml", {}),
        "embeddings",
    )
    assert list(contradictions(example)) == []


@pytest.mark.parametrize("hashed", ["z" * 64, "A" * 64, "12", "a" * 65, "a" * 64 + "\n"])
def test_a_key_that_is_not_a_hash_is_refused(hashed: str) -> None:
    with pytest.raises(ValueError, match="write api_keys as sha256:<64 hex digits in lower case>"):
        a_configuration(caller={"api_keys": [f"sha256:{hashed}"]})


def test_each_line_of_a_wrong_file_is_a_finding_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "config", ignore=shutil.ignore_patterns("handbook", "sources"))
    models = tmp_path / "config" / "models.yaml"
    models.write_text(models.read_text().replace("    region: ", "    regoin: "))
    found = list(configuration(Target({"RAGBUS_CONFIG": str(tmp_path / "config")}, "a test")))
    assert {each.level for each in found} == {Level.FAIL}
    assert len(found) == 2 * models.read_text().count("regoin")
    assert all(each.said.startswith(f"{models}:") and "models.yaml:" in each.said for each in found)
