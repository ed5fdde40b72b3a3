"""Topics: what is published is copied to the subscriptions whose rules choose it, and lives on there."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusError,
)

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import SOON, client_of, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock(time() + 3600)


def correlation(name: str, **fields: Any) -> dict[str, Any]:
    """Write a rule with a correlation filter and an action, so that the copy says which rule it was."""
    chosen = {"FilterType": "Correlation", "CorrelationFilter": fields}
    return {"Name": name, "Properties": chosen | {"Action": {"SqlExpression": "SET chosen = 1"}}}


def sql(name: str, condition: str, action: str | None = "SET chosen = 1") -> dict[str, Any]:
    """Write a rule with a SQL filter."""
    properties: dict[str, Any] = {"FilterType": "Sql", "SqlFilter": {"SqlExpression": condition}}
    if action is not None:
        properties["Action"] = {"SqlExpression": action}
    return {"Name": name, "Properties": properties}


CHOOSING = [
    correlation("id", MessageId="m-1"),
    correlation("correlation", CorrelationId="c-1"),
    correlation("to", To="there"),
    correlation("reply", ReplyTo="back"),
    correlation("label", Label="red"),
    correlation("session", SessionId="s-1"),
    correlation("reply-session", ReplyToSessionId="r-1"),
    correlation("content", ContentType="text/plain"),
    correlation("own", Properties={"colour": "blue"}),
    correlation("number", Properties={"count": 7}),
    correlation("both", Label="red", Properties={"colour": "blue"}),
    sql("sys-id", "sys.MessageId = 'm-2'"),
    sql("sys-correlation", "sys.CorrelationId LIKE 'c-%'"),
    sql("sys-to", "sys.To = 'there'"),
    sql("sys-reply", "sys.ReplyTo IN ('back', 'forth')"),
    sql("sys-label", "sys.Label <> 'red'"),
    sql("sys-session", "sys.SessionId IS NOT NULL"),
    sql("sys-reply-session", "sys.ReplyToSessionId = 'r-1'"),
    sql("sys-content", "sys.ContentType = 'application/json'"),
    sql("sys-time", "EXISTS(sys.EnqueuedTimeUtc) AND weight = 1"),
    sql("user", "user.colour = 'blue' OR colour = 'green'"),
    sql("arithmetic", "(count + 1) * 2 = 16 AND NOT count > 7"),
    sql("real", "weight < 2.5 AND weight >= 1"),
    sql("exists", "EXISTS(user.note)"),
    sql("like", "note LIKE 'a!_b%' ESCAPE '!'"),
    sql("quoted", "[the colour] = 'it''s blue'"),
    sql("boolean", "urgent = TRUE"),
]
COPYING = [
    {"Name": "plain", "Properties": {"FilterType": "True"}},
    sql("plain-too", "1=1", action=None),
    {"Name": "never", "Properties": {"FilterType": "False", "Action": {"SqlExpression": "SET never = 1"}}},
    sql("marks", "price > 10", action="SET tax = price * 2; SET sys.Label = 'dear'; REMOVE note"),
    sql("cheap", "price < 10", action="SET sys.Label = 'cheap'"),
]


def subscription(name: str, *rules: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """Write a subscription with a long lock."""
    return {"Name": name, "Properties": {"LockDuration": "PT1M"} | properties, "Rules": list(rules)}


def topic(name: str, *subscriptions: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """Write a topic."""
    return {"Name": name, "Properties": properties, "Subscriptions": list(subscriptions)}


CONFIG = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "sbemulatorns",
                "Queues": [{"Name": "basket"}, {"Name": "sink"}, {"Name": "gone"}, {"Name": "dead_letters"}],
                "Topics": [
                    topic(
                        "news",
                        subscription("all", MaxDeliveryCount=2),
                        subscription("red", sql("red", "colour='red'", action=None)),
                        subscription("swift", sql("swift", "colour='swift'", action=None)),
                    ),
                    topic("empty"),
                    topic("Case", subscription("All")),
                    topic("sorted", subscription("chosen", *CHOOSING, ForwardTo="basket")),
                    topic(
                        "copied", subscription("copies", *COPYING), subscription("odd", sql("odd", "price / zero = 1"))
                    ),
                    topic("chat", subscription("talk", RequiresSession=True)),
                    topic("once", subscription("all"), RequiresDuplicateDetection=True),
                    topic(
                        "aging",
                        subscription("brief", DefaultMessageTimeToLive="PT1M", DeadLetteringOnMessageExpiration=True),
                        subscription("long", DefaultMessageTimeToLive="PT1H"),
                        DefaultMessageTimeToLive="PT10M",
                    ),
                    topic(
                        "relay",
                        subscription("to-queue", ForwardTo="sink"),
                        subscription("to-topic", ForwardTo="hub"),
                        subscription("to-nowhere", ForwardTo="gone"),
                        subscription("dying", ForwardDeadLetteredMessagesTo="dead_letters"),
                    ),
                    topic("hub", subscription("end")),
                ],
            }
        ],
        "Logging": {"Type": "Console"},
    }
}


class TopicHandlers:
    """A bus with topics, and the SDK open on all of them."""

    def __init__(self, bus: LocalBus, client: ServiceBusClient) -> None:
        self.bus = bus
        self.client = client
        self.senders: dict[str, ServiceBusSender] = {
            name: client.get_topic_sender(name)
            for name in ("news", "sorted", "copied", "chat", "once", "aging", "relay", "empty", "CASE")
        }
        self.to_subscription = client.get_queue_sender("news/Subscriptions/all")
        self.all = self.receiver("news", "all")
        self.red = self.receiver("news", "red")
        self.swift = self.receiver("news", "swift", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
        self.case = self.receiver("cASE", "aLL")
        self.dead = self.receiver("news", "all", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        self.copies = self.receiver("copied", "copies")
        self.odd = self.receiver("copied", "odd", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        self.once = self.receiver("once", "all")
        self.brief = self.receiver("aging", "brief")
        self.expired = self.receiver("aging", "brief", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        self.long = self.receiver("aging", "long")
        self.end = self.receiver("hub", "end")
        self.dying = self.receiver("relay", "dying")
        self.stuck = self.receiver("relay", "to-nowhere", sub_queue=ServiceBusSubQueue.TRANSFER_DEAD_LETTER)
        self.wordless = self.receiver("chat", "talk", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
        self.basket = client.get_queue_receiver("basket")
        self.sink = client.get_queue_receiver("sink")
        self.dead_letters = client.get_queue_receiver("dead_letters")
        self._opened: list[ServiceBusSender | ServiceBusReceiver] = []

    def receiver(self, topic: str, subscription: str, **options: Any) -> ServiceBusReceiver:
        return self.client.get_subscription_receiver(topic, subscription, **options)

    async def open(self, *handlers: Any) -> None:
        self._opened += handlers
        await asyncio.gather(*(handler.__aenter__() for handler in handlers))

    async def open_all(self) -> None:
        mine = [value for value in vars(self).values() if isinstance(value, ServiceBusReceiver)]
        await self.open(*self.senders.values(), self.to_subscription, *mine)

    async def close(self) -> None:
        await asyncio.gather(*(handler.close() for handler in self._opened))

    async def refusal(self, handler: Any) -> ServiceBusError:
        """Open what must be refused; return the error."""
        with pytest.raises(ServiceBusError) as caught:
            await handler.__aenter__()
        await handler.close()
        return caught.value

    async def publish(self, topic: str, body: str, **properties: Any) -> None:
        await self.senders[topic].send_messages(ServiceBusMessage(body, **properties))

    def active(self, path: str) -> int:
        return self.bus.counts(path).active


async def take(receiver: ServiceBusReceiver, count: int = 1) -> list[ServiceBusReceivedMessage]:
    """Receive and complete messages that must be there or come soon."""
    taken: list[ServiceBusReceivedMessage] = []
    for _ in range(count):
        [message] = await receiver.receive_messages(1, max_wait_time=SOON)
        await receiver.complete_message(message)
        taken.append(message)
    return taken


def moment(seconds: float = 0) -> datetime:
    """A moment by the clock of the bus, as the protocol rounds it."""
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


def properties(message: ServiceBusReceivedMessage) -> dict[Any, Any]:
    return dict(message.application_properties or {})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def topics() -> AsyncIterator[TopicHandlers]:
    async with LocalBus(CONFIG, clock=CLOCK) as bus, client_of(bus) as client:
        topics = TopicHandlers(bus, client)
        try:
            await topics.open_all()
            yield topics
        finally:
            await topics.close()


# --------------------------------------------------------------------------- publishing


async def test_every_subscription_gets_its_own_copy(topics: TopicHandlers) -> None:
    await topics.publish("news", "first", application_properties={"colour": "red"}, message_id="m", subject="s")
    await topics.publish("news", "second", application_properties={"colour": "blue"})
    red = await take(topics.red)
    everything = await take(topics.all, 2)
    assert [str(message) for message in everything] == ["first", "second"]
    assert [(str(message), message.message_id, message.subject) for message in red] == [("first", "m", "s")]
    assert (topics.active("news/Subscriptions/all"), topics.active("news/Subscriptions/red")) == (0, 0)
    assert everything[0].lock_token is None  # it was settled
    assert properties(red[0]) == {b"colour": b"red"}


async def test_copies_are_numbered_by_their_subscription_and_remember_the_topics_number(topics: TopicHandlers) -> None:
    for colour in ("blue", "red", "blue", "red"):
        await topics.publish("news", colour, application_properties={"colour": colour})
    everything, red = await take(topics.all, 4), await take(topics.red, 2)
    numbers = [message.enqueued_sequence_number or 0 for message in everything]
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert [message.enqueued_sequence_number for message in red] == [numbers[1], numbers[3]]
    assert (red[1].sequence_number or 0) == (red[0].sequence_number or 0) + 1
    assert {message.enqueued_time_utc for message in everything} == {moment()}


async def test_a_batch_is_published_message_by_message(topics: TopicHandlers) -> None:
    batch = await topics.senders["news"].create_message_batch()
    for number in range(3):
        batch.add_message(ServiceBusMessage(str(number)))
    batch.add_message(AmqpAnnotatedMessage(value_body={"colour": "red"}))
    await topics.senders["news"].send_messages(batch)
    taken = await take(topics.all, 4)
    assert [str(message) for message in taken[:3]] == ["0", "1", "2"]
    assert taken[3].body == {b"colour": b"red"}


async def test_a_message_that_no_rule_chooses_is_dropped(topics: TopicHandlers) -> None:
    await topics.publish("sorted", "for nobody")
    await topics.publish("empty", "for nobody either")
    assert topics.active("basket") == 0
    assert (topics.active("sorted"), topics.active("empty")) == (0, 0)


# --------------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("message", "chosen"),
    [
        ({"message_id": "m-1"}, {"id"}),
        ({"message_id": "M-1"}, set()),
        ({"message_id": "m-2"}, {"sys-id"}),
        ({"correlation_id": "c-1"}, {"correlation", "sys-correlation"}),
        ({"correlation_id": "c-22"}, {"sys-correlation"}),
        ({"to": "there"}, {"to", "sys-to"}),
        ({"reply_to": "back"}, {"reply", "sys-reply"}),
        ({"reply_to": "forth"}, {"sys-reply"}),
        ({"subject": "red"}, {"label"}),
        ({"subject": "blue"}, {"sys-label"}),
        ({"session_id": "s-1"}, {"session", "sys-session"}),
        ({"session_id": "s-2"}, {"sys-session"}),
        ({"reply_to_session_id": "r-1"}, {"reply-session", "sys-reply-session"}),
        ({"content_type": "text/plain"}, {"content"}),
        ({"content_type": "application/json"}, {"sys-content"}),
        ({"application_properties": {"colour": "blue"}}, {"own", "user"}),
        ({"application_properties": {"Colour": "green"}}, {"user"}),
        ({"application_properties": {"colour": "blue"}, "subject": "red"}, {"own", "user", "both", "label"}),
        ({"application_properties": {"count": 7}}, {"number", "arithmetic"}),
        ({"application_properties": {"count": 7.0}}, {"number", "arithmetic"}),
        ({"application_properties": {"count": "7"}}, set()),
        ({"application_properties": {"weight": 1}}, {"real", "sys-time"}),
        ({"application_properties": {"weight": 2.25}}, {"real"}),
        ({"application_properties": {"note": "a_bcd"}}, {"exists", "like"}),
        ({"application_properties": {"note": "axbcd"}}, {"exists"}),
        ({"application_properties": {"the colour": "it's blue"}}, {"quoted"}),
        ({"application_properties": {"urgent": True}}, {"boolean"}),
        ({"application_properties": {"urgent": False}}, set()),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),  # the same in every process
)
async def test_rules_choose_by_every_field_and_say_which_they_were(
    topics: TopicHandlers, message: dict[str, Any], chosen: set[str]
) -> None:
    await topics.publish("sorted", "x", **message)
    copies = await take(topics.basket, topics.active("basket"))
    assert {properties(copy)[b"RuleName"].decode() for copy in copies} == chosen
    assert len(copies) == len(chosen)
    assert all(properties(copy)[b"chosen"] == 1 for copy in copies)


async def test_plain_rules_make_one_copy_and_actions_one_each(topics: TopicHandlers) -> None:
    sent = {"price": 20, "note": "n", "zero": 1}
    await topics.publish("copied", "x", subject="before", application_properties=sent)
    plain, marked = await take(topics.copies, 2)
    assert topics.active("copied/Subscriptions/copies") == 0
    assert (plain.subject, properties(plain)) == ("before", {b"price": 20, b"note": b"n", b"zero": 1})
    assert (marked.subject, str(marked)) == ("dear", "x")
    assert properties(marked) == {b"price": 20, b"zero": 1, b"tax": 40, b"RuleName": b"marks"}


async def test_a_rule_that_cannot_be_evaluated_buries_the_message(topics: TopicHandlers) -> None:
    await topics.publish("copied", "x", application_properties={"price": 1, "zero": 0})
    [dead] = await take(topics.odd)
    assert dead.dead_letter_reason == "FilterException"
    assert "zero" in (dead.dead_letter_error_description or "")
    assert (str(dead), properties(dead)[b"price"]) == ("x", 1)
    await take(topics.copies, 2)


async def test_a_subscription_sees_what_is_published_after_it_was_made(topics: TopicHandlers) -> None:
    await topics.publish("news", "before")
    topics.bus.create_subscription("news", "late", "colour = 'red'")
    await topics.publish("news", "after", application_properties={"colour": "red"})
    late = topics.receiver("news", "late")
    await topics.open(late)
    assert [str(message) for message in await take(late)] == ["after"]
    await take(topics.all, 2)
    await take(topics.red)
    topics.bus.delete("news/Subscriptions/late")


# --------------------------------------------------------------------------- receiving and settling


async def test_a_copy_is_settled_on_its_own(topics: TopicHandlers) -> None:
    await topics.publish("news", "x", application_properties={"colour": "red"})
    [mine] = await topics.all.receive_messages(1, max_wait_time=SOON)
    assert mine.locked_until_utc == moment(60)
    await topics.all.abandon_message(mine)
    [red] = await take(topics.red)
    assert red.delivery_count == 0
    [again] = await take(topics.all)
    assert (again.delivery_count, again.sequence_number) == (1, mine.sequence_number)


async def test_dead_letters_of_a_subscription_are_its_own(topics: TopicHandlers) -> None:
    await topics.publish("news", "poison", message_id="p", application_properties={"colour": "red"})
    [message] = await topics.all.receive_messages(1, max_wait_time=SOON)
    await topics.all.dead_letter_message(message, reason="Bad", error_description="very")
    [seen] = await topics.dead.peek_messages(sequence_number=1)
    [dead] = await take(topics.dead)
    assert seen.sequence_number == dead.sequence_number == message.sequence_number
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("Bad", "very")
    assert (dead.message_id, dead.dead_letter_source) == ("p", None)
    assert dead.enqueued_sequence_number == message.enqueued_sequence_number
    await take(topics.red)
    assert topics.bus.counts("news/Subscriptions/red").dead_lettered == 0


async def test_too_many_deliveries_end_among_the_dead_letters(topics: TopicHandlers) -> None:
    await topics.publish("news", "x")
    for _ in range(2):
        [message] = await topics.all.receive_messages(1, max_wait_time=SOON)
        await topics.all.abandon_message(message)
    [dead] = await take(topics.dead)
    assert (dead.dead_letter_reason, dead.delivery_count) == ("MaxDeliveryCountExceeded", 2)
    assert dead.dead_letter_error_description == "Message could not be consumed after 2 delivery attempts."


async def test_a_copy_is_deferred_and_fetched_by_the_subscriptions_number(topics: TopicHandlers) -> None:
    await topics.publish("news", "later")
    [message] = await topics.all.receive_messages(1, max_wait_time=SOON)
    assert message.sequence_number is not None
    await topics.all.defer_message(message)
    [seen] = await topics.all.peek_messages(sequence_number=message.sequence_number)
    assert seen.state is ServiceBusMessageState.DEFERRED
    with pytest.raises(MessageNotFoundError):
        await topics.red.receive_deferred_messages(message.sequence_number)
    [deferred] = await topics.all.receive_deferred_messages(message.sequence_number)
    assert (str(deferred), deferred.delivery_count) == ("later", 1)
    assert await topics.all.renew_message_lock(deferred) == moment(60)
    await topics.all.complete_message(deferred)
    with pytest.raises(MessageNotFoundError):
        await topics.all.receive_deferred_messages([message.sequence_number])


async def test_a_lock_in_a_subscription_ends(topics: TopicHandlers) -> None:
    await topics.publish("news", "slow")
    [message] = await topics.all.receive_messages(1, max_wait_time=SOON)
    await topics.bus.advance(60)
    with pytest.raises(MessageLockLostError):
        await topics.all.complete_message(message)
    assert [again.delivery_count for again in await take(topics.all)] == [1]


async def test_peeking_a_subscription_goes_on_where_it_stopped(topics: TopicHandlers) -> None:
    for number in range(5):
        await topics.publish("news", str(number))
    first = await topics.all.peek_messages(2, sequence_number=1)
    rest = await topics.all.peek_messages(9)
    assert [str(message) for message in first + rest] == ["0", "1", "2", "3", "4"]
    assert {message.state for message in rest} == {ServiceBusMessageState.ACTIVE}
    assert await topics.all.peek_messages(9) == []
    await take(topics.all, 5)


async def test_subscriptions_are_received_from_and_deleted_at_once(topics: TopicHandlers) -> None:
    await topics.publish("news", "x", application_properties={"colour": "swift"})
    [message] = await topics.swift.receive_messages(1, max_wait_time=SOON)
    assert (message.lock_token, message.locked_until_utc) == (None, None)
    assert topics.active("news/Subscriptions/swift") == 0
    await take(topics.all)


# --------------------------------------------------------------------------- time


async def test_a_topic_schedules_for_all_its_subscriptions(topics: TopicHandlers) -> None:
    due = moment(30)
    red = ServiceBusMessage("red", application_properties={"colour": "red"})
    numbers = await topics.senders["news"].schedule_messages([red, ServiceBusMessage("plain")], due)
    assert numbers == sorted(set(numbers))
    assert (topics.bus.counts("news").scheduled, topics.active("news/Subscriptions/all")) == (2, 0)
    assert await topics.all.peek_messages(9, sequence_number=1) == []
    await topics.bus.advance(30)
    everything = await take(topics.all, 2)
    assert [message.scheduled_enqueue_time_utc for message in everything] == [due, due]
    assert [message.enqueued_time_utc for message in everything] == [due, due]
    assert len(await take(topics.red)) == 1
    assert topics.bus.counts("news").scheduled == 0


async def test_messages_scheduled_on_a_topic_can_be_cancelled(topics: TopicHandlers) -> None:
    sender = topics.senders["news"]
    numbers = await sender.schedule_messages([ServiceBusMessage("no"), ServiceBusMessage("yes")], moment(30))
    await sender.cancel_scheduled_messages(numbers[0])
    with pytest.raises(MessageNotFoundError):
        await sender.cancel_scheduled_messages(numbers)
    await topics.bus.advance(30)
    assert [str(message) for message in await take(topics.all)] == ["yes"]
    with pytest.raises(MessageNotFoundError):
        await sender.cancel_scheduled_messages(numbers[1])


async def test_a_duplicate_is_dropped_for_every_subscription(topics: TopicHandlers) -> None:
    for body in ("first", "second"):
        await topics.publish("once", body, message_id="same")
    assert [str(message) for message in await take(topics.once)] == ["first"]
    assert topics.active("once/Subscriptions/all") == 0
    await topics.bus.advance(20)
    await topics.publish("once", "third", message_id="same")
    assert [str(message) for message in await take(topics.once)] == ["third"]


@pytest.mark.parametrize(
    ("asked", "brief", "long"),
    [(None, 60, 600), (3600, 60, 600), (300, 60, 300), (30, 30, 30)],
)
async def test_the_shortest_time_to_live_counts(
    topics: TopicHandlers, asked: int | None, brief: int, long: int
) -> None:
    await topics.publish("aging", "x", time_to_live=timedelta(seconds=asked) if asked else None)
    [first], [second] = await asyncio.gather(take(topics.brief), take(topics.long))
    assert (first.time_to_live, second.time_to_live) == (timedelta(seconds=brief), timedelta(seconds=long))
    assert second.expires_at_utc == moment(long)


async def test_each_subscription_drops_or_dead_letters_expired_messages_by_its_own_setting(
    topics: TopicHandlers,
) -> None:
    await topics.publish("aging", "x", time_to_live=timedelta(seconds=10))
    await topics.bus.advance(10)
    [dead] = await take(topics.expired)
    assert dead.dead_letter_reason == "TTLExpiredException"
    assert dead.dead_letter_error_description == "The message expired and was dead lettered."
    counts = topics.bus.counts("aging/Subscriptions/long")
    assert (counts.active, counts.dead_lettered) == (0, 0)


# --------------------------------------------------------------------------- sessions


async def test_a_subscription_may_require_sessions(topics: TopicHandlers) -> None:
    async def listed() -> list[str]:
        return [session async for session in topics.client.list_subscription_sessions("chat", "talk")]

    talk = [ServiceBusMessage(body, session_id=body[0]) for body in ("a1", "b1", "a2")]
    await topics.senders["chat"].send_messages(talk)
    a = topics.receiver("chat", "talk", session_id="a")
    any_ = topics.receiver("chat", "talk", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=SOON)
    await topics.open(a)
    sessions, _ = await asyncio.gather(listed(), topics.open(any_))
    assert sessions == ["a", "b"]
    assert (any_.session.session_id, any_.session.locked_until_utc) == ("b", moment(60))
    assert [str(message) for message in await take(a, 2)] == ["a1", "a2"]
    [b] = await any_.receive_messages(1, max_wait_time=SOON)
    assert (b.session_id, b.locked_until_utc) == ("b", None)
    await any_.complete_message(b)
    await a.session.set_state("half way")
    assert await a.session.get_state() == b"half way"
    await a.session.set_state(None)
    assert await a.session.renew_lock() == moment(60)


async def test_a_message_without_a_session_is_buried_by_such_a_subscription(topics: TopicHandlers) -> None:
    await topics.publish("chat", "wordless")
    [dead] = await take(topics.wordless)
    assert (dead.dead_letter_reason, dead.session_id) == ("Session ID is null.", None)


# --------------------------------------------------------------------------- forwarding


async def test_a_subscription_forwards_to_a_queue_and_to_a_topic(topics: TopicHandlers) -> None:
    await topics.publish("relay", "x", message_id="m")
    [in_queue], [at_end], [first] = await asyncio.gather(take(topics.sink), take(topics.end), take(topics.dying))
    assert (str(in_queue), str(at_end), at_end.message_id) == ("x", "x", "m")
    assert first.enqueued_sequence_number == in_queue.enqueued_sequence_number == at_end.enqueued_sequence_number
    assert topics.active("relay/Subscriptions/to-queue") == 0
    assert (await take(topics.client.get_queue_receiver("gone")))[0].message_id == "m"


async def test_dead_letters_of_a_subscription_are_forwarded_with_their_source(topics: TopicHandlers) -> None:
    await topics.publish("relay", "x")
    [message] = await topics.dying.receive_messages(1, max_wait_time=SOON)
    await topics.dying.dead_letter_message(message, reason="Bad", error_description="very")
    [dead] = await take(topics.dead_letters)
    assert dead.dead_letter_source == "relay/Subscriptions/dying"
    assert (dead.dead_letter_reason, dead.dead_letter_error_description) == ("Bad", "very")
    assert topics.bus.counts("relay/Subscriptions/dying").dead_lettered == 0
    await asyncio.gather(take(topics.sink), take(topics.end))


async def test_what_cannot_be_forwarded_is_among_the_transfer_dead_letters(topics: TopicHandlers) -> None:
    topics.bus.purge("gone")
    topics.bus.delete("gone")
    await topics.publish("relay", "stuck")
    [stuck] = await take(topics.stuck)
    assert (str(stuck), stuck.dead_letter_reason) == ("stuck", "AutoForwardFailed")
    assert "'gone'" in (stuck.dead_letter_error_description or "")
    await asyncio.gather(take(topics.sink), take(topics.end), take(topics.dying))


# --------------------------------------------------------------------------- what is there, and what is not


async def test_a_missing_entity_is_refused(topics: TopicHandlers) -> None:
    client = topics.client
    unknown = await asyncio.gather(
        topics.refusal(client.get_topic_sender("nowhere")),
        topics.refusal(client.get_subscription_receiver("news", "nobody")),
        topics.refusal(client.get_subscription_receiver("nowhere", "nobody")),
        topics.refusal(client.get_subscription_receiver("basket", "all")),
    )
    for error in unknown:
        assert isinstance(error, ServiceBusAuthenticationError)
        assert "404" in str(error.inner_exception)
    assert "'news/Subscriptions/nobody' could not be found" in str(unknown[1].inner_exception)


async def test_each_kind_of_receiver_has_its_place(topics: TopicHandlers) -> None:
    refused = await asyncio.gather(
        topics.refusal(topics.client.get_queue_receiver("news")),
        topics.refusal(topics.receiver("relay", "to-queue")),
        topics.refusal(topics.receiver("chat", "talk")),
        topics.refusal(topics.receiver("news", "all", session_id="a")),
    )
    reasons = (
        "receive from one of its subscriptions",
        "forwards its messages to 'sink'",
        "requires sessions",
        "does not require sessions",
    )
    for error, reason in zip(refused, reasons, strict=True):
        assert reason in str(error)


async def test_a_subscription_cannot_be_sent_to(topics: TopicHandlers) -> None:
    with pytest.raises(ServiceBusError, match="send to the topic 'news'"):
        await topics.to_subscription.send_messages(ServiceBusMessage("x"))
    assert topics.active("news/Subscriptions/all") == 0


async def test_names_are_compared_without_case(topics: TopicHandlers) -> None:
    await topics.publish("CASE", "x")
    assert [str(message) for message in await take(topics.case)] == ["x"]


async def test_deleting_an_entity_detaches_its_links_and_no_others(topics: TopicHandlers) -> None:
    topics.bus.create_topic("doomed")
    for topic in ("news", "doomed"):
        topics.bus.create_subscription(topic, "doomed")
    sender = topics.client.get_topic_sender("doomed")
    with_topic, alone = topics.receiver("doomed", "doomed"), topics.receiver("news", "doomed")
    await topics.open(sender, with_topic, alone)
    waiting = [asyncio.create_task(each.receive_messages(1, max_wait_time=SOON)) for each in (with_topic, alone)]
    for topic in ("news", "doomed"):
        path = f"{topic}/Subscriptions/doomed"
        await eventually(lambda path=path: topics.bus.waiting(path) > 0)  # type: ignore[misc]
    topics.bus.delete("news/Subscriptions/doomed")
    topics.bus.delete("doomed")
    for task in waiting:
        with pytest.raises(MessagingEntityNotFoundError):
            await task
    with pytest.raises(ServiceBusError):
        await sender.send_messages(ServiceBusMessage("x"))
    refused = await topics.refusal(topics.receiver("doomed", "doomed"))
    assert isinstance(refused, ServiceBusAuthenticationError)
    await topics.publish("news", "x")
    assert [str(message) for message in await take(topics.all)] == ["x"]
