"""$cbs: claims-based security, where a client shows its token before it attaches links.

A shared access signature is `SharedAccessSignature sr=…&sig=…&se=…&skn=…`: the resource, an
HMAC of resource and expiry, the expiry, and the name of the key. The type the SDK announces
is `jwt` even then, so the type is not looked at.
"""

import hmac
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote

from local.broker.amqp.endpoint import MessageArrived
from local.broker.amqp.frames import Accepted
from local.broker.amqp.types import DecodeError, Int
from local.broker.bus.clock import Clock
from local.broker.bus.errors import BusError, InvalidArgument, Unauthorized
from local.broker.bus.message import read_body, reply
from local.broker.nodes.addresses import read_address
from local.broker.nodes.node import Node

_PREFIX = "SharedAccessSignature "


class Keys:
    """The shared access keys of the namespace, by policy name."""

    def __init__(self, keys: Mapping[str, Sequence[str]], wall_clock: Clock) -> None:
        self._keys = keys
        self._wall_clock = wall_clock  # tokens are dated by the client, in real time

    def check(self, token: str) -> None:
        """Refuse a token that none of the keys made, or whose time is over."""
        if not token.startswith(_PREFIX):
            raise Unauthorized("Only shared access signatures are accepted here.")
        fields = {name: values[0] for name, values in parse_qs(token.removeprefix(_PREFIX)).items()}
        resource, expiry = fields.get("sr", ""), fields.get("se", "")
        signature = fields.get("sig", "").replace(" ", "+")
        if not any(
            hmac.compare_digest(signature, made) for made in self._signatures(fields.get("skn", ""), resource, expiry)
        ):
            raise Unauthorized("The token has an invalid signature.")
        if not expiry.isdigit() or int(expiry) <= self._wall_clock():
            raise Unauthorized("The token has expired.")

    def _signatures(self, name: str, resource: str, expiry: str) -> list[str]:
        signed = f"{quote(resource, safe='')}\n{expiry}".encode()
        return [
            b64encode(hmac.digest(key.encode(), text, "sha256")).decode()
            for key in self._keys.get(name, ())
            for text in (signed, f"{resource}\n{expiry}".encode())
        ]


class CbsNode(Node):
    """Answers put-token, and tells the connection what it opened."""

    def __init__(
        self,
        keys: Keys,
        exists: Callable[[str], object],
        grant: Callable[[str], None],
        answer: Callable[[bytes], None],
    ) -> None:
        self._keys = keys
        self._exists = exists
        self._grant = grant
        self._answer = answer

    def on_message(self, event: MessageArrived) -> None:
        """Check the token and the entity it is for."""
        event.link.settle(event.delivery_id, Accepted())
        properties, application, token = read_body(event.payload)
        try:
            self._put_token(application, token)
        except BusError as refusal:
            self._reply(properties, refusal.status, refusal.description)
        else:
            self._reply(properties, 202, "Accepted")

    def _put_token(self, application: Mapping[str, Any], token: Any) -> None:
        if application.get("operation") != "put-token":
            raise InvalidArgument(f"Unknown operation {application.get('operation')!r}.")
        self._keys.check(token if isinstance(token, str) else str(token))
        path = read_address(str(application.get("name", ""))).path
        if path:
            self._exists(path)
        self._grant(path)

    def _reply(self, request: Mapping[str, Any], status: int, description: str) -> None:
        if "message-id" not in request:
            raise DecodeError("a put-token request needs a message id")
        application = {"status-code": Int(status), "status-description": description}
        self._answer(reply(request["message-id"], application, None))
