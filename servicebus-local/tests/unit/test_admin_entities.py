"""Queues and topics through the administration: what is taken, what is refused, what comes back."""

from math import inf
from xml.etree.ElementTree import fromstring

import pytest

from servicebus_local.admin.atom import NAMESPACE
from servicebus_local.admin.xml import ATOM, COUNTS
from servicebus_local.bus.topology import QueueOptions, Right, Status, Topology
from tests.unit.admin_fixture import (
    HOST,
    AdminFixture,
    described,
    detail,
    in_entry,
    queue,
    refused,
    said,
    subscription,
    titles,
    topic,
)

LONGEST = "P10675199DT2H48M5.4775807S"


@pytest.fixture
def admin() -> AdminFixture:
    return AdminFixture(Topology({"orders": QueueOptions(), "dead": QueueOptions()}))


# --------------------------------------------------------------------------- what is created

AS_AZURE_CREATES_IT = {
    "LockDuration": "PT1M",
    "MaxSizeInMegabytes": "1024",
    "RequiresDuplicateDetection": "false",
    "RequiresSession": "false",
    "DefaultMessageTimeToLive": LONGEST,
    "DeadLetteringOnMessageExpiration": "false",
    "DuplicateDetectionHistoryTimeWindow": "PT10M",
    "MaxDeliveryCount": "10",
    "EnableBatchedOperations": "true",
    "SizeInBytes": "0",
    "MessageCount": "0",
    "IsAnonymousAccessible": "false",
    "AuthorizationRules": "",
    "Status": "Active",
    "SupportOrdering": "true",
    "AutoDeleteOnIdle": LONGEST,
    "EnablePartitioning": "false",
    "EntityAvailabilityStatus": "Available",
    "EnableExpress": "false",
    "MaxMessageSizeInKilobytes": "256",
}
CHANGED = {
    "LockDuration": "PT2M3S",
    "MaxSizeInMegabytes": "3072",
    "RequiresDuplicateDetection": "true",
    "RequiresSession": "true",
    "DefaultMessageTimeToLive": "P7D",
    "DeadLetteringOnMessageExpiration": "true",
    "DuplicateDetectionHistoryTimeWindow": "PT12M3S",
    "MaxDeliveryCount": "2000",
    "EnableBatchedOperations": "false",
    "Status": "ReceiveDisabled",
    "AutoDeleteOnIdle": "PT10M1S",
    "EnablePartitioning": "true",
    "UserMetadata": "<a & b>",
}


def test_a_queue_is_created_with_the_defaults_of_azure(admin: AdminFixture) -> None:
    made = admin.made("/new", queue())
    assert {name: said(made, name) for name in AS_AZURE_CREATES_IT} == AS_AZURE_CREATES_IT
    assert said(made, "ForwardTo") is said(made, "UserMetadata") is None


def test_every_property_of_a_queue_comes_back_as_it_was_given(admin: AdminFixture) -> None:
    admin.made("/new", queue(**CHANGED, ForwardTo="orders", ForwardDeadLetteredMessagesTo="sb://elsewhere:1/dead"))
    shown = admin.look("/new")
    assert {name: said(shown, name) for name in CHANGED} == CHANGED
    assert said(shown, "ForwardTo") == f"sb://{HOST}/orders"
    assert said(shown, "ForwardDeadLetteredMessagesTo") == f"sb://{HOST}/dead"
    assert said(shown, "SupportOrdering") == "false"  # as of every partitioned entity


def test_an_entity_gets_the_options_of_its_description(admin: AdminFixture) -> None:
    admin.made("/new", queue(**CHANGED, ForwardTo="orders"))
    found = admin.namespace.get("NEW")
    assert found is not None
    assert found.options == QueueOptions(
        lock_duration=123.0,
        max_delivery_count=2000,
        default_time_to_live=7 * 86_400.0,
        dead_lettering_on_expiration=True,
        requires_session=True,
        duplicate_detection=True,
        duplicate_window=723.0,
        forward_to="orders",
        status=Status.RECEIVE_DISABLED,
        max_size=3072.0 * 1024 * 1024,
        auto_delete_on_idle=601.0,
        metadata="<a & b>",
        partitioned=True,
        batched_operations=False,
    )


