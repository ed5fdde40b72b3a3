"""Poison as the real SDK sends it."""

from collections.abc import Iterable
from typing import Any

from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageHeader, AmqpMessageProperties
from azure.servicebus.exceptions import MessageSizeExceededError

from tests.poison.corpus import SESSION, Poison, Rows, Typed, Value
from tests.poison.internal import Stray


def annotated(poison: Poison) -> AmqpAnnotatedMessage:
    """The message of `poison`, with every section under our control."""
    native = {
        "message_id": poison.message_id,
        "correlation_id": poison.name,
        "subject": "ask.v1",
        "content_type": "application/json",
        "reply_to_group_id": SESSION,
        **poison.native,
    }
    return AmqpAnnotatedMessage(
        header=AmqpMessageHeader(time_to_live=poison.time_to_live),
        properties=AmqpMessageProperties(**native),
        application_properties={name: _typed(value) for name, value in poison.properties.items()},
        annotations={name: _typed(value) for name, value in poison.annotations.items()},
        **_body(poison.body),
    )


def stray(message: Stray) -> AmqpAnnotatedMessage:
    """What one of our own workers would have sent, were it not `message`."""
    return AmqpAnnotatedMessage(
        properties=AmqpMessageProperties(
            message_id=message.message_id, subject=message.subject, content_type="application/json"
        ),
        application_properties={name: _typed(value) for name, value in message.properties.items()},
        data_body=message.body,
    )


async def post(client: ServiceBusClient, queue: str, messages: Iterable[AmqpAnnotatedMessage]) -> None:
    """Send `messages`, as many at once as fit together."""
    async with client.get_queue_sender(queue) as sender:
        batch = await sender.create_message_batch()
        for message in messages:
            try:
                batch.add_message(message)
            except MessageSizeExceededError:
                await sender.send_messages(batch)
                batch = await sender.create_message_batch()
                await sender.send_messages(message)
        await sender.send_messages(batch)


def _body(body: bytes | Value | Rows) -> dict[str, Any]:
    match body:
        case Value(value=value):
            return {"value_body": value}
        case Rows(rows=rows):
            return {"sequence_body": rows}
        case _:
            return {"data_body": body}


def _typed(value: Any) -> Any:
    # How the SDK notes a type itself, before it encodes.
    return {"TYPE": value.type, "VALUE": value.value} if isinstance(value, Typed) else value
