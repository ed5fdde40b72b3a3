"""Rules of subscriptions in XML: `<Filter i:type="SqlFilter">…`, `<Action i:type="SqlRuleAction">…`.

Values of properties and parameters carry a type of XML Schema. Those the Python SDK writes are
string, int, long, boolean, double, dateTime and duration; the others are .NET's.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID
from xml.etree.ElementTree import Element

from servicebus_local.admin.durations import read_moment, read_timedelta, write_timedelta
from servicebus_local.admin.xml import SCHEMA, SERIALIZATION, child, children, instance_type, tag, tags, text_of
from servicebus_local.amqp.types import Timestamp, Uuid
from servicebus_local.bus.errors import InvalidArgument
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlAction, SqlFilter, TrueFilter

_COMPATIBILITY_LEVEL: Final = "20"
_LARGEST_INT: Final = 2**31 - 1
_CORRELATED: Final = (
    ("CorrelationId", "correlation_id"),
    ("MessageId", "message_id"),
    ("To", "to"),
    ("ReplyTo", "reply_to"),
    ("Label", "label"),
    ("SessionId", "session_id"),
    ("ReplyToSessionId", "reply_to_session_id"),
    ("ContentType", "content_type"),
)


# --------------------------------------------------------------------------- reading


def read_rule(name: str, description: Element) -> Rule:
    """Read a `RuleDescription`; without a filter it chooses everything. Raises `InvalidArgument`."""
    chosen, action = child(description, "Filter"), child(description, "Action")
    kind = "TrueFilter" if chosen is None else instance_type(chosen) or ""
    if kind not in _FILTERS:
        raise InvalidArgument(f"Filter: the type '{kind[:40]}' is none of {', '.join(_FILTERS)}.")
    rule = Rule(name, TrueFilter() if chosen is None else _FILTERS[kind](chosen), None)
    kind = "EmptyRuleAction" if action is None else instance_type(action) or ""
    if action is None or kind == "EmptyRuleAction":
        return rule
    if kind != "SqlRuleAction":
        raise InvalidArgument(f"Action: the type '{kind[:40]}' is neither SqlRuleAction nor EmptyRuleAction.")
    return replace(rule, action=SqlAction(_expression(action), _read_values(action, "Parameters")))


def _read_correlation(element: Element) -> CorrelationFilter:
    fields = {option: text_of(element, name) or None for name, option in _CORRELATED}
    properties = _read_values(element, "Properties")
    if not properties and not any(fields.values()):
        raise InvalidArgument("Filter: a correlation filter names at least one property.")
    return CorrelationFilter(**fields, properties=properties)


_FILTERS: Final[dict[str, Callable[[Element], Filter]]] = {
    "SqlFilter": lambda element: SqlFilter(_expression(element), _read_values(element, "Parameters")),
    "TrueFilter": lambda _element: TrueFilter(),
    "FalseFilter": lambda _element: FalseFilter(),
    "CorrelationFilter": _read_correlation,
}


def _expression(element: Element) -> str:
    return text_of(element, "SqlExpression") or ""


def _read_values(element: Element, name: str) -> dict[str, Any]:
    """Read name and value of each child of the element's child `name`."""
    values = {}
    for pair in children(element, name):
        key, value = text_of(pair, "Key"), child(pair, "Value")
        if not key or value is None:
            raise InvalidArgument("A property or parameter of a rule has a Key and a Value.")
        kind = instance_type(value) or "string"
        try:
            values[key] = _READERS[kind](value.text or "")
        except KeyError:
            raise InvalidArgument(f"The value of '{key[:60]}' has an unknown type, '{kind[:40]}'.") from None
        except ValueError as error:
            raise InvalidArgument(f"The value of '{key[:60]}' is no {kind}: {error}.") from error
    return values


def _read_truth(text: str) -> bool:
    if text.strip().lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"'{text[:40]}'")
    return text.strip().lower() in ("true", "1")


def _read_integer(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**64:
        raise ValueError("it has more than 64 bits")
    return number


_INTEGERS: Final = ("int", "long", "short", "byte", "unsignedInt", "unsignedLong", "unsignedShort", "unsignedByte")
_READERS: Final[dict[str, Callable[[str], Any]]] = {
    **dict.fromkeys(_INTEGERS, _read_integer),
    **dict.fromkeys(("double", "float", "decimal"), float),
    "string": str,
    "anyURI": str,
    "boolean": _read_truth,
    "dateTime": read_moment,
    "duration": read_timedelta,
    "guid": lambda text: Uuid(UUID(text.strip()).bytes),
    "base64Binary": lambda text: b64decode(text, validate=True),
}


# --------------------------------------------------------------------------- writing


def write_rule(rule: Rule, created_at: str) -> str:
    """Write what is in a `RuleDescription`."""
    chosen = rule.filter
    match chosen:
        case CorrelationFilter():
            fields = tags((name, getattr(chosen, option)) for name, option in _CORRELATED)
            content = fields + _write_values("Properties", chosen.properties)
        case SqlFilter(expression, parameters):
            content = _write_sql(expression, parameters)
        case _:
            content = _write_sql(chosen.expression, {})
    written = f'<Filter i:type="{type(chosen).__name__}">{content}</Filter>'
    if rule.action is None:
        written += '<Action i:type="EmptyRuleAction"/>'
    else:
        action = _write_sql(rule.action.expression, rule.action.parameters)
        written += f'<Action i:type="SqlRuleAction">{action}</Action>'
    return written + tags([("CreatedAt", created_at), ("Name", rule.name)])


def _write_sql(expression: str, parameters: Mapping[str, Any]) -> str:
    written = tags([("SqlExpression", expression), ("CompatibilityLevel", _COMPATIBILITY_LEVEL)])
    return written + _write_values("Parameters", parameters)


def _write_values(name: str, values: Mapping[str, Any]) -> str:
    pairs = []
    for key, value in values.items():
        kind, text = _typed(value)
        namespace = SERIALIZATION if kind in ("duration", "guid") else SCHEMA  # .NET's own idea of XML Schema
        typed = tag("Value", text).replace("<Value", f'<Value i:type="d6p1:{kind}" xmlns:d6p1="{namespace}"', 1)
        pairs.append(f"<KeyValueOfstringanyType>{tag('Key', key)}{typed}</KeyValueOfstringanyType>")
    return f"<{name}>{''.join(pairs)}</{name}>"


def _typed(value: Any) -> tuple[str, str]:
    """Return the type and the text of a value, whether it came as XML or over AMQP."""
    match value:
        case bool():
            return "boolean", "true" if value else "false"
        case datetime():
            return "dateTime", value.isoformat().replace("+00:00", "Z")
        case Timestamp():
            return "dateTime", datetime.fromtimestamp(value / 1000, UTC).isoformat().replace("+00:00", "Z")
        case int():
            return ("int" if -_LARGEST_INT <= value <= _LARGEST_INT else "long"), str(int(value))
        case float():
            return "double", str(value)
        case timedelta():
            return "duration", write_timedelta(value)
        case Uuid():
            return "guid", str(UUID(bytes=bytes(value)))
        case bytes():
            return "base64Binary", b64encode(value).decode()
        case _:
            return "string", str(value)
