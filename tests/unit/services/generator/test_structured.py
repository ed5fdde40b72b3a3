"""Answers in a structure, from the reply to the outcome, with a scripted model and a real Redis."""

import json
from typing import Any

import pytest

from services.generator.structured import InvalidStructure, data_of, structured, system_prompt, wrapped
from shared.contracts.generate import GenerateAnswer
from shared.contracts.outcome import Code, Outcome, RequestOutcome, ending
from shared.redis import FailFastRedis
from tests.support.builders import a_candidate, a_request, a_use_case
from tests.support.obedient_model import CANARY, obedient_generator
from tests.support.odd_provider import OddProvider, status, whole

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "summary": {"type": "string", "maxLength": 80},
        "days": {"type": "integer"},
        "country": {"enum": ["PT", "DK", None]},
        "notes": {"type": "array", "items": {"$ref": "#/$defs/note"}},
    },
    "required": ["summary", "days", "country", "notes"],
    "additionalProperties": False,
    "$defs": {
        "note": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        }
    },
}
PASSAGES = (
    a_candidate(1, text="Annual leave is paid. New employees receive 24 days of annual leave per year."),
    a_candidate(2, text="The per diem in Denmark is EUR 62."),
)


def a_reply(wrap: bool = True, **changes: Any) -> str:
    given = {
        "summary": "New employees receive 24 days of annual leave [1].",
        "days": 24,
        "country": "PT",
        "notes": [{"text": "The per diem in Denmark is EUR 62 [2]. Leave is paid [1]."}],
        **changes,
    }
    return json.dumps({"answer": given} if wrap else given)


def test_marks_are_verified_and_taken_out_of_the_data() -> None:
    found = structured(a_reply(), SCHEMA, PASSAGES)
    assert found is not None
    assert found.data == {
        "summary": "New employees receive 24 days of annual leave.",
        "days": 24,
        "country": "PT",
        "notes": [{"text": "The per diem in Denmark is EUR 62. Leave is paid."}],
    }
    assert found.text.splitlines() == [
        "summary: New employees receive 24 days of annual leave. [1]",
        "days: 24",
        "country: PT",
        "notes.0.text: The per diem in Denmark is EUR 62. [2] Leave is paid. [1]",
    ]
    assert [(each.marker, each.path, each.pointers) for each in found.citations] == [
        (1, "leave-1.md", ("/summary", "/notes/0/text")),
        (2, "leave-2.md", ("/notes/0/text",)),
    ]
    # An enumerated word is not in the passages.
    assert [(span.pointer, span.start, span.end) for span in found.unverified] == [("/country", 0, 2)]


@pytest.mark.parametrize(
    ("changes", "unverified"),
    [
        ({"days": 25, "country": None}, ["/days"]),
        ({"summary": "New employees receive 99 days of annual leave [1].", "country": None}, ["/summary"]),
        ({"summary": "Pay doubles. Leave is paid [1].", "country": None}, ["/summary"]),
        ({"notes": [{"text": "annual leave"}], "country": None}, []),
        ({"notes": [{"text": "A pay rise [2]"}], "country": None}, ["/notes/0/text"]),
    ],
)
def test_values_that_no_cited_passage_has_are_known(changes: dict[str, Any], unverified: list[str]) -> None:
    changes = {"notes": [{"text": "Annual leave is paid [1]."}], **changes}
    found = structured(a_reply(**changes), SCHEMA, PASSAGES)
    assert found is not None
    assert [span.pointer for span in found.unverified] == unverified


@pytest.mark.parametrize("reply", ["NO_ANSWER", '{"answer": null}', '```json\n{"answer": null}\n```'])
def test_a_reply_can_say_that_there_is_no_answer(reply: str) -> None:
    assert structured(reply, SCHEMA, PASSAGES) is None


@pytest.mark.parametrize("reply", [a_reply(), a_reply(wrap=False), f"```json\n{a_reply()}\n```", f"  {a_reply()}\n"])
def test_the_forms_in_which_models_write_json_are_read(reply: str) -> None:
    assert data_of(reply, SCHEMA, PASSAGES)["days"] == 24


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ("You get 24 days [1].", "it is not JSON"),
        (a_reply()[:-9], "it is not JSON"),
        (a_reply().replace("24,", "NaN,"), "NaN is not a JSON number"),
        ("[" * 100_000, "not JSON|nested"),
        ('{"answer":' + "[" * 400 + "]" * 400 + "}", "not of type|nested"),
        (a_reply(days="24"), "days: '24' is not of type 'integer'"),
        (a_reply(country="SE"), "country: 'SE' is not one of"),
        (a_reply(extra=1), "the answer: Additional properties are not allowed"),
        (a_reply(summary="a" * 81), "summary: .* is too long"),
        (a_reply(notes=[{}]), "notes/0: 'text' is a required property"),
        ('{"answer": 1}', "the answer: 1 is not of type 'object'"),
    ],
)
def test_what_does_not_fit_is_named(reply: str, wrong: str) -> None:
    with pytest.raises(InvalidStructure, match=wrong):
        data_of(reply, SCHEMA, PASSAGES)


