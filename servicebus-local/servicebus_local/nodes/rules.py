"""Rules as $management writes them: described lists on the way out, maps on the way in.

    out   rule-description: [filter, action, name, created at], lists with numeric descriptors
    in    {sql-filter: {expression} | correlation-filter: {…}, sql-rule-action: {expression}}

The numbers are those that the .NET and JavaScript SDKs compare with; Microsoft's list of the
request-response operations has them too. Those of filters have a digit less, which is no mistake.
"""

from collections.abc import Mapping
from typing import Any, Final

from servicebus_local.amqp.types import Described, Timestamp, Ulong
from servicebus_local.bus.errors import InvalidArgument
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.nodes.request import simple_map

_RULE_DESCRIPTION: Final = Ulong(0x13700000004)
_EMPTY_ACTION: Final = Ulong(0x13700000005)
_SQL_ACTION: Final = Ulong(0x13700000006)
_SQL_FILTER: Final = Ulong(0x1370000006)
_TRUE_FILTER: Final = Ulong(0x1370000007)
_FALSE_FILTER: Final = Ulong(0x1370000008)
_CORRELATION_FILTER: Final = Ulong(0x1370000009)

# In the order of the described list; the names are those of the map.
_CORRELATION_FIELDS: Final = {
    "correlation-id": "correlation_id",
    "message-id": "message_id",
    "to": "to",
    "reply-to": "reply_to",
    "label": "label",
    "session-id": "session_id",
    "reply-to-session-id": "reply_to_session_id",
    "content-type": "content_type",
}


def describe(rule: Rule) -> Described:
    """Write a rule."""
    action = Described(_EMPTY_ACTION, []) if rule.action is None else Described(_SQL_ACTION, [rule.action.expression])
    created = [Timestamp(int(rule.created_at * 1000))] if rule.created_at else []
    return Described(_RULE_DESCRIPTION, [_describe_filter(rule.filter), action, rule.name, *created])


def _describe_filter(chosen: Filter) -> Described:
    match chosen:
        case TrueFilter():
            return Described(_TRUE_FILTER, [])
        case FalseFilter():
            return Described(_FALSE_FILTER, [])
        case SqlFilter(expression):
            return Described(_SQL_FILTER, [expression])
        case CorrelationFilter():
            fields = [getattr(chosen, name) for name in _CORRELATION_FIELDS.values()]
            return Described(_CORRELATION_FILTER, [*fields, dict(chosen.properties)])


def read_rule(name: str, description: Mapping[Any, Any]) -> Rule:
    """Read a rule; raises `InvalidArgument` when it is none."""
    action = _expression(description, "sql-rule-action")
    expression, correlation = _expression(description, "sql-filter"), _map(description, "correlation-filter")
    if (expression is None) == (correlation is None):
        raise InvalidArgument("A rule needs either a 'sql-filter' or a 'correlation-filter'.")
    chosen = _read_correlation(correlation or {}) if expression is None else SqlFilter(expression)
    return Rule(name, chosen, None if action is None else SqlAction(action))


def _read_correlation(fields: Mapping[Any, Any]) -> CorrelationFilter:
    values = {name: _text(fields, key) for key, name in _CORRELATION_FIELDS.items()}
    properties = simple_map(_map(fields, "properties") or {}, "properties")
    if not properties and not any(values.values()):
        raise InvalidArgument("The field 'correlation-filter' must name at least one property.")
    return CorrelationFilter(**values, properties=properties)


def _expression(description: Mapping[Any, Any], name: str) -> str | None:
    fields = _map(description, name)
    if fields is None:
        return None
    expression = _text(fields, "expression")
    if expression is None:
        raise InvalidArgument(f"The field '{name}' needs an 'expression'.")
    return expression


def _map(fields: Mapping[Any, Any], name: str) -> dict[Any, Any] | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise InvalidArgument(f"The field '{name}' must be a map.")
    return value


def _text(fields: Mapping[Any, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidArgument(f"The field '{name}' must be a string.")
    return value
