"""Strangers at the AMQP port: whatever they do, a well-behaved client beside them notices nothing.

Raw sockets against the real server. The sdk_client is the unmodified SDK, connected before the
first peer comes; before and after each of them it sends a message and receives it, over the
connections it has.
"""

import asyncio
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import count
from typing import Any, Protocol

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender

from fuzz.conversation import conversation, spoiled
from servicebus_local.amqp import frames
from servicebus_local.amqp.composites import Terminus, read_error, read_outcome
from servicebus_local.amqp.frames import Frame, FrameReader
from servicebus_local.amqp.limits import DEFAULT_LIMITS
from servicebus_local.amqp.performatives import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    SaslOutcome,
    Transfer,
)
from servicebus_local.amqp.types import Symbol, Uint
from servicebus_local.bus.topology import QueueOptions, Topology
from servicebus_local.server import Broker
from servicebus_local.testing import connection_string

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUEUE = "orders"
SOON = 600.0  # a guard against hanging: a well-behaved peer may be as slow as the machine
LIMITS = DEFAULT_LIMITS._replace(credit=50, opening=SOON, closing=SOON)
HASTY = LIMITS._replace(opening=0.2)
CROWD = 1000
MEBIBYTE = 1024 * 1024


class SdkClient:
    """The SDK, with a sender and a receiver that stay open."""

    def __init__(self, sender: ServiceBusSender, receiver: ServiceBusReceiver) -> None:
        self._sender = sender
        self._receiver = receiver
        self._numbers = count()

    async def lives_as_ever(self) -> None:
        """Send a message, and receive it."""
        body = f"message {next(self._numbers)}"
        await self._sender.send_messages(ServiceBusMessage(body))
        [message] = await self._receiver.receive_messages(1, max_wait_time=SOON)
        await self._receiver.complete_message(message)
        assert str(message) == body


