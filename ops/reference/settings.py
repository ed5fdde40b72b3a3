"""`settings.md`: every environment variable of every worker, with default and meaning, from the settings classes."""

import importlib
import inspect
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from local.stack.broker_config import iso
from ops.reference.text import Files, markdown, table
from shared.settings.base import PREFIX, Settings
from shared.settings.worker import WorkerSettings

PAGE = "docs/reference/settings.md"
WORKERS = ("gateway", "retriever", "generator", "indexer")
# ${NAME} or ${NAME:-default} in an endpoint, key_env: NAME beside it.
_MENTIONED = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}|key_env: *(\w+)")

OF_THE_COMMAND: Mapping[str, tuple[str, str]] = {
    "RAGBUS_FOLDER": ("`.ragbus`", "where the laptop's stack keeps its state; `--folder` overrides it"),
    "RAGBUS_GATEWAY_URL": ("the stack's", "the gateway for `ask --http` and `cancel --http`"),
    "RAGBUS_API_KEY": ("the example's", "the key of `ask --http` and `cancel --http`"),
    "RAGBUS_ADMIN_URL": ("the stack's", "the administration endpoint of the emulator or the local broker"),
}


def settings_class(worker: str) -> type[Settings]:
    """The one settings class that `services/<worker>/settings.py` defines; raises `ValueError` unless it is one."""
    module = importlib.import_module(f"services.{worker}.settings")
    own = [each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__]
    found = [each for each in own if issubclass(each, Settings)]
    if len(found) != 1:
        raise ValueError(f"services/{worker}/settings.py defines {len(found)} settings classes, expected one")
    return found[0]


def variables(settings: type[Settings]) -> dict[str, FieldInfo]:
    """Field by environment variable."""
    return {PREFIX + name.upper(): field for name, field in settings.model_fields.items()}


def models_variables(models_yaml: str) -> dict[str, str]:
    """The variables that a models file refers to, with their defaults."""
    return {found[1] or found[3]: found[2] or "" for found in _MENTIONED.finditer(models_yaml)}


def files(classes: Mapping[str, type[Settings]], models_yaml: str) -> Files:
    """The page."""
    common = variables(WorkerSettings)
    sections = []
    for worker, settings in classes.items():
        # Those that only this worker has, or with another default or meaning.
        own = [
            (name, field)
            for name, field in variables(settings).items()
            if (other := common.get(name)) is None
            or (field.default, field.description) != (other.default, other.description)
        ]
        also = ", and those of every worker" if issubclass(settings, WorkerSettings) else " (it uses no others)"
        head = f"## {worker.capitalize()}\n\n`python -m services.{worker}`{also}.\n\n"
        sections.append(head + (_table(own) if own else ""))
    return {
        PAGE: markdown(
            "Settings",
            "Workers read environment variables. The defaults run on a laptop; a wrong value stops the process with "
            "one line that names the variable. Values marked *secret* never appear in logs.",
            "## Every worker\n\n" + _table(common.items()),
            *sections,
            "## The example's models.yaml\n\n`models.yaml` contains endpoints and the names of key variables; the "
            "example uses these.\n\n"
            + table(("variable", "default"), [(f"`{n}`", _code(d)) for n, d in models_variables(models_yaml).items()]),
            "## The command\n\n`ragbus` uses the settings of the workers. A variable of the terminal overrides the "
            "running stack's value, and the command says so; `--config` overrides `RAGBUS_CONFIG`. In addition:\n\n"
            + table(("variable", "default", "meaning"), [(f"`{n}`", *said) for n, said in OF_THE_COMMAND.items()]),
        )
    }


def _table(rows: Iterable[tuple[str, FieldInfo]]) -> str:
    return table(
        ("variable", "type", "default", "meaning"),
        [(f"`{name}`", type_name(field.annotation), _default(field), field.description or "") for name, field in rows],
    )


def type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) in (types.UnionType, Union):
        return " or ".join(type_name(each) for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is not None:
        return str(annotation)
    if issubclass(annotation, Enum):
        return " or ".join(f"`{each.value}`" for each in annotation)
    return _NAMES.get(annotation, annotation.__name__.lower())


_NAMES: Mapping[type, str] = {
    str: "text",
    float: "number",
    int: "whole number",
    bool: "yes or no",
    timedelta: "ISO 8601 duration",
    SecretStr: "*secret*",
}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    match field.get_default(call_default_factory=True, validated_data={}):
        case None:
            return "unset"
        case SecretStr() as secret:
            return _code(secret.get_secret_value())
        case timedelta() as duration:
            return _code(iso(duration))
        case Enum() as choice:
            return _code(str(choice.value))
        case other:
            return _code(str(other))


def _code(value: str) -> str:
    return f"`{value}`" if value else "empty"


def classes(workers: Sequence[str] = WORKERS) -> dict[str, type[Settings]]:
    """Every worker's settings class."""
    return {worker: settings_class(worker) for worker in workers}