def test_every_property_of_a_topic_comes_back_as_it_was_given(admin: AdminFixture) -> None:
    properties = {
        "DefaultMessageTimeToLive": "PT11M",
        "MaxSizeInMegabytes": "2048",
        "RequiresDuplicateDetection": "true",
        "DuplicateDetectionHistoryTimeWindow": "PT1M",
        "EnableBatchedOperations": "false",
        "FilteringMessagesBeforePublishing": "true",
        "Status": "SendDisabled",
        "SupportOrdering": "false",
        "AutoDeleteOnIdle": "PT5M",
        "EnablePartitioning": "true",
        "UserMetadata": "m",
    }
    admin.made("/news", topic(**properties))
    shown = admin.look("/news")
    assert {name: said(shown, name) for name in properties} == properties
    assert (said(shown, "SubscriptionCount"), said(shown, "EntityAvailabilityStatus")) == ("0", "Available")


def test_the_order_of_elements_does_not_matter(admin: AdminFixture) -> None:
    made = admin.made("/new", queue(Status="Disabled", MaxDeliveryCount="3", LockDuration="PT30S"))
    assert [said(made, name) for name in ("Status", "MaxDeliveryCount", "LockDuration")] == ["Disabled", "3", "PT30S"]


def test_elements_are_written_in_the_order_of_azure(admin: AdminFixture) -> None:
    names = [element.tag.rpartition("}")[2] for element in admin.look("/orders")]
    assert names[:3] == ["LockDuration", "MaxSizeInMegabytes", "RequiresDuplicateDetection"]
    assert names.index("SupportOrdering") + 1 == names.index("CountDetails") == names.index("AutoDeleteOnIdle") - 1


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("element", "values"),
    [
        ("LockDuration", ["PT4.9S", "PT5M0.1S", "P25D", "-PT1M", "one minute", "", "300"]),
        ("MaxDeliveryCount", ["0", "2001", "-1", "ten", "1.5", ""]),
        ("DefaultMessageTimeToLive", ["PT0.9S", "PT0S", "-PT1S", "P10675199DT2H48M5.477581S", "x"]),
        ("DuplicateDetectionHistoryTimeWindow", ["PT19S", "P7DT1S", "P25D"]),
        ("AutoDeleteOnIdle", ["PT4M59S", "PT0S"]),
        ("MaxSizeInMegabytes", ["0", "1", "1000", "6144", "102400", "-1024", "big"]),
        ("UserMetadata", ["m" * 1025]),
        ("Status", ["Creating", "Deleting", "Renaming", "Restoring", "Unknown", "off", ""]),
        ("RequiresSession", ["yes", ""]),
        ("EnablePartitioning", ["maybe"]),
        ("MaxMessageSizeInKilobytes", ["1024", "255", "102400", "x"]),
        ("IsAnonymousAccessible", ["true"]),
        ("ForwardTo", ["nowhere", "sb://here/nowhere", "sb://here", "orders/Subscriptions/x", "a b", "x" * 261]),
        ("ForwardDeadLetteredMessagesTo", ["nowhere"]),
    ],
)
def test_values_out_of_bounds_are_refused_by_name(admin: AdminFixture, element: str, values: list[str]) -> None:
    for value in values:
        answer = admin.put("/new", queue(**{element: value}))
        assert refused(answer)[0] == 400, value
        assert element in detail(answer), value
        assert admin.namespace.get("new") is None


@pytest.mark.parametrize(
    ("element", "values"),
    [
        ("LockDuration", ["PT5S", "PT5M", "PT300S"]),
        ("MaxDeliveryCount", ["1", "2000", " 7 "]),
        ("DefaultMessageTimeToLive", ["PT1S", LONGEST, "P10675199DT2H48M5.477539S"]),
        ("DuplicateDetectionHistoryTimeWindow", ["PT20S", "P7D"]),
        ("AutoDeleteOnIdle", ["PT5M", "P365D"]),
        ("MaxSizeInMegabytes", ["1024", "5120", "10240", "49152", "81920"]),
        ("UserMetadata", ["m" * 1024, ""]),
        ("RequiresSession", ["true", "TRUE", "1", "0", " false "]),
        ("MaxMessageSizeInKilobytes", ["256"]),
        ("ForwardTo", ["", "ORDERS", "orders/", "https://anywhere/orders", "sb://here/orders"]),
    ],
)
def test_values_within_bounds_are_taken(admin: AdminFixture, element: str, values: list[str]) -> None:
    for number, value in enumerate(values):
        assert admin.put(f"/new-{number}", queue(**{element: value})).status == 201, value


