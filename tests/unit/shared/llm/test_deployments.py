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


EMBEDDING = """
  - name: e
    kind: embedding
    provider: compatible
    endpoint: https://x.example/v1
    model: m
    region: westeurope
    context_window: 512
"""


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (chat(endpoint="${AT}"), "4: deployments[a].endpoint: the environment variable AT is not set"),
        (chat(endpoint="file:///etc/passwd"), "4: deployments[a].endpoint: 'file:///etc/passwd' is not an http"),
        (chat(endpoint="https://x/v1/chat/completions"), "4: deployments[a].endpoint: ends before /chat/completions"),
        (chat(endpoint="https://x/v1/embeddings/"), "4: deployments[a].endpoint: ends before /embeddings"),
        (chat(endpoint="https://x/v1?api-version=1"), "4: deployments[a].endpoint: has no query"),
        (chat(endpoint="https://api.openai.com"), "4: deployments[a].endpoint: has a path: https://api.openai.com/v1"),
        (chat() + "    key_env: sk-123\n", "9: deployments[a].key_env: must be the name of an environment variable"),
        (chat() + chat(), "10: deployments[a].name: another deployment has this name"),
        (" []", "1: deployments: is empty"),
        (chat() + "    region: northeurope\n", "9: deployments[a].region: is given twice"),
        (chat() + "    token_per_minute: 5\n", "9: deployments[a].token_per_minute: no such key; did you mean tokens_"),
        (
            chat() + "    contextwindow: 3\n",
            "9: deployments[a].contextwindow: no such key; did you mean context_window",
        ),
        # A limit that is missing.
        (chat(provider="azure"), "2: deployments[a].api_version: is missing (v1, or a date such as 2024-10-21)"),
        (EMBEDDING, "2: deployments[e].dimensions: is missing (the length of its vectors)"),
        (chat() + "    dialect: reasoning\n", "2: deployments[a].reasoning_tokens: is missing (what the model may"),
        (
            chat() + "    reasoning_tokens: 500\n    max_output: 500\n",
            "9: deployments[a].reasoning_tokens: leaves no token of max_output (500) for the answer",
        ),
        (
            chat() + "    reasoning_tokens: 4000\n",
            "9: deployments[a].reasoning_tokens: leaves no token of context_window (4000) for the answer",
        ),
        (EMBEDDING + "    dimensions: 0\n", "9: deployments[e].dimensions: must be more than 0, not 0"),
        (chat() + "    temperature: warm\n", "9: deployments[a].temperature: must be a number, not warm"),
        (chat() + "    timeouts: {total: 0}\n", "9: deployments[a].timeouts.total: must be more than 0, not 0"),
        # Without effect here.
        (chat() + "    api_version: v1\n", "9: deployments[a].api_version: has no effect for provider: openai"),
        (chat() + "    dimensions: 3\n", "9: deployments[a].dimensions: has no effect for kind: chat"),
        (chat() + "    encoding: float\n", "9: deployments[a].encoding: has no effect for kind: chat"),
        (
            EMBEDDING + "    dimensions: 3\n    temperature: 1\n",
            "10: deployments[e].temperature: has no effect for kind: embedding",
        ),
        (
            EMBEDDING + "    dimensions: 3\n    price: {output: 1}\n",
            "10: deployments[e].price.output: has no effect for kind: embedding",
        ),
        (
            EMBEDDING + "    dimensions: 3\n    dialect: reasoning\n",
            "10: deployments[e].dialect: reasoning is a dialect of chat models",
        ),
        (
            chat() + "    stream: false\n    stream_options: false\n",
            "10: deployments[a].stream_options: has no effect without `stream: true`",
        ),
        (
            chat() + "    stream: false\n    timeouts: {between_tokens: 3}\n",
            "10: deployments[a].timeouts.between_tokens: has no effect without `stream: true`",
        ),
        # What would break the client or the reply.
        (
            chat() + "    headers: {Authorization: Bearer x}\n",
            "9: deployments[a].headers.Authorization: cannot be set here: the key is read from the variable in key_env",
        ),
        (
            chat() + "    headers: {content-length: '3'}\n",
            "9: deployments[a].headers.content-length: cannot be set here",
        ),
        (chat() + "    headers: {'a b': x}\n", "9: deployments[a].headers.a b: is not the name of an HTTP header"),
        (chat() + '    headers: {a: "x\\r\\nb: c"}\n', "9: deployments[a].headers.a: must be one line of ASCII"),
        (chat() + "    headers: {a: '${SECRET}'}\n", "9: deployments[a].headers.a: the environment variable SECRET is"),
        *(
            (chat() + f"    body: {{{name}: 1}}\n", f"9: deployments[a].body.{name}: cannot be set here: ")
            for name in ("messages", "model", "stream", "max_tokens", "temperature", "n", "tools", "response_format")
        ),
    ],
)
def test_an_error_names_the_line_and_the_key(tmp_path: Path, body: str, says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(tmp_path, body)
    [said] = str(raised.value).splitlines()
    assert said.startswith(f"{tmp_path}/models.yaml:{says}")


def test_what_is_wrong_in_keys_and_between_them_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        read(
            tmp_path,
            chat("a", provider="azure") + "    dialect: reasoning\n    top_p: 3\n" + chat("b", endpoint="${AT}"),
        )
    assert [line.partition("models.yaml:")[2].partition(": ")[::2] for line in str(raised.value).splitlines()] == [
        ("2", "deployments[a].api_version: is missing (v1, or a date such as 2024-10-21)"),
        ("2", "deployments[a].reasoning_tokens: is missing (what the model may spend on reasoning beside the answer)"),
        ("10", "deployments[a].top_p: must be at most 1, not 3"),
        ("14", "deployments[b].endpoint: the environment variable AT is not set"),
    ]


def test_headers_are_completed_from_the_environment_and_not_shown(tmp_path: Path) -> None:
    [only] = read(tmp_path, chat() + "    headers: {x-key: 'k-${SECRET}'}\n", SECRET="s3").deployments
    assert only.headers == {"x-key": "k-s3"}
    assert "s3" not in repr(only)


def test_an_api_version_may_be_a_yaml_date(tmp_path: Path) -> None:
    [only] = read(tmp_path, chat(provider="azure") + "    api_version: 2024-10-21\n").deployments
    assert only.api_version == "2024-10-21"


@pytest.mark.parametrize(
    ("version", "endpoint", "address"),
    [
        ("v1", "https://x.example", "https://x.example/openai/v1/"),
        ("v1", "https://x.example/openai/v1/", "https://x.example/openai/v1/"),
        ("v1", "https://gateway.example/team/openai", "https://gateway.example/team/openai/v1/"),
        ("2024-10-21", "https://x.example/", "https://x.example"),
        ("2024-10-21", "https://x.example/openai", "https://x.example"),
    ],
)
def test_azure_may_be_given_with_or_without_its_path(tmp_path: Path, version: str, endpoint: str, address: str) -> None:
    [only] = read(tmp_path, chat(provider="azure", endpoint=endpoint) + f"    api_version: {version}\n").deployments
    assert only.address == address


@pytest.mark.parametrize(("max_output", "limit"), [(None, 400), (5000, 400), (1300, 300), (1001, 1)])
def test_reasoning_and_answer_share_the_maximum_output(tmp_path: Path, max_output: int | None, limit: int) -> None:
    most = f"    max_output: {max_output}\n" if max_output else ""
    [only] = read(tmp_path, chat() + f"    reasoning_tokens: 1000\n{most}").deployments
    assert only.answer_limit(400) == limit


def test_chats_come_in_the_order_in_which_they_are_tried(tmp_path: Path) -> None:
    found = read(tmp_path, chat("late", priority=9) + chat("b") + chat("a"))
    assert [each.name for each in found.chats()] == ["a", "b", "late"]


def test_a_deployment_of_another_kind_is_not_found_and_the_others_are_named(tmp_path: Path) -> None:
    found = read(tmp_path, chat("a"))
    assert found.get("a", ModelKind.CHAT).name == "a"
    with pytest.raises(SettingsError, match=r"no embedding deployment is called 'a'.*there: none"):
        found.get("a", ModelKind.EMBEDDING)


def test_a_file_that_is_missing_or_not_yaml_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"models\.yaml \(RAGBUS_CONFIG leads there"):
        Deployments.read(tmp_path / "models.yaml", {})
    with pytest.raises(SettingsError, match="not readable as YAML") as raised:
        read(tmp_path, chat() + "    : [\n")
    assert "\n" not in str(raised.value)