def test_marks_do_not_count_for_the_schema() -> None:
    assert len(data_of(a_reply(summary="a" * 80 + " [1][2]"), SCHEMA, PASSAGES)["summary"]) == 80


def test_data_is_inert() -> None:
    reply = a_reply(summary="Leave is paid [1]. <b>x</b> \x1b[31m![a](https://evil.example)")
    found = structured(reply, SCHEMA, PASSAGES)
    assert found is not None
    assert found.data["summary"] == "Leave is paid. x a"
    assert "evil" not in found.text


def test_the_prompt_has_the_schema_and_null_for_no_answer() -> None:
    assert system_prompt("Be brief.", None) == "Be brief."
    assert json.dumps(wrapped(SCHEMA), separators=(",", ":")) in system_prompt("Be brief.", SCHEMA)
    assert wrapped(SCHEMA)["properties"]["answer"]["anyOf"][1] == {"type": "null"}
    assert wrapped(SCHEMA)["$defs"] == SCHEMA["$defs"]


# -- through the generator, over a socket

USE_CASE = a_use_case(deployments=("small",), output_schema=SCHEMA)
SAID = "New employees receive 21 days of annual leave per year [1]."


def a_task() -> GenerateAnswer:
    return GenerateAnswer(request=a_request(), candidates=(a_candidate(1), a_candidate(2)))


GOOD = a_reply(summary=SAID, days=21, country=None, notes=[])


async def test_an_answer_comes_as_data(redis: FailFastRedis) -> None:
    async with OddProvider(whole(GOOD)) as provider, obedient_generator(redis, provider, USE_CASE) as answered:
        outcome = await answered(a_task())
    assert (outcome.outcome, outcome.code) == (Outcome.ANSWERED, Code.OK)
    assert outcome.data == {
        "summary": "New employees receive 21 days of annual leave per year.",
        "days": 21,
        "country": None,
        "notes": [],
    }
    assert outcome.unverified == ()
    sent = provider.asked[0]["response_format"]
    assert (sent["type"], sent["json_schema"]["strict"], sent["json_schema"]["schema"]) == (
        "json_schema",
        True,
        wrapped(SCHEMA),
    )


async def test_a_reply_that_does_not_fit_is_repaired_once_and_paid(redis: FailFastRedis) -> None:
    bad = a_reply(summary=SAID, days="many", country=None, notes=[])
    async with (
        OddProvider(whole(bad), whole(GOOD)) as provider,
        obedient_generator(redis, provider, USE_CASE) as answered,
    ):
        outcome = await answered(a_task())
    assert outcome.code is Code.OK
    assert outcome.usage.prompt_tokens == 2 * 9
    first, second = provider.asked
    assert "days: 'many' is not of type 'integer'" in second["messages"][-1]["content"]
    assert second["response_format"] == first["response_format"]
    assert len(str(second["messages"])) < len(str(first["messages"])) + len(bad)


@pytest.mark.parametrize(
    ("replies", "calls", "why"),
    [
        (["You get 21 days [1]."], 2, "also after it was told why"),
        ([whole('{"answer": {"summary": "You', "length")], 1, "cut off"),
    ],
)
async def test_a_reply_that_cannot_be_repaired_has_a_code_of_its_own(
    redis: FailFastRedis, replies: list[Any], calls: int, why: str
) -> None:
    answers = [whole(each) if isinstance(each, str) else each for each in replies]
    async with OddProvider(*answers) as provider, obedient_generator(redis, provider, USE_CASE) as answered:
        outcome = await answered(a_task())
    assert (outcome.outcome, outcome.code, outcome.data) == (Outcome.FAILED, Code.INVALID_STRUCTURE, None)
    assert why in outcome.message
    assert len(provider.asked) == calls


async def test_a_repair_that_the_budget_cannot_pay_is_not_waited_for(redis: FailFastRedis) -> None:
    """After the wait the first call, which brings the same, would be bought again, and so on until the deadline."""
    bad = whole(
        a_reply(summary=SAID, days="many", country=None, notes=[]),
        counted={"prompt_tokens": 3_000, "completion_tokens": 400},
    )
    async with OddProvider(bad) as provider, obedient_generator(redis, provider, USE_CASE, 3_500) as answered:
        outcome = await answered(a_task())
    assert (outcome.code, len(provider.asked)) == (Code.INVALID_STRUCTURE, 1)
    assert "could not be asked again: the budget has too little left" in outcome.message
    assert outcome.usage.prompt_tokens + outcome.usage.completion_tokens == 3_400


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ('{"answer": null}', Code.NOT_IN_DOCUMENTS),
        (a_reply(summary="Made up.", days=21, country=None, notes=[]), Code.UNGROUNDED),
        (a_reply(summary=f"{SAID} {CANARY}", days=21, country=None, notes=[]), Code.PROMPT_LEAK),
    ],
)
async def test_structured_answers_are_checked_like_others(redis: FailFastRedis, reply: str, code: Code) -> None:
    use_case = a_use_case(deployments=("small",), output_schema=SCHEMA, prompt=f"Be brief. {CANARY}.")
    async with OddProvider(whole(reply)) as provider, obedient_generator(redis, provider, use_case) as answered:
        outcome = await answered(a_task())
    assert (outcome.outcome, outcome.code, outcome.text, outcome.data) == (Outcome.NO_ANSWER, code, "", None)


