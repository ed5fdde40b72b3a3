"""Rules: what each kind of filter chooses, what actions change, and what is refused when."""

import copy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from servicebus_local.amqp.types import Symbol, Timestamp, Uint, Uuid, encode
from servicebus_local.bus.errors import BusError, FilterError, InvalidArgument
from servicebus_local.bus.filters import (
    CorrelationFilter,
    FalseFilter,
    Filter,
    Rule,
    SqlAction,
    SqlFilter,
    TrueFilter,
)
from servicebus_local.bus.properties import Properties

BODY = b"\x00\x53\x75\xa0\x04body"
FIELDS = ["id-1", None, "orders", "urgent", "replies", "corr-1", Symbol("text/plain"), *[None] * 3, "s-1", None, "s-2"]


def message(**user: Any) -> bytes:
    return b"\x00\x53\x73" + encode(FIELDS) + b"\x00\x53\x74" + encode(user) + BODY


def chooses(rule_filter: Filter, **user: Any) -> bool:
    return rule_filter.matches(Properties.of(message(**user)))


# --------------------------------------------------------------------------- filters


def test_the_boolean_filters_choose_everything_and_nothing() -> None:
    assert chooses(TrueFilter())
    assert not chooses(FalseFilter())
    assert chooses(SqlFilter(TrueFilter.expression))
    assert not chooses(SqlFilter(FalseFilter.expression))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("correlation_id", "corr-1"),
        ("message_id", "id-1"),
        ("to", "orders"),
        ("reply_to", "replies"),
        ("label", "urgent"),
        ("session_id", "s-1"),
        ("reply_to_session_id", "s-2"),
        ("content_type", "text/plain"),
    ],
)
def test_a_correlation_filter_compares_each_system_property(field: str, value: str) -> None:
    def wanting(text: str) -> CorrelationFilter:
        return replace(CorrelationFilter(), **{field: text})  # type: ignore[arg-type]

    assert chooses(wanting(value))
    assert not chooses(wanting(value.upper()))
    assert not chooses(wanting(value + "x"))
    assert not wanting(value).matches(Properties.of(BODY))


def test_a_correlation_filter_wants_all_it_names() -> None:
    wanted = CorrelationFilter(label="urgent", to="orders", properties={"color": "red", "size": 3})
    assert chooses(wanted, color="red", size=3)
    assert not chooses(wanted, color="red", size=4)
    assert not chooses(wanted, color="red")
    assert not chooses(CorrelationFilter(label="urgent", to="elsewhere"))


@pytest.mark.parametrize(
    ("wanted", "sent", "chosen"),
    [
        ("red", "red", True),
        ("red", "Red", False),
        (2, 2, True),
        (2, Uint(2), True),
        (2, 2.0, True),
        (2.5, 2.5, True),
        (2, "2", False),
        ("2", 2, False),
        (1, True, False),
        (True, True, True),
        (True, False, False),
        (None, None, False),
        ("red", Symbol("red"), True),
        (datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC), Timestamp(5000), True),
        (datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC), Timestamp(5001), False),
    ],
)
def test_a_correlation_filter_compares_values_by_kind(wanted: Any, sent: Any, chosen: bool) -> None:
    assert chooses(CorrelationFilter(properties={"p": wanted}), p=sent) is chosen


def test_the_case_of_names_does_not_count() -> None:
    assert chooses(CorrelationFilter(properties={"Color": "red"}), color="red")
    assert chooses(SqlFilter("COLOR = 'red' AND sys.LABEL = 'urgent'"), color="red")


def test_empty_fields_ask_for_nothing() -> None:
    assert chooses(CorrelationFilter(label="", correlation_id="corr-1"))
    assert chooses(CorrelationFilter())


def test_what_is_unknown_is_not_chosen_by_sql() -> None:
    for expression in ("color = 'red'", "color <> 'red'", "NOT color = 'red'", "NOT (color IN ('red'))"):
        assert not chooses(SqlFilter(expression))
    assert chooses(SqlFilter("color IS NULL AND NOT EXISTS(color)"))


def test_parameters_stand_for_values() -> None:
    wanted = SqlFilter("color = @wanted AND size > @Least", {"@WANTED": "red", "least": 2})
    assert chooses(wanted, color="red", size=3)
    assert not chooses(wanted, color="@wanted", size=3)
    moment = SqlFilter("due < @now", {"@now": datetime(2026, 1, 1, tzinfo=UTC)})
    assert chooses(moment, due=Timestamp(0))
    with pytest.raises(InvalidArgument, match=r"column 9: found '@wanted'"):
        SqlFilter("color = @wanted", {"@other": 1})


def test_an_evaluation_that_fails_says_why_and_how_to_bury_the_message() -> None:
    with pytest.raises(FilterError, match="'>' does not apply to text") as raised:
        chooses(SqlFilter("color > 5"), color="red")
    assert isinstance(raised.value, BusError)
    assert raised.value.reason == "FilterException"
    with pytest.raises(FilterError, match=r"no system property 'sys\.Colour'"):
        chooses(SqlFilter("sys.Colour = 'red'"))


def test_properties_that_cannot_be_read_are_a_filter_error() -> None:
    broken = b"\x00\x53\x74\xc1\x03\x02\x3f\x3f" + BODY
    for rule_filter in (SqlFilter("a = 1"), CorrelationFilter(properties={"a": 1})):
        with pytest.raises(FilterError, match="cannot be read"):
            rule_filter.matches(Properties.of(broken))
    with pytest.raises(FilterError, match="cannot be read"):
        SqlAction("SET a = a").apply(broken)


