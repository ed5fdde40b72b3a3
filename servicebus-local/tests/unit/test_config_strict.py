"""The limits of Microsoft's emulator: told all at once, one line each, and kept while the broker runs."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from servicebus_local import emulator
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import InvalidArgument, QuotaExceeded
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicOptions, Topology
from servicebus_local.config import EMULATOR_DEFAULTS, EMULATOR_TOPIC_DEFAULTS, ConfigError, load, read

SQL = {"FilterType": "Sql", "SqlFilter": {"SqlExpression": "a = 1"}}
CORRELATION = {"FilterType": "Correlation", "CorrelationFilter": {"Label": "l"}}


def config(**namespace: Any) -> dict[str, Any]:
    body = {"Name": "sbemulatorns", "Queues": [], "Topics": []} | namespace
    return {"UserConfig": {"Namespaces": [body], "Logging": {"Type": "Console"}}}


def queue(**properties: Any) -> dict[str, Any]:
    return config(Queues=[{"Name": "q", "Properties": properties}])


def topic(*subscriptions: Any, **properties: Any) -> dict[str, Any]:
    return config(Topics=[{"Name": "t", "Properties": properties, "Subscriptions": list(subscriptions)}])


def subscription(*rules: Any, name: str = "s", **properties: Any) -> dict[str, Any]:
    listed = [{"Name": f"r{number}", "Properties": rule} for number, rule in enumerate(rules)]
    return {"Name": name, "Properties": properties, "Rules": listed}


PLACE = "UserConfig.Namespaces[0]"
QUEUE, TOPIC = f"{PLACE}.Queues[0].Properties", f"{PLACE}.Topics[0]"
VIOLATIONS: list[tuple[dict[str, Any], str]] = [
    (queue(LockDuration="PT5M1S"), f"{QUEUE}.LockDuration: the emulator takes 5 to 300 seconds, not 301"),
    (queue(LockDuration="PT4S"), f"{QUEUE}.LockDuration: the emulator takes 5 to 300 seconds, not 4"),
    (queue(LockDuration="PT5.5S"), f"{QUEUE}.LockDuration: the emulator takes whole seconds, not 5.5"),
    (queue(MaxDeliveryCount=11), f"{QUEUE}.MaxDeliveryCount: the emulator takes 1 to 10, not 11"),
    (queue(DefaultMessageTimeToLive="PT2H"), f"{QUEUE}.DefaultMessageTimeToLive: the emulator takes 300 to 3600"),
    (queue(DefaultMessageTimeToLive="P10675199D"), "the emulator takes 300 to 3600 seconds, not inf"),
    (queue(DuplicateDetectionHistoryTimeWindow="PT10M"), f"{QUEUE}.DuplicateDetectionHistoryTimeWindow: "),
    (config(Queues=[{"Name": f"q{n}"} for n in range(51)]), f"{PLACE}: the emulator has at most 50 queues and topics"),
    (config(Name="mine"), f"{PLACE}.Name: the emulator's namespace is called sbemulatorns"),
    (topic(), f"{TOPIC}.Subscriptions: the emulator takes 1 to 50, not 0"),
    (topic(*(subscription(name=f"s{n}") for n in range(51))), "Subscriptions: the emulator takes 1 to 50, not 51"),
    (topic(subscription(), DefaultMessageTimeToLive="P1D"), f"{TOPIC}.Properties.DefaultMessageTimeToLive: "),
    (topic(subscription(MaxDeliveryCount=20)), f"{TOPIC}.Subscriptions[0].Properties.MaxDeliveryCount: "),
    (topic(subscription(*[SQL] * 71)), f"{TOPIC}: the emulator takes at most 70 SQL filters for a topic, not 71"),
    (topic(subscription(*[CORRELATION] * 1001)), "at most 1000 correlation filters for a topic, not 1001"),
    (topic(subscription({"FilterType": "True"})), f"{TOPIC}.Subscriptions[0].Rules[0].Properties.FilterType: "),
]


@pytest.mark.parametrize(("given", "complaint"), VIOLATIONS)
def test_a_configuration_that_the_emulator_refuses_is_refused(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(given, strict=True)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("given", [given for given, _ in VIOLATIONS])
def test_and_taken_by_those_who_do_not_ask_for_strictness(given: dict[str, Any]) -> None:
    assert read(given) is not None


def test_a_namespace_too_many_and_lists_too_few_are_complained_of() -> None:
    two: dict[str, Any] = {"UserConfig": {"Namespaces": [{}, {}], "Logging": {"Type": "File"}}}
    with pytest.raises(ConfigError, match="exactly one namespace, not 2"):
        read(two, strict=True)
    bare: dict[str, Any] = {"UserConfig": {"Namespaces": [{"Name": "sbemulatorns"}]}}
    with pytest.raises(ConfigError) as caught:
        read(bare, strict=True)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "UserConfig.Logging.Type",
        f"{PLACE}.Queues",
        f"{PLACE}.Topics",
    ]


def test_all_violations_are_reported_together_each_line_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "Config.json"
    path.write_text('{"UserConfig": {"Namespaces": [{"Name": "x", "Queues": [], "Topics": []}]}}')
    with pytest.raises(ConfigError) as caught:
        load(path, strict=True)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}: UserConfig.") for line in lines)


def test_within_the_limits_entities_have_the_emulators_size() -> None:
    given = topic(subscription(SQL, CORRELATION))
    given["UserConfig"]["Namespaces"][0]["Queues"] = [{"Name": "q"}]
    topology = read(given, strict=True)
    assert topology.queues["q"].max_size == topology.topics["t"].options.max_size == 100 * 1024 * 1024


# --------------------------------------------------------------------------- while the broker runs


@pytest.fixture
def namespace() -> Namespace:
    namespace = Namespace(Topology(), Timers(ManualClock(0)))
    namespace.validate = partial(emulator.validate, namespace)
    return namespace


def test_an_entity_the_emulator_would_not_have_is_not_created(namespace: Namespace) -> None:
    with pytest.raises(InvalidArgument, match="The MaxDeliveryCount of 'q': the emulator takes 1 to 10, not 20"):
        namespace.create_queue("q", QueueOptions(max_delivery_count=20))
    namespace.create_topic("t", TopicOptions())
    with pytest.raises(InvalidArgument, match="MaxDeliveryCount of 't/Subscriptions/s'"):
        namespace.create_subscription("t", "s", SubscriptionDefinition(QueueOptions(max_delivery_count=11)))
    assert list(namespace.queues()) == []


def test_nor_is_one_changed_into_that(namespace: Namespace) -> None:
    namespace.create_queue("q", QueueOptions())
    with pytest.raises(InvalidArgument, match="MaxDeliveryCount"):
        namespace.update_queue("q", QueueOptions(max_delivery_count=2000))
    assert namespace.queue("q").options == QueueOptions()


def test_there_are_at_most_fifty_of_everything(namespace: Namespace) -> None:
    for number in range(49):
        namespace.create_queue(f"q{number}", EMULATOR_DEFAULTS)
    namespace.create_topic("t", EMULATOR_TOPIC_DEFAULTS)
    with pytest.raises(QuotaExceeded, match="at most 50 queues and topics"):
        namespace.create_queue("one-more", EMULATOR_DEFAULTS)
    for number in range(50):
        namespace.create_subscription("t", f"s{number}", SubscriptionDefinition(EMULATOR_DEFAULTS))
    with pytest.raises(QuotaExceeded, match="at most 50 subscriptions"):
        namespace.create_subscription("t", "one-more", SubscriptionDefinition(EMULATOR_DEFAULTS))
    namespace.update_topic("t", EMULATOR_TOPIC_DEFAULTS)
    namespace.update_subscription("t", "s1", EMULATOR_DEFAULTS)
    namespace.update_queue("q1", EMULATOR_DEFAULTS)


# --------------------------------------------------------------------------- the emulator's own schema


SCHEMA = Path(__file__).parents[5] / "shared" / "data" / "servicebus-emulator-config.schema.json"


def namespace_schema() -> dict[str, Any]:
    if not SCHEMA.is_file():
        pytest.skip("the emulator's schema is not beside this project (../shared/data); the limits are checked above")
    schema = json.loads(SCHEMA.read_text("utf-8"))
    items: dict[str, Any] = schema["properties"]["UserConfig"]["properties"]["Namespaces"]["items"]["properties"]
    return items


def value_for(name: str, schema: dict[str, Any]) -> Any:
    """Return a value the schema takes, its default where there is one."""
    by_type = {"boolean": True, "integer": 3, "string": "x", "object": {"p": "v"}}
    if "default" in schema:
        return schema["default"]
    return "q" if name.startswith("Forward") else by_type[schema["type"]]


def test_everything_the_schema_knows_is_read_and_within_the_limits() -> None:
    schema = namespace_schema()
    queue_items = schema["Queues"]["items"]["properties"]
    topic_items = schema["Topics"]["items"]["properties"]
    subscription_items = topic_items["Subscriptions"]["items"]["properties"]
    rule_items = subscription_items["Rules"]["items"]["properties"]["Properties"]["properties"]

    def filled(items: dict[str, Any]) -> dict[str, Any]:
        return {name: value_for(name, inner) for name, inner in items.items()}

    correlation = filled(rule_items["CorrelationFilter"]["properties"])
    rules = [{"FilterType": kind, "CorrelationFilter": correlation} | SQL for kind in ("Sql",)] + [
        {"FilterType": "Correlation", "CorrelationFilter": correlation, "Action": {"SqlExpression": "SET a = 1"}}
    ]
    given = topic(
        subscription(*rules, **filled(subscription_items["Properties"]["properties"])),
        **filled(topic_items["Properties"]["properties"]),
    )
    given["UserConfig"]["Namespaces"][0]["Queues"] = [
        {"Name": "q"},
        {"Name": "all", "Properties": filled(queue_items["Properties"]["properties"])},
    ]
    topology = read(given, strict=True)
    [definition] = topology.topics["t"].subscriptions.values()
    assert topology.queues["all"].forward_to == definition.options.forward_to == "q"
    assert rule_items["FilterType"]["enum"] == ["Correlation", "Sql"]


def test_the_schema_has_the_limits_that_are_kept_here() -> None:
    schema = namespace_schema()
    count = schema["Queues"]["items"]["properties"]["Properties"]["properties"]["MaxDeliveryCount"]
    assert (count["minimum"], count["maximum"], count["default"]) == (1, 10, EMULATOR_DEFAULTS.max_delivery_count)
    subscriptions = schema["Topics"]["items"]["properties"]["Subscriptions"]
    assert schema["Queues"]["maxItems"] == schema["Topics"]["maxItems"] == subscriptions["maxItems"] == 50
    assert schema["Name"]["enum"] == [emulator.NAMESPACE]
