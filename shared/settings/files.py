"""Configuration files: YAML, checked against a model. Every finding names file, line and key, and all come at once:

    models.yaml:12: deployments[small-4k].contxt_window: no such key; did you mean context_window?
    models.yaml:15: deployments[small-4k].region: must be text; in quotes: "no"

What a model says itself, it says in the file's words: a `ValueError`, or `invalid` for findings that have keys of their
own.
"""

import difflib
import types
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from shared.errors import SettingsError
from shared.settings.base import existing

Model = TypeVar("Model", bound=BaseModel)
Where = tuple[int | str, ...]
"""The keys and positions that lead to a value."""
_FINDING = "finding"


class Section(BaseModel):
    """A part of a configuration file. A key that it does not know is an error: a misspelt right must not be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_yaml(path: Path, model: type[Model], what: str, context: Mapping[str, Any] | None = None) -> Model:
    """The file as `model`; raises `SettingsError` with a line for each finding.

    `what`: the file, in the error that it is not there. `context`: what the model's validators see as `info.context`.
    """
    try:
        document = _Document(existing(path, what).read_text("utf-8"))
    except yaml.MarkedYAMLError as broken:
        at = broken.problem_mark or broken.context_mark
        line = f":{at.line + 1}" if at else ""
        raise SettingsError(f"{path}{line}: not readable as YAML: {broken.problem or broken.context}") from broken
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise SettingsError(f"{path}: not readable as YAML: {' '.join(str(broken).split())}") from broken
    except RecursionError as deep:
        raise SettingsError(f"{path}: not readable as YAML: it is nested too deeply") from deep
    findings = [(where, "is given twice") for where in document.repeated]
    try:
        made = model.model_validate(document.content, context=context)
    except ValidationError as wrong:
        findings += _findings(wrong, document, model)
    if findings:
        placed = sorted((document.line(where), document.name(where), text) for where, text in findings)
        lines = (f"{path}:{line}: {name}: {text}" for line, name, text in placed)
        raise SettingsError("\n".join(dict.fromkeys(lines)))
    return made


def invalid(findings: Iterable[tuple[Where, str]], also: ValidationError | None = None) -> ValidationError:
    """What a validator raises for findings at several keys; each is (keys below the validated value, sentence).

    `also`: what was found before; its findings come with them.
    """
    details = [
        InitErrorDetails(
            type=_finding(each["msg"]) if each["type"] == _FINDING else each["type"],
            loc=each["loc"],
            input=each["input"],
            ctx=each.get("ctx", {}),
        )
        for each in (also.errors(include_url=False) if also else ())
    ]
    details += [InitErrorDetails(type=_finding(text), loc=where, input=None) for where, text in findings]
    return ValidationError.from_exception_data("file", details)


def _finding(text: str) -> PydanticCustomError:
    return PydanticCustomError(_FINDING, "{text}", {"text": text})


def _findings(wrong: ValidationError, document: "_Document", model: type[BaseModel]) -> Iterator[tuple[Where, str]]:
    errors = wrong.errors(include_url=False)
    for error in errors:
        where = error["loc"]
        # Of a list whose entries are all wrong, pydantic also says that it is too short.
        if error["type"] == "too_short" and any(
            other["loc"][: len(where)] == where for other in errors if other is not error
        ):
            continue
        known = _fields(model, where[:-1])
        yield where, _in_words(error, document.scalar(where), known)


class _Document:
    """A YAML document and where its parts are."""

    def __init__(self, text: str) -> None:
        loader = yaml.SafeLoader(text)
        try:
            self._root = loader.get_single_node()
            # Now, as the loader writes what `<<` brings into the same nodes.
            self.repeated = tuple(_repeated(self._root))
            content = None if self._root is None else loader.construct_document(self._root)
        finally:
            loader.dispose()
        self.content: Any = {} if content is None else content

    def line(self, where: Where) -> int:
        """The line, from 1, of the key at `where`; if it is not there, of what should contain it."""
        _, key, value = self._find(where)
        at = key or value
        return at.start_mark.line + 1 if at else 1

    def scalar(self, where: Where) -> str | None:
        """The value at `where` as it is written; None if it is not there or not a single value."""
        depth, _, value = self._find(where)
        return value.value if depth == len(where) and isinstance(value, yaml.ScalarNode) else None

    def name(self, where: Where) -> str:
        """`deployments[small].price.input`: entries of a list by their name, else by their position from 1."""
        if not where:
            return "the file"
        said = ""
        for depth, step in enumerate(where):
            if isinstance(step, int):
                said += f"[{self.scalar((*where[: depth + 1], 'name')) or step + 1}]"
            else:
                said += f".{step}" if said else step
        return said

    def _find(self, where: Where) -> tuple[int, yaml.Node | None, yaml.Node | None]:
        """How many steps of `where` are there, and key and value of the last of these."""
        key, value = None, self._root
        for depth, step in enumerate(where):
            below = _below(value, step)
            if below is None:
                return depth, None, value
            key, value = below
        return len(where), key, value


def _repeated(node: yaml.Node | None, where: Where = (), seen: frozenset[int] = frozenset()) -> Iterator[Where]:
    """The keys that are given a second time: YAML takes the last in silence."""
    if id(node) in seen:  # an alias inside of what it stands for
        return
    seen |= {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for position, each in enumerate(node.value):
            yield from _repeated(each, (*where, position), seen)
    elif isinstance(node, yaml.MappingNode):
        named = [(key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)]
        counted = Counter(name for name, _ in named)
        for name, value in dict(named).items():
            if counted[name] > 1:
                yield (*where, name)
            yield from _repeated(value, (*where, name), seen)


def _below(node: yaml.Node | None, step: int | str) -> tuple[yaml.Node | None, yaml.Node] | None:
    """The key and the value that `step` leads to."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return None, node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key, value
    return None