class RawPeer:
    """A socket that says whatever it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._cut = FrameReader(1 << 20)
        self.heard: list[Performative] = []
        self.headers: list[bytes] = []

    def say(self, channel: int, *performatives: Performative, payload: bytes = b"") -> None:
        """Write frames; the payload goes with the last one."""
        for at, performative in enumerate(performatives, 1):
            data = frames.frame(channel, performative) + (payload if at == len(performatives) else b"")
            self.writer.write(len(data).to_bytes(4, "big") + data[4:])

    async def hear(self, kind: type[Performative] | None = None) -> Performative | None:
        """Read until a performative of a kind has come, or until the broker hangs up."""
        async with asyncio.timeout(SOON):
            while not (kind and self.heard and isinstance(self.heard[-1], kind)):
                data = await self.reader.read(65536)
                if not data:
                    return None
                for unit in self._cut.feed(data):
                    self._take(unit)
        return self.heard[-1]

    def _take(self, unit: bytes | Frame) -> None:
        if not isinstance(unit, Frame):
            self.headers.append(unit)
        elif unit.body:
            self.heard.append(frames.parse(unit.body)[0])

    async def end(self) -> tuple[type, str]:
        """Read to the end, hang up, and return the last error with what it ended."""
        await self.hear()
        await self.leave()
        *_, last = [said for said in self.heard if isinstance(said, Close | End | Detach) and said.error]
        error = read_error(last.error)
        assert error is not None
        return type(last), error.condition

    async def leave(self) -> None:
        """Hang up."""
        self.writer.close()
        with suppress(ConnectionError):  # the broker was first
            await self.writer.wait_closed()


class Connect(Protocol):
    """Makes a peer."""

    async def __call__(self, *said: bytes, deaf: bool = False) -> RawPeer:
        """Connect, and say something; a deaf one has next to no room for answers."""
        ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker() -> AsyncIterator[Broker]:
    broker = Broker(Topology({QUEUE: QueueOptions()}), limits=LIMITS)
    yield broker
    await broker.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def hasty(broker: Broker) -> AsyncIterator[None]:
    """The broker hangs up soon on those who come now and do not open."""
    broker.limits = HASTY
    yield
    broker.limits = LIMITS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(broker: Broker) -> int:
    return await broker.start("127.0.0.1", 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def moved_in(port: int) -> AsyncIterator[SdkClient]:
    string = connection_string("127.0.0.1", port)
    async with ServiceBusClient.from_connection_string(string, socket_timeout=0.02, retry_total=0) as client:
        sender, receiver = client.get_queue_sender(QUEUE), client.get_queue_receiver(QUEUE)
        await asyncio.gather(sender.__aenter__(), receiver.__aenter__())
        yield SdkClient(sender, receiver)
        await asyncio.gather(sender.close(), receiver.close())


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def sdk_client(moved_in: SdkClient, broker: Broker) -> AsyncIterator[SdkClient]:
    """The sdk_client, who lives as ever before and after the peer; of whom nothing is left then."""
    await moved_in.lives_as_ever()
    connections = set(broker.connections.containers)
    yield moved_in
    await moved_in.lives_as_ever()
    await eventually(lambda: len(broker.connections.containers) == len(connections))
    assert set(broker.connections.containers) == connections


@pytest_asyncio.fixture(loop_scope="module")
async def connect(port: int, sdk_client: SdkClient) -> AsyncIterator[Connect]:
    """Let a peer come and say something; all of them leave in the end."""
    peers: list[RawPeer] = []

    async def connect(*said: bytes, deaf: bool = False) -> RawPeer:
        peer = RawPeer(*await (_deaf(port) if deaf else asyncio.open_connection("127.0.0.1", port, limit=4096)))
        peers.append(peer)
        peer.writer.write(b"".join(said))
        return peer

    yield connect
    await asyncio.gather(*(peer.leave() for peer in peers))


async def _deaf(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect with as little room for answers as the system allows."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.setblocking(False)
    await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=deaf, limit=1024)


async def eventually(condition: Callable[[], object]) -> None:
    """Let the loop turn until something is true."""
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


def opening(*performatives: Performative, channel: int = 0) -> bytes:
    """Write what begins an AMQP connection."""
    said = (Open(container_id="peer"), *performatives)
    return frames.AMQP_HEADER + b"".join(frames.frame(channel, performative) for performative in said)


BEGIN = Begin(None, Uint(0), Uint(5000), Uint(5000))
TO_CBS = Attach(
    "asks", Uint(0), False, source=Terminus("me").as_source(), target=Terminus("$cbs").as_target(),
    initial_delivery_count=Uint(0),
)  # fmt: skip
FROM_CBS = Attach("hears", Uint(1), True, source=Terminus("$cbs").as_source(), target=Terminus("me").as_target())


# --------------------------------------------------------------------------- before the open


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", frames.SASL_HEADER),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", frames.SASL_HEADER),
        (b"\x00" * 64, frames.SASL_HEADER),
        (b"AMQP\x00\x00\x09\x01", frames.AMQP_HEADER),
    ],
    ids=["http", "tls", "zeros", "amqp 0-9-1"],
)
async def test_garbage_is_answered_with_a_header_and_a_farewell(connect: Connect, said: bytes, answer: bytes) -> None:
    peer = await connect(said)
    await peer.hear()
    assert (peer.headers, peer.heard) == ([answer], [])


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "said", [b"", b"AMQ", frames.SASL_HEADER, frames.AMQP_HEADER], ids=["silent", "slow", "sasl", "amqp"]
)
async def test_a_half_open_peer_is_hung_up_on(connect: Connect, said: bytes) -> None:
    peer = await connect(said)
    async with asyncio.timeout(SOON):
        while await peer.reader.read(4096):
            pass


@pytest.mark.usefixtures("hasty")
async def test_a_peer_that_trickles_its_open_is_hung_up_on(connect: Connect) -> None:
    peer = await connect()
    data = opening()
    async with asyncio.timeout(SOON):
        for byte in data[:-1]:
            peer.writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        while await peer.reader.read(4096):
            pass


async def test_an_unknown_mechanism_is_refused(connect: Connect) -> None:
    peer = await connect(frames.SASL_HEADER, frames.frame(0, SaslInit(Symbol("GSSAPI"))))
    peer._cut.frame_type = frames.SASL_TYPE
    await peer.hear()
    assert peer.heard[-1] == SaslOutcome(1)


# --------------------------------------------------------------------------- the wrong frame


@pytest.mark.parametrize(
    ("said", "ended", "condition"),
    [
        (frames.AMQP_HEADER + frames.frame(0, BEGIN), Close, "amqp:illegal-state"),
        (opening(Open("again")), Close, "amqp:illegal-state"),
        (opening(TO_CBS), Close, "amqp:illegal-state"),
        (opening(Transfer()), Close, "amqp:illegal-state"),
        (opening(BEGIN, BEGIN), Close, "amqp:illegal-state"),
        (opening(BEGIN, TO_CBS._replace(handle=Uint(256))), Close, "amqp:connection:framing-error"),
        (opening() + b"\x00\x01\x00\x01\x02\x00\x00\x00", Close, "amqp:connection:framing-error"),
        (opening() + b"\x7f\xff\xff\xff" + b"x" * 100_000, Close, "amqp:connection:framing-error"),
        (opening() + b"\x00\x00\x00\x08\x01\x00\x00\x00", Close, "amqp:connection:framing-error"),
        (opening() + b"\x00\x00\x00\x0c\x02\x00\x00\x00\x00\x53\x14\x40", Close, "amqp:decode-error"),
    ],
    ids=[
        "begin first",
        "open again",
        "attach without session",
        "transfer without session",
        "begin again",
        "handle too high",
        "frame too large",
        "frame far too large",
        "frame of another layer",
        "frame without fields",
    ],
)
async def test_a_broken_protocol_ends_with_its_error(
    connect: Connect, said: bytes, ended: type, condition: str
) -> None:
    peer = await connect(said)
    assert await peer.end() == (ended, condition)


@pytest.mark.parametrize(
    ("frame", "condition"),
    [
        (Transfer(Uint(7), Uint(0), b"t"), "amqp:session:unattached-handle"),
        (Flow(Uint(0), Uint(1), Uint(0), Uint(1), Uint(7)), "amqp:session:unattached-handle"),
        (Detach(Uint(7), True), "amqp:session:unattached-handle"),
        (TO_CBS._replace(name="other"), "amqp:session:handle-in-use"),
        (Transfer(Uint(1), Uint(0), b"t"), "amqp:not-allowed"),
    ],
    ids=["transfer", "flow", "detach", "attach", "transfer to us"],
)
async def test_a_session_that_goes_wrong_ends_alone(connect: Connect, frame: Performative, condition: str) -> None:
    peer = await connect(opening(BEGIN, TO_CBS, FROM_CBS, frame))
    end = await peer.hear(End)
    assert isinstance(end, End)
    error = read_error(end.error)
    assert error is not None
    assert error.condition == condition
    peer.say(1, BEGIN)
    assert isinstance(await peer.hear(Begin), Begin)
    peer.say(0, Close())
    assert isinstance(await peer.hear(Close), Close)


# --------------------------------------------------------------------------- what is not theirs


@pytest.mark.parametrize("role", [True, False])
@pytest.mark.parametrize("address", [QUEUE, f"{QUEUE}/$management", "nowhere", "", None])
async def test_nothing_is_attached_without_a_token(connect: Connect, role: bool, address: str | None) -> None:
    ends: dict[str, Any] = {"source": Terminus(address).as_source(), "target": Terminus(address).as_target()}
    peer = await connect(opening(BEGIN, Attach("link", Uint(0), role, **ends)))
    detach = await peer.hear(Detach)
    assert isinstance(detach, Detach)
    attach = peer.heard[-2]
    assert isinstance(attach, Attach)
    assert (attach.source, attach.target) == (None, None)
    error = read_error(detach.error)
    assert error is not None
    assert error.condition in ("amqp:unauthorized-access", "amqp:not-found")


async def test_a_transfer_sent_before_its_link_was_refused_is_not_taken(connect: Connect, broker: Broker) -> None:
    attach = Attach("link", Uint(0), False, source=Terminus("me").as_source(), target=Terminus(QUEUE).as_target())
    peer = await connect(opening(BEGIN, attach))
    peer.say(0, Transfer(Uint(0), Uint(0), b"t", Uint(0), True), payload=b"\x00\x53\x75\xa0\x06stolen")
    peer.say(0, Transfer(Uint(0), Uint(1), b"t", Uint(0), True), payload=b"\x00\x53\x75\xa0\x06stolen")
    assert isinstance(await peer.hear(End), End)
    assert broker.namespace.find(QUEUE).counts().active == 0


# --------------------------------------------------------------------------- too much


async def test_a_message_larger_than_allowed_is_rejected_as_it_comes(connect: Connect) -> None:
    peer = await connect(opening(BEGIN, TO_CBS))
    for number in range(10):
        part = Transfer(Uint(0), Uint(0), b"t", Uint(0), False, number < 9)
        peer.say(0, part, payload=bytes(60_000))
    said = await peer.hear(Disposition)
    assert isinstance(said, Disposition)
    assert "amqp:link:message-size-exceeded" in repr(read_outcome(said.state))


async def test_messages_begun_on_many_links_and_never_ended_are_bounded(connect: Connect) -> None:
    """Each may be as large as a message; all of them together are a peer's memory in ours."""
    peer = await connect(opening(BEGIN))
    for handle in range(LIMITS.partial // 200_000 + 2):
        peer.say(0, TO_CBS._replace(name=f"link {handle}", handle=Uint(handle)))
        begun = Transfer(Uint(handle), Uint(handle), b"t", Uint(0), False, True)
        for _ in range(4):
            peer.say(0, begun, payload=bytes(50_000))
    detach = await peer.hear(Detach)
    assert isinstance(detach, Detach)
    error = read_error(detach.error)
    assert error is not None
    assert error.condition == "amqp:resource-limit-exceeded"


async def test_a_peer_that_sends_and_does_not_read_runs_out_of_credit(connect: Connect, broker: Broker) -> None:
    """What it is told waits here, so that is bounded by what it may still send."""
    peer = await connect(opening(BEGIN, TO_CBS), deaf=True)
    await eventually(lambda: "peer" in broker.connections.containers)
    [protocol] = [each for each in broker.connections._open if each.connection.peer == "peer"]
    assert protocol._transport is not None
    long = TO_CBS._replace(name="x" * 60_000, handle=Uint(1), target=None)  # is repeated by the refusal
    while not protocol.connection.paused:
        peer.say(0, long)
        await asyncio.sleep(0)
    waiting = protocol._transport.get_write_buffer_size()
    assert waiting < 2 * MEBIBYTE
    for number in range(3 * LIMITS.credit):
        peer.say(0, Transfer(Uint(0), Uint(number), b"t", Uint(0)), payload=b"nonsense")
    await peer.writer.drain()
    assert isinstance(await peer.hear(End), End)
    *_, detach = [said for said in peer.heard if isinstance(said, Detach)]
    assert "amqp:link:transfer-limit-exceeded" in repr(detach.error)
    assert "amqp:session:errant-link" in repr(peer.heard[-1])


# --------------------------------------------------------------------------- noise


@pytest.mark.parametrize("seed", range(30))
async def test_a_corrupted_conversation_ends_in_a_clean_close(connect: Connect, seed: int) -> None:
    noise = random.Random(seed)
    peer = await connect(spoiled(noise, conversation(noise, 40)))
    peer.writer.write_eof()
    async with asyncio.timeout(SOON):
        while await peer.reader.read(65536):
            pass


@pytest.mark.slow
async def test_a_thousand_connections_at_once_are_served(
    connect: Connect, broker: Broker, sdk_client: SdkClient
) -> None:
    _allow_files(2 * CROWD + 500)
    crowd = [await connect(opening(BEGIN, TO_CBS)) for _ in range(CROWD)]
    answers = await asyncio.gather(*(peer.hear(Flow) for peer in crowd))
    assert all(isinstance(answer, Flow) for answer in answers)
    assert broker.connections.current == CROWD + 2
    await sdk_client.lives_as_ever()
    for peer in crowd:
        peer.say(0, Close())
    farewells = await asyncio.gather(*(peer.hear(Close) for peer in crowd))
    assert all(isinstance(farewell, Close) for farewell in farewells)


def _allow_files(needed: int) -> None:
    """Raise the soft limit of open files, if it is too low; skip where the hard one does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} open files are needed here, and the hard limit is {hard}: see ulimit -Hn")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
