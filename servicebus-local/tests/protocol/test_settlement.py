"""A message is sent, delivered under a lock, and settled in one of five ways."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
)
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageHeader
from azure.servicebus.exceptions import MessageNotFoundError

from tests.protocol.queue_client import SOON, QueueClient, eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def orders(queue_clients: dict[str, QueueClient]) -> QueueClient:
    return queue_clients["settled"]


async def test_a_message_arrives_as_it_was_sent(orders: QueueClient) -> None:
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
    await orders.sender.send_messages(sent)
    got = await orders.next()
    assert b"".join(got.body) == b"\x00body\xff"
    assert got.application_properties == {
        b"text": "é".encode(),
        b"number": 7,
        b"fraction": 0.5,
        b"yes": True,
    }
    assert (got.message_id, got.correlation_id, got.subject) == ("m-1", "c-1", "ask.v1")
    assert (got.content_type, got.to, got.reply_to) == ("application/json", "there", "answers")
    assert (got.session_id, got.reply_to_session_id, got.partition_key) == ("s-1", "r-1", "s-1")
    assert got.time_to_live == timedelta(minutes=5)
    assert got.state is ServiceBusMessageState.ACTIVE
    assert (got.delivery_count, got.enqueued_sequence_number) == (0, 0)
    await orders.receiver.complete_message(got)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("value_body", {"a": 1, "b": ["x", None]}, {b"a": 1, b"b": [b"x", None]}),
        ("sequence_body", [[1, 2], ["three"]], [[1, 2], [b"three"]]),
    ],
)
async def test_every_kind_of_body_passes_through(orders: QueueClient, kind: str, body: Any, expected: object) -> None:
    message = AmqpAnnotatedMessage(**{kind: body})
    message.header = AmqpMessageHeader(priority=6, durable=True)
    await orders.sender.send_messages(message)
    got = await orders.next()
    arrived = got.raw_amqp_message.body
    assert (arrived if kind == "value_body" else list(arrived)) == expected
    assert got.raw_amqp_message.header is not None
    assert (got.raw_amqp_message.header.priority, got.raw_amqp_message.header.durable) == (6, True)
    await orders.receiver.complete_message(got)


async def test_a_completed_message_is_gone(orders: QueueClient) -> None:
    await orders.send("done")
    await orders.receiver.complete_message(await orders.next())
    assert orders.left == 0


async def test_an_abandoned_message_comes_back_first_with_its_delivery_counted(orders: QueueClient) -> None:
    await orders.send("first", "second")
    await orders.receiver.abandon_message(await orders.next())
    again, second = await orders.next(), await orders.next()
    assert (str(again), again.delivery_count) == ("first", 1)
    assert (str(second), second.delivery_count) == ("second", 0)
    for message in (again, second):
        await orders.receiver.complete_message(message)


async def test_a_locked_message_is_not_delivered_to_another_receiver(orders: QueueClient) -> None:
    await orders.send("mine")
    mine = await orders.next()
    other = await orders.open(orders.client.get_queue_receiver("settled"))
    assert await other.receive_messages(1, max_wait_time=0.05) == []
    await other.close()  # its credit would draw the next test's message
    await orders.receiver.complete_message(mine)


async def test_a_closing_receiver_gives_its_messages_back_uncounted(orders: QueueClient) -> None:
    await orders.send("one", "two", "three")
    async with orders.client.get_queue_receiver("settled", prefetch_count=10) as greedy:
        first = await orders.next(greedy)
        await greedy.complete_message(first)
    for expected in ("two", "three"):
        got = await orders.next()
        assert (str(got), got.delivery_count) == (expected, 0)
        await orders.receiver.complete_message(got)


async def test_a_deferred_message_is_received_only_by_its_number(orders: QueueClient) -> None:
    await orders.send("later", "now")
    later = await orders.next()
    await orders.receiver.defer_message(later)
    now = await orders.next()
    assert str(now) == "now"
    await orders.receiver.complete_message(now)

    [deferred] = await orders.receiver.receive_deferred_messages([later.sequence_number or 0])
    assert (str(deferred), deferred.state) == ("later", ServiceBusMessageState.DEFERRED)
    assert deferred.delivery_count == 1
    await orders.receiver.abandon_message(deferred)
    [again] = await orders.receiver.receive_deferred_messages([later.sequence_number or 0])
    assert again.delivery_count == 2
    await orders.receiver.complete_message(again)
    assert orders.left == 0


async def test_a_deferred_message_that_is_not_there_is_an_error(orders: QueueClient) -> None:
    with pytest.raises(MessageNotFoundError):
        await orders.receiver.receive_deferred_messages([987654])


async def test_receive_and_delete_needs_no_settlement(orders: QueueClient) -> None:
    await orders.send("one", "two")
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    taker = await orders.open(orders.client.get_queue_receiver("settled", receive_mode=mode))
    assert [str(await orders.next(taker)) for _ in range(2)] == ["one", "two"]
    await taker.close()
    assert orders.left == 0


async def test_messages_leave_in_the_order_they_came(orders: QueueClient) -> None:
    await orders.sender.send_messages([ServiceBusMessage(str(number)) for number in range(20)])
    got = [await orders.next() for _ in range(20)]
    assert [str(message) for message in got] == [str(number) for number in range(20)]
    assert [message.sequence_number for message in got] == sorted(message.sequence_number or 0 for message in got)
    await asyncio.gather(*(orders.receiver.complete_message(message) for message in got))
    assert orders.left == 0


async def test_a_waiting_receiver_gets_a_message_the_moment_it_is_sent(orders: QueueClient) -> None:
    waiting = asyncio.create_task(orders.receiver.receive_messages(1, max_wait_time=SOON))
    await eventually(lambda: orders.bus.waiting("settled") > 0)
    await orders.send("here")
    [got] = await waiting
    await orders.receiver.complete_message(got)
    assert str(got) == "here"
