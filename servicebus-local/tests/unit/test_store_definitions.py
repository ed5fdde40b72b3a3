"""Definitions as JSON: what is written is what is read again, whatever the types."""

import json
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicebus_local.amqp.types import Symbol, Timestamp, Ulong, Uuid
from servicebus_local.bus.definitions import read, write
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.topology import AccessRule, QueueOptions, Right, Status, TopicOptions

DURATIONS = st.floats(min_value=0.001, max_value=1e9) | st.just(inf)
NAMES = st.none() | st.text(min_size=1)
ACCESS = st.builds(
    AccessRule,
    name=st.text(),
    keys=st.lists(st.text(), max_size=2).map(tuple),
    rights=st.frozensets(st.sampled_from(Right)),
    created_at=st.floats(0, 1e10),
    modified_at=st.floats(0, 1e10),
)
FIELDS: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(1, 2**31),
    float: DURATIONS,
    str | None: NAMES,
    Status: st.sampled_from(Status),
    tuple[AccessRule, ...]: st.lists(ACCESS, max_size=2).map(tuple),
}


def options(kind: type[QueueOptions] | type[TopicOptions]) -> st.SearchStrategy[Any]:
    """Any options: every field takes any value of its type."""
    return st.builds(kind, **{name: FIELDS[of_type] for name, of_type in get_type_hints(kind).items()})


@given(options(QueueOptions) | options(TopicOptions))
def test_all_options_are_read_as_they_were(given: QueueOptions | TopicOptions) -> None:
    assert read(write(given, ())) == (given, ())


VALUES_OF_RULES = [
    None,
    True,
    7,
    -(2**40),
    2.5,
    "text",
    Symbol("symbol"),
    Timestamp(1_700_000_000_123),
    Ulong(2**64 - 1),
    Uuid(bytes(range(16))),
    b"\x00\xff",
    inf,
    datetime(2026, 11, 22, 14, 30, 0, 123456, tzinfo=UTC),
    timedelta(days=3, microseconds=7),
    UUID(int=2**100),
]


@pytest.mark.parametrize("value", VALUES_OF_RULES, ids=repr)
def test_a_value_of_a_rule_keeps_its_type(value: object) -> None:
    rules = (
        Rule("sql", SqlFilter("a = @p", {"@p": value}), SqlAction("SET b = @p", {"@p": value}), 12.5),
        Rule("correlation", CorrelationFilter(label="l", properties={"a": value})),
    )
    _, found = read(write(QueueOptions(), rules))
    assert found == rules
    assert found[0].created_at == 12.5
    for rule, again in zip(rules, found, strict=True):
        assert type(_value(again)) is type(_value(rule)) or isinstance(value, Ulong)  # an integer is an integer


def _value(rule: Rule) -> object:
    match rule.filter:
        case SqlFilter(_, parameters):
            return parameters["@p"]
        case CorrelationFilter() as chosen:
            return chosen.properties["a"]
    raise AssertionError(rule)


def test_every_kind_of_filter_is_read_as_it_was() -> None:
    correlation = CorrelationFilter("c", "m", "t", "r", "l", "s", "rs", "ct", {"x": 1})
    filters: tuple[Filter, ...] = (TrueFilter(), FalseFilter(), SqlFilter("x > 1"), correlation)
    rules = tuple(Rule(f"r{number}", each) for number, each in enumerate(filters))
    assert read(write(QueueOptions(), rules)) == (QueueOptions(), rules)


def test_what_is_endless_is_written_as_null_so_that_any_json_reader_can_read_it() -> None:
    written = write(QueueOptions(max_size=inf), ())
    assert json.loads(written, parse_constant=pytest.fail)["options"]["max_size"] is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"kind": "stack", "options": {}, "rules": []}',
        '{"kind": "queue", "options": {"x": 1}, "rules": []}',
    ],
)
def test_anything_else_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read(text)
