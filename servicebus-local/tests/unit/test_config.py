"""Config.json: what is understood, and what is complained of in one line."""

import json
from math import inf
from pathlib import Path
from typing import Any

import pytest

from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.topology import (
    DEFAULT_RULE,
    QueueOptions,
    SubscriptionDefinition,
    TopicDefinition,
    TopicOptions,
    Topology,
)
from servicebus_local.config import EMULATOR_DEFAULTS, EMULATOR_TOPIC_DEFAULTS, ConfigError, duration, load, read


def config(*queues: Any, **namespace: Any) -> dict[str, Any]:
    body = {"Name": "sbemulatorns", "Queues": list(queues), "Topics": []} | namespace
    return {"UserConfig": {"Namespaces": [body], "Logging": {"Type": "File"}}}


def queue(name: str = "q", **properties: Any) -> dict[str, Any]:
    return {"Name": name, "Properties": properties}


def topic(*subscriptions: Any, name: str = "t", **properties: Any) -> dict[str, Any]:
    return {"Name": name, "Properties": properties, "Subscriptions": list(subscriptions)}


def subscription(*rules: Any, name: str = "s", **properties: Any) -> dict[str, Any]:
    return {"Name": name, "Properties": properties, "Rules": list(rules)}


def rule(name: str = "r", **properties: Any) -> dict[str, Any]:
    return {"Name": name, "Properties": properties}


def with_rule(**properties: Any) -> dict[str, Any]:
    return config(Topics=[topic(subscription(rule(**properties)))])


def test_every_property_of_a_queue_is_read() -> None:
    given = queue(
        DeadLetteringOnMessageExpiration=True,
        DefaultMessageTimeToLive="PT1H",
        DuplicateDetectionHistoryTimeWindow="PT5M",
        ForwardDeadLetteredMessagesTo="dead",
        ForwardTo="",
        LockDuration="PT1M30S",
        MaxDeliveryCount=7,
        RequiresDuplicateDetection=True,
        RequiresSession=True,
    )
    assert read(config(given, {"Name": "dead"})).queues == {
        "q": QueueOptions(
            lock_duration=90,
            max_delivery_count=7,
            default_time_to_live=3600,
            dead_lettering_on_expiration=True,
            requires_session=True,
            duplicate_detection=True,
            duplicate_window=300,
            forward_to=None,
            forward_dead_letters_to="dead",
        ),
        "dead": EMULATOR_DEFAULTS,
    }


def test_every_property_of_a_topic_and_a_subscription_is_read() -> None:
    given = topic(
        subscription(
            DeadLetteringOnMessageExpiration=True,
            DefaultMessageTimeToLive="PT30M",
            ForwardDeadLetteredMessagesTo="q",
            ForwardTo="other",
            LockDuration="PT10S",
            MaxDeliveryCount=1,
            RequiresSession=True,
        ),
        DefaultMessageTimeToLive="PT20M",
        DuplicateDetectionHistoryTimeWindow="PT1M",
        RequiresDuplicateDetection=True,
    )
    options = QueueOptions(
        lock_duration=10,
        max_delivery_count=1,
        default_time_to_live=1800,
        dead_lettering_on_expiration=True,
        requires_session=True,
        duplicate_window=20,
        forward_to="other",
        forward_dead_letters_to="q",
    )
    topology = read(config({"Name": "q"}, Topics=[given, {"Name": "other"}]))
    assert topology.topics == {
        "t": TopicDefinition(
            TopicOptions(default_time_to_live=1200, duplicate_detection=True, duplicate_window=60),
            {"s": SubscriptionDefinition(options, (DEFAULT_RULE,))},
        ),
        "other": TopicDefinition(EMULATOR_TOPIC_DEFAULTS, {}),
    }
    assert len(topology) == 3


def test_what_is_left_out_is_the_emulators_default() -> None:
    options = read(config({"Name": "q"})).queues["q"]
    assert (options.lock_duration, options.max_delivery_count) == (60, 3)
    assert (options.default_time_to_live, options.duplicate_window) == (3600, 20)
    only_queues: dict[str, Any] = {"UserConfig": {"Namespaces": [{"Queues": [{"Name": "q"}]}]}}
    assert read(only_queues) == read(config({"Name": "q"}))
    assert read({"UserConfig": {"Namespaces": []}}) == Topology()


