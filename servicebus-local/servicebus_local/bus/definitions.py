"""Definitions of entities as JSON, for a store: options, access policies, rules.

    {"kind": "queue" | "subscription" | "topic", "options": {…}, "rules": [{"name": …, "filter": {…}, …}]}

Fields have the names they have here, `null` where a duration or size is without end. A value that
JSON has no word for says what it is: {"datetime": …}, {"duration": microseconds}, {"uuid": …},
{"amqp": bytes in hexadecimal}.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime, timedelta
from enum import Enum
from math import inf, isfinite
from typing import Any, TypeVar
from uuid import UUID

from servicebus_local.amqp.types import decode, encode
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.topology import AccessRule, QueueOptions, Right, Status, TopicOptions

T = TypeVar("T")

_OPTIONS: dict[str, type[QueueOptions] | type[TopicOptions]] = {"queue": QueueOptions, "topic": TopicOptions}
_FILTERS: dict[str, type[Filter]] = {
    "true": TrueFilter,
    "false": FalseFilter,
    "sql": SqlFilter,
    "correlation": CorrelationFilter,
}
_FILTER_NAMES = {kind: name for name, kind in _FILTERS.items()}


def write(options: QueueOptions | TopicOptions, rules: tuple[Rule, ...]) -> str:
    """Write a definition as JSON; raises `TypeError` for a parameter of a rule that has no written form."""
    kind = "topic" if isinstance(options, TopicOptions) else "queue"
    return json.dumps({"kind": kind, "options": _fields_of(options), "rules": list(map(_write_rule, rules))})


def read(text: str) -> tuple[QueueOptions | TopicOptions, tuple[Rule, ...]]:
    """Read what `write` wrote; raises `ValueError`, `KeyError` or `TypeError` for anything else."""
    written = json.loads(text)
    options: QueueOptions | TopicOptions = _build(_OPTIONS[written["kind"]], written["options"])
    return options, tuple(map(_read_rule, written["rules"]))


def _fields_of(value: Any) -> dict[str, Any]:
    return {field.name: _written(getattr(value, field.name)) for field in fields(value)}


def _build(kind: type[T], written: Mapping[str, Any]) -> T:
    return kind(**{name: _READERS.get(name, _same)(value) for name, value in written.items()})


# --------------------------------------------------------------------------- rules


def _write_rule(rule: Rule) -> dict[str, Any]:
    chosen = {"kind": _FILTER_NAMES[type(rule.filter)]} | _fields_of(rule.filter)
    action = None if rule.action is None else _fields_of(rule.action)
    return {"name": rule.name, "created_at": rule.created_at, "filter": chosen, "action": action}


def _read_rule(written: dict[str, Any]) -> Rule:
    chosen = dict(written["filter"])
    kind = _FILTERS[chosen.pop("kind")]
    action = None if written["action"] is None else _build(SqlAction, written["action"])
    return Rule(written["name"], _build(kind, chosen), action, written["created_at"])


# --------------------------------------------------------------------------- values


def _written(value: Any) -> Any:
    """Return a field as JSON has it."""
    match value:
        case Enum():
            return value.value
        case AccessRule():
            return _fields_of(value)
        case tuple():
            return list(map(_written, value))
        case frozenset():
            return sorted(map(_written, value))
        case Mapping():
            return {name: _write_value(given) for name, given in value.items()}
        case float() if not isfinite(value):
            return None
        case _:
            return value


def _write_value(value: Any) -> Any:
    """Return a value of any type, as rules have them, in a form that keeps the type."""
    if value is None or type(value) in (bool, int, str) or (type(value) is float and isfinite(value)):
        return value
    match value:
        case datetime():
            return {"datetime": value.isoformat()}
        case timedelta():
            return {"duration": value // timedelta(microseconds=1)}
        case UUID():
            return {"uuid": str(value)}
        case _:
            return {"amqp": encode(value).hex()}


_VALUES: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "duration": lambda microseconds: timedelta(microseconds=microseconds),
    "uuid": UUID,
    "amqp": lambda encoded: decode(bytes.fromhex(encoded))[0],
}


def _read_value(written: Any) -> Any:
    if not isinstance(written, dict):
        return written
    [(kind, value)] = written.items()
    return _VALUES[kind](value)


def _read_values(written: dict[str, Any]) -> dict[str, Any]:
    return {name: _read_value(value) for name, value in written.items()}


def _same(written: Any) -> Any:
    return written


def _endless(written: float | None) -> float:
    return inf if written is None else written


def _read_access(written: list[dict[str, Any]]) -> tuple[AccessRule, ...]:
    return tuple(_build(AccessRule, rule) for rule in written)


_READERS: dict[str, Callable[[Any], Any]] = {
    "access": _read_access,
    "keys": tuple,
    "rights": lambda written: frozenset(map(Right, written)),
    "status": Status,
    "parameters": _read_values,
    "properties": _read_values,
    "default_time_to_live": _endless,
    "duplicate_window": _endless,
    "lock_duration": _endless,
    "max_size": _endless,
    "auto_delete_on_idle": _endless,
}
