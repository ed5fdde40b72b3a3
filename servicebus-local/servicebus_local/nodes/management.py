"""$management: requests about an entity, answered one by one (`servicebus_local.nodes.operations`).

    request   application properties: operation, associated-link-name; body: a map
    answer    application properties: statusCode, statusDescription, errorCondition; body: a map

A request that asks for nothing that is there gets 204, a refusal its own status. Nothing here
waits, so the server's time-out that a request may name never strikes.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from servicebus_local.amqp.composites import Accepted, Outcome, Rejected
from servicebus_local.amqp.events import MessageArrived
from servicebus_local.amqp.types import NULL, DecodeError, Int, Symbol
from servicebus_local.bus.errors import (
    BusError,
    EntityNotFound,
    InvalidArgument,
    NotAllowed,
    NotImplementedHere,
    TooLarge,
)
from servicebus_local.bus.message import read_body, reply
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topics import Subscription
from servicebus_local.bus.topology import Right
from servicebus_local.nodes.node import Node, error_of
from servicebus_local.nodes.operations import OPERATIONS, Answer
from servicebus_local.nodes.request import Request

LARGEST_REQUEST: Final = 4 * 1024 * 1024
"""What a link takes: a client that is refused by its outcome uses the link no more, one that gets an answer does."""
_LISTS_SESSIONS: Final = "com.microsoft:get-message-sessions"
_SESSION_NOT_FOUND: Final = "com.microsoft:session-not-found"


class ManagementNode(Node):
    """Answers the requests about one entity."""

    def __init__(
        self,
        namespace: Namespace,
        entity: MessagingEntity,
        require: Callable[[Collection[Right]], None],
        answer: Callable[[bytes, str | None], None],
    ) -> None:
        """Take the entity, a function that refuses unless one of the rights is granted, and the way back."""
        self._namespace = namespace
        self._entity = entity
        self._require = require
        self._answer = answer

    def on_message(self, event: MessageArrived) -> None:
        """Run the operation and answer it; what is not a message is rejected."""
        outcome: Outcome = Accepted()
        try:
            properties, application, body = read_body(event.payload)
        except DecodeError as error:
            outcome = Rejected(error_of(InvalidArgument(f"The request cannot be read: {error}.")))
        if not event.settled:
            event.link.settle(event.delivery_id, outcome)
        if isinstance(outcome, Accepted):
            self._on_request(event, properties, application, body)

    def _on_request(
        self, event: MessageArrived, properties: Mapping[str, Any], application: Mapping[str, Any], body: Any
    ) -> None:
        name, value = str(application.get("operation")), None
        try:
            size, limit = len(event.payload), event.link.connection.limits.message
            if size > limit:
                raise TooLarge(f"the request has {size} bytes, the limit is {limit}")
            value = self._run(name, Request(body, application.get("associated-link-name")))
        except BusError as refusal:
            outcome = _status(refusal.status, refusal.description, refusal.condition)
        except (DecodeError, TypeError) as error:
            wrong = InvalidArgument(f"The request cannot be read: {error}.")
            outcome = _status(wrong.status, wrong.description, wrong.condition)
        else:
            if value is not None:
                outcome = _status(200, "OK")
            else:
                outcome = _status(204, "No content", _SESSION_NOT_FOUND if name == _LISTS_SESSIONS else None)
        self._answer(reply(properties.get("message-id", NULL), outcome, value), properties.get("reply-to"))

    def _run(self, name: str, request: Request) -> Answer:
        operation = OPERATIONS.get(name)
        if operation is None:
            raise NotImplementedHere(f"There is no operation '{name}'.")
        self._require(operation.rights)
        if self._entity.deleted:
            raise EntityNotFound(f"The messaging entity '{self._entity.name}' could not be found.")
        if not isinstance(self._entity, operation.kind):
            raise NotAllowed(f"The operation '{name}' is not possible on '{self._entity.name}'.")
        if not operation.changes_rules:
            return operation.run(self._entity, request)
        assert isinstance(self._entity, Subscription)

        def change(subscription: Subscription) -> None:
            operation.run(subscription, request)

        self._namespace.change_rules(self._entity, change)
        return {}


def _status(code: int, description: str, condition: str | None = None) -> dict[str, Any]:
    outcome = {"statusCode": Int(code), "statusDescription": description}
    return outcome if condition is None else outcome | {"errorCondition": Symbol(condition)}
