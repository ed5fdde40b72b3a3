"""The operations of $management, one function each, and the table that says what each is for.

Names, fields and answers are those of Microsoft's list of request-response operations
(learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response);
where that is silent, those the SDKs send and expect. An answer of None means that there was nothing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from servicebus_local.amqp.types import Array, Int, Timestamp, Uuid
from servicebus_local.bus.errors import InvalidArgument, NotAllowed
from servicebus_local.bus.message import read, render, without_body
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.sessions import Session
from servicebus_local.bus.topics import Subscription
from servicebus_local.bus.topology import Right
from servicebus_local.nodes.grants import LISTEN, LISTEN_OR_MANAGE, SEND
from servicebus_local.nodes.request import Request
from servicebus_local.nodes.rules import describe, read_rule

Answer = Mapping[str, Any] | None

_NEVER: Final = 253402300800000  # .NET's DateTime.MaxValue as the SDKs write it: "no date given"
_LONG, _TIMESTAMP, _STRING = 0x81, 0x83, 0xB1
_DELETE_LIMIT: Final = 4000  # messages in one request, as Azure's premium tier has it
_MANY: Final = 2**31 - 1

# --------------------------------------------------------------------------- messages


def renew_lock(queue: Queue, request: Request) -> Answer:
    """Renew message locks: all of them, or the first that is lost ends it."""
    until = [queue.renew(token) for token in request.tokens()]
    return {"expirations": Array(_TIMESTAMP, [int(moment * 1000) for moment in until])}


def peek_message(queue: Queue, request: Request) -> Answer:
    """Show messages without locking them; raises `InvalidArgument`."""
    start, limit = request.get("from-sequence-number", int), request.count("message-count")
    if limit == 0:
        raise InvalidArgument("The field 'message-count' must be at least 1.")
    shown = map(render, queue.peek(start, limit, request.get("session-id", str, None)))
    if request.get("omit-message-body", bool, False):
        shown = map(without_body, shown)
    messages = [{"message": message} for message in shown]
    return {"messages": messages} if messages else None


def schedule_message(entity: MessagingEntity, request: Request) -> Answer:
    """Take messages in now, for later."""
    messages = [read(Request(entry).get("message", bytes)) for entry in request.maps("messages")]
    return {"sequence-numbers": Array(_LONG, entity.send(messages))}


def cancel_scheduled_message(entity: MessagingEntity, request: Request) -> Answer:
    """Forget messages that are not due yet."""
    entity.cancel_scheduled(request.numbers("sequence-numbers"))
    return {}


def receive_by_sequence_number(queue: Queue, request: Request) -> Answer:
    """Receive deferred messages; raises `InvalidArgument` and `MessageNotFound`."""
    mode = request.get("receiver-settle-mode", int)
    if mode not in (0, 1):
        raise InvalidArgument(f"The field 'receiver-settle-mode' must be 0 or 1, it is {mode}.")
    session_id = _held(queue, request).id if queue.options.requires_session else None
    numbers = dict.fromkeys(request.numbers("sequence-numbers"))
    received = queue.receive_deferred(numbers, deletes=mode == 0, session_id=session_id)
    return {
        "messages": [
            {"message": render(message, until, token)} | ({"lock-token": Uuid(token)} if token else {})
            for message, token, until in received
        ]
    }


def update_disposition(queue: Queue, request: Request) -> Answer:
    """Settle messages by their lock tokens."""
    settle = _settlement(queue, request)
    for token in dict.fromkeys(request.tokens()):
        settle(token)
    return {}


def _settlement(queue: Queue, request: Request) -> Callable[[bytes], None]:
    """Return what settles one message; everything about the request is checked before the first is."""
    changes = request.properties("properties-to-modify")
    reason = request.get("deadletter-reason", str, None)
    description = request.get("deadletter-description", str, None)
    match request.get("disposition-status", str):
        case "completed":
            return queue.complete
        case "abandoned":
            return partial(queue.abandon, changes=changes)
        case "defered":  # as the protocol spells it
            return partial(queue.defer, changes=changes)
        case "suspended":
            return partial(queue.dead_letter, reason=reason, description=description, changes=changes)
        case status:
            raise InvalidArgument(f"Unknown disposition status '{status}'.")


def batch_delete_messages(queue: Queue, request: Request) -> Answer:
    """Delete messages that are not locked, oldest first; raises `InvalidArgument`."""
    limit, before = request.count("message-count"), request.get("enqueued-time-utc", int)
    if not 1 <= limit <= _DELETE_LIMIT:
        raise InvalidArgument(f"The field 'message-count' must be between 1 and {_DELETE_LIMIT}, it is {limit}.")
    session_id = _held(queue, request).id if queue.options.requires_session else None
    deleted = queue.delete_oldest(limit, before / 1000, session_id)
    return {"message-count": Int(deleted)} if deleted else None


# --------------------------------------------------------------------------- sessions


def _held(queue: Queue, request: Request) -> Session:
    """Return the session a request is about, which its receiver must hold."""
    if not queue.options.requires_session:
        raise NotAllowed(f"'{queue.name}' does not require sessions, so it has none.")
    return queue.sessions.held(request.get("session-id", str), request.link_name)


def renew_session_lock(queue: Queue, request: Request) -> Answer:
    """Renew the lock on a session."""
    return {"expiration": Timestamp(int(queue.sessions.renew(_held(queue, request)) * 1000))}


def get_session_state(queue: Queue, request: Request) -> Answer:
    """Read what a session remembers."""
    return {"session-state": _held(queue, request).state}


def set_session_state(queue: Queue, request: Request) -> Answer:
    """Write what a session remembers; null forgets it."""
    queue.set_session_state(_held(queue, request), request.get("session-state", bytes, None))
    return {}


def get_message_sessions(queue: Queue, request: Request) -> Answer:
    """List sessions, a page at a time."""
    since = request.get("last-updated-time", int, _NEVER)
    skip, top = request.count("skip", 0), request.get("top", int, _MANY)
    listed = queue.sessions.listed(None if since >= _NEVER else since / 1000)
    page = listed[skip : skip + max(0, top)]
    return {"skip": Int(skip + len(page)), "sessions-ids": Array(_STRING, page)} if page else None


# --------------------------------------------------------------------------- rules


def enumerate_rules(subscription: Subscription, request: Request) -> Answer:
    """List the rules of a subscription by name, a page at a time."""
    skip, top = request.count("skip", 0), request.count("top", _MANY)
    page = subscription.rules_by_name()[skip : skip + top]
    return {"rules": [{"rule-description": describe(rule)} for rule in page]} if page else None


def add_rule(subscription: Subscription, request: Request) -> Answer:
    """Choose by one more rule."""
    subscription.add_rule(read_rule(request.get("rule-name", str), request.get("rule-description", dict)))
    return {}


def remove_rule(subscription: Subscription, request: Request) -> Answer:
    """Choose by a rule less."""
    subscription.remove_rule(request.get("rule-name", str))
    return {}


# --------------------------------------------------------------------------- the table


class Operation(NamedTuple):
    """What runs, on which kind of entity, and which of these rights it takes."""

    run: Callable[[Any, Request], Answer]
    kind: type[MessagingEntity]
    rights: frozenset[Right]
    changes_rules: bool = False


OPERATIONS: Final[dict[str, Operation]] = {
    "com.microsoft:schedule-message": Operation(schedule_message, MessagingEntity, SEND),
    "com.microsoft:cancel-scheduled-message": Operation(cancel_scheduled_message, MessagingEntity, SEND),
    "com.microsoft:peek-message": Operation(peek_message, Queue, LISTEN),
    "com.microsoft:renew-lock": Operation(renew_lock, Queue, LISTEN),
    "com.microsoft:receive-by-sequence-number": Operation(receive_by_sequence_number, Queue, LISTEN),
    "com.microsoft:update-disposition": Operation(update_disposition, Queue, LISTEN),
    "com.microsoft:batch-delete-messages": Operation(batch_delete_messages, Queue, LISTEN),
    "com.microsoft:renew-session-lock": Operation(renew_session_lock, Queue, LISTEN),
    "com.microsoft:get-session-state": Operation(get_session_state, Queue, LISTEN),
    "com.microsoft:set-session-state": Operation(set_session_state, Queue, LISTEN),
    "com.microsoft:get-message-sessions": Operation(get_message_sessions, Queue, LISTEN),
    # The SDKs' rule managers promise that Listen is enough here; only the administration API needs Manage.
    "com.microsoft:enumerate-rules": Operation(enumerate_rules, Subscription, LISTEN_OR_MANAGE),
    "com.microsoft:add-rule": Operation(add_rule, Subscription, LISTEN_OR_MANAGE, changes_rules=True),
    "com.microsoft:remove-rule": Operation(remove_rule, Subscription, LISTEN_OR_MANAGE, changes_rules=True),
}
