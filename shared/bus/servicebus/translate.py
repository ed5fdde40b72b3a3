"""Translates between the SDK and the port: messages both ways, and the SDK's errors into the port's."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from azure.core.exceptions import AzureError
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageBodyType, AmqpMessageProperties
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

T = TypeVar("T")

_NOTHING = AmqpMessageProperties()
_SCHEDULED = "x-opt-scheduled-enqueue-time"
# The SDK writes every integer as AMQP's `int` of 32 bits and fails on others; senders in other languages have longer.
_INTEGERS = range(-(2**31), 2**31)
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
        raise MessageTooLarge(f"{queue}: the message is larger than the broker accepts") from large
    except _REFUSED as refused:
        raise UnknownQueue(
            f"{queue}: the queue does not exist, or we have no right to use it ({_first_line(refused)})"
        ) from refused
    except ServiceBusQuotaExceededError as full:
        raise QueueFull(f"{queue}: the queue is full ({_first_line(full)})") from full
    except (AzureError, OSError, TimeoutError) as unavailable:
        raise BusUnavailable(f"{queue}: {_first_line(unavailable)}") from unavailable
    except ValueError as closed:
        if "shutdown" not in str(closed):
            raise
        # The SDK's word for using a sender or receiver that was shut down.
        raise BusUnavailable(f"{queue}: {_first_line(closed)}") from closed


def to_sdk(message: Outgoing) -> AmqpAnnotatedMessage:
    """Our message as the SDK's: its AMQP form, because setting a field of the other counts all fields first."""
    life = message.time_to_live
    return AmqpAnnotatedMessage(
        data_body=message.body,
        header=None if life is None else {"time_to_live": int(life.total_seconds() * 1000)},
        properties={
            "message_id": message.message_id,
            "subject": message.subject,
            "reply_to": message.reply_to,
            "correlation_id": message.correlation_id,
            "content_type": message.content_type,
            "group_id": message.session_id,
            "reply_to_group_id": message.reply_to_session_id,
        },
        application_properties={name: _sendable(value) for name, value in message.properties.items()},
        annotations=None if message.enqueue_at is None else {_SCHEDULED: message.enqueue_at},
    )


def from_sdk(queue: str, message: ServiceBusReceivedMessage) -> Received:
    """The SDK's message as ours; sections are joined, bytes keys and values decoded."""
    # Read from the AMQP section: each of the message's own attributes counts the section's fields first.
    said = message.raw_amqp_message.properties or _NOTHING
    body, section = _body(message)
    return Received(
        queue=queue,
        body=body,
        section=section,
        subject=_known(said.subject),
        message_id=_known(said.message_id),
        correlation_id=_known(said.correlation_id),
        session_id=_known(said.group_id),
        reply_to=_known(said.reply_to),
        reply_to_session_id=_known(said.reply_to_group_id),
        content_type=_known(said.content_type),
        time_to_live=message.time_to_live,
        enqueued_at=_utc(message.enqueued_time_utc),
        scheduled_for=_utc(_readable(lambda: message.scheduled_enqueue_time_utc)),
        sequence_number=message.sequence_number or 0,
        enqueued_sequence_number=message.enqueued_sequence_number or 0,
        delivery_count=message.delivery_count or 0,
        dead_letter_reason=_readable(lambda: message.dead_letter_reason),
        dead_letter_description=_readable(lambda: message.dead_letter_error_description),
        dead_letter_source=message.dead_letter_source,
        state=message.state.name.lower(),
        properties=dict(_properties(message.application_properties or {})),
    )


def _body(message: ServiceBusReceivedMessage) -> tuple[bytes, str]:
    """The body, and the AMQP section it came in; a value that is text or bytes is as good as data."""
    body: Any = message.body
    match message.body_type:
        case AmqpMessageBodyType.DATA:
            return b"".join(body), "data"
        case AmqpMessageBodyType.VALUE if isinstance(body, bytes):
            return body, "data"
        case AmqpMessageBodyType.VALUE if isinstance(body, str):
            return body.encode("utf-8", "surrogatepass"), "data"
        case kind:
            # A sequence or a typed value is no JSON document; the decode step will say so.
            return repr(body).encode(), kind.value


def _readable(read: Callable[[], T | None]) -> T | None:
    """What the SDK reads from a field that any sender may fill; None for an undecodable text, or the year -29719."""
    try:
        return read()
    except (ValueError, OverflowError):
        return None


def _sendable(value: Property) -> Property:
    return str(value) if isinstance(value, int) and value not in _INTEGERS else value


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