def test_filters_are_values() -> None:
    wanted = SqlFilter("a = @a", {"@a": 1})
    assert wanted == SqlFilter("a = @a", {"@a": 1}) != SqlFilter("a = @a", {"@a": 2})
    assert len({wanted, SqlFilter("a = @a", {"@a": 1})}) == 1
    assert copy.deepcopy(wanted) == wanted
    assert repr(wanted) == "SqlFilter(expression='a = @a', parameters={'@a': 1})"
    assert len({TrueFilter(), TrueFilter(), CorrelationFilter("a"), CorrelationFilter("a")}) == 2


# --------------------------------------------------------------------------- actions


def acted(expression: str, parameters: dict[str, Any] | None = None, **user: Any) -> Properties:
    return Properties.of(SqlAction(expression, parameters or {}).apply(message(**user)))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("SET color = 'blue'", {"color": "blue", "size": 3}),
        ("set COLOR = 'blue'", {"color": "blue", "size": 3}),
        ("SET user.weight = size * 2", {"color": "red", "size": 3, "weight": 6}),
        ("SET size = size + 1; SET size = size + 1;", {"color": "red", "size": 5}),
        ("SET size = 1 REMOVE color", {"size": 1}),
        ("SET size = 1, REMOVE color", {"size": 1}),
        ("REMOVE color; REMOVE size; REMOVE nothing", {}),
        ("REMOVE Color", {"size": 3}),
        ("SET [odd name] = sys.Label + '!'", {"color": "red", "size": 3, "odd name": "urgent!"}),
        ("SET \"it's\" = 'it''s'", {"color": "red", "size": 3, "it's": "it's"}),
        ("SET copy = property('co' + 'lor')", {"color": "red", "size": 3, "copy": "red"}),
        ("SET copy = nothing", {"color": "red", "size": 3, "copy": None}),
        ("SET flag = TRUE; SET half = -0.5", {"color": "red", "size": 3, "flag": True, "half": -0.5}),
    ],
)
def test_actions_change_application_properties(expression: str, expected: dict[str, Any]) -> None:
    assert dict(acted(expression, color="red", size=3).user) == expected


@pytest.mark.parametrize(
    ("expression", "name", "expected"),
    [
        ("SET sys.Label = 'calm'", "Label", "calm"),
        ("SET sys.subject = 'calm'", "Label", "calm"),
        ("SET sys.SessionId = sys.CorrelationId", "SessionId", "corr-1"),
        ("SET sys.MessageId = size", "MessageId", "3"),
        ("SET sys.To = TRUE", "To", "True"),
        ("SET sys.ReplyTo = NULL", "ReplyTo", None),
        ("SET sys.ReplyTo = nothing", "ReplyTo", None),
        ("REMOVE sys.ReplyToSessionId", "ReplyToSessionId", None),
        ("SET sys.ContentType = 'text/' + 'csv'", "ContentType", "text/csv"),
    ],
)
def test_actions_change_system_properties(expression: str, name: str, expected: str | None) -> None:
    assert acted(expression, size=3).system(name) == expected


def test_an_action_keeps_the_body_and_has_parameters() -> None:
    changed = SqlAction("SET color = @color", {"@color": "blue"}).apply(message(color="red"))
    assert changed.endswith(BODY)
    assert Properties.of(changed).get("color") == "blue"


def test_an_action_sees_what_the_broker_knows() -> None:
    changed = SqlAction("SET place = sys.SequenceNumber").apply(message(), {"SequenceNumber": 12})
    assert Properties.of(changed).get("place") == 12


def test_new_ids_are_new() -> None:
    action = SqlAction("SET a = newid(); SET sys.MessageId = NEWID()")
    views = [Properties.of(action.apply(message())) for _ in range(2)]
    first, second = (view.get("a") for view in views)
    assert isinstance(first, Uuid)
    assert first != second
    assert len({view.system("MessageId") for view in views}) == 2
    assert len(views[0].system("MessageId")) == 36


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("SET sys.Colour = 'red'", "no system property"),
        ("REMOVE sys.Colour", "no system property"),
        ("SET sys.SequenceNumber = 1", "cannot be changed"),
        ("SET a = sys.Colour", "no system property"),
        ("SET a = color - 1", "'-' does not apply"),
        ("SET sys.ContentType = 'tëxt'", "ASCII"),
        ("SET sys.Label = due", "cannot be written as text"),
    ],
)
def test_an_action_that_fails_is_a_filter_error(expression: str, reason: str) -> None:
    with pytest.raises(FilterError, match=reason):
        acted(expression, color="red", due=Timestamp(1))


@pytest.mark.parametrize(
    "expression",
    ["", "  ", "color = 'red'", "SET", "SET a", "SET a =", "SET a = b = c", "REMOVE", "REMOVE a = 1", "SET a = 1;;"],
)
def test_an_invalid_action_is_refused_at_once(expression: str) -> None:
    with pytest.raises(InvalidArgument, match="SQL action, line 1, column"):
        SqlAction(expression)


def test_the_limits_of_actions_and_names() -> None:
    SqlAction("REMOVE a;" * 32)
    with pytest.raises(InvalidArgument, match="32 statements"):
        SqlAction("REMOVE a;" * 33)
    with pytest.raises(InvalidArgument, match="1024 characters"):
        SqlAction("SET a = '" + "x" * 1024 + "'")
    assert Rule("r" * 50, TrueFilter()).action is None
    for name in ("", "r" * 51):
        with pytest.raises(InvalidArgument, match="1 to 50"):
            Rule(name, TrueFilter())
