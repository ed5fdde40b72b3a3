"""What a request to a deployment contains, and what a refused parameter teaches."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.llm.dialect import Learned, Lesson, Preset, body, embedding_body, refused_parameter
from tests.support.builders import a_deployment

MESSAGES = ({"role": "user", "content": "how many days?"},)
WHAT = {"model": "m", "messages": MESSAGES}


def sent(stream: bool = False, **changes: Any) -> dict[str, Any]:
    """The request of a deployment, without what each has."""
    needed = {"reasoning_tokens": 200} if changes.get("dialect") == "reasoning" else {}
    deployment = a_deployment("d", 4000, model="m", stream=stream, **needed, **changes)
    arguments = body(deployment, MESSAGES, 300, stream)
    return {name: value for name, value in arguments.items() if name not in WHAT}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dialect": "chat"}, {"max_tokens": 300, "temperature": 0}),
        ({"dialect": "reasoning"}, {"max_completion_tokens": 300}),
        *(({"dialect": name}, {"max_tokens": 300, "temperature": 0}) for name in ("vllm", "ollama", "llamacpp")),
        ({"token_limit": "max_completion_tokens"}, {"max_completion_tokens": 300, "temperature": 0}),
        ({"temperature": "none"}, {"max_tokens": 300}),
        ({"dialect": "reasoning", "temperature": 1}, {"max_completion_tokens": 300, "temperature": 1}),
        ({"top_p": 0.5, "seed": 0}, {"max_tokens": 300, "temperature": 0, "top_p": 0.5, "seed": 0}),
        (
            {"dialect": "reasoning", "reasoning_effort": "none"},
            {"max_completion_tokens": 300, "reasoning_effort": "none"},
        ),
        ({"body": {"top_k": 1}}, {"max_tokens": 300, "temperature": 0, "extra_body": {"top_k": 1}}),
    ],
)
def test_a_preset_says_what_is_sent_and_each_part_can_be_overridden(
    changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert sent(**changes) == expected


def test_a_stream_asks_for_its_usage_unless_the_server_refuses_that() -> None:
    assert sent(stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent(stream=True, stream_options=False)
    assert sent(stream=True, stream_options=False)["stream"] is True


@pytest.mark.parametrize(
    ("provider", "changes", "dimensions", "encoding"),
    [
        ("azure", {}, 64, "base64"),
        ("openai", {}, 64, "base64"),
        ("openai", {"send_dimensions": False}, None, "base64"),
        ("compatible", {}, None, "base64"),
        ("compatible", {"send_dimensions": True}, 64, "base64"),
        ("compatible", {"dialect": "ollama"}, None, "float"),
        ("compatible", {"dialect": "llamacpp"}, None, "float"),
        ("compatible", {"dialect": "vllm", "encoding": "float"}, None, "float"),
    ],
)
def test_embeddings_are_asked_for_as_the_model_can(
    provider: str, changes: dict[str, Any], dimensions: int | None, encoding: str
) -> None:
    given = {"kind": "embedding", "dimensions": 64, "provider": provider, **changes}
    if provider == "azure":
        given["api_version"] = "2024-10-21"
    arguments = embedding_body(a_deployment("e", 8000, model="m", body={"user": "u"}, **given), ("one", "two"))
    assert arguments == {
        "model": "m",
        "input": ["one", "two"],
        "encoding_format": encoding,
        **({} if dimensions is None else {"dimensions": dimensions}),
        "extra_body": {"user": "u"},
    }
    assert "extra_body" not in embedding_body(a_deployment("e", 8000, **given), ["one"])


# Sentences of servers, from their code or from bug reports.
UNSUPPORTED_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
UNSUPPORTED_TEMPERATURE = (
    "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
)
TOO_LONG = (
    "'max_tokens' or 'max_completion_tokens' is too large: 5000. This model's maximum context length is 4096 tokens"
)
EXTRA = (
    "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted', "
    "'input': {'max_tokens': 3}}]"
)
PARAMETERS = ("max_tokens", "temperature", "seed", "stream_options", "reasoning_effort", "dimensions")


@pytest.mark.parametrize(
    ("sentence", "param", "refused"),
    [
        (UNSUPPORTED_MAX_TOKENS, "max_tokens", "max_tokens"),
        (UNSUPPORTED_MAX_TOKENS, None, "max_tokens"),
        (UNSUPPORTED_TEMPERATURE, "temperature", "temperature"),
        ("Unrecognized request argument supplied: stream_options", None, "stream_options"),
        ("Unknown parameter: 'stream_options.include_usage'.", "stream_options.include_usage", "stream_options"),
        (EXTRA, None, "stream_options"),
        ("property 'seed' is unsupported", None, "seed"),
        ("temperature: only 1 is supported", "temperature", "temperature"),
        ('Invalid JSON payload received. Unknown name "seed": Cannot find field.', None, "seed"),
        ("This model does not support specifying dimensions.", None, "dimensions"),
        ('"gemma3" does not support thinking', None, "reasoning_effort"),
        ("Model grok-4 does not support parameter reasoningEffort.", None, "reasoning_effort"),
        ("`temperature` is deprecated for this model.", None, "temperature"),
        # About something else.
        (TOO_LONG, "max_tokens", None),
        ("max_tokens is too large: 5000. This model supports at most 4096 completion tokens", "max_tokens", None),
        ("Unsupported parameter: 'logit_bias' is not supported with this model.", "logit_bias", None),
        ("Unsupported parameter: 'logit_bias' is not supported with this model.", None, None),
        ("temperature must be at most 1", "temperature", None),
        ("", None, None),
    ],
)
def test_a_refusal_names_its_parameter(sentence: str, param: str | None, refused: str | None) -> None:
    assert refused_parameter(PARAMETERS, sentence, param) == refused


def test_refusals_one_after_the_other_are_each_learned_once() -> None:
    learned, deployment = Learned(), a_deployment("d", 4000)
    for sentence, param in ((UNSUPPORTED_MAX_TOKENS, "max_tokens"), (UNSUPPORTED_TEMPERATURE, "temperature")):
        lesson = learned.lesson(deployment, body(deployment, MESSAGES, 3, False, learned=learned), sentence, param)
        assert lesson is not None
        assert lesson.parameter == param
    again = body(deployment, MESSAGES, 3, False, learned=learned)
    assert again == {"model": deployment.model, "messages": MESSAGES, "max_completion_tokens": 3}
    # They are not sent any more, so they teach nothing more.
    assert learned.lesson(deployment, again, UNSUPPORTED_TEMPERATURE, "temperature") is None
    # Another deployment has its own.
    assert "temperature" in body(a_deployment("e", 4000), MESSAGES, 3, False, learned=learned)


@pytest.mark.parametrize(
    ("parameter", "write", "instead"),
    [
        ("max_completion_tokens", "token_limit: max_tokens", {"max_tokens": 3}),
        ("temperature", "temperature: none", {}),
        ("top_p", "no top_p", {}),
        ("seed", "no seed", {}),
        ("reasoning_effort", "no reasoning_effort", {}),
        ("stream_options", "stream_options: false", {}),
    ],
)
def test_a_lesson_changes_one_parameter_and_says_what_to_write(
    parameter: str, write: str, instead: dict[str, Any]
) -> None:
    learned = Learned()
    every = {"temperature": 1, "top_p": 0.5, "seed": 7, "reasoning_effort": "low", "stream": True}
    deployment = a_deployment("d", 4000, token_limit="max_completion_tokens", **every)
    before = body(deployment, MESSAGES, 3, True, learned=learned)
    # Only the provider's own field says which one: the sentence names others first.
    sentence = f"max_completion_tokens, temperature, seed: '{parameter}' is not supported"
    with capture_logs() as logs:
        assert learned.lesson(deployment, before, sentence, parameter) == Lesson(parameter, write)
    after = body(deployment, MESSAGES, 3, True, learned=learned)
    assert after == {name: value for name, value in before.items() if name != parameter} | instead
    assert logs == [
        {
            "event": "model.parameter_refused",
            "log_level": "warning",
            "deployment": "d",
            "parameter": parameter,
            "write": f"{write} (deployment d in models.yaml)",
            "detail": sentence,
        }
    ]
    # Another call was under way; nothing is said again.
    with capture_logs() as logs:
        assert learned.lesson(deployment, before, sentence, parameter) == Lesson(parameter, write)
    assert logs == []


def test_an_answer_in_json_is_asked_for_as_the_server_can_until_it_refuses() -> None:
    learned, schema = Learned(), {"type": "object"}
    whole = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    for style, expected in (("json_schema", whole), ("json_object", {"type": "json_object"}), ("none", None)):
        deployment = a_deployment(style, 4000, structured_output=style)
        before = body(deployment, MESSAGES, 3, False, learned=learned, schema=schema)
        assert before.get("response_format") == expected
        assert "response_format" not in body(deployment, MESSAGES, 3, False, learned=learned)
        if expected:
            lesson = Lesson("response_format", "structured_output: none")
            # Twice: another call was under way.
            for _ in range(2):
                assert learned.lesson(deployment, before, "'response_format' is not supported") == lesson
            after = body(deployment, MESSAGES, 3, False, learned=learned, schema=schema)
            assert after == {name: value for name, value in before.items() if name != "response_format"}


def test_what_one_deployment_refuses_another_may_refuse_too() -> None:
    learned, one = Learned(), a_deployment("d", 4000)
    first = body(one, MESSAGES, 3, False, learned=learned)
    assert learned.lesson(one, first, UNSUPPORTED_MAX_TOKENS)
    renamed = a_deployment("e", 4000, token_limit="max_completion_tokens")
    second = body(renamed, MESSAGES, 3, False, learned=learned)
    assert learned.lesson(renamed, second, "Unknown parameter: 'max_completion_tokens'.")
    assert "max_tokens" in body(renamed, MESSAGES, 3, False, learned=learned)
    assert "max_completion_tokens" in body(one, MESSAGES, 3, False, learned=learned)


def test_a_server_that_refuses_both_limits_teaches_one_of_them() -> None:
    learned, deployment = Learned(), a_deployment("d", 4000)
    first = body(deployment, MESSAGES, 3, False, learned=learned)
    assert learned.lesson(deployment, first, "Unknown parameter: 'max_tokens'.")
    second = body(deployment, MESSAGES, 3, False, learned=learned)
    assert learned.lesson(deployment, second, "Unknown parameter: 'max_completion_tokens'.") is None
    assert body(deployment, MESSAGES, 3, False, learned=learned) == second


def test_a_call_that_was_under_way_when_another_learned_is_repeated_too() -> None:
    learned, deployment = Learned(), a_deployment("d", 4000)
    both = body(deployment, MESSAGES, 3, False, learned=learned)
    assert learned.lesson(deployment, both, UNSUPPORTED_TEMPERATURE)
    assert learned.lesson(deployment, both, UNSUPPORTED_TEMPERATURE)
    assert learned.lesson(deployment, body(deployment, MESSAGES, 3, False, learned=learned), "unknown") is None


def test_what_the_operator_wrote_into_the_body_is_never_left_out() -> None:
    learned, deployment = Learned(), a_deployment("d", 4000, body={"guided_regex": "x"})
    arguments = body(deployment, MESSAGES, 3, False, learned=learned)
    assert learned.lesson(deployment, arguments, "Unknown parameter: 'guided_regex'.", "guided_regex") is None


def test_base64_is_replaced_by_floats_and_dimensions_are_left_out() -> None:
    learned = Learned()
    deployment = a_deployment("e", 8000, kind="embedding", dimensions=64)
    first = embedding_body(deployment, ["x"], learned=learned)
    assert learned.lesson(deployment, first, "encoding_format: unknown variant `base64`, expected `float`")
    second = embedding_body(deployment, ["x"], learned=learned)
    assert second["encoding_format"] == "float"
    assert learned.lesson(deployment, second, "encoding_format is not supported") is None
    assert learned.lesson(deployment, second, "This model does not support specifying dimensions.")
    assert "dimensions" not in embedding_body(deployment, ["x"], learned=learned)


def test_every_preset_has_a_limit() -> None:
    for preset in Preset:
        assert any(name in sent(dialect=preset.value) for name in ("max_tokens", "max_completion_tokens"))
