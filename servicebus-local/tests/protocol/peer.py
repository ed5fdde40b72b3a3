"""A client made of our own codec, for what the SDK cannot do: bytes in, bytes out, no sockets.

    peer = Peer()                     opens a connection and a session
    peer.send_to("q/$management")     attaches a link on which it sends; `receive_from` the other way
    peer.request(…)                   writes a request; its answer is in `peer.received` some time later

`Wire` carries the bytes to a container and back at once; `Socket` carries them over TCP.
"""

import asyncio
import base64
import hmac
from itertools import count
from time import time
from typing import Any, Self
from urllib.parse import quote

from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Error, Outcome, Terminus, read_error, read_outcome
from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    Flow,
    Open,
    SaslInit,
    SaslOutcome,
    Transfer,
)
from servicebus_local.amqp.types import NULL, Ubyte, Uint, decode, encode
from servicebus_local.bus.access import Keys
from servicebus_local.bus.message import read_body
from servicebus_local.bus.namespace import Namespace
from servicebus_local.nodes.container import Container

SOON = 60.0


def signature(path: str, key: str = "local", policy: str = "RootManageSharedAccessKey", lasts: float = 3600) -> str:
    """Sign a token for a path by hand, from now on by real time."""
    resource, expiry = quote(f"sb://127.0.0.1/{path}", safe=""), int(time() + lasts)
    digest = base64.b64encode(hmac.digest(key.encode(), f"{resource}\n{expiry}".encode(), "sha256")).decode()
    return f"SharedAccessSignature sr={resource}&sig={quote(digest, safe='')}&se={expiry}&skn={policy}"


def message(value: Any, message_id: bytes = NULL, reply_to: str | None = None, **application: Any) -> bytes:
    """Encode a message with a value as its body."""
    properties = [message_id, NULL, NULL, NULL, encode(reply_to)]
    fields = b"".join(properties)
    return (
        b"\x00\x53\x73\xd0" + (len(fields) + 4).to_bytes(4, "big") + (5).to_bytes(4, "big") + fields
        + b"\x00\x53\x74" + encode(application)
        + b"\x00\x53\x77" + encode(value)
    )  # fmt: skip


class Answer:
    """A message that came back."""

    def __init__(self, payload: bytes) -> None:
        _, self.application, self.value = read_body(payload)
        self.correlation_id = _correlation_id(payload)

    @property
    def status(self) -> int:
        """What the request came to, from either kind of node."""
        code = self.application.get("statusCode", self.application.get("status-code"))
        assert isinstance(code, int)
        return code

    @property
    def description(self) -> str:
        """The sentence to it."""
        return str(self.application.get("statusDescription", self.application.get("status-description")))

    @property
    def condition(self) -> str | None:
        """The name of an error."""
        return self.application.get("errorCondition")


def _correlation_id(payload: bytes) -> Any:
    fields, _ = decode(payload, 3)
    return fields[5]


