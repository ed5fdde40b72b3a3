"""Both of the SDK's administration clients, with every method they have: what is made is what is found."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.servicebus.management import (
    AccessRights,
    ApiVersion,
    AuthorizationRule,
    CorrelationRuleFilter,
    EntityStatus,
    FalseRuleFilter,
    SqlRuleAction,
    SqlRuleFilter,
    TrueRuleFilter,
)

from servicebus_local.testing import LocalBus, ManualClock, Right
from tests.protocol.admin import Admin, Client, client_at, sync_client_at

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[LocalBus]:
    async with LocalBus(clock=ManualClock()) as bus:
        yield bus


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(bus: LocalBus) -> AsyncIterator[dict[str, Client]]:
    async with client_at(bus.admin_connection_string) as client:
        with sync_client_at(bus.admin_connection_string) as sync_client:
            yield {"async": client, "sync": sync_client}


@pytest_asyncio.fixture(loop_scope="module", params=["async", "sync"])
async def admin(clients: dict[str, Client], request: pytest.FixtureRequest) -> AsyncIterator[Admin]:
    """One client after the other, each at an empty namespace."""
    admin = Admin(clients[request.param])
    yield admin
    for queue in await admin("list_queues"):
        await admin("delete_queue", queue.name)
    for topic in await admin("list_topics"):
        await admin("delete_topic", topic.name)


def public_methods(client: Client) -> set[str]:
    return {name for name in dir(client) if not name.startswith("_") and callable(getattr(client, name))}


async def test_every_method_does_what_it_says(admin: Admin) -> None:
    queue = await admin("create_queue", "orders")
    topic = await admin("create_topic", "news")
    subscription = await admin("create_subscription", "news", "all")
    rule = await admin("create_rule", "news", "all", "red", filter=SqlRuleFilter("colour = 'red'"))
    assert (await admin("get_queue", "orders")).name == "orders"
    assert (await admin("get_topic", "news")).name == "news"
    assert (await admin("get_subscription", "news", "all")).name == "all"
    assert (await admin("get_rule", "news", "all", "red")).filter.sql_expression == "colour = 'red'"
    queue.max_delivery_count = 7
    topic.user_metadata = "m"
    subscription.max_delivery_count = 8
    rule.filter = FalseRuleFilter()
    await admin("update_queue", queue)
    await admin("update_topic", topic)
    await admin("update_subscription", "news", subscription)
    await admin("update_rule", "news", "all", rule)
    assert [each.max_delivery_count for each in await admin("list_queues")] == [7]
    assert [each.user_metadata for each in await admin("list_topics")] == ["m"]
    assert [each.max_delivery_count for each in await admin("list_subscriptions", "news")] == [8]
    rules = await admin("list_rules", "news", "all")
    assert [(each.name, type(each.filter)) for each in rules] == [
        ("$Default", TrueRuleFilter),
        ("red", FalseRuleFilter),
    ]
    assert (await admin("get_queue_runtime_properties", "orders")).total_message_count == 0
    assert (await admin("get_topic_runtime_properties", "news")).subscription_count == 1
    assert (await admin("get_subscription_runtime_properties", "news", "all")).total_message_count == 0
    assert [each.name for each in await admin("list_queues_runtime_properties")] == ["orders"]
    assert [each.subscription_count for each in await admin("list_topics_runtime_properties")] == [1]
    assert [each.name for each in await admin("list_subscriptions_runtime_properties", "news")] == ["all"]
    assert (await admin("get_namespace_properties")).messaging_sku == "Standard"
    await admin("delete_rule", "news", "all", "red")
    await admin("delete_subscription", "news", "all")
    await admin("delete_topic", "news")
    await admin("delete_queue", "orders")
    assert await admin("list_queues") == await admin("list_topics") == []
    assert public_methods(admin.client) - admin.called == {"close", "from_connection_string"}


# --------------------------------------------------------------------------- properties

QUEUE: dict[str, Any] = {
    "auto_delete_on_idle": timedelta(minutes=10),
    "dead_lettering_on_message_expiration": True,
    "default_message_time_to_live": timedelta(minutes=11),
    "duplicate_detection_history_time_window": timedelta(minutes=12),
    "enable_batched_operations": False,
    "enable_express": True,
    "enable_partitioning": True,
    "lock_duration": timedelta(seconds=13),
    "max_delivery_count": 14,
    "max_size_in_megabytes": 3072,
    "requires_session": True,
    "user_metadata": "über <&> \"'",
}
TOPIC: dict[str, Any] = {
    "auto_delete_on_idle": timedelta(minutes=10),
    "default_message_time_to_live": timedelta(minutes=11),
    "duplicate_detection_history_time_window": timedelta(minutes=12),
    "enable_batched_operations": False,
    "enable_partitioning": True,
    "max_size_in_megabytes": 2048,
    "requires_duplicate_detection": True,
    "support_ordering": False,
    "user_metadata": "m",
}
SUBSCRIPTION: dict[str, Any] = {
    "auto_delete_on_idle": timedelta(minutes=10),
    "dead_lettering_on_message_expiration": True,
    "dead_lettering_on_filter_evaluation_exceptions": False,
    "default_message_time_to_live": timedelta(minutes=11),
    "enable_batched_operations": False,
    "lock_duration": timedelta(seconds=13),
    "max_delivery_count": 14,
    "requires_session": True,
    "user_metadata": "m",
}


def those_of(found: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(found, name) for name in wanted}


async def test_properties_come_back_as_they_were_given(admin: Admin) -> None:
    assert those_of(await admin("create_queue", "orders", **QUEUE), QUEUE) == QUEUE
    assert those_of(await admin("get_queue", "orders"), QUEUE) == QUEUE
    assert those_of(await admin("create_topic", "news", **TOPIC), TOPIC) == TOPIC
    assert those_of(await admin("get_topic", "news"), TOPIC) == TOPIC
    assert those_of(await admin("create_subscription", "news", "all", **SUBSCRIPTION), SUBSCRIPTION) == SUBSCRIPTION
    assert those_of(await admin("get_subscription", "news", "all"), SUBSCRIPTION) == SUBSCRIPTION


async def test_what_is_not_given_is_as_azure_has_it(admin: Admin) -> None:
    queue = await admin("create_queue", "orders")
    assert queue.lock_duration == timedelta(minutes=1)
    assert queue.max_delivery_count == 10
    assert queue.duplicate_detection_history_time_window == timedelta(minutes=10)
    assert queue.default_message_time_to_live.days == queue.auto_delete_on_idle.days == 10_675_199
    assert (queue.max_size_in_megabytes, queue.max_message_size_in_kilobytes) == (1024, 256)
    assert (queue.status, queue.availability_status) == (EntityStatus.ACTIVE, "Available")
    assert queue.forward_to is queue.forward_dead_lettered_messages_to is queue.authorization_rules is None
    assert queue.enable_batched_operations
    switches = ("requires_session", "requires_duplicate_detection", "enable_partitioning", "enable_express")
    assert not any(getattr(queue, name) for name in (*switches, "dead_lettering_on_message_expiration"))


async def test_durations_may_be_text(admin: Admin) -> None:
    await admin("create_queue", "orders", lock_duration="PT13.5S", default_message_time_to_live="P1DT2H")
    queue = await admin("get_queue", "orders")
    assert queue.lock_duration == timedelta(seconds=13.5)
    assert queue.default_message_time_to_live == timedelta(hours=26)


async def test_a_description_that_was_read_can_be_written_back(admin: Admin) -> None:
    """The longest duration among it, which the SDK rounds."""
    for queue in (await admin("create_queue", "plain"), await admin("create_queue", "special", **QUEUE)):
        await admin("update_queue", queue)
        found = await admin("get_queue", queue.name)
        await admin("update_queue", found)
        assert await admin("get_queue", queue.name) == found


async def test_an_update_takes_a_dictionary_and_keywords(admin: Admin) -> None:
    queue = await admin("create_queue", "orders", max_delivery_count=3)
    await admin("update_queue", dict(queue), lock_duration=timedelta(minutes=2), status="SendDisabled")
    found = await admin("get_queue", "orders")
    assert found.lock_duration == timedelta(minutes=2)
    assert (found.status, found.max_delivery_count) == ("SendDisabled", 3)


async def test_forwarding_is_shown_as_an_address_and_can_be_taken_back(bus: LocalBus, admin: Admin) -> None:
    here = bus.admin_url.replace("http", "sb", 1)
    await admin("create_topic", "news")
    queue = await admin("create_queue", "orders", forward_to="news", forward_dead_lettered_messages_to="news")
    assert queue.forward_to == queue.forward_dead_lettered_messages_to == f"{here}/news"
    await admin("update_queue", queue)
    await admin("update_queue", queue, forward_to="sb://another-name/news", forward_dead_lettered_messages_to=None)
    found = await admin("get_queue", "orders")
    assert (found.forward_to, found.forward_dead_lettered_messages_to) == (f"{here}/news", None)
    subscription = await admin("create_subscription", "news", "all", forward_to="orders")
    await admin("update_subscription", "news", subscription, forward_to="news")
    assert (await admin("get_subscription", "news", "all")).forward_to == f"{here}/news"
    await admin("update_subscription", "news", subscription, forward_to=None)
    assert (await admin("get_subscription", "news", "all")).forward_to is None


async def test_access_policies_get_keys_and_keep_them(admin: Admin) -> None:
    policy = AuthorizationRule(
        type="SharedAccessAuthorizationRule",
        claim_type="SharedAccessKey",
        claim_value="None",
        rights=[AccessRights.MANAGE, AccessRights.SEND, AccessRights.LISTEN],
        key_name="owner",
    )
    queue = await admin("create_queue", "orders", authorization_rules=[policy])
    [made] = queue.authorization_rules
    assert (made.key_name, set(made.rights)) == ("owner", {"Manage", "Send", "Listen"})
    assert made.primary_key != made.secondary_key
    await admin("update_queue", queue)
    [same] = (await admin("get_queue", "orders")).authorization_rules
    assert vars(same) == vars(made)


async def test_names_with_slashes_are_names(admin: Admin) -> None:
    await admin("create_queue", "txt/.-_123")
    await admin("create_topic", "a/b")
    await admin("create_subscription", "a/b", "c.d")
    assert (await admin("get_queue", "TXT/.-_123")).status == "Active"
    assert [each.name for each in await admin("list_queues")] == ["txt/.-_123"]
    assert [each.name for each in await admin("list_subscriptions", "a/b")] == ["c.d"]
    assert [each.name for each in await admin("list_rules", "a/b", "c.d")] == ["$Default"]


# --------------------------------------------------------------------------- rules

PLAIN = datetime(2020, 7, 5, 11, 12, 13)  # noqa: DTZ001 - the SDK sends and compares it so
VALUES: dict[str, Any] = {
    "text": "a <b> & c",
    "number": 2,
    "large": 2**31 + 3,
    "negative": -5,
    "fraction": 1.5,
    "truth": False,
    "moment": PLAIN,
    "moment in a zone": datetime(2020, 7, 5, 11, 12, 13, tzinfo=UTC),
    "duration": timedelta(days=1, hours=2, minutes=3),
}


async def test_rules_come_back_with_the_types_of_their_values(admin: Admin) -> None:
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "all")
    wanted = CorrelationRuleFilter(
        correlation_id="c", message_id="m", to="t", reply_to="r", label="l", session_id="s", reply_to_session_id="rs",
        content_type="ct", properties=VALUES,
    )  # fmt: skip
    action = SqlRuleAction("SET Priority = @p", {"@p": PLAIN})
    made = await admin("create_rule", "news", "all", "first", filter=wanted, action=action)
    for found in (made, await admin("get_rule", "news", "all", "first"), (await admin("list_rules", "news", "all"))[1]):
        assert type(found.filter) is CorrelationRuleFilter
        assert vars(found.filter) == vars(wanted)
        assert (found.action.sql_expression, dict(found.action.parameters)) == (action.sql_expression, {"@p": PLAIN})
    parameters: dict[str, Any] = {"@a": "x", "@b": 1}
    await admin("create_rule", "news", "all", "second", filter=SqlRuleFilter("a = @a AND b = @b", parameters))
    second = await admin("get_rule", "news", "all", "second")
    assert (second.filter.sql_expression, dict(second.filter.parameters)) == ("a = @a AND b = @b", parameters)
    assert second.action is None
    assert second.created_at_utc is not None


async def test_a_rule_is_updated_to_another_kind(admin: Admin) -> None:
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "all")
    rule = await admin("create_rule", "news", "all", "r", filter=SqlRuleFilter("a = 1"))
    rule.filter, rule.action = CorrelationRuleFilter(label="l"), SqlRuleAction("SET b = 2")
    await admin("update_rule", "news", "all", rule)
    assert (await admin("get_rule", "news", "all", "r")).action.sql_expression == "SET b = 2"
    await admin("update_rule", "news", "all", dict(rule), action=None)
    found = await admin("get_rule", "news", "all", "r")
    assert (found.filter.label, found.action) == ("l", None)


async def test_filters_are_counted_by_kind(admin: Admin) -> None:
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "all")
    await admin("create_rule", "news", "all", "sql", filter=SqlRuleFilter("1=1"))
    await admin("create_rule", "news", "all", "correlation", filter=CorrelationRuleFilter(label="l"))
    found = await admin("get_topic_runtime_properties", "news")
    assert (found.sql_filter_count, found.correlation_filter_count) == (2, 1)  # $Default is a SQL filter


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("get_queue", ["nowhere"]),
        ("get_queue_runtime_properties", ["nowhere"]),
        ("delete_queue", ["nowhere"]),
        ("get_topic", ["nowhere"]),
        ("get_topic_runtime_properties", ["nowhere"]),
        ("delete_topic", ["nowhere"]),
        ("get_subscription", ["news", "nobody"]),
        ("get_subscription", ["nowhere", "all"]),
        ("get_subscription_runtime_properties", ["news", "nobody"]),
        ("delete_subscription", ["news", "nobody"]),
        ("create_subscription", ["nowhere", "all"]),
        ("list_subscriptions", ["nowhere"]),
        ("get_rule", ["news", "all", "none"]),
        ("delete_rule", ["news", "all", "none"]),
        ("create_rule", ["news", "nobody", "r"]),
        ("list_rules", ["news", "nobody"]),
    ],
)
async def test_a_missing_entity_is_not_found(admin: Admin, call: str, arguments: list[str]) -> None:
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "all")
    with pytest.raises(ResourceNotFoundError):
        await admin(call, *arguments)


async def test_a_name_is_taken_once(admin: Admin) -> None:
    await admin("create_queue", "orders")
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "all")
    for call in (
        ("create_queue", "orders"),
        ("create_queue", "news"),
        ("create_topic", "orders"),
        ("create_topic", "NEWS"),
        ("create_subscription", "news", "all"),
        ("create_rule", "news", "all", "$Default"),
    ):
        with pytest.raises(ResourceExistsError):
            await admin(*call)


async def test_an_update_of_nothing_is_refused(admin: Admin) -> None:
    await admin("create_topic", "news")
    made = {
        "queue": await admin("create_queue", "orders"),
        "topic": await admin("create_topic", "more"),
        "subscription": await admin("create_subscription", "news", "all"),
    }
    rule = await admin("create_rule", "news", "all", "r")
    for each in (*made.values(), rule):
        each.name = "another"
    for call in (
        ("update_queue", made["queue"]),
        ("update_topic", made["topic"]),
        ("update_subscription", "news", made["subscription"]),
        ("update_rule", "news", "all", rule),
    ):
        with pytest.raises(HttpResponseError) as caught:
            await admin(*call)
        assert caught.value.status_code == 404


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lock_duration": timedelta(days=25)}, "LockDuration"),
        ({"lock_duration": timedelta(seconds=1)}, "LockDuration"),
        ({"max_delivery_count": 0}, "MaxDeliveryCount"),
        ({"default_message_time_to_live": timedelta(milliseconds=999)}, "DefaultMessageTimeToLive"),
        ({"duplicate_detection_history_time_window": timedelta(days=8)}, "DuplicateDetectionHistoryTimeWindow"),
        ({"auto_delete_on_idle": timedelta(minutes=4)}, "AutoDeleteOnIdle"),
        ({"max_size_in_megabytes": 1000}, "MaxSizeInMegabytes"),
        ({"max_message_size_in_kilobytes": 1024}, "MaxMessageSizeInKilobytes"),
        ({"user_metadata": "m" * 1025}, "UserMetadata"),
        ({"forward_to": "nowhere"}, "nowhere"),
        ({"enable_express": True, "requires_duplicate_detection": True}, "RequiresDuplicateDetection"),
        ({"authorization_rules": [AuthorizationRule(key_name="k", rights=["Manage"])]}, "AuthorizationRules"),
    ],
)
async def test_a_value_out_of_bounds_is_refused_by_name(admin: Admin, options: dict[str, Any], words: str) -> None:
    with pytest.raises(HttpResponseError) as caught:
        await admin("create_queue", "orders", **options)
    assert caught.value.status_code == 400
    assert words in caught.value.message
    assert await admin("list_queues") == []


async def test_a_rule_that_is_no_sql_is_refused_with_where_it_is_wrong(admin: Admin) -> None:
    await admin("create_topic", "news")
    await admin("create_subscription", "news", "all")
    with pytest.raises(HttpResponseError) as caught:
        await admin("create_rule", "news", "all", "r", filter=SqlRuleFilter("a = = 1"))
    assert caught.value.status_code == 400
    assert "line 1, column 5" in caught.value.message


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 261])
async def test_a_name_that_cannot_be_is_refused(admin: Admin, name: str) -> None:
    for call in ("create_queue", "create_topic"):
        with pytest.raises(HttpResponseError) as caught:
            await admin(call, name)
        assert caught.value.status_code == 400


async def test_fixed_properties_cannot_be_changed(admin: Admin) -> None:
    queue = await admin("create_queue", "orders")
    for name in ("requires_session", "requires_duplicate_detection", "enable_partitioning"):
        with pytest.raises(HttpResponseError) as caught:
            await admin("update_queue", queue, **{name: True})
        assert caught.value.status_code == 400


async def test_lists_go_on_over_pages(admin: Admin) -> None:
    names = [f"q{number:03}" for number in range(105)]
    for name in names:
        await admin("create_queue", name)
    assert [queue.name for queue in await admin("list_queues")] == names
    assert [queue.name for queue in await admin("list_queues", max_page_size=50)] == names
    assert [queue.name for queue in await admin("list_queues", start_index=100)] == names[100:]


# --------------------------------------------------------------------------- who may


async def test_a_wrong_key_is_not_let_in(bus: LocalBus) -> None:
    wrong = bus.admin_connection_string.replace("SharedAccessKey=local", "SharedAccessKey=wrong")
    async with client_at(wrong) as client:
        for call in (("list_queues",), ("create_queue", "orders"), ("get_namespace_properties",)):
            with pytest.raises(ClientAuthenticationError):
                await Admin(client)(*call)


async def test_send_and_listen_do_not_grant_manage(bus: LocalBus) -> None:
    admin_port = bus.admin_url.rpartition(":")[2]
    limited = bus.connection_string_with(Right.SEND, Right.LISTEN).replace(f":{bus.port};", f":{admin_port};")
    async with client_at(limited) as client:
        with pytest.raises(ClientAuthenticationError):
            await Admin(client)("list_queues")


@pytest.mark.parametrize("version", list(ApiVersion))
async def test_every_version_of_the_sdk_is_answered(bus: LocalBus, version: ApiVersion) -> None:
    async with client_at(bus.admin_connection_string, api_version=version) as client:
        admin = Admin(client)
        queue = await admin("create_queue", "orders")
        assert queue.max_message_size_in_kilobytes == (None if version == ApiVersion.V2017_04 else 256)
        await admin("update_queue", queue)
        await admin("delete_queue", "orders")
