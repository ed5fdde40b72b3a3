"""Which JSON Schemas a use case may give."""

from datetime import date
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from shared.access.output_schema import MOST_BYTES, check
from tests.support.builders import a_use_case

STRING = {"type": "string"}


def an_object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "schema",
    [
        an_object(a=STRING),
        an_object(a={"type": ["string", "null"], "maxLength": 9}, b={"enum": ["x", 1, None]}, c={"const": 1}),
        an_object(a={"type": "array", "items": an_object(b=STRING), "maxItems": 3}),
        an_object(a={"anyOf": [STRING, {"type": "integer", "minimum": 0}]}),
        {**an_object(a={"$ref": "#/$defs/x"}), "$defs": {"x": STRING}, "title": "T", "description": "D"},
    ],
)
def test_a_schema_of_the_subset_is_accepted(schema: dict[str, Any]) -> None:
    check(schema)
    Draft202012Validator.check_schema(schema)
    assert a_use_case(output_schema=schema).version() != a_use_case().version()


def deep(levels: int) -> dict[str, Any]:
    return an_object(a=deep(levels - 1)) if levels else STRING


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({}, "type: object at its top"),
        ({"type": "array", "items": STRING}, "type: object at its top"),
        ({"type": "object"}, "needs properties"),
        ({**an_object(a=STRING), "additionalProperties": True}, "write additionalProperties: false"),
        ({**an_object(a=STRING, b=STRING), "required": ["a"]}, r"write required: \[a, b\]"),
        (an_object(a={"type": "string", "pattern": "(a+)+"}), "/properties/a: pattern is not supported"),
        (an_object(a={"type": "text"}), "/properties/a: type: 'text'"),
        (an_object(a={"type": "string", "maxLength": "9"}), "maxLength: '9' is not of the right type"),
        (an_object(a={"type": "string", "maxLength": True}), "maxLength: True is not of the right type"),
        (an_object(a={}), "/properties/a: say what it is"),
        (an_object(a="string"), "/properties/a: write a schema"),
        (an_object(a={"type": "array"}), "an array needs items"),
        (an_object(a={"$ref": "https://evil.example/x"}), "is none of #/\\$defs"),
        (an_object(a={"$ref": "#"}), "is none of #/\\$defs"),
        ({**an_object(a=STRING), "$schema": "http://json-schema.org/draft-07/schema#"}, "only https://json-schema"),
        (an_object(a={"$ref": "a"}) | {"$defs": {"a": STRING}}, "is none of #/\\$defs"),
        (an_object(a={"$ref": "#/$defs/a/b"}) | {"$defs": {"a/b": STRING}}, "is none of #/\\$defs"),
        (
            an_object(a={"$ref": "#/$defs/a"}) | {"$defs": {"a": {"$ref": "#/$defs/a"}}},
            "/\\$defs/a: it stands for itself",
        ),
        (
            an_object(a=STRING, b={"$ref": "#/$defs/a"})
            | {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}, STRING]}, "b": {"$ref": "#/$defs/a"}}},
            "it stands for itself",
        ),
        (an_object(a=STRING, b={"type": "number", "multipleOf": 0}), "/properties/b/multipleOf: 0 is less"),
        (an_object(a=STRING, b={"type": "number", "minimum": float("inf")}), "not JSON compliant"),
        (an_object(a=STRING, b={"type": [["string"]]}), "/properties/b: type"),
        (an_object(a=STRING, b={"enum": []}), "enum: it is empty"),
        (an_object(a=STRING, b={"enum": [date(2024, 1, 31)]}), "date is not JSON serializable; write it in quotes"),
        (an_object(a=STRING, b={"type": "string", "minLength": -1}), "minLength: -1 is less"),
        (an_object(a=STRING) | {"properties": {1: STRING}}, "a key of it is no text"),
        (an_object(a={"type": "integer"}), "no free string"),
        (an_object(a={"type": "string", "enum": ["x"]}), "no free string"),
        (deep(30), "nested deeper"),
        (an_object(**{f"p{number}": STRING for number in range(101)}), "101 properties"),
        (an_object(a={**STRING, "description": "x" * MOST_BYTES}), "bytes as JSON"),
    ],
)
def test_another_schema_is_refused_with_its_place(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        a_use_case(output_schema=schema)


def test_nothing_can_be_dropped_from_a_structure() -> None:
    with pytest.raises(ValidationError, match="write flag or refuse"):
        a_use_case(output_schema=an_object(a=STRING), grounding="drop")