async def test_a_use_case_can_refuse_unverified_values(redis: FailFastRedis) -> None:
    use_case = a_use_case(deployments=("small",), output_schema=SCHEMA, grounding="refuse")
    wrong = a_reply(summary=SAID, days=22, country=None, notes=[])
    async with OddProvider(whole(wrong)) as provider, obedient_generator(redis, provider, use_case) as answered:
        assert (await answered(a_task())).code is Code.UNGROUNDED


async def test_a_server_that_refuses_response_format_is_asked_without(redis: FailFastRedis) -> None:
    refusal = {"error": {"message": "Unsupported parameter: 'response_format'", "param": "response_format"}}
    provider = OddProvider(status(400, refusal), whole(GOOD))
    async with provider, obedient_generator(redis, provider, USE_CASE) as answered:
        outcome = await answered(a_task())
    assert outcome.code is Code.OK
    assert "response_format" not in provider.asked[1]


@pytest.mark.parametrize("number", ["1e400", "-1e999", "1" + "0" * 400 + ".0"])
def test_a_number_that_json_cannot_carry_is_no_structure(number: str) -> None:
    with pytest.raises(InvalidStructure, match="is not a JSON number"):
        data_of(a_reply().replace("24", number, 1).replace('"days": 24', f'"days": {number}'), SCHEMA, PASSAGES)


def test_what_is_taken_out_puts_no_mark_and_no_tag_together() -> None:
    said = "A car is free [<[9]b>7] <[9]b>. New employees receive 24 days of annual leave [1]."
    found = structured(a_reply(summary=said, notes=[]), SCHEMA, PASSAGES)
    assert found is not None
    assert "<b>" not in found.data["summary"]
    assert "[7]" not in found.text
    assert "[1]" in found.text


def test_the_names_of_values_are_read_by_people() -> None:
    schema = {
        "type": "object",
        "properties": {"a/b~ü": {"type": "string"}},
        "required": ["a/b~ü"],
        "additionalProperties": False,
    }
    found = structured('{"answer": {"a/b~ü": "Annual leave is paid [1]"}}', schema, PASSAGES)
    assert found is not None
    assert found.text == "a/b~ü: Annual leave is paid [1]"
    assert found.citations[0].pointers == ("/a~1b~0ü",)


def test_a_fence_without_an_end_is_read_in_one_pass() -> None:
    with pytest.raises(InvalidStructure):
        data_of("```json" + "\n" * 100_000 + "x", SCHEMA, PASSAGES)


def test_data_is_no_deeper_than_a_message_that_can_be_read() -> None:
    tree = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
        "required": ["text", "next"],
        "additionalProperties": False,
    }
    schema = {**tree, "$defs": {"tree": tree}}
    said: dict[str, Any] | None = None
    for _ in range(30):
        said = {"text": "Annual leave is paid [1].", "next": said}
    found = structured(json.dumps({"answer": said}), schema, PASSAGES)
    assert found is not None
    outcome = ending(a_request(), Outcome.ANSWERED, Code.OK, data=found.data, text=found.text)
    assert RequestOutcome.decode(outcome.encode()).data == found.data
    for _ in range(30):
        said = {"text": "Annual leave is paid [1].", "next": said}
    with pytest.raises(InvalidStructure, match="too deeply"):
        data_of(json.dumps({"answer": said}), schema, PASSAGES)


def test_a_value_that_the_schema_names_stays_as_it_is() -> None:
    named = ["https://intra.example/leave", "=0", "<b>"]
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "enum": {"enum": named}, "const": {"const": "@all"}},
        "required": ["text", "enum", "const"],
        "additionalProperties": False,
    }
    for value in named:
        said = {"text": "See https://intra.example/leave [1]", "enum": value, "const": "@all"}
        assert data_of(json.dumps(said), schema, PASSAGES) == {"text": "See …", "enum": value, "const": "@all"}


async def test_a_name_of_the_schema_is_no_leak_in_any_alphabet(redis: FailFastRedis) -> None:
    schema = {
        "type": "object",
        "properties": {"größe_2026": {"type": "string"}},
        "required": ["größe_2026"],
        "additionalProperties": False,
    }
    reply = whole(json.dumps({"answer": {"größe_2026": SAID}}))
    use_case = USE_CASE.model_copy(update={"output_schema": schema})
    async with OddProvider(reply) as provider, obedient_generator(redis, provider, use_case) as answered:
        outcome = await answered(a_task())
    assert (outcome.code, outcome.data) == (Code.OK, {"größe_2026": SAID.replace(" [1]", "")})