@pytest.mark.parametrize(
    ("properties", "chosen", "action"),
    [
        ({"FilterType": "Sql", "SqlFilter": {"SqlExpression": "a = 1"}}, SqlFilter("a = 1"), None),
        (
            {
                "FilterType": "Sql",
                "SqlFilter": {"SqlExpression": "a = 1", "RequiresPreprocessing": False},
                "Action": {"SqlExpression": "SET sys.To = 'x'", "RequiresPreprocessing": False},
            },
            SqlFilter("a = 1"),
            SqlAction("SET sys.To = 'x'"),
        ),
        (
            {
                "FilterType": "Correlation",
                "CorrelationFilter": {
                    "ContentType": "1",
                    "CorrelationId": "2",
                    "Label": "3",
                    "MessageId": "4",
                    "ReplyTo": "5",
                    "ReplyToSessionId": "6",
                    "SessionId": "7",
                    "To": "8",
                    "Properties": {"text": "x", "number": 1.5, "flag": True},
                },
            },
            CorrelationFilter(
                content_type="1",
                correlation_id="2",
                label="3",
                message_id="4",
                reply_to="5",
                reply_to_session_id="6",
                session_id="7",
                to="8",
                properties={"text": "x", "number": 1.5, "flag": True},
            ),
            None,
        ),
        ({"FilterType": "True"}, TrueFilter(), None),
        ({"FilterType": "False"}, FalseFilter(), None),
    ],
)
def test_rules_are_read(properties: dict[str, Any], chosen: Filter, action: SqlAction | None) -> None:
    [definition] = read(with_rule(**properties)).topics["t"].subscriptions.values()
    assert definition.rules == (Rule("r", chosen, action),)


