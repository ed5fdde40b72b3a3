"""Answers in a structure: the schema that a model is given, and what its reply holds. Pure.

A model writes `{"answer": …}`, in which null means that the documents do not hold the answer, because a provider that
enforces a schema leaves no other way to say so. Citation marks stand in the strings; they are verified as in a text,
and taken out of the data. A string without a mark, or a number, counts as verified when a cited passage has all of it.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from services.generator.citations import covers, rewritten, unverified, verify, without_marks
from services.generator.markup import inert, plain
from services.generator.prompt import as_seen, says_no_answer
from shared.contracts.generate import Candidate
from shared.contracts.outcome import Citation, Span
from shared.text import brief

_FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*)```", re.DOTALL | re.IGNORECASE)
_MARK = re.compile(r"\s?\[(\d+)\]")
_LONGEST = 300  # characters of what is wrong
# Levels of the data. An outcome of more than `MAX_DEPTH` could be written, and never be read again.
_DEEPEST = 32


class InvalidStructure(ValueError):
    """A reply that is not what the schema asks for; the text says what is wrong, and where."""


@dataclass(frozen=True, slots=True)
class Structured:
    """An answer in a structure."""

    data: Any
    text: str
    """The same for people, a line for each value, with its marks."""
    citations: tuple[Citation, ...]
    unverified: tuple[Span, ...]


def wrapped(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a reply: `schema` or null in `answer`."""
    inner = {key: value for key, value in schema.items() if key not in ("$defs", "$schema")}
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {
        "type": "object",
        "properties": {"answer": {"anyOf": [inner, {"type": "null"}]}},
        "required": ["answer"],
        "additionalProperties": False,
        **definitions,
    }


def system_prompt(prompt: str, schema: Mapping[str, Any] | None) -> str:
    """The use case's `prompt`, with what a model must know of its `schema`."""
    if schema is None:
        return prompt
    return (
        f"{prompt.rstrip()}\nReply with one JSON object and nothing else, which fits this JSON Schema. Put the "
        f'citations into its strings, behind each statement. If the passages lack the answer, "answer" is null.\n'
        f"{json.dumps(wrapped(schema), ensure_ascii=False, separators=(',', ':'))}"
    )


def repair_messages(schema: Mapping[str, Any], reply: str, wrong: str) -> tuple[dict[str, str], ...]:
    """What a model is asked when its `reply` does not fit; without passages, as only the form is wrong."""
    return (
        {
            "role": "system",
            "content": "You correct JSON. Keep every word, number and mark like [1]; change only the form. Reply with "
            "one JSON object and nothing else, which fits this JSON Schema:\n"
            f"{json.dumps(wrapped(schema), ensure_ascii=False, separators=(',', ':'))}",
        },
        {"role": "user", "content": f"{reply}\n\nWhat is wrong: {wrong}"},
    )


def data_of(reply: str, schema: Mapping[str, Any], passages: Sequence[Candidate]) -> Any:
    """The data in `reply` without marks and markup, valid for `schema`; None: it says that there is no answer.

    Raises `InvalidStructure`.
    """
    value = _parsed(reply)
    if value is None:
        return None
    sources, constants = tuple(map(as_seen, passages)), frozenset(_constants(schema))

    def bare(_: str, text: str) -> str:
        if text in constants:  # the use case's own words, not the model's
            return text
        return rewritten(without_marks(inert(plain(text), sources)), lambda said: inert(said, sources)).strip()

    data = _mapped(value, bare)
    _validate(data, schema)
    return data


def structured(reply: str, schema: Mapping[str, Any], passages: Sequence[Candidate]) -> Structured | None:
    """The answer in `reply` with its verified citations; None: it says that there is no answer.

    Raises `InvalidStructure`.
    """
    data = data_of(reply, schema, passages)
    if data is None:
        return None
    sources = tuple(map(as_seen, passages))
    citations: dict[int, Citation] = {}
    pointers: dict[int, list[str]] = {}

    def marked(pointer: str, text: str) -> str:
        found = verify(inert(plain(text), sources), passages)
        ours = {}
        for citation, number in zip(found.citations, found.numbers, strict=True):
            citations.setdefault(number, citation.replaced(marker=len(citations) + 1))
            pointers.setdefault(number, []).append(pointer)
            ours[citation.marker] = citations[number].marker
        shown = rewritten(found.text, lambda said: inert(said, sources))
        return _MARK.sub(lambda mark: f" [{ours[int(mark[1])]}]", shown)

    leaves = dict(_leaves(_mapped(_parsed(reply), marked)))
    cited = [passages[number - 1] for number in citations]
    spans = []
    for pointer, value in _leaves(data):
        said = value if isinstance(value, str) else json.dumps(value)
        is_fact = isinstance(value, str | int | float) and not isinstance(value, bool)
        own = isinstance(value, str) and _MARK.search(leaves[pointer]) and not unverified(leaves[pointer])
        if is_fact and said and not own and not any(covers(passage, said) for passage in cited):
            spans.append(Span(pointer=pointer, start=0, end=len(said)))
    lines = (
        f"{_named(pointer)}: {value if isinstance(value, str) else json.dumps(value)}"
        for pointer, value in leaves.items()
    )
    found = tuple(each.replaced(pointers=tuple(pointers[number])) for number, each in citations.items())
    return Structured(data, "\n".join(lines), found, tuple(spans))


def _constants(part: Any) -> Iterator[str]:
    """The strings that a schema, or a part of it, names as values."""
    if isinstance(part, dict):
        enum = part.get("enum", ())
        yield from (
            each for each in (*(enum if isinstance(enum, list) else ()), part.get("const")) if isinstance(each, str)
        )
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _constants(each)


def _parsed(reply: str) -> Any:
    """The value of `answer`; None: there is none. Raises `InvalidStructure`."""
    text = reply.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    if says_no_answer(text):
        return None
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as broken:
        raise InvalidStructure(f"it is not JSON: {broken}") from broken
    if isinstance(value, dict) and list(value) == ["answer"]:
        return value["answer"]
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _finite(number: str) -> float:
    """JSON has no infinity, but 1e400 would be read as one."""
    found = float(number)
    return found if math.isfinite(found) else _refuse(brief(number, 40))


def _validate(data: Any, schema: Mapping[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    try:
        error = next(Draft202012Validator(schema).iter_errors(data), None)
    except RecursionError as deep:
        raise InvalidStructure("it is nested too deeply") from deep
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the answer"
        # The message begins with the whole value.
        value = repr(error.instance)
        raise InvalidStructure(f"{where}: {brief(error.message.replace(value, brief(value, 80)), _LONGEST)}")


def _mapped(value: Any, change: Callable[[str, str], str], pointer: str = "") -> Any:
    """`value` with `change(pointer, string)` for each of its strings; raises `InvalidStructure` when it is too deep."""
    if pointer.count("/") > _DEEPEST:
        raise InvalidStructure("it is nested too deeply")
    if isinstance(value, str):
        return change(pointer, value)
    if isinstance(value, dict):
        return {key: _mapped(each, change, f"{pointer}/{_step(key)}") for key, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change, f"{pointer}/{number}") for number, each in enumerate(value)]
    return value


def _leaves(value: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is neither an object nor an array, with its JSON Pointer (RFC 6901)."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, f"{pointer}/{_step(key)}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _leaves(each, f"{pointer}/{number}")
    else:
        yield pointer, value


def _named(pointer: str) -> str:
    return ".".join(step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/"))


def _step(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
