"""Walks azure-servicebus over a broker, async or sync, and prints one JSON line per step: [step, result].

Runs under the version that is installed beside its interpreter:

    python sdk_walk.py async|sync <connection string>

The administration clients are left out: before 7.15 they take no transport, so they cannot speak plain HTTP.
"""

import asyncio
import inspect
import json
import sys
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import azure.servicebus
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue
from azure.servicebus.exceptions import MessageLockLostError, MessageSizeExceededError

SOON = 60.0  # a guard, not a measure


def tell(step: str, result: Any) -> None:
    print(json.dumps([step, result]), flush=True)  # noqa: T201


async def done(result: Any) -> Any:
    """Take the result of a call of either client."""
    return await result if inspect.isawaitable(result) else result


async def queue(client: Any) -> None:
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    await done(sender.send_messages(ServiceBusMessage("first", message_id="m1", application_properties={"x": 1})))
    batch = await done(sender.create_message_batch())
    for number in range(3):
        batch.add_message(ServiceBusMessage(f"b{number}"))
    await done(sender.send_messages(batch))
    tell("peek", [str(each) for each in await done(receiver.peek_messages(10))])

    held: list[Any] = []
    while len(held) < 4:
        held += await done(receiver.receive_messages(4 - len(held), max_wait_time=SOON))
    first, again, later, dead = held
    tell("receive", [str(first), first.message_id, first.sequence_number, first.application_properties[b"x"]])
    tell("renew", await done(receiver.renew_message_lock(first)) > datetime.now(UTC))
    await done(receiver.complete_message(first))
    await done(receiver.abandon_message(again))
    [again] = await done(receiver.receive_messages(1, max_wait_time=SOON))
    tell("abandon", [str(again), again.delivery_count])
    await done(receiver.complete_message(again))
    await done(receiver.defer_message(later))
    [later] = await done(receiver.receive_deferred_messages([later.sequence_number]))
    await done(receiver.complete_message(later))
    tell("defer", str(later))
    await done(receiver.dead_letter_message(dead, reason="r", error_description="d"))
    dead_letters = client.get_queue_receiver("orders", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    [dead] = await done(dead_letters.receive_messages(1, max_wait_time=SOON))
    tell("dead letter", [str(dead), dead.dead_letter_reason, dead.dead_letter_error_description])
    await done(dead_letters.complete_message(dead))

    large = ServiceBusMessage("x" * 150_000)  # many frames, both ways
    await done(sender.send_messages(large))
    [large] = await done(receiver.receive_messages(1, max_wait_time=SOON))
    tell("large", len(str(large)))
    await done(receiver.complete_message(large))
    tell("nothing there", await done(receiver.receive_messages(1, max_wait_time=0.5)))

    tomorrow = datetime.now(UTC) + timedelta(days=1)
    numbers = await done(sender.schedule_messages([ServiceBusMessage("a"), ServiceBusMessage("b")], tomorrow))
    await done(sender.cancel_scheduled_messages(numbers[:1]))
    tell("schedule", [(str(each), each.state.name) for each in await done(receiver.peek_messages(5))])
    await done(sender.cancel_scheduled_messages(numbers[1:]))
    for each in (dead_letters, sender, receiver):
        await done(each.close())


async def sessions(client: Any) -> None:
    sender = client.get_queue_sender("talks")
    await done(sender.send_messages([ServiceBusMessage(body, session_id="s1") for body in "ab"]))
    receiver = client.get_queue_receiver("talks", session_id="s1")
    heard: list[Any] = []
    while len(heard) < 2:
        heard += await done(receiver.receive_messages(2, max_wait_time=SOON))
    await done(receiver.session.set_state("half way"))
    state = await done(receiver.session.get_state())
    await done(receiver.session.renew_lock())
    for each in heard:
        await done(receiver.complete_message(each))
    tell("session", [receiver.session.session_id, [str(each) for each in heard], state.decode()])
    await done(receiver.close())
    await done(sender.close())


async def topic(client: Any) -> None:
    sender, receiver = client.get_topic_sender("news"), client.get_subscription_receiver("news", "all")
    await done(sender.send_messages(ServiceBusMessage("news")))
    [news] = await done(receiver.receive_messages(1, max_wait_time=SOON))
    await done(receiver.complete_message(news))
    tell("topic", str(news))
    await done(receiver.close())
    await done(sender.close())


async def refusals(client: Any) -> None:
    sender, receiver = client.get_queue_sender("brief"), client.get_queue_receiver("brief")
    try:
        await done(sender.send_messages(ServiceBusMessage("x" * 300_000)))
    except MessageSizeExceededError as error:
        tell("refused", type(error).__name__)
    await done(sender.send_messages(ServiceBusMessage("late")))
    [late] = await done(receiver.receive_messages(1, max_wait_time=SOON))
    while late.locked_until_utc > datetime.now(UTC):
        await asyncio.sleep(0.05)
    try:
        await done(receiver.complete_message(late))
    except MessageLockLostError as error:
        tell("lock lost", type(error).__name__)
    await done(receiver.close())
    await done(sender.close())


async def main(kind: str, connection_string: str) -> None:
    tell("version", azure.servicebus.__version__)
    clients = import_module("azure.servicebus.aio" if kind == "async" else "azure.servicebus")
    client = clients.ServiceBusClient.from_connection_string(connection_string, retry_total=0)
    await queue(client)
    await sessions(client)
    await topic(client)
    await refusals(client)
    await done(client.close())
    tell("close", None)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
