"""The synchronous SDK sends: in every form, in batches up to the limit, for later, for a while, and only once."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageBatch,
    ServiceBusReceivedMessage,
)
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType, AmqpMessageHeader, AmqpMessageProperties
from azure.servicebus.exceptions import MessageNotFoundError, MessageSizeExceededError, ServiceBusQuotaExceededError

from tests.protocol.counter import SOON, Desk, counter_at, take
from tests.protocol.desk import topology

LIMIT = 256 * 1024
QUEUES = topology(
    orders={"DefaultMessageTimeToLive": "PT10M", "DeadLetteringOnMessageExpiration": True},
    drops={"DefaultMessageTimeToLive": "PT10M"},
    once={"RequiresDuplicateDetection": True, "DuplicateDetectionHistoryTimeWindow": "PT1M"},
)


@pytest.fixture(scope="module")
def desks() -> Iterator[dict[str, Desk]]:
    with counter_at(QUEUES) as counter:
        desks = {name: Desk(counter, name) for name in ("orders", "drops", "once")}
        each = [handler for desk in desks.values() for handler in (desk.sender, desk.receiver)]
        counter.open_all(*each, desks["orders"].dead_letters)
        yield desks


@pytest.fixture
def orders(desks: dict[str, Desk]) -> Iterator[Desk]:
    desk = desks["orders"]
    yield desk
    assert desk.left == 0, "the test left something for the next one"


@pytest.fixture
def once(desks: dict[str, Desk]) -> Desk:
    return desks["once"]


def taken(desk: Desk) -> ServiceBusReceivedMessage:
    message = desk.next()
    desk.receiver.complete_message(message)
    return message


# --------------------------------------------------------------------------- forms


def test_a_message_arrives_with_everything_on_it(orders: Desk) -> None:
    sent = ServiceBusMessage(
        b"\x00body\xff",
        application_properties={"text": "é", "number": 7, "fraction": 0.5, "yes": True},
        message_id="m-1",
        correlation_id="c-1",
        subject="ask.v1",
        content_type="application/json",
        to="there",
        reply_to="answers",
        reply_to_session_id="r-1",
        session_id="s-1",
        partition_key="s-1",
        time_to_live=timedelta(minutes=5),
    )
    orders.sender.send_messages(sent, timeout=SOON)
    got = taken(orders)
    assert got.body_type is AmqpMessageBodyType.DATA
    assert b"".join(got.body) == b"\x00body\xff"
    assert got.application_properties == {b"text": "é".encode(), b"number": 7, b"fraction": 0.5, b"yes": True}
    assert (got.message_id, got.correlation_id, got.subject) == ("m-1", "c-1", "ask.v1")
    assert (got.content_type, got.to, got.reply_to) == ("application/json", "there", "answers")
    assert (got.session_id, got.reply_to_session_id, got.partition_key) == ("s-1", "r-1", "s-1")
    assert (got.time_to_live, got.delivery_count) == (timedelta(minutes=5), 0)
    assert got.enqueued_time_utc == orders.counter.moment()
    assert got.expires_at_utc == orders.counter.moment(300)
    assert got.dead_letter_source is None


@pytest.mark.parametrize(
    "message",
    [
        {"body": "from a mapping", "subject": "s"},
        AmqpAnnotatedMessage(data_body=b"from a mapping", properties=AmqpMessageProperties(subject="s")),
        ServiceBusMessage("from a mapping", subject="s"),
    ],
    ids=["mapping", "annotated", "message"],
)
def test_whatever_looks_like_a_message_is_sent_alone_and_in_a_list(orders: Desk, message: Any) -> None:
    orders.sender.send_messages(message)
    orders.sender.send_messages([message, message])
    for _ in range(3):
        got = taken(orders)
        assert (str(got), got.subject) == ("from a mapping", "s")


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("value_body", {"a": 1, "b": ["x", None]}, {b"a": 1, b"b": [b"x", None]}),
        ("sequence_body", [[1, 2], ["three"]], [[1, 2], [b"three"]]),
    ],
)
def test_every_kind_of_body_passes_through(orders: Desk, kind: str, body: Any, expected: object) -> None:
    message = AmqpAnnotatedMessage(**{kind: body})
    message.header = AmqpMessageHeader(priority=6, durable=True)
    message.annotations = {"x-mine": "kept"}
    orders.sender.send_messages(message)
    raw = taken(orders).raw_amqp_message
    assert (raw.body if kind == "value_body" else list(raw.body)) == expected
    assert raw.header is not None
    assert (raw.header.priority, raw.header.durable) == (6, True)
    assert raw.annotations is not None
    assert raw.annotations[b"x-mine"] == b"kept"


def test_a_received_message_can_be_sent_on(orders: Desk) -> None:
    orders.send("round trip", application_properties={"lap": 1})
    first = taken(orders)
    orders.sender.send_messages(first)
    second = taken(orders)
    assert (str(second), second.application_properties) == (str(first), first.application_properties)
    assert (second.sequence_number or 0) > (first.sequence_number or 0)


def test_nothing_to_send_is_nothing(orders: Desk) -> None:
    orders.sender.send_messages([])
    orders.sender.send_messages(orders.sender.create_message_batch())
    assert orders.left == 0


@pytest.mark.parametrize("wrong", ["text", 7, [ServiceBusMessage("x"), "text"]])
def test_what_is_no_message_is_refused_by_the_sdk(orders: Desk, wrong: Any) -> None:
    with pytest.raises(TypeError):
        orders.sender.send_messages(wrong)


# --------------------------------------------------------------------------- batches and sizes


def test_a_batch_becomes_single_messages_in_order(orders: Desk) -> None:
    batch = orders.sender.create_message_batch()
    for number in range(30):
        batch.add_message(ServiceBusMessage(str(number), message_id=f"m{number}"))
    assert (len(batch), batch.max_size_in_bytes) == (30, LIMIT)
    assert batch.size_in_bytes < LIMIT
    orders.sender.send_messages(batch)
    got = [taken(orders) for _ in range(30)]
    assert [(str(message), message.message_id) for message in got] == [(str(n), f"m{n}") for n in range(30)]


def fill(batch: ServiceBusMessageBatch) -> int:
    """Add messages of 10 KB until one is refused; return how many there are."""
    try:
        while True:
            batch.add_message(ServiceBusMessage(b"x" * 10_000))
    except MessageSizeExceededError:
        return len(batch)


def test_a_full_batch_is_taken(orders: Desk) -> None:
    batch = orders.sender.create_message_batch()
    count = fill(batch)
    orders.sender.send_messages(batch)
    assert orders.left == count == 26
    assert take(orders.receiver, count) == ["x" * 10_000] * count


def test_a_batch_may_be_made_smaller_but_not_larger(orders: Desk) -> None:
    assert fill(orders.sender.create_message_batch(max_size_in_bytes=50_000)) == 4
    with pytest.raises(ValueError, match="acceptable max batch size"):
        orders.sender.create_message_batch(max_size_in_bytes=LIMIT + 1)


@pytest.mark.parametrize("size", [0, 65_536, LIMIT - 200])
def test_a_message_of_any_size_up_to_the_limit_arrives_whole(orders: Desk, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    orders.sender.send_messages(ServiceBusMessage(body))
    assert b"".join(taken(orders).body) == body


@pytest.mark.parametrize("message", [ServiceBusMessage(b"x" * LIMIT), [ServiceBusMessage(b"x" * 100_000)] * 3])
def test_what_is_too_large_is_refused_and_the_sender_lives_on(orders: Desk, message: Any) -> None:
    with pytest.raises(MessageSizeExceededError):
        orders.sender.send_messages(message)
    orders.send("after")
    assert str(taken(orders)) == "after"


# --------------------------------------------------------------------------- later


def test_messages_are_scheduled_and_come_in_the_order_of_their_times(orders: Desk) -> None:
    later = orders.sender.schedule_messages(ServiceBusMessage("second"), orders.counter.moment(20))
    more = [ServiceBusMessage("first"), ServiceBusMessage("first too")]
    sooner = orders.sender.schedule_messages(more, orders.counter.moment(10), timeout=SOON)
    assert (len(later), len(sooner), orders.bus.counts("orders").scheduled) == (1, 2, 3)
    orders.bus.advance(9)
    assert orders.bus.counts("orders").active == 0
    orders.bus.advance(11)
    got = [taken(orders) for _ in range(3)]
    assert [str(message) for message in got] == ["first", "first too", "second"]
    assert all((message.sequence_number or 0) > later[0] for message in got)
    assert got[2].scheduled_enqueue_time_utc == orders.counter.moment()


def test_a_scheduled_message_can_be_cancelled_alone_or_with_others(orders: Desk) -> None:
    messages = [ServiceBusMessage(str(number)) for number in range(4)]
    numbers = orders.sender.schedule_messages(messages, orders.counter.moment(10))
    orders.sender.cancel_scheduled_messages(numbers[0])
    orders.sender.cancel_scheduled_messages(numbers[1:3], timeout=SOON)
    orders.sender.cancel_scheduled_messages([])
    orders.bus.advance(10)
    assert str(taken(orders)) == "3"


def test_what_has_left_or_never_was_cannot_be_cancelled(orders: Desk) -> None:
    [number] = orders.sender.schedule_messages(ServiceBusMessage("gone"), orders.counter.moment(1))
    orders.bus.advance(1)
    for numbers in (number, [number], 987654):
        with pytest.raises(MessageNotFoundError):
            orders.sender.cancel_scheduled_messages(numbers)
    taken(orders)


def test_nothing_to_schedule_is_nothing_and_a_mapping_is_a_message(orders: Desk) -> None:
    assert orders.sender.schedule_messages([], orders.counter.moment(10)) == []
    [number] = orders.sender.schedule_messages({"body": "later"}, orders.counter.moment(10))
    orders.sender.cancel_scheduled_messages(number)


def test_a_time_on_the_message_schedules_it_too(orders: Desk) -> None:
    orders.send("annotated", scheduled_enqueue_time_utc=orders.counter.moment(5))
    assert orders.bus.counts("orders").scheduled == 1
    orders.bus.advance(5)
    assert str(taken(orders)) == "annotated"


# --------------------------------------------------------------------------- for a while


def test_an_expired_message_is_dead_lettered_with_its_reason(orders: Desk) -> None:
    orders.send("brief", time_to_live=timedelta(seconds=10))
    orders.bus.advance(10)
    dead = orders.next_dead_letter()
    assert (str(dead), dead.dead_letter_reason) == ("brief", "TTLExpiredException")


def test_without_dead_lettering_an_expired_message_is_gone(desks: dict[str, Desk]) -> None:
    desk = desks["drops"]
    desk.send("brief", time_to_live=timedelta(seconds=10))
    desk.send("asks for more than the queue allows", time_to_live=timedelta(days=1))
    desk.bus.advance(10)
    assert desk.left == 1
    desk.bus.advance(590)
    counts = desk.bus.counts("drops")
    assert (counts.active, counts.dead_lettered) == (0, 0)


# --------------------------------------------------------------------------- only once


def test_a_message_with_the_same_id_is_dropped_within_the_window(once: Desk) -> None:
    once.send("first", message_id="a")
    once.send("second", message_id="a")
    once.send("other", message_id="b")
    assert take(once.receiver, 2) == ["first", "other"]
    once.bus.advance(30)
    once.send("third", message_id="a")
    assert once.left == 0
    once.bus.advance(60)
    once.send("fourth", message_id="a")
    assert take(once.receiver, 1) == ["fourth"]


def test_duplicates_are_found_within_a_batch_and_among_scheduled_messages(once: Desk) -> None:
    twice = [ServiceBusMessage("one", message_id="c"), ServiceBusMessage("two", message_id="c")]
    once.sender.send_messages(twice)
    once.sender.schedule_messages(ServiceBusMessage("three", message_id="c"), once.counter.moment(10))
    once.bus.advance(10)
    assert take(once.receiver, 1) == ["one"]
    assert once.left == 0


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_time_out_must_be_longer_than_nothing(orders: Desk, timeout: int) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        orders.sender.send_messages(ServiceBusMessage("x"), timeout=timeout)
    with pytest.raises(ValueError, match="greater than 0"):
        orders.sender.schedule_messages(ServiceBusMessage("x"), orders.counter.moment(1), timeout=timeout)
    with pytest.raises(ValueError, match="greater than 0"):
        orders.sender.cancel_scheduled_messages(1, timeout=timeout)


def test_a_full_queue_takes_nothing_more(orders: Desk) -> None:
    orders.bus.create_queue("small", max_size=100_000)
    sender = orders.counter.open(orders.client.get_queue_sender("small"))
    sender.send_messages(ServiceBusMessage(b"x" * 90_000))
    with pytest.raises(ServiceBusQuotaExceededError):
        sender.send_messages(ServiceBusMessage(b"x" * 20_000))
    orders.bus.purge("small")
    sender.send_messages(ServiceBusMessage(b"x" * 20_000))
