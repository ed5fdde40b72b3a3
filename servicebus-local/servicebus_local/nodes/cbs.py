"""$cbs: claims-based security, where a client shows its tokens before it attaches links.

    request   application properties: operation=put-token, name, type, expiration; body: the token
    answer    application properties: status-code, status-description

The token is a shared access signature (`servicebus_local.bus.access`), and `type` is not looked at: the
Python SDK announces `jwt` even then, and every SDK reads the answer in this spelling
(learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-protocol-guide, "Claims-based authorization").
"""

from collections.abc import Callable, Mapping
from typing import Any

from servicebus_local.amqp.composites import Accepted, Outcome, Rejected
from servicebus_local.amqp.events import MessageArrived
from servicebus_local.amqp.types import NULL, DecodeError, Int
from servicebus_local.bus.access import Access, Keys
from servicebus_local.bus.errors import BusError, InvalidArgument, NotImplementedHere
from servicebus_local.bus.message import read_body, reply
from servicebus_local.nodes.addresses import read_address
from servicebus_local.nodes.node import Node, error_of


class CbsNode(Node):
    """Answers put-token, and tells the connection what it opened."""

    def __init__(
        self,
        keys: Keys,
        exists: Callable[[str], object],
        grant: Callable[[Access], None],
        answer: Callable[[bytes, str | None], None],
    ) -> None:
        self._keys = keys
        self._exists = exists
        self._grant = grant
        self._answer = answer

    def on_message(self, event: MessageArrived) -> None:
        """Check the token and the entity it is for."""
        outcome: Outcome = Accepted()
        try:
            properties, application, token = read_body(event.payload)
        except DecodeError as error:
            outcome = Rejected(error_of(InvalidArgument(f"The request cannot be read: {error}.")))
        if not event.settled:
            event.link.settle(event.delivery_id, outcome)
        if not isinstance(outcome, Accepted):
            return
        status, description = 202, "Accepted"
        try:
            self._put_token(application, token)
        except BusError as refusal:
            status, description = refusal.status, refusal.description
        answer = {"status-code": Int(status), "status-description": description}
        self._answer(reply(properties.get("message-id", NULL), answer, None), properties.get("reply-to"))

    def _put_token(self, application: Mapping[str, Any], token: Any) -> None:
        """Azure, too, asks first whether the client may be here, and then whether there is such an entity."""
        if application.get("operation") != "put-token":
            raise NotImplementedHere(f"The operation '{application.get('operation')}' is not there for '$cbs'.")
        name = application.get("name")
        if not isinstance(name, str):
            raise InvalidArgument("The application property 'name' is missing: it says what the token is for.")
        if isinstance(token, bytes):  # as some clients send it
            token = token.decode(errors="replace")
        if not isinstance(token, str):
            raise InvalidArgument("The body of a put-token request must be the token, a string.")
        path = read_address(name).path
        access = self._keys.check(token, path)
        if path:
            self._exists(path)
        self._grant(access)
