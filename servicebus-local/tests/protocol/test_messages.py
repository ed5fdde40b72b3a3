"""What a message is made of arrives as it was sent; what the broker adds is there and is right."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.amqp import (
    AmqpAnnotatedMessage,
    AmqpMessageBodyType,
    AmqpMessageHeader,
    AmqpMessageProperties,
)

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import QueueClient, queue_client_at, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOCK = ManualClock(time() + 3600)
PROPERTIES = {"LockDuration": "PT1M", "MaxDeliveryCount": 10, "DefaultMessageTimeToLive": "PT2H"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders() -> AsyncIterator[QueueClient]:
    async with (
        LocalBus(topology(orders=PROPERTIES), clock=CLOCK) as bus,
        queue_client_at(bus, "orders") as queue_client,
    ):
        yield queue_client


async def exchange(orders: QueueClient, message: Any) -> ServiceBusReceivedMessage:
    """Send a message, and receive it."""
    await orders.sender.send_messages(message)
    received = await orders.next()
    await orders.receiver.complete_message(received)
    return received


def moment(seconds: float = 0) -> datetime:
    return datetime.fromtimestamp(int((CLOCK.now + seconds) * 1000) / 1000, UTC)


# --------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "body", ["text", "é漢😀", "", b"", b"\x00\xff" * 500, "x" * 100_000], ids=lambda body: repr(body)[:12]
)
async def test_text_and_bytes_arrive_as_data(orders: QueueClient, body: str | bytes) -> None:
    got = await exchange(orders, ServiceBusMessage(body))
    encoded = body.encode() if isinstance(body, str) else body
    assert (b"".join(got.body), got.body_type) == (encoded, AmqpMessageBodyType.DATA)
    if isinstance(body, str):
        assert str(got) == body


async def test_a_message_may_have_no_body(orders: QueueClient) -> None:
    got = await exchange(orders, ServiceBusMessage(None))
    assert (got.body, got.body_type) == (None, AmqpMessageBodyType.VALUE)


async def test_data_may_have_several_sections(orders: QueueClient) -> None:
    got = await exchange(orders, AmqpAnnotatedMessage(data_body=[b"one", b"", b"three"]))
    assert (list(got.body), got.body_type) == ([b"one", b"", b"three"], AmqpMessageBodyType.DATA)


NOW = datetime(2024, 2, 29, 12, 30, 0, 125000, UTC)
SOME_ID = UUID("01234567-89ab-cdef-0123-456789abcdef")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (None, None),
        (True, True),
        (-1, -1),
        (2**31 - 1, 2**31 - 1),
        (-(2**31), -(2**31)),
        (0.1, 0.1),
        ("text", b"text"),
        (b"bytes", b"bytes"),
        (SOME_ID, SOME_ID),
        (NOW, int(NOW.timestamp() * 1000)),
        ([1, [2, "x"], {}], [1, [2, b"x"], {}]),
        ({"a": {"b": [None, True]}, 1: 2}, {b"a": {b"b": [None, True]}, 1: 2}),
    ],
    ids=str,
)
async def test_a_value_may_be_of_any_type(orders: QueueClient, value: Any, arrives: Any) -> None:
    got = await exchange(orders, AmqpAnnotatedMessage(value_body=value))
    assert (got.body, got.body_type) == (arrives, AmqpMessageBodyType.VALUE)


async def test_a_sequence_may_have_several_sections(orders: QueueClient) -> None:
    got = await exchange(orders, AmqpAnnotatedMessage(sequence_body=[[b"message", 123.456, True], [{"a": 1}]]))
    assert list(got.body) == [[b"message", 123.456, True], [{b"a": 1}]]
    assert got.body_type is AmqpMessageBodyType.SEQUENCE


# --------------------------------------------------------------------------- properties


async def test_application_properties_keep_their_types(orders: QueueClient) -> None:
    sent: dict[str | bytes, Any] = {
        "text": "é",
        "empty": "",
        b"bytes": b"as text",
        "small": 7,
        "negative": -7,
        "int": 2**31 - 1,
        "double": 1e-300,
        "yes": True,
        "no": False,
        "id": SOME_ID,
        "moment": NOW,
        "nothing": None,
        "k" * 300: "long key",
    }
    got = await exchange(orders, ServiceBusMessage("x", application_properties=dict(sent)))
    arrived = got.application_properties or {}
    assert arrived == {
        b"text": "é".encode(),
        b"empty": b"",
        b"bytes": b"as text",
        b"small": 7,
        b"negative": -7,
        b"int": 2**31 - 1,
        b"double": 1e-300,
        b"yes": True,
        b"no": False,
        b"id": SOME_ID,
        b"moment": int(NOW.timestamp() * 1000),
        b"nothing": None,
        b"k" * 300: b"long key",
    }
    assert arrived[b"yes"] is True
    assert isinstance(arrived[b"double"], float)


async def test_a_bare_message_has_nothing_it_was_not_given(orders: QueueClient) -> None:
    got = await exchange(orders, ServiceBusMessage("x"))
    names = ("session_id", "content_type", "correlation_id", "subject", "to", "reply_to", "reply_to_session_id")
    assert [getattr(got, name) for name in names] == [None] * len(names)
    assert (got.partition_key, got.scheduled_enqueue_time_utc) == (None, None)
    assert (got.dead_letter_reason, got.dead_letter_error_description, got.dead_letter_source) == (None, None, None)
    assert not got.application_properties
    assert got.auto_renew_error is None


@pytest.mark.parametrize("message_id", ["text", "é" * 60, SOME_ID, "x" * 128])
async def test_a_message_id_keeps_its_type(orders: QueueClient, message_id: Any) -> None:
    message = ServiceBusMessage("x")
    message.message_id = message_id
    assert (await exchange(orders, message)).message_id == message_id


async def test_every_field_of_the_protocol_passes_through(orders: QueueClient) -> None:
    message = AmqpAnnotatedMessage(
        data_body=b"x",
        header=AmqpMessageHeader(priority=9, durable=True, first_acquirer=True, time_to_live=60_000, delivery_count=5),
        properties=AmqpMessageProperties(
            message_id="m",
            user_id=b"me",
            to="t",
            subject="s",
            reply_to="r",
            correlation_id=b"c",
            content_type="ct",
            content_encoding="ce",
            group_id="g",
            group_sequence=3,
            reply_to_group_id="rg",
        ),
        application_properties={"a": 1},
        annotations={"own": "annotation", "x-opt-partition-key": "g", "list": [1, {"b": None}]},
        delivery_annotations={"delivery": "annotation"},
        footer={"at the": "end"},
    )
    raw = (await exchange(orders, message)).raw_amqp_message
    assert raw.header is not None
    assert raw.properties is not None
    header = raw.header
    assert (header.priority, header.durable, header.first_acquirer, header.delivery_count) == (9, True, True, 0)
    assert header.time_to_live == 60_000
    properties = raw.properties
    assert (properties.message_id, properties.user_id, properties.to, properties.subject) == (b"m", b"me", b"t", b"s")
    assert (properties.reply_to, properties.correlation_id, properties.content_type) == (b"r", b"c", b"ct")
    assert (properties.content_encoding, properties.group_id, properties.group_sequence) == (b"ce", b"g", 3)
    assert properties.reply_to_group_id == b"rg"
    assert properties.creation_time is not None
    assert properties.absolute_expiry_time == properties.creation_time + 60_000
    assert (raw.annotations or {})[b"own"] == b"annotation"
    assert (raw.annotations or {})[b"list"] == [1, {b"b": None}]
    assert (raw.annotations or {})[b"x-opt-partition-key"] == b"g"
    assert (raw.delivery_annotations or {})[b"delivery"] == b"annotation"
    assert raw.footer == {b"at the": b"end"}
    assert raw.application_properties == {b"a": 1}


async def test_annotations_of_the_brokers_own_cannot_be_made_up(orders: QueueClient) -> None:
    made_up = {
        "x-opt-sequence-number": 999,
        "x-opt-enqueue-sequence-number": 998,
        "x-opt-message-state": 1,
        "x-opt-deadletter-source": "nowhere",
        "x-opt-enqueued-time": 1,
        "x-opt-locked-until": 1,
    }
    got = await exchange(orders, AmqpAnnotatedMessage(data_body=b"x", annotations=made_up))
    assert got.sequence_number != 999
    assert got.enqueued_sequence_number == 0
    assert (got.state, got.dead_letter_source) == (ServiceBusMessageState.ACTIVE, None)
    assert got.enqueued_time_utc == moment()


# --------------------------------------------------------------------------- what the broker says


async def test_the_broker_numbers_dates_and_locks(orders: QueueClient) -> None:
    before = await exchange(orders, ServiceBusMessage("before"))
    await orders.send("x", time_to_live=timedelta(minutes=5))
    got = await orders.next()
    assert got.sequence_number == (before.sequence_number or 0) + 1
    assert (got.enqueued_sequence_number, got.delivery_count) == (0, 0)
    assert (got.enqueued_time_utc, got.locked_until_utc) == (moment(), moment(60))
    assert (got.time_to_live, got.expires_at_utc) == (timedelta(minutes=5), moment(300))
    assert isinstance(got.lock_token, UUID)
    assert got.lock_token == (got.raw_amqp_message.delivery_annotations or {})[b"x-opt-lock-token"]
    assert got.state is ServiceBusMessageState.ACTIVE
    await orders.receiver.complete_message(got)


async def test_without_a_time_to_live_a_message_shows_that_of_its_queue(orders: QueueClient) -> None:
    got = await exchange(orders, ServiceBusMessage("x"))
    assert (got.time_to_live, got.expires_at_utc) == (timedelta(hours=2), moment(7200))


async def test_fractions_of_milliseconds_are_cut_off(orders: QueueClient) -> None:
    await orders.bus.advance(0.0019)
    got = await exchange(orders, ServiceBusMessage("x"))
    assert got.enqueued_time_utc == moment()


@pytest.mark.parametrize("receive_mode", list(ServiceBusReceiveMode))
async def test_every_delivery_has_a_token_of_its_own_unless_it_is_deleted(
    orders: QueueClient, receive_mode: ServiceBusReceiveMode
) -> None:
    deletes = receive_mode is ServiceBusReceiveMode.RECEIVE_AND_DELETE
    await orders.send("x")
    if not deletes:
        first = await orders.next()
        token = first.lock_token
        await orders.receiver.abandon_message(first)
        again = await orders.next()
        assert again.lock_token not in (None, token)
        await orders.receiver.complete_message(again)
        return
    async with orders.client.get_queue_receiver("orders", receive_mode=receive_mode) as taker:
        got = await orders.next(taker)
    assert (got.lock_token, got.locked_until_utc, got.delivery_count) == (None, None, 0)


# --------------------------------------------------------------------------- sending again


async def test_a_received_message_can_be_sent_again(orders: QueueClient) -> None:
    message = ServiceBusMessage(
        "again",
        application_properties={"n": 1},
        message_id="m",
        session_id="s",
        partition_key="s",
        subject="before",
        correlation_id="c",
        content_type="text/plain",
        time_to_live=timedelta(minutes=1),
    )
    first = await exchange(orders, message)
    first.subject = "after"
    await orders.bus.advance(10)
    second = await exchange(orders, first)
    assert (str(second), second.subject, second.message_id) == ("again", "after", "m")
    assert (second.session_id, second.partition_key, second.correlation_id) == ("s", "s", "c")
    assert (second.content_type, second.time_to_live) == ("text/plain", timedelta(minutes=1))
    assert second.application_properties == {b"n": 1}
    assert (second.sequence_number or 0) > (first.sequence_number or 0)
    assert second.enqueued_time_utc == (first.enqueued_time_utc or NOW) + timedelta(seconds=10)
    assert (second.delivery_count, second.enqueued_sequence_number) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "body"), [("value_body", {"a": 1}), ("sequence_body", [[1, 2], [3]]), ("data_body", [b"a", b"b"])]
)
async def test_every_kind_of_body_can_be_sent_again(orders: QueueClient, kind: str, body: Any) -> None:
    first = await exchange(orders, AmqpAnnotatedMessage(**{kind: body}))
    second = await exchange(orders, first.raw_amqp_message)
    assert second.body_type is first.body_type
    assert (second.body == first.body) if kind == "value_body" else (list(second.body) == list(first.body) == body)


async def test_what_arrived_may_be_sent_in_a_batch_and_scheduled(orders: QueueClient) -> None:
    first = await exchange(orders, ServiceBusMessage("x", message_id="m"))
    await orders.sender.send_messages([first, ServiceBusMessage("y")])
    assert [str(await orders.next()) for _ in range(2)] == ["x", "y"]
    await orders.bus.advance(60)  # both locks end
    [number] = await orders.sender.schedule_messages(first, moment(60))
    [seen] = await orders.receiver.peek_messages(sequence_number=number)
    assert (str(seen), seen.state, seen.message_id) == ("x", ServiceBusMessageState.SCHEDULED, "m")
    await orders.sender.cancel_scheduled_messages(number)
    for _ in range(2):
        await orders.receiver.complete_message(await orders.next())
    assert orders.left == 0
