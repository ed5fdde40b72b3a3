"""Fields of a JSON file: what kind each must be, and complaints that say where they are.

The files may have comments and commas before a closing bracket, as Microsoft's own have.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

_STRING: Final = r'"(?:\\.|[^"\\\n])*"'
_COMMENTS: Final = re.compile(rf"({_STRING})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_TRAILING: Final = re.compile(rf"({_STRING})|,(?=\s*[}}\]])")
_WORTH_SHOWING: Final = 40  # characters of a value that is wrong

Convert = Callable[[Any, str], Any]
"""Turns a value into what it stands for; the second argument says where it was found."""


class ConfigError(ValueError):
    """A file cannot be used; each line of the message says where and why."""


def read_json(path: Path) -> Any:
    """Read a file; every complaint begins with its name; raises `ConfigError`."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def parse(text: str) -> Any:
    """Parse JSON with comments; raises `ValueError`, a field that is there twice included."""
    plain = _TRAILING.sub(_blank, _COMMENTS.sub(_blank, text))
    try:
        return json.loads(plain, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _blank(found: "re.Match[str]") -> str:
    """Keep strings, and what is left out as wide and high as it was, so that positions stay right."""
    return found[1] or re.sub(r"[^\n]", " ", found[0])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"there are two fields called {twice!r} in one object")
    return fields


# --------------------------------------------------------------------------- objects


def field(fields: Mapping[str, Any], name: str, convert: Convert, where: str) -> Any:
    """Return a field that must be there; raises `ConfigError`."""
    place = f"{where}.{name}" if where else name
    if name not in fields:
        raise ConfigError(f"{place} is missing")
    return convert(fields[name], place)


def known(fields: Mapping[str, Any], names: Collection[str], where: str) -> None:
    """Refuse an unknown field: if it were ignored, the mistake would be found in production."""
    unknown = sorted(set(fields) - set(names))
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: no such setting; there are {', '.join(sorted(names))}")


def choice(fields: Mapping[str, Any], table: Mapping[str, tuple[str, Convert]], where: str) -> dict[str, Any]:
    """Convert the fields that are there, each into the option the table names."""
    known(fields, table, where)
    return {table[name][0]: table[name][1](value, f"{where}.{name}") for name, value in fields.items()}


# --------------------------------------------------------------------------- values


def of_type(value: Any, kind: type, called: str, where: str) -> Any:
    """Return a value of this kind; raises `ConfigError`."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: expected {called}, found {json.dumps(value, default=str)[:_WORTH_SHOWING]}")
    return value


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return an object."""
    fields: dict[str, Any] = of_type(value, dict, "an object", where)
    return fields


def items(value: Any, where: str) -> list[Any]:
    """Return a list."""
    values: list[Any] = of_type(value, list, "a list", where)
    return values


def text(value: Any, where: str) -> str:
    """Return a string."""
    return str(of_type(value, str, "a string", where))


def boolean(value: Any, where: str) -> bool:
    """Return true or false."""
    return bool(of_type(value, bool, "true or false", where))


def positive(value: Any, where: str) -> int:
    """Return a whole number above zero; raises `ConfigError`."""
    number = int(of_type(value, int, "a number", where))
    if number < 1:
        raise ConfigError(f"{where}: expected at least 1, found {number}")
    return number