@pytest.mark.parametrize(
    ("element", "value"),
    [
        ("DuplicateDetectionHistoryTimeWindow", "P25D"),
        ("DefaultMessageTimeToLive", "PT0S"),
        ("AutoDeleteOnIdle", "PT1M"),
        ("MaxSizeInMegabytes", "7"),
        ("MaxMessageSizeInKilobytes", "1024"),
        ("EnableSubscriptionPartitioning", "true"),
    ],
)
def test_a_topic_has_bounds_too(admin: AdminFixture, element: str, value: str) -> None:
    answer = admin.put("/news", topic(**{element: value}))
    assert refused(answer) == (400, "40000")
    assert element in detail(answer)


def test_an_express_entity_cannot_detect_duplicates(admin: AdminFixture) -> None:
    answer = admin.put("/new", queue(EnableExpress="true", RequiresDuplicateDetection="true"))
    assert refused(answer) == (400, "40000")


@pytest.mark.parametrize("name", ["a", "A1", "a/b/c", "txt/.-_123", "x~y", "ends_", "a" * 260, "health", "stats/x"])
def test_names_as_azure_has_them_are_taken(admin: AdminFixture, name: str) -> None:
    assert admin.put(f"/{name}", queue()).status == 201
    assert titles_of(admin) == sorted(["dead", "orders", name], key=str.lower)


def titles_of(admin: AdminFixture) -> list[str]:
    return titles(admin.ask("GET", "/$Resources/queues"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "a-",
        ".a",
        "_a",
        "a b",
        "a//b",
        "/a",
        "é",
        "a\n",
        "a?b",
        "a#b",
        "a*",
        "$a",
        "a/$b",
        "a" * 261,
        "a\ufffd",
    ],
)
def test_other_names_are_refused(admin: AdminFixture, name: str) -> None:
    assert refused(admin.put(f"/{name}", queue())) == (400, "40000")
    assert admin.namespace.size == 2


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("", id="nothing"),
        pytest.param("<entry", id="not XML"),
        pytest.param(queue(), id="no entry"),
        pytest.param("<entry><content/></entry>", id="an entry of nobody's"),
        pytest.param(in_entry(""), id="an empty entry"),
        pytest.param(in_entry("<QueueDescription/>"), id="a description of nobody's"),
        pytest.param(in_entry(subscription()), id="a description of something else"),
        pytest.param(f"<!DOCTYPE entry>{in_entry(queue())}", id="a document type"),
    ],
)
def test_what_is_not_the_description_of_a_queue_or_topic_is_refused(admin: AdminFixture, body: str) -> None:
    assert refused(admin.ask("PUT", "/new", body)) == (400, "40000")


def test_a_name_is_taken_once_by_queues_and_topics_together(admin: AdminFixture) -> None:
    for description in (queue(), topic()):
        assert refused(admin.put("/ORDERS", description)) == (409, "40900")


# --------------------------------------------------------------------------- updates


def test_an_update_changes_everything_that_is_not_given_back_to_the_default(admin: AdminFixture) -> None:
    admin.made("/new", queue(LockDuration="PT2M", MaxDeliveryCount="5", UserMetadata="m"))
    described(admin.update("/new", queue(MaxDeliveryCount="6")))
    shown = admin.look("/new")
    assert [said(shown, name) for name in ("LockDuration", "MaxDeliveryCount", "UserMetadata")] == ["PT1M", "6", None]


@pytest.mark.parametrize("element", ["RequiresSession", "RequiresDuplicateDetection", "EnablePartitioning"])
def test_fixed_properties_keep_their_values(admin: AdminFixture, element: str) -> None:
    admin.made("/new", queue(**{element: "true"}))
    described(admin.update("/new", queue()))
    described(admin.update("/new", queue(**{element: "true"})))
    assert said(admin.look("/new"), element) == "true"
    answer = admin.update("/new", queue(**{element: "false"}))
    assert refused(answer) == (400, "40000")
    assert element in detail(answer)


def test_a_queue_may_come_to_forward_to_itself(admin: AdminFixture) -> None:
    """Azure takes it, as the recordings of the Python SDK's tests show."""
    shown = described(admin.update("/orders", queue(ForwardTo="orders")))
    assert said(shown, "ForwardTo") == f"sb://{HOST}/orders"


