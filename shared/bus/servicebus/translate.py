"""Between the SDK's words and ours: messages both ways, and its errors into the port's."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpMessageBodyType
from azure.servicebus.exceptions import (
    MessageAlreadySettled,
    MessageLockLostError,
    MessageNotFoundError,
    MessageSizeExceededError,
    MessagingEntityDisabledError,
    MessagingEntityNotFoundError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
    ServiceBusQuotaExceededError,
    SessionLockLostError,
)

from shared.bus.port import (
    BusUnavailable,
    LockLost,
    MessageTooLarge,
    Outgoing,
    Property,
    QueueFull,
    Received,
    UnknownQueue,
)

_LOST = (MessageLockLostError, SessionLockLostError, MessageAlreadySettled, MessageNotFoundError)
# With the emulator's connection string an unknown entity comes back as a failed authentication (CBS 404).
_REFUSED = (
    MessagingEntityNotFoundError,
    MessagingEntityDisabledError,
    ServiceBusAuthenticationError,
    ServiceBusAuthorizationError,
)


@contextmanager
def translated(queue: str) -> Iterator[None]:
    """Raise the port's errors for the SDK's."""
    try:
        yield
    except _LOST as lost:
        raise LockLost(str(lost)) from lost
    except MessageSizeExceededError as large:
        raise MessageTooLarge(f"{queue}: the message is larger than the broker takes") from large
    except _REFUSED as refused:
        raise UnknownQueue(f"{queue}: no such queue, or no right to use it ({_first_line(refused)})") from refused
    except ServiceBusQuotaExceededError as full:
        raise QueueFull(f"{queue}: the queue is full ({_first_line(full)})") from full
    except (AzureError, OSError, TimeoutError) as away:
        raise BusUnavailable(f"{queue}: {_first_line(away)}") from away
    except ValueError as closed:
        if "shutdown" not in str(closed):
            raise
        # The SDK's word for using a sender or receiver that was shut down.
        raise BusUnavailable(f"{queue}: {_first_line(closed)}") from closed


def to_sdk(message: Outgoing) -> ServiceBusMessage:
    """Our message as the SDK's."""
    return ServiceBusMessage(
        message.body,
        application_properties=dict(message.properties.items()),
        session_id=message.session_id,
        message_id=message.message_id,
        scheduled_enqueue_time_utc=message.enqueue_at,
        time_to_live=message.time_to_live,
        content_type=message.content_type,
        correlation_id=message.correlation_id,
        subject=message.subject,
        reply_to=message.reply_to,
        reply_to_session_id=message.reply_to_session_id,
    )


def from_sdk(queue: str, message: ServiceBusReceivedMessage) -> Received:
    """The SDK's message as ours; sections are joined, bytes keys and values decoded."""
    return Received(
        queue=queue,
        body=_body(message),
        subject=_known(message.subject),
        message_id=_known(message.message_id),
        correlation_id=_known(message.correlation_id),
        session_id=_known(message.session_id),
        reply_to=_known(message.reply_to),
        reply_to_session_id=_known(message.reply_to_session_id),
        content_type=_known(message.content_type),
        time_to_live=message.time_to_live,
        enqueued_at=_utc(message.enqueued_time_utc),
        scheduled_for=_utc(message.scheduled_enqueue_time_utc),
        sequence_number=message.sequence_number or 0,
        delivery_count=message.delivery_count or 0,
        dead_letter_reason=message.dead_letter_reason,
        dead_letter_description=message.dead_letter_error_description,
        dead_letter_source=message.dead_letter_source,
        state=message.state.name.lower(),
        properties=dict(_properties(message.application_properties or {})),
    )


def _body(message: ServiceBusReceivedMessage) -> bytes:
    body: Any = message.body
    match message.body_type:
        case AmqpMessageBodyType.DATA:
            return b"".join(body)
        case AmqpMessageBodyType.VALUE if isinstance(body, bytes):
            return body
        case AmqpMessageBodyType.VALUE if isinstance(body, str):
            return body.encode("utf-8", "surrogatepass")
        case _:
            # A sequence or a typed value is no JSON document; the decode step will say so.
            return repr(body).encode()


def _properties(raw: Mapping[Any, Any]) -> Iterable[tuple[str, Property]]:
    for key, value in raw.items():
        yield _text(key), value if isinstance(value, int | float | bool) else _text(value)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _known(value: Any) -> str | None:
    # AMQP allows ids that are UUIDs, numbers or bytes, and the SDK hands them over as they came.
    return None if value is None else _text(value)


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