def _fields(model: type[BaseModel], where: Sequence[int | str]) -> Mapping[str, str]:
    """The keys that may stand in the mapping at `where`, and what they mean; empty where any may."""
    at: Any = model
    for step in where:
        if isinstance(at, type) and issubclass(at, BaseModel):
            at = at.model_fields[str(step)].annotation if str(step) in at.model_fields else None
        else:  # into a list or a mapping
            at = next((each for each in reversed(get_args(at)) if each is not ...), None)
        while get_origin(at) in (Annotated, Union, types.UnionType):
            at = next(each for each in get_args(at) if each is not type(None))
    if isinstance(at, type) and issubclass(at, BaseModel):
        return {name: field.description or "" for name, field in at.model_fields.items()}
    return {}


# What to say for pydantic's types of errors, with what it says about the limit; `shown` is the value as it is written.
# Not for texts: what is wrong may be a key.
_MAPPING = "must be a mapping: lines of `key: value`"
_LIST = "must be a list: lines that begin with `- `, or [a, b]"
_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("enum", "literal_error"), "must be {expected}{shown}"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number{shown}"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "must be a number{shown}"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false{shown}"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type"), _MAPPING),
    **dict.fromkeys(("list_type", "tuple_type"), _LIST),
    **dict.fromkeys(("too_short", "string_too_short"), "is empty"),
    "too_long": "has more than {max_length} entries",
    "string_too_long": "has more than {max_length} characters",
    "string_pattern_mismatch": "must be of the form {pattern}",
    "greater_than": "must be more than {gt:g}{shown}",
    "greater_than_equal": "must be at least {ge:g}{shown}",
    "less_than": "must be less than {lt:g}{shown}",
    "less_than_equal": "must be at most {le:g}{shown}",
    "invalid_key": "is a key that must be text; write it in quotes",
}


def _in_words(error: ErrorDetails, written: str | None, known: Mapping[str, str]) -> str:
    """The finding `error` for someone who reads the file and knows YAML, but neither Python nor pydantic."""
    limits = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            meaning = known.get(str(error["loc"][-1]))
            return f"is missing ({meaning})" if meaning else "is missing"
        case "extra_forbidden":
            close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            return f"no such key; {f'did you mean {close[0]}?' if close else 'there is: ' + ', '.join(known)}"
        case "string_type":
            return f'must be text; in quotes: "{written}"' if written else "must be text"
        case known_type if known_type in _WORDS:
            shown = f", not {written}" if written and len(written) <= 40 else ""
            expected = str(limits.get("expected", "")).replace("'", "")
            return _WORDS[known_type].format(**{**limits, "expected": expected, "shown": shown})
        case _:
            return error["msg"].removeprefix("Value error, ")
