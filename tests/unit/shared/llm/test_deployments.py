"""`models.yaml`: read strictly, with errors that name file and field."""

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.llm.deployments import Deployments, ModelKind

EXAMPLE = Path(__file__).parents[4] / "examples/onboarding/models.yaml"
CHAT = """
  - name: {name}
    provider: {provider}
    endpoint: {endpoint}
    model: gpt
    region: westeurope
    context_window: 4000
    priority: {priority}
"""


def chat(name: str = "a", provider: str = "openai", endpoint: str = "https://x.example", priority: int = 1) -> str:
    return CHAT.format(name=name, provider=provider, endpoint=endpoint, priority=priority)


def read(tmp_path: Path, body: str, **environment: str) -> Deployments:
    file = tmp_path / "models.yaml"
    file.write_text(f"deployments:{body}")
    return Deployments.read(file, environment)


def test_the_example_is_readable() -> None:
    deployments = Deployments.read(EXAMPLE, {})
    assert deployments.chats()
    assert deployments.get("embeddings", ModelKind.EMBEDDING).dimensions > 0


@pytest.mark.parametrize(
    ("written", "environment", "expected"),
    [
        ("https://plain.example", {}, "https://plain.example"),
        ("${AT}", {"AT": "https://set.example"}, "https://set.example"),
        ("${AT:-http://127.0.0.1:8090}", {}, "http://127.0.0.1:8090"),
        ("${AT:-http://127.0.0.1:8090}", {"AT": "https://set.example"}, "https://set.example"),
        ("https://${HOST}/v1", {"HOST": "h.example"}, "https://h.example/v1"),
    ],
)
def test_endpoints_are_completed_from_the_environment(
    tmp_path: Path, written: str, environment: dict[str, str], expected: str
) -> None:
    [only] = read(tmp_path, chat(endpoint=written), **environment).deployments
    assert only.endpoint == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (chat(endpoint="${AT}"), "a: endpoint: the environment variable AT is not set"),
        (chat(endpoint="file:///etc/passwd"), "not an http"),
        (chat(provider="azure"), "needs api_version"),
        (chat() + "    kind: embedding\n", "needs dimensions"),
        (chat() + "    contextwindow: 3\n", "deployments.0.contextwindow"),
        (chat() + "    key_env: sk-123\n", "deployments.0.key_env"),
        (chat() + chat(), "deployment a is listed twice"),
        (" []", "deployments"),
    ],
)
def test_an_error_names_the_file_and_the_field(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(SettingsError, match=r"models\.yaml") as raised:
        read(tmp_path, body)
    assert says in str(raised.value)


def test_an_api_version_may_be_a_yaml_date(tmp_path: Path) -> None:
    [only] = read(tmp_path, chat(provider="azure") + "    api_version: 2024-10-21\n").deployments
    assert only.api_version == "2024-10-21"


def test_chats_come_in_the_order_in_which_they_are_tried(tmp_path: Path) -> None:
    found = read(tmp_path, chat("late", priority=9) + chat("b") + chat("a"))
    assert [each.name for each in found.chats()] == ["a", "b", "late"]


def test_a_deployment_of_another_kind_is_not_found_and_the_others_are_named(tmp_path: Path) -> None:
    found = read(tmp_path, chat("a"))
    assert found.get("a", ModelKind.CHAT).name == "a"
    with pytest.raises(SettingsError, match=r"no embedding deployment is called 'a'.*there: none"):
        found.get("a", ModelKind.EMBEDDING)


@pytest.mark.parametrize("name", ["token_per_minute", "contxt_window"])
def test_a_setting_that_nothing_reads_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=rf"models\.yaml: deployments\.0\.{name}: this setting does not exist"):
        read(tmp_path, chat() + f"    {name}: 5\n")


def test_a_setting_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'region' is given twice"):
        read(tmp_path, chat() + "    region: northeurope\n")


def test_a_file_that_is_missing_or_not_yaml_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"models\.yaml \(RAGBUS_CONFIG leads there"):
        Deployments.read(tmp_path / "models.yaml", {})
    with pytest.raises(SettingsError, match="not readable as YAML") as raised:
        read(tmp_path, chat() + "    : [\n")
    assert "\n" not in str(raised.value)
