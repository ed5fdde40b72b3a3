"""Which JSON Schemas a use case may give its answers. Pure.

The subset of draft 2020-12 that providers enforce while the model writes (OpenAI, "Structured outputs"; vLLM, llama.cpp
and Ollama take it, too), and in which nothing is ignored: every object is closed, and every property is required (an
optional one has the type `[string, "null"]`). No `pattern`: a model's text would run through a regular expression.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from shared.text import brief

MOST_BYTES, MOST_PROPERTIES, MOST_DEPTH = 8 * 1024, 100, 5

_TYPES: Final = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))
_KEYWORDS: Final[Mapping[str, tuple[type, ...]]] = {
    **dict.fromkeys(("title", "description", "$ref", "$schema"), (str,)),
    "type": (str, list),
    **dict.fromkeys(("properties", "$defs", "items"), (dict,)),
    **dict.fromkeys(("required", "enum", "anyOf"), (list,)),
    "additionalProperties": (bool,),
    "const": (str, int, float, bool, type(None)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), (int, float)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), (int,)),
}
_REF = "#/$defs/"
_NAME = re.compile(r"[\w.-]+", re.ASCII)
DRAFT = "https://json-schema.org/draft/2020-12/schema"


def check(schema: Mapping[str, Any]) -> None:
    """Raises `ValueError` that names the place and what to write there."""
    try:
        written = json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except TypeError as other:  # YAML reads 2024-01-31 as a date
        raise ValueError(f"{other}; write it in quotes") from other
    if json.loads(written) != schema:
        raise ValueError("a key of it is no text; write it in quotes")
    size = len(written.encode())
    if size > MOST_BYTES:
        raise ValueError(f"it has {size} bytes as JSON; a prompt has room for {MOST_BYTES}")
    if schema.get("type") != "object":
        raise ValueError("write type: object at its top; a list goes into a property")
    parts = list(_parts(schema, "", 1))
    if (count := sum(len(part.get("properties", ())) for _, part in parts)) > MOST_PROPERTIES:
        raise ValueError(f"it has {count} properties, more than {MOST_PROPERTIES}")
    for where, part in parts:
        _check_part(part, where or "/", schema.get("$defs", {}), is_root=not where)
    _check_values(schema)
    _check_ends(schema)
    if not any("string" in _types(part) and "enum" not in part and "const" not in part for _, part in parts):
        raise ValueError("it has no free string, so no citation can stand in an answer; add one, such as a summary")


def _check_values(schema: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as wrong:
        raise ValueError(f"/{'/'.join(map(str, wrong.absolute_path))}: {brief(wrong.message)}") from wrong


def _check_ends(schema: Mapping[str, Any]) -> None:
    """Raises when a value would be looked up for ever: a definition that is, or may be, itself."""
    definitions = _mapping(schema, "$defs")
    for name in definitions:
        seen: set[str] = set()
        left = [definitions[name]]
        while left:
            part = left.pop()
            left += part.get("anyOf", ())
            if "$ref" in part and (found := part["$ref"][len(_REF) :]) not in seen:
                seen.add(found)
                left.append(definitions[found])
        if name in seen:
            raise ValueError(f"/$defs/{name}: it stands for itself; put it into a property or into items")


def _parts(part: Mapping[str, Any], where: str, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema in `part` with its JSON Pointer, itself first."""
    if depth > MOST_DEPTH * 2:
        raise ValueError(f"{where}: it is nested deeper than {MOST_DEPTH} levels")
    yield where, part
    inner = {f"{key}/{name}": each for key in ("properties", "$defs") for name, each in _mapping(part, key).items()}
    if isinstance(part.get("anyOf"), list):
        inner |= {f"anyOf/{number}": each for number, each in enumerate(part["anyOf"])}
    if "items" in part:
        inner["items"] = part["items"]
    for step, each in inner.items():
        if not isinstance(each, dict):
            raise ValueError(f"{where}/{step}: write a schema, such as {{type: string}}")
        yield from _parts(each, f"{where}/{step}", depth + 1)


def _mapping(part: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = part.get(key, {})
    return found if isinstance(found, dict) else {}


def _types(part: Mapping[str, Any]) -> list[Any]:
    found = part.get("type", [])
    return found if isinstance(found, list) else [found]


def _check_part(part: Mapping[str, Any], where: str, definitions: Mapping[str, Any], *, is_root: bool) -> None:
    for key, value in part.items():
        if key not in _KEYWORDS or (key in ("$defs", "$schema") and not is_root):
            raise ValueError(f"{where}: {key} is not supported here; supported: {', '.join(sorted(_KEYWORDS))}")
        if not isinstance(value, _KEYWORDS[key]) or (isinstance(value, bool) and bool not in _KEYWORDS[key]):
            raise ValueError(f"{where}: {key}: {value!r} is not of the right type")
    if part.get("$schema", DRAFT) != DRAFT:
        raise ValueError(f"{where}: $schema: only {DRAFT} is supported")
    if "$ref" in part:
        start, name = part["$ref"][: len(_REF)], part["$ref"][len(_REF) :]
        if start != _REF or name not in definitions or not _NAME.fullmatch(name):
            raise ValueError(f"{where}: $ref: {part['$ref']!r} is none of #/$defs/…")
        return
    if wrong := [each for each in _types(part) if not isinstance(each, str) or each not in _TYPES]:
        raise ValueError(f"{where}: type: {wrong[0]!r} is none of {', '.join(sorted(_TYPES))}")
    if not {"type", "enum", "const", "anyOf"} & part.keys():
        raise ValueError(f"{where}: say what it is: type, enum, const, anyOf or $ref")
    if part.get("enum") == []:
        raise ValueError(f"{where}: enum: it is empty, so no answer fits")
    if "array" in _types(part) and "items" not in part:
        raise ValueError(f"{where}: an array needs items")
    if "object" in _types(part):
        _check_object(part, where)


def _check_object(part: Mapping[str, Any], where: str) -> None:
    names = list(_mapping(part, "properties"))
    if not names:
        raise ValueError(f"{where}: an object needs properties")
    if part.get("additionalProperties") is not False:
        raise ValueError(f"{where}: write additionalProperties: false")
    if sorted(map(str, part.get("required", ()))) != sorted(names):
        raise ValueError(
            f"{where}: write required: [{', '.join(names)}]; an optional property has the type [string, 'null']"
        )
