"""The synchronous administration client beside senders and receivers: what it changes is what they meet."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from azure.core.exceptions import ClientAuthenticationError, ResourceExistsError, ResourceNotFoundError
from azure.servicebus import ServiceBusMessage, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import MessagingEntityDisabledError, ServiceBusError
from azure.servicebus.management import (
    CorrelationRuleFilter,
    EntityStatus,
    FalseRuleFilter,
    ServiceBusAdministrationClient,
    SqlRuleAction,
    SqlRuleFilter,
    TrueRuleFilter,
)

from servicebus_local.testing import connection_string
from tests.protocol.admin import sync_client_at
from tests.protocol.counter import SOON, Counter, counter_at, next_of, take, together


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    with counter_at() as counter:
        yield counter


@pytest.fixture(scope="module")
def admin(counter: Counter) -> Iterator[ServiceBusAdministrationClient]:
    with sync_client_at(counter.bus.admin_connection_string) as admin:
        yield admin


def open_at(counter: Counter, queue: str) -> tuple[ServiceBusSender, ServiceBusReceiver]:
    sender, receiver = counter.client.get_queue_sender(queue), counter.client.get_queue_receiver(queue)
    counter.open_all(sender, receiver)
    return sender, receiver


def test_a_queue_is_made_used_counted_changed_and_deleted(
    counter: Counter, admin: ServiceBusAdministrationClient
) -> None:
    made = admin.create_queue("orders", lock_duration=timedelta(seconds=30), max_delivery_count=5)
    sender, receiver = open_at(counter, "orders")
    sender.send_messages([ServiceBusMessage("held"), ServiceBusMessage("bad"), ServiceBusMessage("waits")])
    sender.schedule_messages(ServiceBusMessage("later"), counter.moment(600))
    held = next_of(receiver)
    assert held.locked_until_utc == counter.moment(30)
    receiver.dead_letter_message(next_of(receiver))

    found = admin.get_queue_runtime_properties("orders")
    assert (found.active_message_count, found.dead_letter_message_count) == (2, 1)
    assert (found.scheduled_message_count, found.total_message_count) == (1, 4)
    assert found.size_in_bytes

    made.lock_duration, made.max_delivery_count = timedelta(seconds=90), 1
    admin.update_queue(made)
    assert receiver.renew_message_lock(held) == counter.moment(90)
    receiver.abandon_message(held)  # that was the last delivery it may have
    assert admin.get_queue_runtime_properties("orders").dead_letter_message_count == 2

    admin.delete_queue("orders")
    with pytest.raises(ServiceBusError, match="deleted"):
        receiver.receive_messages(1, max_wait_time=SOON)
    with pytest.raises(ResourceNotFoundError):
        admin.get_queue("orders")


def test_a_disabled_queue_takes_or_gives_nothing(counter: Counter, admin: ServiceBusAdministrationClient) -> None:
    queue = admin.create_queue("shut", status=EntityStatus.DISABLED)
    client = counter.client
    refusals = together(
        lambda: counter.refusal(client.get_queue_sender("shut")),
        lambda: counter.refusal(client.get_queue_receiver("shut")),
    )
    assert [type(error) for error in refusals] == [MessagingEntityDisabledError] * 2
    queue.status = EntityStatus.ACTIVE
    admin.update_queue(queue)
    sender = counter.open(client.get_queue_sender("shut"))
    sender.send_messages(ServiceBusMessage("x"))
    assert admin.get_queue_runtime_properties("shut").active_message_count == 1
    queue.status = EntityStatus.RECEIVE_DISABLED
    admin.update_queue(queue)
    sender.send_messages(ServiceBusMessage("y"))
    assert admin.get_queue_runtime_properties("shut").active_message_count == 2


def test_rules_decide_what_a_subscription_gets_from_then_on(
    counter: Counter, admin: ServiceBusAdministrationClient
) -> None:
    admin.create_topic("news")
    admin.create_subscription("news", "mine")
    sender = counter.client.get_topic_sender("news")
    receiver = counter.client.get_subscription_receiver("news", "mine")
    counter.open_all(sender, receiver)

    def published() -> list[str]:
        """Publish one of each kind; return what arrives."""
        sender.send_messages([ServiceBusMessage(kind, subject=kind) for kind in ("red", "green", "blue")])
        return take(receiver, counter.bus.counts("news/Subscriptions/mine").active)

    assert [type(rule.filter) for rule in admin.list_rules("news", "mine")] == [TrueRuleFilter]
    assert published() == ["red", "green", "blue"]
    admin.delete_rule("news", "mine", "$Default")
    assert published() == []
    red = admin.create_rule("news", "mine", "red", filter=SqlRuleFilter("sys.Label = @wanted", {"@wanted": "red"}))
    admin.create_rule("news", "mine", "blue", filter=CorrelationRuleFilter(label="blue"))
    assert published() == ["red", "blue"]
    red.filter = FalseRuleFilter()
    admin.update_rule("news", "mine", red)
    assert published() == ["blue"]
    assert isinstance(admin.get_rule("news", "mine", "red").filter, FalseRuleFilter)

    red.filter, red.action = SqlRuleFilter("sys.Label = 'red'"), SqlRuleAction("SET sys.Label = 'crimson'")
    admin.update_rule("news", "mine", red)
    sender.send_messages(ServiceBusMessage("x", subject="red"))
    changed = next_of(receiver)
    assert changed.subject == "crimson"
    receiver.complete_message(changed)
    found = admin.get_subscription_runtime_properties("news", "mine")
    assert (found.total_message_count, admin.get_topic_runtime_properties("news").subscription_count) == (0, 1)


def test_what_is_forwarded_goes_on_and_what_is_dead_ends_where_it_should(
    counter: Counter, admin: ServiceBusAdministrationClient
) -> None:
    admin.create_queue("room")
    admin.create_queue("morgue")
    door = admin.create_queue("door", forward_to="room")
    assert (door.forward_to or "").endswith("/room")
    admin.create_queue("fragile", forward_dead_lettered_messages_to="morgue")
    sender, _ = open_at(counter, "fragile")
    through = counter.client.get_queue_sender("door")
    fragile = counter.client.get_queue_receiver("fragile")
    room, morgue = counter.client.get_queue_receiver("room"), counter.client.get_queue_receiver("morgue")
    counter.open_all(through, fragile, room, morgue)
    through.send_messages(ServiceBusMessage("guest"))
    assert take(room, 1) == ["guest"]
    sender.send_messages(ServiceBusMessage("broken"))
    fragile.dead_letter_message(next_of(fragile), reason="fell")
    [dead] = morgue.receive_messages(1, max_wait_time=SOON)
    assert (dead.dead_letter_reason, dead.dead_letter_source) == ("fell", "fragile")
    morgue.complete_message(dead)


def test_what_is_wrong_is_refused_in_the_exceptions_of_azure_core(admin: ServiceBusAdministrationClient) -> None:
    admin.create_queue("there")
    with pytest.raises(ResourceExistsError):
        admin.create_queue("there")
    for ask in (admin.get_queue, admin.get_topic, admin.delete_queue, admin.delete_topic):
        with pytest.raises(ResourceNotFoundError):
            ask("nowhere")
    with pytest.raises(ResourceNotFoundError):
        admin.create_subscription("nowhere", "s")


def test_a_wrong_key_administers_nothing(counter: Counter) -> None:
    port = int(counter.bus.admin_url.rsplit(":", 1)[1])
    with (
        sync_client_at(connection_string("127.0.0.1", port, key="guess")) as admin,
        pytest.raises(ClientAuthenticationError),
    ):
        admin.get_namespace_properties()


def test_everything_is_listed(admin: ServiceBusAdministrationClient) -> None:
    admin.create_queue("listed")
    admin.create_topic("told")
    told = admin.create_subscription("told", "s", requires_session=True)
    told.max_delivery_count = 3
    admin.update_subscription("told", told)
    topic = admin.get_topic("told")
    topic.user_metadata = "m"
    admin.update_topic(topic)
    assert "listed" in [queue.name for queue in admin.list_queues()]
    assert "listed" in [queue.name for queue in admin.list_queues_runtime_properties()]
    assert ("told", "m") in [(found.name, found.user_metadata) for found in admin.list_topics()]
    assert "told" in [found.name for found in admin.list_topics_runtime_properties()]
    assert [found.max_delivery_count for found in admin.list_subscriptions("told")] == [3]
    assert [found.name for found in admin.list_subscriptions_runtime_properties("told")] == ["s"]
    assert admin.get_subscription("told", "s").requires_session
    assert admin.get_namespace_properties().messaging_sku == "Standard"
    admin.delete_subscription("told", "s")
    admin.delete_topic("told")
    assert "told" not in [found.name for found in admin.list_topics()]
