"""Subscriptions and rules through the administration."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from xml.etree.ElementTree import fromstring

import pytest

from servicebus_local.admin.xml import ATOM, SCHEMA, escaped
from servicebus_local.amqp.types import Int, Timestamp, Uuid
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.topics import SQL_FILTER_LIMIT, Subscription
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, Topology
from tests.unit.admin_fixture import (
    HOST,
    AdminFixture,
    described,
    detail,
    queue,
    refused,
    rule,
    said,
    subscription,
    titles,
)

AT = "/news/subscriptions/all"


@pytest.fixture
def admin() -> AdminFixture:
    news = TopicDefinition(subscriptions={"all": SubscriptionDefinition()})
    return AdminFixture(Topology({"orders": QueueOptions()}, {"news": news}))


def of(admin: AdminFixture, name: str = "all") -> Subscription:
    return admin.namespace.subscription("news", name)


def filtered(kind: str, inner: str = "") -> str:
    return f'<Filter i:type="{kind}">{inner}</Filter>'


def sql(expression: str, inner: str = "") -> str:
    return filtered("SqlFilter", f"<SqlExpression>{escaped(expression)}</SqlExpression>{inner}")


def value(kind: str, text: str, name: str = "@p") -> str:
    return (
        f"<KeyValueOfstringanyType><Key>{name}</Key>"
        f'<Value i:type="x:{kind}" xmlns:x="{SCHEMA}">{escaped(text)}</Value></KeyValueOfstringanyType>'
    )


# --------------------------------------------------------------------------- subscriptions


def test_a_subscription_is_created_with_the_defaults_of_azure(admin: AdminFixture) -> None:
    made = admin.made("/news/Subscriptions/new", subscription())
    defaults = {
        "LockDuration": "PT1M",
        "RequiresSession": "false",
        "DefaultMessageTimeToLive": "P10675199DT2H48M5.4775807S",
        "DeadLetteringOnMessageExpiration": "false",
        "DeadLetteringOnFilterEvaluationExceptions": "true",
        "MessageCount": "0",
        "MaxDeliveryCount": "10",
        "EnableBatchedOperations": "true",
        "Status": "Active",
        "AutoDeleteOnIdle": "P10675199DT2H48M5.4775807S",
        "EntityAvailabilityStatus": "Available",
    }
    assert {name: said(made, name) for name in defaults} == defaults
    assert titles(admin.ask("GET", "/news/subscriptions/new/rules")) == ["$Default"]
    assert of(admin, "new").rules["$default"].filter == TrueFilter()


def test_every_property_of_a_subscription_comes_back_as_it_was_given(admin: AdminFixture) -> None:
    properties = {
        "LockDuration": "PT5M",
        "RequiresSession": "true",
        "DefaultMessageTimeToLive": "PT11M",
        "DeadLetteringOnMessageExpiration": "true",
        "DeadLetteringOnFilterEvaluationExceptions": "false",
        "MaxDeliveryCount": "14",
        "EnableBatchedOperations": "false",
        "Status": "ReceiveDisabled",
        "AutoDeleteOnIdle": "PT10M",
        "UserMetadata": "m",
    }
    admin.made("/news/subscriptions/new", subscription(**properties, ForwardTo="orders"))
    shown = admin.look("/NEWS/SUBSCRIPTIONS/NEW")
    assert {name: said(shown, name) for name in properties} == properties
    assert said(shown, "ForwardTo") == f"sb://{HOST}/orders"


def test_a_subscription_is_updated_and_keeps_its_rules(admin: AdminFixture) -> None:
    admin.put(f"{AT}/rules/r", rule(sql("a = 1")))
    described(admin.update(AT, subscription(MaxDeliveryCount="3", ForwardTo="news")))
    assert of(admin).options.max_delivery_count == 3
    assert of(admin).options.forward_to == "news"
    assert list(of(admin).rules) == ["$default", "r"]
    assert refused(admin.update(AT, subscription(RequiresSession="true"))) == (400, "40000")


def test_a_subscription_may_begin_with_a_rule_of_its_own(admin: AdminFixture) -> None:
    first = f"<DefaultRuleDescription>{sql('a = 1')}<Name>first</Name></DefaultRuleDescription>"
    admin.made("/news/subscriptions/new", subscription(first))
    assert list(of(admin, "new").rules.values()) == [Rule("first", SqlFilter("a = 1"))]


@pytest.mark.parametrize("name", ["a b", "a/b", "-a", "a-", "a~b", "é", "a" * 51])
def test_names_of_subscriptions_and_rules_are_short_and_plain(admin: AdminFixture, name: str) -> None:
    assert refused(admin.put(f"/news/subscriptions/{name}", subscription()))[0] in (400, 404)
    assert refused(admin.put(f"{AT}/rules/{name}", rule())) == (400, "40000")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nowhere/subscriptions"),
        ("GET", "/orders/subscriptions"),
        ("GET", "/nowhere/subscriptions/all"),
        ("GET", "/news/subscriptions/nobody"),
        ("GET", "/news/subscriptions/nobody/rules"),
        ("GET", f"{AT}/rules/none"),
        ("DELETE", "/news/subscriptions/nobody"),
        ("DELETE", f"{AT}/rules/none"),
    ],
)
def test_a_missing_entity_is_not_found(admin: AdminFixture, method: str, path: str) -> None:
    assert refused(admin.ask(method, path)) == (404, "40400")


def test_creating_needs_what_it_belongs_to(admin: AdminFixture) -> None:
    assert refused(admin.put("/nowhere/subscriptions/new", subscription())) == (404, "40400")
    assert refused(admin.put("/orders/subscriptions/new", subscription())) == (404, "40400")
    assert refused(admin.put("/news/subscriptions/nobody/rules/r", rule())) == (404, "40400")


def test_updating_needs_what_is_updated(admin: AdminFixture) -> None:
    assert refused(admin.update("/news/subscriptions/nobody", subscription())) == (404, "40400")
    assert refused(admin.update(f"{AT}/rules/none", rule())) == (404, "40400")


def test_names_are_taken_once(admin: AdminFixture) -> None:
    assert refused(admin.put("/news/subscriptions/ALL", subscription())) == (409, "40900")
    assert refused(admin.put(f"{AT}/rules/$default", rule())) == (400, "40000")
    assert refused(admin.put(f"{AT}/rules/$Default", rule())) == (409, "40900")


def test_a_body_must_be_what_the_path_says(admin: AdminFixture) -> None:
    assert refused(admin.put("/news/subscriptions/new", queue())) == (400, "40000")
    assert refused(admin.put(f"{AT}/rules/r", subscription())) == (400, "40000")


def test_a_subscription_and_a_rule_are_deleted(admin: AdminFixture) -> None:
    assert admin.ask("DELETE", f"{AT}/rules/$Default").status == 200
    assert of(admin).rules == {}
    assert admin.ask("DELETE", AT).status == 200
    assert titles(admin.ask("GET", "/news/subscriptions")) == []


def test_a_topic_takes_its_subscriptions_with_it(admin: AdminFixture) -> None:
    assert admin.ask("DELETE", "/news").status == 200
    assert refused(admin.ask("GET", AT)) == (404, "40400")


# --------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("", TrueFilter()),
        (filtered("TrueFilter", "<SqlExpression>1=1</SqlExpression>"), TrueFilter()),
        (filtered("FalseFilter", "<SqlExpression>1>1</SqlExpression>"), FalseFilter()),
        (sql("a < 1 AND b LIKE '%x'"), SqlFilter("a < 1 AND b LIKE '%x'")),
        (filtered("x:CorrelationFilter", "<Label>l</Label><To></To>"), CorrelationFilter(label="l")),
        (
            filtered(
                "CorrelationFilter",
                "<CorrelationId>c</CorrelationId><MessageId>m</MessageId><To>t</To><ReplyTo>r</ReplyTo><Label>l</Label>"
                "<SessionId>s</SessionId><ReplyToSessionId>rs</ReplyToSessionId><ContentType>ct</ContentType>",
            ),
            CorrelationFilter("c", "m", "t", "r", "l", "s", "rs", "ct"),
        ),
    ],
)
def test_filters_are_what_they_say(admin: AdminFixture, written: str, expected: Any) -> None:
    admin.made(f"{AT}/rules/r", rule(written))
    assert of(admin).rule("r").filter == expected
    assert of(admin).rule("r").action is None


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("string", " a<b ", " a<b "),
        ("int", "-7", -7),
        ("long", "2147483650", 2_147_483_650),
        ("short", "3", 3),
        ("unsignedLong", "18446744073709551615", 2**64 - 1),
        ("boolean", "true", True),
        ("double", "1.5", 1.5),
        ("decimal", "2.5", 2.5),
        ("dateTime", "2020-07-05T11:12:13", datetime(2020, 7, 5, 11, 12, 13)),  # noqa: DTZ001 - as the SDK sends it
        ("dateTime", "2020-07-05T11:12:13Z", datetime(2020, 7, 5, 11, 12, 13, tzinfo=UTC)),
        ("duration", "P1DT2H3M", timedelta(days=1, hours=2, minutes=3)),
        ("guid", "12345678-1234-5678-1234-567812345678", Uuid(UUID("12345678-1234-5678-1234-567812345678").bytes)),
        ("base64Binary", "AAE=", b"\x00\x01"),
    ],
)
def test_values_keep_their_types_both_ways(admin: AdminFixture, kind: str, text: str, expected: Any) -> None:
    written = filtered("CorrelationFilter", f"<Properties>{value(kind, text, 'k')}</Properties>")
    made = admin.made(f"{AT}/rules/r", rule(written))
    chosen = of(admin).rule("r").filter
    assert isinstance(chosen, CorrelationFilter)
    assert chosen.properties == {"k": expected}
    assert type(chosen.properties["k"]) is type(expected)
    shown = made.find(".//{*}Properties")
    assert shown is not None
    admin.ask("DELETE", f"{AT}/rules/r")
    again = filtered("CorrelationFilter", as_written(shown))
    admin.made(f"{AT}/rules/r", rule(again))
    assert of(admin).rule("r").filter == chosen


def as_written(properties: Any) -> str:
    pair = properties[0]
    kind = next(text for name, text in pair[1].attrib.items() if name.endswith("type")).rpartition(":")[2]
    return f"<Properties>{value(kind, pair[1].text, pair[0].text)}</Properties>"


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(value("int", "seven"), id="not a number"),
        pytest.param(value("int", "9" * 30), id="too large a number"),
        pytest.param(value("boolean", "perhaps"), id="not a truth value"),
        pytest.param(value("dateTime", "noon"), id="not a moment"),
        pytest.param(value("duration", "long"), id="not a duration"),
        pytest.param(value("guid", "x"), id="not a GUID"),
        pytest.param(value("base64Binary", "?"), id="not base64"),
        pytest.param(value("colour", "red"), id="an unknown type"),
        pytest.param("<KeyValueOfstringanyType><Key>k</Key></KeyValueOfstringanyType>", id="no value"),
        pytest.param(value("int", "1", ""), id="no name"),
    ],
)
def test_values_that_are_not_what_they_say_are_refused(admin: AdminFixture, given: str) -> None:
    written = sql("a = @p", f"<Parameters>{given}</Parameters>")
    assert refused(admin.put(f"{AT}/rules/r", rule(written))) == (400, "40000")


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(sql("a = = 1"), id="no SQL"),
        pytest.param(sql(""), id="no expression"),
        pytest.param(sql("a = @p"), id="a parameter without a value"),
        pytest.param(sql("a = '" + "x" * 1024 + "'"), id="too long"),
        pytest.param(filtered("CorrelationFilter"), id="a correlation with nothing"),
        pytest.param(filtered("MagicFilter"), id="an unknown filter"),
        pytest.param("<Filter/>", id="a filter without a type"),
        pytest.param('<Action i:type="SqlRuleAction"><SqlExpression>a = 1</SqlExpression></Action>', id="no action"),
        pytest.param('<Action i:type="MagicAction"/>', id="an unknown action"),
    ],
)
def test_rules_that_make_no_sense_are_refused_with_a_reason(admin: AdminFixture, written: str) -> None:
    answer = admin.put(f"{AT}/rules/r", rule(written))
    assert refused(answer) == (400, "40000")
    assert list(of(admin).rules) == ["$default"]


def test_a_refused_expression_is_answered_with_where_it_is_wrong(admin: AdminFixture) -> None:
    assert "line 1, column 5" in detail(admin.put(f"{AT}/rules/r", rule(sql("a = = 1"))))


def test_an_action_with_parameters_is_shown_as_it_was_given(admin: AdminFixture) -> None:
    action = (
        '<Action i:type="SqlRuleAction"><SqlExpression>SET a = @p</SqlExpression>'
        f"<Parameters>{value('int', '2')}</Parameters></Action>"
    )
    made = admin.made(f"{AT}/rules/r", rule(sql("1=1") + action))
    assert of(admin).rule("r").action == SqlAction("SET a = @p", {"@p": 2})
    shown = made.find("{*}Action")
    assert shown is not None
    assert shown.findtext("{*}SqlExpression") == "SET a = @p"
    assert shown.findtext("{*}CompatibilityLevel") == "20"
    assert shown.findtext(".//{*}Value") == "2"


def test_a_rule_is_replaced_in_its_place_and_keeps_its_date(admin: AdminFixture) -> None:
    admin.put(f"{AT}/rules/r", rule(sql("a = 1")))
    admin.put(f"{AT}/rules/s", rule())
    admin.timers.advance(admin.clock, 60)
    shown = described(admin.update(f"{AT}/rules/R", rule(filtered("FalseFilter"))))
    assert said(shown, "CreatedAt") == "2027-01-15T08:00:00.000000Z"
    assert [each.name for each in of(admin).rules.values()] == ["$Default", "r", "s"]
    assert of(admin).rule("r").filter == FalseFilter()


def test_rules_that_came_another_way_are_shown_too(admin: AdminFixture) -> None:
    amqp = {"i": Int(1), "t": Timestamp(1_600_000_000_000), "n": None}
    of(admin).add_rule(Rule("r", CorrelationFilter(properties=amqp), SqlAction("SET a = 1")))
    shown = admin.look(f"{AT}/rules/r")
    kinds = [next(iter(each.attrib.values())) for each in shown.findall(".//{*}Properties//{*}Value")]
    assert kinds == ["d6p1:int", "d6p1:dateTime", "d6p1:string"]


def test_the_number_of_filters_of_a_topic_is_limited(admin: AdminFixture) -> None:
    for number in range(SQL_FILTER_LIMIT - 1):
        of(admin).rules[f"r{number}"] = Rule(f"r{number}", TrueFilter())
    assert refused(admin.put(f"{AT}/rules/more", rule())) == (403, "40300")
    assert refused(admin.put("/news/subscriptions/more", subscription())) == (403, "40300")
    assert admin.put(f"{AT}/rules/other", rule(filtered("CorrelationFilter", "<To>t</To>"))).status == 201


def test_rules_are_listed_by_name(admin: AdminFixture) -> None:
    for name in ("b", "A", "c"):
        admin.put(f"{AT}/rules/{name}", rule())
    answer = admin.ask("GET", f"{AT}/rules")
    assert titles(answer) == ["$Default", "A", "b", "c"]
    assert fromstring(answer.body).findtext(f"{{{ATOM}}}title") == "Rules"


def test_ids_are_spelled_as_the_javascript_sdk_reads_them(admin: AdminFixture) -> None:
    for path, id_path in (
        (AT, "news/Subscriptions/all"),
        (f"{AT}/rules/$Default", "news/Subscriptions/all/Rules/$Default"),
    ):
        found = fromstring(admin.ask("GET", path).body).findtext(f"{{{ATOM}}}id")
        assert found == f"http://{HOST}/{id_path}?api-version=2021-05"