def test_a_rule_may_be_called_as_the_one_that_is_there_without_any() -> None:
    given = subscription(rule("$Default", FilterType="False"))
    [definition] = read(config(Topics=[topic(given)])).topics["t"].subscriptions.values()
    assert definition.rules == (Rule("$Default", FalseFilter()),)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT20S", 20),
        ("PT0.5S", 0.5),
        ("P1DT2H3M4S", 93784),
        ("P1Y2M", 365 * 86400 + 60 * 86400),
        ("P10675199DT2H48M5.4775807S", inf),
        ("P14D", 14 * 86400),
    ],
)
def test_durations_are_iso_8601(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "1M", "PT1", "P1H", "PT-1S", "pt1m", "P1DT", "00:01:00"])
def test_other_durations_are_not(text: str) -> None:
    with pytest.raises(ConfigError, match="ISO 8601"):
        duration(text)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "the configuration: expected an object, found []"),
        ({}, "UserConfig is missing"),
        ({"UserConfig": {}, "Extra": 1}, "the configuration.Extra: no such setting"),
        ({"UserConfig": {}}, "UserConfig.Namespaces is missing"),
        ({"UserConfig": {"Namespaces": 3}}, "UserConfig.Namespaces: expected a list, found 3"),
        (config("q"), "UserConfig.Namespaces[0].Queues[0]: expected an object"),
        (config(Name=5), "UserConfig.Namespaces[0].Name: expected a string, found 5"),
        (config({}), "Queues[0].Name is missing"),
        (config({"Name": "-q"}), "'-q' cannot be the name"),
        (config({"Name": "tür"}), "'tür' cannot be the name"),
        (config({"Name": "a/Subscriptions/b"}), "cannot be the name"),
        (config({"Name": "q" * 261}), "Queues[0].Name: a name of 261 characters; 260 is the most"),
        (config({"Name": "q"}, {"Name": "Q"}), "Queues[1].Name: there is another entity called 'Q'"),
        (config({"Name": "q"}, Topics=[topic(name="Q")]), "Topics[0].Name: there is another entity called 'Q'"),
        (config({"Name": "q", "Extra": 1}), "Queues[0].Extra: no such setting"),
        (config(queue(MaxDelivery=3)), "Queues[0].Properties.MaxDelivery: no such setting"),
        (config(queue(MaxDeliveryCount="3")), 'Properties.MaxDeliveryCount: expected a number, found "3"'),
        (config(queue(MaxDeliveryCount=True)), "MaxDeliveryCount: expected a number, found true"),
        (config(queue(MaxDeliveryCount=0)), "MaxDeliveryCount: expected at least 1, found 0"),
        (config(queue(RequiresSession="yes")), "RequiresSession: expected true or false"),
        (config(queue(LockDuration=60)), "LockDuration: expected an ISO 8601 duration such as PT1M, found 60"),
        (config(queue(LockDuration="PT0S")), "LockDuration: a duration must be longer"),
        (config(queue(ForwardTo="nowhere")), "Queues[0].Properties.ForwardTo: there is no queue or topic"),
        (config(queue(ForwardDeadLetteredMessagesTo="Q")), "'q' cannot forward to itself"),
        (
            config(queue("a", ForwardTo="b"), queue("b", ForwardTo="C"), queue("c", ForwardTo="a")),
            "Queues[0].Properties.ForwardTo: messages would go in a circle: a → b → C → a",
        ),
        (config(Topics=3), "Namespaces[0].Topics: expected a list"),
        (config(Topics=[topic() | {"Extra": 1}]), "Topics[0].Extra: no such setting"),
        (config(Topics=[topic(LockDuration="PT1M")]), "Topics[0].Properties.LockDuration: no such setting"),
        (config(Topics=[topic(RequiresDuplicateDetection=1)]), "Topics[0].Properties.RequiresDuplicateDetection"),
        (config(Topics=[topic(subscription(), subscription(name="S"))]), "two subscriptions called 'S'"),
        (config(Topics=[topic(subscription(name="s" * 51))]), "Subscriptions[0].Name: a name of 51 characters"),
        (config(Topics=[topic(subscription(RequiresDuplicateDetection=True))]), "no such setting"),
        (config(Topics=[topic(subscription(ForwardTo="x"))]), "Subscriptions[0].Properties.ForwardTo: there is no"),
        (config(Topics=[topic(subscription() | {"Extra": 1})]), "Subscriptions[0].Extra: no such setting"),
        (config(Topics=[topic(subscription("r"))]), "Rules[0]: expected an object"),
        (config(Topics=[topic(subscription({"Name": "r"}))]), "Rules[0].Properties is missing"),
        (with_rule(), "Rules[0].Properties.FilterType is missing"),
        (with_rule(FilterType="SqlFilter"), "FilterType: expected one of Sql, Correlation, True, False"),
        (with_rule(FilterType="Sql"), "Rules[0].Properties.SqlFilter is missing"),
        (with_rule(FilterType="Sql", SqlExpression="1=1"), "Properties.SqlExpression: no such setting"),
        (with_rule(FilterType="Sql", SqlFilter={}), "SqlFilter.SqlExpression is missing"),
        (with_rule(FilterType="Sql", SqlFilter={"SqlExpression": "a ="}), "SqlFilter.SqlExpression: "),
        (
            with_rule(FilterType="True", Action={"SqlExpression": "DROP x"}),
            "Rules[0].Properties.Action.SqlExpression: ",
        ),
        (with_rule(FilterType="Correlation"), "Properties.CorrelationFilter is missing"),
        (with_rule(FilterType="Correlation", CorrelationFilter={}), "must name at least one property"),
        (with_rule(FilterType="Correlation", CorrelationFilter={"Label": ""}), "must name at least one property"),
        (with_rule(FilterType="Correlation", CorrelationFilter={"Subject": "x"}), "CorrelationFilter.Subject: no such"),
        (with_rule(FilterType="Correlation", CorrelationFilter={"Label": 5}), "Label: expected a string, found 5"),
        (
            with_rule(FilterType="Correlation", CorrelationFilter={"Properties": {"x": None}}),
            "CorrelationFilter.Properties.x: expected text, a number, true or false",
        ),
        (
            with_rule(FilterType="Sql", SqlFilter={"SqlExpression": "1=1", "RequiresPreprocessing": "no"}),
            "SqlFilter.RequiresPreprocessing: expected true or false",
        ),
        (
            config(Topics=[topic(subscription(rule("r", FilterType="True"), rule("R", FilterType="True")))]),
            "Subscriptions[0].Rules[1].Name: there are two rules called 'R'",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place(given: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(given)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_forwarding_may_go_to_a_topic_and_end_in_the_same_queue_by_another_way() -> None:
    """What a topic's rules let through decides whether that is a circle."""
    given = topic(subscription(ForwardTo="q"))
    assert read(config(queue(ForwardTo="T"), Topics=[given])).queues["q"].forward_to == "T"


# --------------------------------------------------------------------------- files


def written(path: Path, content: str, encoding: str = "utf-8") -> Path:
    (path / "Config.json").write_text(content, encoding=encoding)
    return path / "Config.json"


def test_a_file_is_named_in_every_complaint(tmp_path: Path) -> None:
    for content, complaint in (
        (None, "No such file"),
        ("{", "not JSON"),
        ("{}", "UserConfig is missing"),
        ('{"UserConfig": {}, "UserConfig": {}}', "two fields called 'UserConfig'"),
    ):
        path = tmp_path / "Config.json" if content is None else written(tmp_path, content)
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert complaint in str(caught.value)


def test_a_file_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(config(queue())), encoding="utf-8-sig")
    assert list(load(path).queues) == ["q"]


def test_a_file_may_have_comments_and_trailing_commas_as_microsofts_own_has(tmp_path: Path) -> None:
    text = """
    { // the entities
      "UserConfig": { /* one
                         namespace */
        "Namespaces": [ { "Queues": [
          { "Name": "a//b" }, // "Name": "c",
          { "Name": "d" }, /* */
        ], } , ],
      }, "$schema": "https://example.org/,]",
    }
    """.replace("a//b", "a/b")
    assert list(load(written(tmp_path, text)).queues) == ["a/b", "d"]


def test_a_comment_mark_within_a_text_is_text(tmp_path: Path) -> None:
    expression = r"a = 'x // y /* z */ ,]' OR b = '\"//'"
    given = with_rule(FilterType="Sql", SqlFilter={"SqlExpression": expression})
    [definition] = load(written(tmp_path, json.dumps(given))).topics["t"].subscriptions.values()
    assert definition.rules[0].filter == SqlFilter(expression)


def test_positions_in_complaints_are_those_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, '{ // one\n  /* two\n three */ "UserConfig": oops }')
    with pytest.raises(ConfigError, match="line 3 column 25"):
        load(path)
