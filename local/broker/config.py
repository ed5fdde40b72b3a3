"""Reads Microsoft's emulator `Config.json`: one topology for this broker and for theirs.

    UserConfig.Namespaces[0].Queues[n].Name · .Properties.LockDuration · …

What is left out takes the emulator's default. What is not understood is an error, because a
setting that is silently ignored is found in production.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Final

from local.broker.bus.queue import QueueOptions

EMULATOR_DEFAULTS: Final = QueueOptions(
    lock_duration=60.0, max_delivery_count=3, default_time_to_live=3600.0, duplicate_window=20.0
)
# .NET's TimeSpan.MaxValue, which Azure writes for "never"
_FOREVER: Final = 10675199 * 86400

_DURATION = re.compile(
    r"P(?=.)(?:(?P<Y>\d+)Y)?(?:(?P<M>\d+)M)?(?:(?P<D>\d+)D)?"
    r"(?:T(?=.)(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {"Y": 365 * 86400, "M": 30 * 86400, "D": 86400, "h": 3600, "m": 60, "s": 1}


class ConfigError(ValueError):
    """The file cannot be used; the message is one line and says where and why."""


def load(path: Path) -> dict[str, QueueOptions]:
    """Read the queues from a file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    try:
        return read(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read(config: Any) -> dict[str, QueueOptions]:
    """Read the queues from a configuration that was parsed already."""
    user = _field(_object(config, "the configuration"), "UserConfig", _object, "UserConfig")
    _known(user, {"Namespaces", "Logging"}, "UserConfig")
    namespaces = _field(user, "Namespaces", _list, "UserConfig.Namespaces")
    queues: dict[str, QueueOptions] = {}
    for number, namespace in enumerate(namespaces):
        _read_namespace(queues, namespace, f"UserConfig.Namespaces[{number}]")
    _check_targets(queues)
    return queues


def duration(text: str) -> float:
    """Turn an ISO 8601 duration into seconds; .NET's longest one means for ever."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected an ISO 8601 duration such as PT1M, found {text!r}")
    seconds = sum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)
    return inf if seconds >= _FOREVER else seconds


# --------------------------------------------------------------------------- the parts of the file


def _read_namespace(queues: dict[str, QueueOptions], namespace: Any, where: str) -> None:
    fields = _object(namespace, where)
    _known(fields, {"Name", "Queues", "Topics"}, where)
    if fields.get("Topics"):
        raise ConfigError(f"{where}.Topics: topics are not there yet, only queues")
    for number, queue in enumerate(_list(fields.get("Queues", []), f"{where}.Queues")):
        _read_queue(queues, queue, f"{where}.Queues[{number}]")


def _read_queue(queues: dict[str, QueueOptions], queue: Any, where: str) -> None:
    fields = _object(queue, where)
    _known(fields, {"Name", "Properties"}, where)
    name = _field(fields, "Name", _name, f"{where}.Name")
    if any(name.lower() == other.lower() for other in queues):
        raise ConfigError(f"{where}.Name: there are two queues called {name!r}")
    queues[name] = _read_properties(fields.get("Properties", {}), f"{where}.Properties")


def _read_properties(properties: Any, where: str) -> QueueOptions:
    fields = _object(properties, where)
    _known(fields, set(_PROPERTIES), where)
    changes = {}
    for name, value in fields.items():
        option, convert = _PROPERTIES[name]
        changes[option] = _field({name: value}, name, convert, f"{where}.{name}")
    return replace(EMULATOR_DEFAULTS, **changes)


def _check_targets(queues: Mapping[str, QueueOptions]) -> None:
    names = {name.lower() for name in queues}
    for name, options in queues.items():
        for target in (options.forward_to, options.forward_dead_letters_to):
            if target is not None and target.lower() not in names:
                raise ConfigError(f"queue {name!r} forwards to {target!r}, which is not configured")
            if target is not None and target.lower() == name.lower():
                raise ConfigError(f"queue {name!r} forwards to itself")


# --------------------------------------------------------------------------- the kinds of value


def _field(fields: Mapping[str, Any], name: str, convert: Callable[[Any, str], Any], where: str) -> Any:
    if name not in fields:
        raise ConfigError(f"{where} is missing")
    return convert(fields[name], where)


def _known(fields: Mapping[str, Any], names: set[str], where: str) -> None:
    unknown = sorted(set(fields) - names)
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: no such setting; there are {', '.join(sorted(names))}")


def _object(value: Any, where: str) -> dict[str, Any]:
    fields: dict[str, Any] = _of_type(value, dict, "an object", where)
    return fields


def _list(value: Any, where: str) -> list[Any]:
    items: list[Any] = _of_type(value, list, "a list", where)
    return items


def _of_type(value: Any, kind: type, called: str, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {called}, found {json.dumps(value, default=str)[:40]}")
    return value


def _name(value: Any, where: str) -> str:
    name: str = _of_type(value, str, "a name", where)
    if not re.fullmatch(r"[A-Za-z0-9]|[A-Za-z0-9][\w\-./]*[A-Za-z0-9]", name):
        raise ConfigError(f"{where}: {name!r} cannot be the name of an entity")
    return name


def _target(value: Any, where: str) -> str | None:
    return _name(value, where) if value != "" else None


def _boolean(value: Any, where: str) -> bool:
    return bool(_of_type(value, bool, "true or false", where))


def _positive(value: Any, where: str) -> int:
    number = int(_of_type(value, int, "a number", where))
    if number < 1:
        raise ConfigError(f"{where}: expected at least 1, found {number}")
    return number


def _duration(value: Any, where: str) -> float:
    try:
        seconds = duration(_of_type(value, str, "an ISO 8601 duration such as PT1M", where))
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from None
    if seconds <= 0:
        raise ConfigError(f"{where}: a duration must be longer than nothing")
    return seconds


_PROPERTIES: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "DeadLetteringOnMessageExpiration": ("dead_lettering_on_expiration", _boolean),
    "DefaultMessageTimeToLive": ("default_time_to_live", _duration),
    "DuplicateDetectionHistoryTimeWindow": ("duplicate_window", _duration),
    "ForwardDeadLetteredMessagesTo": ("forward_dead_letters_to", _target),
    "ForwardTo": ("forward_to", _target),
    "LockDuration": ("lock_duration", _duration),
    "MaxDeliveryCount": ("max_delivery_count", _positive),
    "RequiresDuplicateDetection": ("duplicate_detection", _boolean),
    "RequiresSession": ("requires_session", _boolean),
}