def test_a_limit_that_was_never_set_is_not_set_by_an_update(admin: AdminFixture) -> None:
    assert said(admin.look("/orders"), "MaxSizeInMegabytes") == "1024"
    admin.update("/orders", queue(MaxSizeInMegabytes="1024"))
    assert admin.namespace.queue("orders").options.max_size == inf
    admin.update("/orders", queue(MaxSizeInMegabytes="2048"))
    assert admin.namespace.queue("orders").options.max_size == 2048 * 1024 * 1024


def test_what_a_configuration_said_beyond_the_bounds_may_stay() -> None:
    admin = AdminFixture(Topology({"fast": QueueOptions(lock_duration=1.0)}))
    described(admin.update("/fast", queue(LockDuration="PT1S", MaxDeliveryCount="3")))
    assert admin.namespace.queue("fast").options == QueueOptions(
        lock_duration=1.0, max_delivery_count=3, max_size=2.0**30
    )
    assert refused(admin.update("/fast", queue(LockDuration="PT2S"))) == (400, "40000")


def test_an_update_needs_something_to_update(admin: AdminFixture) -> None:
    assert refused(admin.update("/nowhere", queue())) == (404, "40400")


def test_an_update_says_what_the_entity_is(admin: AdminFixture) -> None:
    assert refused(admin.update("/orders", topic())) == (400, "40000")


def test_dates_say_what_happened_when(admin: AdminFixture) -> None:
    created = admin.clock.now
    admin.made("/new", queue())
    admin.timers.advance(admin.clock, 60)
    admin.update("/new", queue(MaxDeliveryCount="5"))
    shown = admin.look("/new")
    assert said(shown, "CreatedAt") == "2027-01-15T08:00:00.000000Z"
    assert said(shown, "UpdatedAt") == "2027-01-15T08:01:00.000000Z"
    assert admin.clock.now == created + 60


def test_an_etag_prevents_overwriting_a_concurrent_change(admin: AdminFixture) -> None:
    first = dict(admin.ask("GET", "/orders").headers)["etag"]
    admin.timers.advance(admin.clock, 1)
    second = dict(admin.update("/orders", queue(), etag=first).headers)["etag"]
    assert second != first
    assert refused(admin.update("/orders", queue(), etag=first)) == (412, "41200")
    assert refused(admin.ask("DELETE", "/orders", headers={"if-match": first})) == (412, "41200")
    assert admin.update("/orders", queue(), etag=f'"{second}"').status == 200


# --------------------------------------------------------------------------- deletion and looking


def test_a_deleted_entity_is_gone(admin: AdminFixture) -> None:
    answer = admin.ask("DELETE", "/orders")
    assert (answer.status, answer.body, answer.content_type) == (200, b"", "")
    assert refused(admin.ask("DELETE", "/orders")) == (404, "40400")
    assert titles(admin.ask("GET", "/orders")) == []


def test_a_listing_of_nothing_is_an_empty_feed(admin: AdminFixture) -> None:
    for path in ("/nowhere", "/", "/orders/$DeadLetterQueue"):
        answer = admin.ask("GET", path)
        assert titles(answer) == []
        assert fromstring(answer.body).findtext(f"{{{ATOM}}}title") == "Publicly Listed Services"


def test_names_are_compared_without_case(admin: AdminFixture) -> None:
    assert fromstring(admin.ask("GET", "/ORDERS/").body).findtext(f"{{{ATOM}}}title") == "orders"


def test_an_old_version_knows_no_size_of_messages(admin: AdminFixture) -> None:
    assert said(admin.look("/orders", api_version="2017-04"), "MaxMessageSizeInKilobytes") is None
    assert said(admin.look("/orders", api_version="2021-05"), "MaxMessageSizeInKilobytes") == "256"


def test_filters_are_counted_in_the_version_that_counts_them(admin: AdminFixture) -> None:
    admin.made("/news", topic())
    admin.made("/news/subscriptions/all", subscription())
    assert said(admin.look("/news"), "SqlFilterCount") is None
    counted = admin.look("/news", api_version="2024-05")
    assert (said(counted, "SqlFilterCount"), said(counted, "CorrelationFilterCount")) == ("1", "0")


