"""$management: what the SDK asks there, and by hand what only the SDKs of other languages ask."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusError

from servicebus_local.amqp.types import Int, Timestamp, Uint, Uuid
from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.peer import Answer, Socket
from tests.protocol.queue_client import SOON, client_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "sbemulatorns",
                "Queues": [{"Name": "orders"}, {"Name": "answers", "Properties": {"RequiresSession": True}}],
                "Topics": [{"Name": "news", "Subscriptions": [{"Name": "all"}, {"Name": "some"}]}],
            }
        ],
        "Logging": {"Type": "Console"},
    }
}


class Handlers:
    """A bus, the SDK open on it, and a client by hand."""

    def __init__(self, bus: LocalBus, client: ServiceBusClient, socket: Socket) -> None:
        self.bus = bus
        self.client = client
        self.orders: ServiceBusSender = client.get_queue_sender("orders")
        self.receiver: ServiceBusReceiver = client.get_queue_receiver("orders")
        self.dead_letters: ServiceBusReceiver = client.get_queue_receiver(
            "orders", sub_queue=ServiceBusSubQueue.DEAD_LETTER
        )
        self.news: ServiceBusSender = client.get_topic_sender("news")
        self.all: ServiceBusReceiver = client.get_subscription_receiver("news", "all")
        self.some: ServiceBusReceiver = client.get_subscription_receiver(
            "news", "some", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
        )
        self._socket = socket
        self._links: dict[str, tuple[int, str]] = {}

    @property
    def handlers(self) -> list[ServiceBusSender | ServiceBusReceiver]:
        """Everything the SDK has open."""
        return [self.orders, self.receiver, self.dead_letters, self.news, self.all, self.some]

    async def ask(self, path: str, operation: str, body: Any, **properties: Any) -> Answer:
        """Ask by hand."""
        if path not in self._links:
            address = f"amqps://127.0.0.1/{path}/$management"
            self._links[path] = (
                self._socket.peer.send_to(address),
                self._socket.peer.receive_from(address, reply_to=path),
            )
        handle, answers = self._links[path]
        self._socket.peer.request(handle, f"com.microsoft:{operation}", body, reply_to=path, **properties)
        return await self._socket.answer(answers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def handlers() -> AsyncIterator[Handlers]:
    async with LocalBus(CONFIG, clock=ManualClock()) as bus, client_of(bus) as client:
        socket = await Socket.connect(bus.port, plain=("RootManageSharedAccessKey", "local"))
        handlers = Handlers(bus, client, socket)
        await asyncio.gather(*(handler.__aenter__() for handler in handlers.handlers))
        yield handlers
        await asyncio.gather(*(handler.close() for handler in handlers.handlers))
        await socket.close()


async def clear(receiver: ServiceBusReceiver) -> None:
    """Complete whatever is there."""
    while await receiver.peek_messages(sequence_number=1):
        [message] = await receiver.receive_messages(1, max_wait_time=SOON)
        await receiver.complete_message(message)


# --------------------------------------------------------------------------- by the SDK


async def test_a_message_that_was_deferred_in_a_subscription_is_fetched_and_settled(handlers: Handlers) -> None:
    await handlers.news.send_messages(ServiceBusMessage("x"))
    [message] = await handlers.all.receive_messages(1, max_wait_time=SOON)
    await handlers.all.defer_message(message)
    [seen] = await handlers.all.peek_messages(sequence_number=1)
    assert seen.state is ServiceBusMessageState.DEFERRED
    assert message.sequence_number is not None
    [again] = await handlers.all.receive_deferred_messages(message.sequence_number)
    assert await handlers.all.renew_message_lock(again) is not None
    await handlers.all.complete_message(again)
    assert handlers.bus.counts("news/Subscriptions/all").active == 0


async def test_the_dead_letters_have_a_management_of_their_own(handlers: Handlers) -> None:
    await handlers.orders.send_messages(ServiceBusMessage("x"))
    [message] = await handlers.receiver.receive_messages(1, max_wait_time=SOON)
    await handlers.receiver.dead_letter_message(message, reason="r")
    assert await handlers.receiver.peek_messages(sequence_number=1) == []
    [seen] = await handlers.dead_letters.peek_messages()
    assert seen.dead_letter_reason == "r"
    [dead] = await handlers.dead_letters.receive_messages(1, max_wait_time=SOON)
    await handlers.dead_letters.renew_message_lock(dead)
    await handlers.dead_letters.complete_message(dead)


async def test_a_topic_schedules_and_cancels(handlers: Handlers) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    numbers = await handlers.news.schedule_messages([ServiceBusMessage("a"), ServiceBusMessage("b")], later)
    assert handlers.bus.counts("news").scheduled == 2
    await handlers.news.cancel_scheduled_messages(numbers)
    assert handlers.bus.counts("news").scheduled == 0
    with pytest.raises(ServiceBusError, match="message-not-found"):
        await handlers.news.cancel_scheduled_messages(numbers)


async def test_a_lock_that_is_over_cannot_be_renewed(handlers: Handlers) -> None:
    await handlers.orders.send_messages(ServiceBusMessage("x"))
    [message] = await handlers.receiver.receive_messages(1, max_wait_time=SOON)
    assert isinstance(message.lock_token, UUID)
    await handlers.bus.advance(61)
    answer = await handlers.ask("orders", "renew-lock", {"lock-tokens": [Uuid(message.lock_token.bytes)]})
    assert (answer.status, answer.condition) == (410, "com.microsoft:message-lock-lost")
    with pytest.raises(MessageLockLostError):
        await handlers.receiver.renew_message_lock(message)
    await clear(handlers.receiver)


async def test_sessions_are_listed(handlers: Handlers) -> None:
    async with handlers.client.get_queue_sender("answers") as sender:
        await sender.send_messages([ServiceBusMessage("x", session_id=name) for name in ("b", "a", "é" * 100)])
    listed = [name async for name in handlers.client.list_queue_sessions("answers")]
    assert sorted(listed) == ["a", "b", "é" * 100]


# --------------------------------------------------------------------------- by hand


async def test_rules_are_added_listed_and_removed_and_count_at_once(handlers: Handlers) -> None:
    path = "news/Subscriptions/some"
    await handlers.ask(
        path, "batch-delete-messages", {"message-count": Int(9), "enqueued-time-utc": Timestamp(1 << 50)}
    )
    description = {"sql-filter": {"expression": "kind = 'a'"}, "sql-rule-action": {"expression": "SET seen = 1"}}
    assert (await handlers.ask(path, "add-rule", {"rule-name": "mine", "rule-description": description})).status == 200
    assert (await handlers.ask(path, "remove-rule", {"rule-name": "$Default"})).status == 200
    rules = await handlers.ask(path, "enumerate-rules", {"top": Int(100), "skip": Int(0)})
    [entry] = rules.value["rules"]
    assert entry["rule-description"].value[2] == "mine"
    messages = [ServiceBusMessage(kind, application_properties={"kind": kind}) for kind in ("b", "a")]
    await handlers.news.send_messages(messages)
    [chosen] = await handlers.some.receive_messages(1, max_wait_time=SOON)
    assert str(chosen) == "a"
    assert (chosen.application_properties or {})[b"seen"] == 1
    assert handlers.bus.counts(path).active == 0
    await clear(handlers.all)


@pytest.mark.parametrize(
    ("operation", "body", "status", "condition"),
    [
        ("remove-rule", {"rule-name": "none"}, 404, "amqp:not-found"),
        ("add-rule", {"rule-name": "bad", "rule-description": {}}, 400, "com.microsoft:argument-error"),
        ("add-rule", {"rule-name": "bad"}, 400, "com.microsoft:argument-error"),
        ("enumerate-rules", {"top": Int(1), "skip": Int(99)}, 204, None),
        ("peek-message", {"from-sequence-number": 0}, 400, "com.microsoft:argument-error"),
        ("fly", {}, 501, "amqp:not-implemented"),
        ("peek-message", "no map", 400, "com.microsoft:argument-error"),
    ],
)
async def test_refusals_have_a_status_a_condition_and_a_sentence(
    handlers: Handlers, operation: str, body: Any, status: int, condition: str | None
) -> None:
    answer = await handlers.ask("news/Subscriptions/all", operation, body)
    assert (answer.status, answer.condition) == (status, condition)
    assert answer.description


async def test_messages_are_deleted_without_being_received(handlers: Handlers) -> None:
    await handlers.orders.send_messages([ServiceBusMessage(str(number)) for number in range(5)])
    body = {"message-count": Int(3), "enqueued-time-utc": Timestamp(1 << 50)}
    assert (await handlers.ask("orders", "batch-delete-messages", body)).value == {"message-count": 3}
    assert [str(message) for message in await handlers.receiver.peek_messages(9, sequence_number=1)] == ["3", "4"]
    assert (await handlers.ask("orders", "batch-delete-messages", body)).value == {"message-count": 2}
    assert (await handlers.ask("orders", "batch-delete-messages", body)).status == 204


async def test_messages_are_shown_without_their_bodies(handlers: Handlers) -> None:
    await handlers.orders.send_messages(ServiceBusMessage("x" * 1000))
    body = {"from-sequence-number": 0, "message-count": Int(1), "omit-message-body": True}
    [entry] = (await handlers.ask("orders", "peek-message", body)).value["messages"]
    assert b"x-opt-sequence-number" in entry["message"]
    assert b"xxx" not in entry["message"]
    await clear(handlers.receiver)


async def test_deferred_messages_can_be_taken_for_good(handlers: Handlers) -> None:
    await handlers.orders.send_messages(ServiceBusMessage("x"))
    [message] = await handlers.receiver.receive_messages(1, max_wait_time=SOON)
    await handlers.receiver.defer_message(message)
    body = {"sequence-numbers": [message.sequence_number], "receiver-settle-mode": Uint(0)}
    [entry] = (await handlers.ask("orders", "receive-by-sequence-number", body)).value["messages"]
    assert b"x-opt-locked-until" not in entry["message"]
    answer = await handlers.ask("orders", "receive-by-sequence-number", body)
    assert (answer.status, answer.condition) == (404, "com.microsoft:message-not-found")
