"""The synchronous SDK publishes: one message to whoever wants it, each subscription a queue of its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSubQueue,
)
from azure.servicebus.exceptions import (
    ServiceBusAuthenticationError,
    ServiceBusError,
)

from servicebus_local.bus.filters import CorrelationFilter, Rule, SqlAction, SqlFilter
from tests.protocol.counter import MOMENT, SOON, Counter, counter_at, next_of, take, together
from tests.protocol.desk import topology

RULES: dict[str, tuple[Rule | str, ...]] = {
    "all": (),
    "red": ("colour = 'red' AND sys.Label LIKE 'fruit.%'",),
    "by-id": (Rule("mine", CorrelationFilter(correlation_id="c-1", properties={"colour": "green"})),),
    "marked": (
        Rule("mark", SqlFilter("size > 3"), SqlAction("SET sys.Label = 'large'; SET seen = TRUE; REMOVE size")),
    ),
    "once": ("size > 0", "size > 1"),
    "twice": (
        Rule("one", SqlFilter("size > 0"), SqlAction("SET n = 1")),
        Rule("two", SqlFilter("size > 0"), SqlAction("SET n = 2")),
    ),
}


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    with counter_at(topology(room={})) as counter:
        counter.bus.create_topic("news")
        for name, rules in RULES.items():
            counter.bus.create_subscription("news", name, *rules, lock_duration=60.0, max_delivery_count=2)
        counter.bus.create_subscription("news", "brief", "1 = 0")
        counter.bus.create_topic("once", duplicate_detection=True, duplicate_window=60.0)
        counter.bus.create_subscription("once", "all")
        counter.bus.create_topic("relay")
        counter.bus.create_subscription("relay", "on", forward_to="room")
        yield counter


@pytest.fixture(scope="module")
def shared_sender(counter: Counter) -> ServiceBusSender:
    return counter.client.get_topic_sender("news", client_identifier="the-publisher")


@pytest.fixture(scope="module")
def receivers(counter: Counter, shared_sender: ServiceBusSender) -> dict[str, ServiceBusReceiver]:
    get = counter.client.get_subscription_receiver
    receivers = {name: get("news", name) for name in (*RULES, "brief")}
    receivers["dead_letters"] = get("news", "all", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    receivers["transfer"] = get("news", "all", sub_queue="transferdeadletter")
    receivers["room"] = counter.client.get_queue_receiver("room")
    counter.open_all(shared_sender, *receivers.values())
    return receivers


@pytest.fixture
def sender(
    counter: Counter, receivers: dict[str, ServiceBusReceiver], shared_sender: ServiceBusSender
) -> Iterator[ServiceBusSender]:
    """The sender, to subscriptions that are empty for each test."""
    yield shared_sender
    for name in RULES:
        counter.bus.purge(f"news/Subscriptions/{name}")


def waiting(counter: Counter) -> dict[str, int]:
    """How many messages each subscription has."""
    return {name: counter.bus.counts(f"news/Subscriptions/{name}").active for name in RULES}


def fruit(kind: str, correlation_id: str | None = None, **properties: Any) -> ServiceBusMessage:
    message = ServiceBusMessage(kind, subject=f"fruit.{kind}", correlation_id=correlation_id)
    message.application_properties = {str(name): value for name, value in properties.items()}
    return message


def test_every_subscription_gets_what_it_wants(counter: Counter, sender: ServiceBusSender) -> None:
    apple, lime, melon = (
        fruit("apple", colour="red"),
        fruit("lime", colour="green", correlation_id="c-1", size=1),
        fruit("melon", colour="green", size=5),
    )
    sender.send_messages([apple, lime])
    sender.send_messages(melon)
    assert waiting(counter) == {"all": 3, "red": 1, "by-id": 1, "marked": 1, "once": 2, "twice": 4}


def test_a_rule_with_an_action_changes_its_own_copy(
    sender: ServiceBusSender, receivers: dict[str, ServiceBusReceiver]
) -> None:
    sender.send_messages(fruit("melon", size=5))
    marked, plain = (take_whole(receivers[name]) for name in ("marked", "all"))
    assert (str(marked), marked.subject) == ("melon", "large")
    assert (marked.application_properties or {})[b"seen"] is True
    assert b"size" not in (marked.application_properties or {})
    assert (plain.subject, plain.application_properties) == ("fruit.melon", {b"size": 5})


def take_whole(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    message = next_of(receiver)
    receiver.complete_message(message)
    return message


def test_copies_are_settled_apart(
    counter: Counter, sender: ServiceBusSender, receivers: dict[str, ServiceBusReceiver]
) -> None:
    sender.send_messages(fruit("apple", colour="red", size=1))
    receivers["red"].complete_message(next_of(receivers["red"]))
    receivers["twice"].abandon_message(next_of(receivers["twice"]))
    held = next_of(receivers["all"])
    assert receivers["all"].renew_message_lock(held) == counter.moment(60)
    receivers["all"].defer_message(held)
    [deferred] = receivers["all"].receive_deferred_messages(held.sequence_number or 0)
    receivers["all"].complete_message(deferred)
    assert waiting(counter) == {"all": 0, "red": 0, "by-id": 0, "marked": 0, "once": 1, "twice": 2}


def test_a_subscription_has_dead_letters_of_its_own(
    sender: ServiceBusSender, receivers: dict[str, ServiceBusReceiver]
) -> None:
    sender.send_messages([fruit("bad"), fruit("poison")])
    receivers["all"].dead_letter_message(next_of(receivers["all"]), reason="unripe", error_description="green")
    for _ in range(2):
        receivers["all"].abandon_message(next_of(receivers["all"]))
    unripe, poison = (take_whole(receivers["dead_letters"]) for _ in range(2))
    assert (str(unripe), unripe.dead_letter_reason) == ("bad", "unripe")
    assert (str(poison), poison.dead_letter_reason) == ("poison", "MaxDeliveryCountExceeded")


def test_what_a_subscription_holds_can_be_looked_at(
    sender: ServiceBusSender, receivers: dict[str, ServiceBusReceiver]
) -> None:
    sender.send_messages([fruit("apple"), fruit("lime")])
    seen = receivers["all"].peek_messages(10, sequence_number=1)
    assert [(str(message), message.state) for message in seen] == [
        ("apple", ServiceBusMessageState.ACTIVE),
        ("lime", ServiceBusMessageState.ACTIVE),
    ]


def test_a_batch_and_scheduled_messages_are_published_too(
    counter: Counter, sender: ServiceBusSender, receivers: dict[str, ServiceBusReceiver]
) -> None:
    batch = sender.create_message_batch()
    batch.add_message(fruit("now"))
    sender.send_messages(batch)
    later, never = sender.schedule_messages([fruit("later"), fruit("never")], counter.moment(10))
    sender.cancel_scheduled_messages(never)
    assert counter.bus.counts("news").scheduled == 1
    assert take(receivers["all"], 1) == ["now"]
    counter.bus.advance(10)
    assert take(receivers["all"], 1) == ["later"]
    assert later != never


def test_topics_find_duplicates_what_is_forwarded_arrives_and_nobody_sends_past_the_rules(
    counter: Counter, receivers: dict[str, ServiceBusReceiver]
) -> None:
    once, relay = counter.client.get_topic_sender("once"), counter.client.get_topic_sender("relay")
    past_the_rules = counter.client.get_queue_sender("news/Subscriptions/all")
    counter.open_all(once, relay, past_the_rules)
    once.send_messages([ServiceBusMessage("1", message_id="a"), ServiceBusMessage("2", message_id="a")])
    assert counter.bus.counts("once/Subscriptions/all").active == 1
    relay.send_messages(ServiceBusMessage("on its way"))
    with pytest.raises(ServiceBusError, match="send to the topic 'news'"):
        past_the_rules.send_messages(ServiceBusMessage("x"))
    assert take(receivers["room"], 1) == ["on its way"]


def test_a_subscription_with_no_rule_left_wants_nothing(
    counter: Counter, sender: ServiceBusSender, receivers: dict[str, ServiceBusReceiver]
) -> None:
    sender.send_messages(fruit("grey", size=0))
    assert receivers["red"].receive_messages(1, max_wait_time=MOMENT) == []
    assert waiting(counter)["twice"] == 0


def test_there_is_a_place_for_what_could_not_be_forwarded(receivers: dict[str, ServiceBusReceiver]) -> None:
    assert receivers["transfer"].receive_messages(1, max_wait_time=MOMENT) == []


def test_what_is_not_there_is_refused_whoever_asks(counter: Counter) -> None:
    client = counter.client
    errors = together(
        lambda: counter.refusal(client.get_topic_sender("nowhere")),
        lambda: counter.refusal(client.get_subscription_receiver("nowhere", "all")),
        lambda: counter.refusal(client.get_subscription_receiver("news", "nobody")),
        lambda: counter.refusal(client.get_queue_receiver("news")),
    )
    *unknown, receives_from_topic = errors
    for error in unknown:
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "404" in str(error.inner_exception)
    assert isinstance(receives_from_topic, ServiceBusError)


def test_a_subscription_that_is_deleted_is_gone_for_its_receivers(
    counter: Counter, receivers: dict[str, ServiceBusReceiver]
) -> None:
    counter.bus.delete("news/Subscriptions/brief")
    with pytest.raises(ServiceBusError, match="deleted"):
        receivers["brief"].receive_messages(1, max_wait_time=SOON)