def test_counts_are_where_the_sdks_look_for_them(admin: AdminFixture) -> None:
    counts = {element.tag: element.text for element in admin.look("/orders").iterfind("{*}CountDetails/*")}
    names = ("Active", "DeadLetter", "Scheduled", "Transfer", "TransferDeadLetter")
    assert counts == {f"{{{COUNTS}}}{name}MessageCount": "0" for name in names}


def test_the_namespace_describes_itself(admin: AdminFixture) -> None:
    shown = admin.look("/$namespaceinfo")
    facts = {name: said(shown, name) for name in ("Name", "MessagingSKU", "NamespaceType", "CreatedTime")}
    assert facts == {
        "Name": NAMESPACE,
        "MessagingSKU": "Standard",
        "NamespaceType": "Messaging",
        "CreatedTime": "2027-01-15T08:00:00.000000Z",
    }


# --------------------------------------------------------------------------- shared access policies


def policy(name: str = "k", *rights: str, keys: str = "", kind: str = "SharedAccessAuthorizationRule") -> str:
    listed = "".join(f"<AccessRights>{right}</AccessRights>" for right in rights)
    return (
        f'<AuthorizationRule i:type="{kind}"><ClaimType>SharedAccessKey</ClaimType><ClaimValue>None</ClaimValue>'
        f"<Rights>{listed}</Rights><KeyName>{name}</KeyName>{keys}</AuthorizationRule>"
    )


def policies(*written: str) -> str:
    return f"<AuthorizationRules>{''.join(written)}</AuthorizationRules>"


def test_policies_get_keys_and_keep_those_they_have(admin: AdminFixture) -> None:
    given = policy("given", "Send", "Listen", keys="<PrimaryKey>one</PrimaryKey><SecondaryKey>two</SecondaryKey>")
    admin.made("/new", queue(policies(given, policy("made", "Listen"))))
    one, other = admin.namespace.queue("new").options.access
    assert (one.name, one.keys) == ("given", ("one", "two"))
    assert one.rights == {Right.SEND, Right.LISTEN}
    assert other.rights == {Right.LISTEN}
    assert len(set(other.keys)) == 2
    assert all(len(key) == 44 for key in other.keys)


def test_policies_are_shown_as_they_are_given_and_can_be_given_back(admin: AdminFixture) -> None:
    admin.made("/new", queue(policies(policy("made", "Manage", "Send", "Listen"))))
    before = admin.namespace.queue("new").options.access
    admin.timers.advance(admin.clock, 60)
    shown = fromstring(admin.ask("GET", "/new").body).find(f"{{{ATOM}}}content/*")
    assert shown is not None
    assert [right.text for right in shown.findall(".//{*}AccessRights")] == ["Send", "Listen", "Manage"]
    keys = "".join(
        f"<{name}>{key}</{name}>" for name, key in zip(("PrimaryKey", "SecondaryKey"), before[0].keys, strict=True)
    )
    admin.update("/new", queue(policies(policy("made", "Manage", "Send", "Listen", keys=keys))))
    assert admin.namespace.queue("new").options.access == before
    admin.update("/new", queue(policies(policy("made", "Send", keys=keys))))
    [after] = admin.namespace.queue("new").options.access
    assert (after.created_at, after.modified_at) == (before[0].created_at, admin.clock.now)
    admin.update("/new", queue())
    assert admin.namespace.queue("new").options.access == ()


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(policy("k"), id="no rights"),
        pytest.param(policy("k", "Dance"), id="an unknown right"),
        pytest.param(policy("k", "Manage"), id="management alone"),
        pytest.param(policy("", "Send"), id="no name"),
        pytest.param(policy("k" * 257, "Send"), id="a name too long"),
        pytest.param(policy("k", "Send", keys=f"<PrimaryKey>{'x' * 513}</PrimaryKey>"), id="a key too long"),
        pytest.param(policy("k", "Send", kind="AllowRule"), id="another kind"),
        pytest.param(policy("k", "Send") * 2, id="one name twice"),
        pytest.param("".join(policy(f"k{n}", "Send") for n in range(13)), id="too many"),
    ],
)
def test_policies_that_make_no_sense_are_refused(admin: AdminFixture, written: str) -> None:
    answer = admin.put("/new", queue(policies(written)))
    assert refused(answer) == (400, "40000")
    assert "AuthorizationRules: " in detail(answer)
