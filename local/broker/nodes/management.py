"""$management: requests about an entity, one row per operation in `OPERATIONS`.

    request   application properties: operation, associated-link-name; body: a map
    answer    application properties: statusCode, statusDescription, errorCondition; body: a map

A request that asks for nothing that is there gets 204, a refusal its own status.
"""

from collections.abc import Callable, Mapping
from typing import Any

from local.broker.amqp.endpoint import MessageArrived
from local.broker.amqp.frames import Accepted
from local.broker.amqp.types import Array, DecodeError, Int, Symbol, Timestamp, Uuid
from local.broker.bus.errors import BusError, InvalidArgument, NotImplementedHere
from local.broker.bus.message import read, read_body, render, reply
from local.broker.bus.queue import Queue
from local.broker.nodes.node import Node

_NEVER = 253402300800000  # .NET's DateTime.MaxValue as the SDKs write it: "no date given"
_LONG, _TIMESTAMP = 0x81, 0x83


class Request:
    """What was asked, with the checks every operation needs."""

    def __init__(self, body: Any, link_name: str | None) -> None:
        if not isinstance(body, dict):
            raise InvalidArgument("The body of a management request must be a map.")
        self.body: Mapping[str, Any] = body
        self.link_name = link_name

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """Return a field of the body, of this kind; without a default it must be there."""
        value = self.body.get(name)
        if value is None and default is not ...:
            return default
        if not isinstance(value, kind):
            raise InvalidArgument(f"The field '{name}' is missing or of the wrong type.")
        return value


Answer = Mapping[str, Any] | None
Operation = Callable[[Queue, Request], Answer]


def renew_lock(queue: Queue, request: Request) -> Answer:
    """Renew message locks: all of them, or the first that is lost ends it."""
    until = [queue.renew(bytes(token)) for token in request.get("lock-tokens", list)]
    return {"expirations": Array(_TIMESTAMP, [int(moment * 1000) for moment in until])}


def peek_message(queue: Queue, request: Request) -> Answer:
    """Show messages without locking them."""
    found = queue.peek(
        request.get("from-sequence-number", int),
        request.get("message-count", int),
        request.get("session-id", str, None),
    )
    return {"messages": [{"message": render(message)} for message in found]} if found else None


def schedule_message(queue: Queue, request: Request) -> Answer:
    """Take messages in now, for later."""
    messages = [read(bytes(entry["message"])) for entry in request.get("messages", list)]
    return {"sequence-numbers": Array(_LONG, queue.send(messages))}


def cancel_scheduled_message(queue: Queue, request: Request) -> Answer:
    """Forget messages that are not due yet."""
    for sequence in request.get("sequence-numbers", list):
        queue.cancel_scheduled(sequence)
    return {}


def receive_by_sequence_number(queue: Queue, request: Request) -> Answer:
    """Receive deferred messages."""
    received = queue.receive_deferred(
        request.get("sequence-numbers", list),
        deletes=request.get("receiver-settle-mode", int) == 0,
        session_id=request.get("session-id", str, None),
    )
    return {
        "messages": [
            {"message": render(message, until, token)} | ({"lock-token": Uuid(token)} if token else {})
            for message, token, until in received
        ]
    }


def update_disposition(queue: Queue, request: Request) -> Answer:
    """Settle messages by their lock tokens."""
    status = request.get("disposition-status", str)
    for token in map(bytes, request.get("lock-tokens", list)):
        _settle(queue, status, token, request)
    return {}


def _settle(queue: Queue, status: str, token: bytes, request: Request) -> None:
    changes = request.get("properties-to-modify", dict, None)
    match status:
        case "completed":
            queue.complete(token)
        case "abandoned":
            queue.abandon(token, changes)
        case "defered":  # as the protocol spells it
            queue.defer(token, changes)
        case "suspended":
            reason = request.get("deadletter-reason", str, None)
            queue.dead_letter(token, reason, request.get("deadletter-description", str, None), changes)
        case _:
            raise InvalidArgument(f"Unknown disposition status '{status}'.")


def renew_session_lock(queue: Queue, request: Request) -> Answer:
    """Renew the lock on a session."""
    session = queue.sessions.held(request.get("session-id", str), request.link_name)
    return {"expiration": Timestamp(int(queue.sessions.renew(session) * 1000))}


def get_session_state(queue: Queue, request: Request) -> Answer:
    """Read what a session remembers."""
    return {"session-state": queue.sessions.held(request.get("session-id", str), request.link_name).state}


def set_session_state(queue: Queue, request: Request) -> Answer:
    """Write what a session remembers; null forgets it."""
    session = queue.sessions.held(request.get("session-id", str), request.link_name)
    queue.set_session_state(session, request.get("session-state", bytes, None))
    return {}


def get_message_sessions(queue: Queue, request: Request) -> Answer:
    """List sessions, a page at a time."""
    since = request.get("last-updated-time", int, _NEVER)
    skip, top = request.get("skip", int, 0), request.get("top", int, 100)
    listed = queue.sessions.listed(None if since >= _NEVER else since / 1000)
    page = listed[skip : skip + top]
    return {"skip": Int(skip + len(page)), "sessions-ids": page} if page else None


OPERATIONS: dict[str, Operation] = {
    "com.microsoft:renew-lock": renew_lock,
    "com.microsoft:peek-message": peek_message,
    "com.microsoft:schedule-message": schedule_message,
    "com.microsoft:cancel-scheduled-message": cancel_scheduled_message,
    "com.microsoft:receive-by-sequence-number": receive_by_sequence_number,
    "com.microsoft:update-disposition": update_disposition,
    "com.microsoft:renew-session-lock": renew_session_lock,
    "com.microsoft:get-session-state": get_session_state,
    "com.microsoft:set-session-state": set_session_state,
    "com.microsoft:get-message-sessions": get_message_sessions,
}


class ManagementNode(Node):
    """Answers the requests about one queue."""

    def __init__(self, queue: Queue, answer: Callable[[bytes, str | None], None]) -> None:
        self._queue = queue
        self._answer = answer

    def on_message(self, event: MessageArrived) -> None:
        """Run the operation and answer it."""
        event.link.settle(event.delivery_id, Accepted())
        properties, application, body = read_body(event.payload)
        try:
            value = self._run(application, body)
        except BusError as refusal:
            outcome = _status(refusal.status, refusal.description, refusal.condition)
            value = None
        else:
            outcome = _status(200, "OK") if value is not None else _status(204, "No content")
        answer = reply(properties.get("message-id", b"\x40"), outcome, value)
        self._answer(answer, properties.get("reply-to"))

    def _run(self, application: Mapping[str, Any], body: Any) -> Answer:
        name = application.get("operation")
        operation = OPERATIONS.get(str(name))
        if operation is None:
            raise NotImplementedHere(f"The operation {name!r} is not there.")
        try:
            return operation(self._queue, Request(body, application.get("associated-link-name")))
        except (DecodeError, KeyError, TypeError) as error:
            raise InvalidArgument(f"The request cannot be read: {error}.") from error


def _status(code: int, description: str, condition: str | None = None) -> dict[str, Any]:
    outcome = {"statusCode": Int(code), "statusDescription": description}
    return outcome if condition is None else outcome | {"errorCondition": Symbol(condition)}
