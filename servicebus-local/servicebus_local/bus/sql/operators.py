"""What a rule becomes: functions of a message's properties, built once and called for every message.

A condition is True, False or None, which is "unknown": a property the message does not have.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from servicebus_local.amqp.types import Uuid
from servicebus_local.bus.errors import FilterError
from servicebus_local.bus.properties import Properties, is_system, is_writable, rewrite
from servicebus_local.bus.sql.like import matcher
from servicebus_local.bus.sql.values import Binary, equal, text

Value = Callable[[Properties], Any]
Condition = Callable[[Properties], bool | None]
Statement = Callable[[Properties], bytes]

# --------------------------------------------------------------------------- values


def constant(value: Any) -> Value:
    """Build a value that is the same for every message."""
    return lambda _properties: value


def user_property(name: str) -> Value:
    """Build the value of an application property."""
    return lambda properties: properties.get(name)


def system_property(name: str) -> Value:
    """Build the value of a system property; one Service Bus does not have is an error, each time."""
    return (lambda properties: properties.system(name)) if is_system(name) else _no_such_property(name)


def _no_such_property(name: str) -> Callable[[Properties], Any]:
    def fail(_properties: Properties) -> Any:
        raise FilterError(f"there is no system property 'sys.{name}'")

    return fail


def property_named(name: Value) -> Value:
    """Build the value of the application property an expression names."""

    def evaluate(properties: Properties) -> Any:
        found = name(properties)
        if found is None:
            return None
        if type(found) is not str:
            raise FilterError(f"a property's name must be text, not {found!r:.40}")
        return properties.get(found)

    return evaluate


def new_id(_properties: Properties) -> Uuid:
    """Return a unique id."""
    return Uuid(uuid4().bytes)


def chain(first: Value, rest: Sequence[tuple[Binary, Value]]) -> Value:
    """Build `first + second - third …`, from left to right."""

    def evaluate(properties: Properties) -> Any:
        result = first(properties)
        for combine, operand in rest:
            result = combine(result, operand(properties))
        return result

    return evaluate


def signed(sign: Callable[[Any], Any], operand: Value) -> Value:
    """Build `+operand` or `-operand`."""
    return lambda properties: sign(operand(properties))


# --------------------------------------------------------------------------- conditions


def conjunction(terms: Sequence[Condition]) -> Condition:
    """Build AND: false if one is, else unknown if one is."""

    def evaluate(properties: Properties) -> bool | None:
        result: bool | None = True
        for term in terms:
            holds = term(properties)
            if holds is False:
                return False
            result = holds and result
        return result

    return evaluate


def disjunction(terms: Sequence[Condition]) -> Condition:
    """Build OR: true if one is, else unknown if one is."""

    def evaluate(properties: Properties) -> bool | None:
        result: bool | None = False
        for term in terms:
            holds = term(properties)
            if holds:
                return True
            result = None if holds is None else result
        return result

    return evaluate


def negation(term: Condition) -> Condition:
    """Build NOT; what is unknown stays so."""

    def evaluate(properties: Properties) -> bool | None:
        holds = term(properties)
        return None if holds is None else not holds

    return evaluate


def comparison(compare: Binary, left: Value, right: Value) -> Condition:
    """Build `left = right` and its like."""
    return lambda properties: compare(left(properties), right(properties))


def is_null(value: Value) -> Condition:
    """Build IS NULL, which is never unknown."""
    return lambda properties: value(properties) is None


def user_exists(name: str) -> Condition:
    """Build EXISTS for an application property."""
    return lambda properties: properties.has(name)


def system_exists(name: str) -> Condition:
    """Build EXISTS for a system property: whether the message has it."""
    return negation(is_null(system_property(name)))


def membership(value: Value, items: Sequence[Value]) -> Condition:
    """Build IN, which is an OR of equalities."""

    def evaluate(properties: Properties) -> bool | None:
        found = value(properties)
        if found is None:
            return None
        matches = [equal(found, item(properties)) for item in items]
        return True if True in matches else None if None in matches else False

    return evaluate


def like_constant(value: Value, pattern: re.Pattern[str] | None) -> Condition:
    """Build LIKE for a pattern that is known now; None is an unknown pattern."""

    def evaluate(properties: Properties) -> bool | None:
        found = _text_operand(value(properties))
        return None if found is None or pattern is None else pattern.fullmatch(found) is not None

    return evaluate


def like(value: Value, pattern: Value, escape: Value | None) -> Condition:
    """Build LIKE for a pattern that comes from the message."""

    def evaluate(properties: Properties) -> bool | None:
        found, shape = _text_operand(value(properties)), _text_operand(pattern(properties))
        mark = None if escape is None else _text_operand(escape(properties))
        if found is None or shape is None or (escape is not None and mark is None):
            return None
        return matcher(shape, mark).fullmatch(found) is not None

    return evaluate


def _text_operand(value: Any) -> str | None:
    if value is None or type(value) is str:
        return value
    raise FilterError(f"LIKE is for text, not for {value!r:.40}")


# --------------------------------------------------------------------------- statements


def set_user(name: str, value: Value) -> Statement:
    """Build SET for an application property; NULL and unknown are kept as null."""

    def run(properties: Properties) -> bytes:
        return rewrite(properties.bare, {}, {properties.spelling(name): value(properties)})

    return run


def set_system(name: str, value: Value) -> Statement:
    """Build SET for a system property, which is text; NULL and unknown clear it."""
    refusal = _unwritable(name)

    def run(properties: Properties) -> bytes:
        if refusal is not None:
            return refusal(properties)
        found = value(properties)
        return rewrite(properties.bare, {name: None if found is None else text(found)}, {})

    return run


def remove_user(name: str) -> Statement:
    """Build REMOVE for an application property; one that is not there is no error."""

    def run(properties: Properties) -> bytes:
        spelling = properties.spelling(name)
        return rewrite(properties.bare, {}, {}, {spelling}) if spelling in properties.user else properties.bare

    return run


def _unwritable(name: str) -> Statement | None:
    """Return what refuses to change a system property, if it must not be changed."""
    if is_writable(name):
        return None
    if not is_system(name):
        return _no_such_property(name)

    def refuse(_properties: Properties) -> bytes:
        raise FilterError(f"'sys.{name}' cannot be changed")

    return refuse