class Peer:
    """A client's end of a connection."""

    def __init__(self, name: str = "peer", plain: tuple[str, str] | None = None) -> None:
        self.received: dict[str, list[bytes]] = {}  # by the name of the link
        self.attached: set[str] = set()
        self.detached: dict[str, Error | None] = {}
        self.outcomes: dict[int, Outcome | None] = {}
        self.last_delivery = 0  # its number, of those that the broker sent
        self.logged_in: bool | None = None
        self.closed: Error | None = None
        self._unread = b""
        self._output: list[bytes] = []
        self._handles, self._deliveries = count(), count()
        self._names: dict[int, str] = {}
        self._theirs: dict[int, str] = {}
        self._partial: dict[int, bytes] = {}
        if plain is not None:
            response = "\0".join(("", *plain)).encode()
            self._output.append(frames.SASL_HEADER + frames.frame(0, SaslInit("PLAIN", response)))
        begin = Begin(next_outgoing_id=Uint(0), incoming_window=Uint(100_000), outgoing_window=Uint(100_000))
        self._output.append(frames.AMQP_HEADER)
        self.write(Open(container_id=name), begin)

    def write(self, *performatives: Any, channel: int = 0) -> None:
        """Queue performatives for the broker."""
        self._output.extend(frames.frame(channel, performative) for performative in performatives)

    def take(self) -> bytes:
        """Return what there is to send."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    # ------------------------------------------------------------------ links

    def send_to(self, address: str, name: str | None = None) -> int:
        """Attach a link on which to send; return its handle."""
        handle = next(self._handles)
        self._names[handle] = name or f"to-{address}-{handle}"
        target = Terminus(address).as_target()
        self.write(
            Attach(self._names[handle], Uint(handle), False, source=Terminus("me").as_source(), target=target,
                   initial_delivery_count=Uint(0))
        )  # fmt: skip
        return handle

    def receive_from(self, address: str, name: str | None = None, reply_to: str | None = None) -> str:
        """Attach a link on which to receive, with credit for whatever comes; return its name."""
        handle = next(self._handles)
        name = self._names[handle] = name or f"from-{address}-{handle}"
        self.received[name] = []
        source, target = Terminus(address).as_source(), Terminus(reply_to).as_target()
        self.write(
            Attach(name, Uint(handle), True, Ubyte(0), Ubyte(0), source, target),
            Flow(Uint(0), Uint(100_000), Uint(0), Uint(100_000), Uint(handle), Uint(0), Uint(1000)),
        )
        return name

    def send(self, handle: int, payload: bytes, *, settled: bool = False) -> int:
        """Send a message; return its delivery id."""
        number = next(self._deliveries)
        fields = frames.transfer_fields(handle, number, b"t%d" % number, settled)
        self._output.append(frames.transfer_frame(0, fields, False, payload))
        return number

    def request(self, handle: int, operation: str, body: Any, message_id: Any = "m", **properties: Any) -> int:
        """Send a request to a node."""
        reply_to, settled = properties.pop("reply_to", None), properties.pop("settled", False)
        payload = message(body, encode(message_id), reply_to, operation=operation, **properties)
        return self.send(handle, payload, settled=settled)

    def show(self, handle: int, path: str, token: str | None = None, **properties: Any) -> None:
        """Ask $cbs to take a token for a path."""
        name = {"name": f"sb://127.0.0.1/{path}", "type": "servicebus.windows.net:sastoken"} | properties
        self.request(handle, "put-token", signature(path) if token is None else token, **name)

    def answers(self, name: str) -> list[Answer]:
        """Return what came on a link, and forget it."""
        payloads, self.received[name] = self.received[name], []
        return [Answer(payload) for payload in payloads]

    # ------------------------------------------------------------------ what the broker says

    def feed(self, data: bytes) -> None:
        """Take bytes from the broker."""
        self._unread += data
        while len(self._unread) >= 8:
            size = 8 if self._unread[:4] == b"AMQP" else int.from_bytes(self._unread[:4], "big")
            if len(self._unread) < size:
                return
            unit, self._unread = self._unread[:size], self._unread[size:]
            if unit[:4] != b"AMQP" and size > 8:
                self._on_performative(*frames.parse(unit[4 * unit[4] :]))

    def _on_performative(self, performative: Any, payload: bytes) -> None:
        match performative:
            case Attach():
                self._theirs[performative.handle] = performative.name
                if performative.source is not None and performative.target is not None:
                    self.attached.add(performative.name)
            case Transfer():
                self._on_transfer(performative, payload)
            case Disposition():
                self.outcomes[performative.first] = read_outcome(performative.state)
            case Detach():
                name = self._theirs.pop(performative.handle)
                self.attached.discard(name)
                self.detached[name] = read_error(performative.error)
            case SaslOutcome():
                self.logged_in = performative.code == 0
            case Close():
                self.closed = read_error(performative.error) or Error("closed")

    def _on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        whole = self._partial.pop(transfer.handle, b"") + payload
        if transfer.more:
            self._partial[transfer.handle] = whole
        else:
            self.received[self._theirs[transfer.handle]].append(whole)
            self.last_delivery = transfer.delivery_id or 0


class Wire:
    """A peer and a container, with nothing between them."""

    def __init__(self, namespace: Namespace, keys: Keys, plain: tuple[str, str] | None = None) -> None:
        self.peer = Peer(plain=plain)
        self.connection = Connection(authenticate=lambda name, key: self.container.login(name, key))
        self.container = Container(namespace, keys, self.connection)
        self.carry()

    def carry(self) -> None:
        """Carry bytes to and fro until there are none."""
        while output := self.peer.take():
            for event in self.connection.receive(output):
                self.container.handle(event)
            self.peer.feed(self.connection.take())
        self.peer.feed(self.connection.take())


class Socket:
    """A peer at the end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        self.peer = peer
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, **options: Any) -> Self:
        """Connect to a broker on this machine."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return cls(reader, writer, Peer(**options))

    def write(self) -> None:
        """Send what there is to send."""
        self._writer.write(self.peer.take())

    async def until(self, condition: Any) -> None:
        """Send what there is to send, and read until something is true."""
        self.write()
        async with asyncio.timeout(SOON):
            while not condition():
                data = await self._reader.read(65536)
                self.peer.feed(data)
                if not data:
                    break

    async def answer(self, name: str) -> Answer:
        """Read one answer that must come."""
        await self.until(lambda: self.peer.received[name])
        [answer] = self.peer.answers(name)
        return answer

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()
