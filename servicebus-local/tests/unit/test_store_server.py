"""The server and its store: nothing leaves before it is durable, and nothing at all when it cannot be."""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest_asyncio

from servicebus_local.amqp.composites import Accepted, Terminus
from servicebus_local.amqp.performatives import Attach, Flow
from servicebus_local.amqp.types import Ubyte, Uint
from servicebus_local.bus.clock import ManualClock
from servicebus_local.bus.message import Message, State
from servicebus_local.bus.store import MemoryStore, StoreError
from servicebus_local.bus.topology import QueueOptions, Topology
from servicebus_local.nodes.entity import SESSION_FILTER
from servicebus_local.server import Broker
from tests.protocol.peer import SOON, Socket, message, signature

TOPOLOGY = Topology({"q": QueueOptions(), "s": QueueOptions(requires_session=True)})


_HAPPENINGS = {"save", "delete", "add", "change", "lock", "unlock", "remove", "put_session_state", "remember", "number"}


class Cautious(MemoryStore):
    """A store that only knows whether something happened since the last commit, which can be made to fail."""

    def __init__(self) -> None:
        self.pending = False
        self.commits = 0
        self.full = False

    def __getattribute__(self, name: str) -> Any:
        if name in _HAPPENINGS:
            self.pending = True
        return super().__getattribute__(name)

    def commit(self) -> None:
        if self.full:
            raise StoreError("the disk is full")
        self.commits += self.pending
        self.pending = False


class ServerFixture:
    """A broker with such a store, and peers that may use its queues."""

    def __init__(self) -> None:
        self.store = Cautious()
        self.clock = ManualClock(1000)
        self.broker = Broker(TOPOLOGY, clock=self.clock, store=self.store)
        self.sockets: list[Socket] = []
        self.ended = asyncio.Event()
        self.broker.on_failure = self.ended.set

    async def start(self) -> None:
        self.port = await self.broker.start("127.0.0.1", 0)
        self.admin_port = await self.broker.start_admin("127.0.0.1", 0)

    async def peer(self, name: str = "peer") -> Socket:
        """Connect a peer that may do everything."""
        socket = await Socket.connect(self.port, name=name)
        self.sockets.append(socket)
        cbs, answers = socket.peer.send_to("$cbs"), socket.peer.receive_from("$cbs")
        socket.peer.show(cbs, "")
        assert (await socket.answer(answers)).status in (200, 202)
        return socket

    async def sender(self, name: str = "peer") -> tuple[Socket, int]:
        """Connect a peer with a link to the queue."""
        socket = await self.peer(name)
        handle = socket.peer.send_to("q", "out")
        await socket.until(lambda: "out" in socket.peer.attached)
        return socket, handle

    async def receiver(self) -> tuple[Socket, list[bytes]]:
        """Connect a peer that receives from the queue whatever comes."""
        socket = await self.peer()
        name = socket.peer.receive_from("q")
        await socket.until(lambda: name in socket.peer.attached)
        return socket, socket.peer.received[name]

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the loop turn until something is true."""
        async with asyncio.timeout(SOON):
            while not condition():
                await asyncio.sleep(0.001)

    async def failed(self, socket: Socket) -> None:
        """Read what the peer is told when the broker fails; it must be told nothing else."""
        await socket.until(lambda: socket.peer.closed)
        assert socket.peer.closed is not None
        assert socket.peer.closed.condition == "amqp:internal-error"
        assert self.ended.is_set()
        assert str(self.broker.failure) == "the disk is full"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ServerFixture]:
    server = ServerFixture()
    await server.start()
    yield server
    await asyncio.gather(*(socket.close() for socket in server.sockets))
    await server.broker.stop()


async def test_what_is_confirmed_was_committed(server: ServerFixture) -> None:
    socket, handle = await server.sender()
    before = server.store.commits
    number = socket.peer.send(handle, message("hello"))
    await socket.until(lambda: number in socket.peer.outcomes)
    assert socket.peer.outcomes[number] == Accepted()
    assert server.store.commits == before + 1


async def test_a_send_is_not_confirmed_when_it_cannot_be_stored(server: ServerFixture) -> None:
    socket, handle = await server.sender()
    server.store.full = True
    number = socket.peer.send(handle, message("hello"))
    await server.failed(socket)
    assert number not in socket.peer.outcomes


async def test_a_message_is_not_delivered_when_its_lock_cannot_be_stored(server: ServerFixture) -> None:
    socket, received = await server.receiver()
    server.store.full = True
    server.broker.namespace.queue("q").send([Message(b"\x00\x53\x75\xa0\x01x")])
    await server.failed(socket)
    assert received == []


async def test_a_message_that_becomes_due_is_not_delivered_when_that_cannot_be_stored(server: ServerFixture) -> None:
    socket, received = await server.receiver()
    later = Message(b"\x00\x53\x75\xa0\x01x")
    later.scheduled_for = 1100.0
    server.broker.namespace.queue("q").send([later])
    server.broker.commit()
    server.store.full = True
    server.broker.timers.advance(server.clock, 100)
    await server.failed(socket)
    assert received == []


async def test_when_the_store_fails_all_connections_are_closed_and_none_accepted(server: ServerFixture) -> None:
    (one, handle), (other, _) = await server.sender("one"), await server.receiver()
    server.store.full = True
    one.peer.send(handle, message("hello"))
    await asyncio.gather(server.failed(one), server.failed(other))
    try:
        await Socket.connect(server.port)
    except ConnectionRefusedError:
        return
    raise AssertionError("the broker still listens")


async def test_a_change_by_the_admin_port_is_not_confirmed_when_it_cannot_be_stored(server: ServerFixture) -> None:
    server.store.full = True
    url = f"http://127.0.0.1:{server.admin_port}/new?api-version=2021-05"
    status = await asyncio.to_thread(put, url, _DESCRIPTION)
    assert status == 500
    assert server.ended.is_set()


_DESCRIPTION = (
    '<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">'
    '<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"/>'
    "</content></entry>"
)


def put(url: str, body: str) -> int:
    """Create an entity; return the status."""
    try:
        with urlopen(
            Request(url, body.encode(), {"Authorization": signature("")}, method="PUT"), timeout=SOON
        ) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


async def test_a_change_by_the_admin_port_is_committed_before_it_is_confirmed(server: ServerFixture) -> None:
    url = f"http://127.0.0.1:{server.admin_port}/new?api-version=2021-05"
    assert await asyncio.to_thread(put, url, _DESCRIPTION) == 201
    assert not server.store.pending
    assert server.broker.namespace.queue("new").counts().active == 0


async def test_what_several_connections_send_in_one_turn_is_committed_together(server: ServerFixture) -> None:
    senders = [await server.sender(f"s{number}") for number in range(30)]
    before = server.store.commits
    numbers = [socket.peer.send(handle, message("hello")) for socket, handle in senders]
    for socket, _ in senders:
        socket.write()  # all of it is there before the loop turns
    for (socket, _), number in zip(senders, numbers, strict=True):
        await socket.until(partial(socket.peer.outcomes.__contains__, number))
    assert server.store.commits <= before + 10  # 2, but for a machine that pauses between the first ones


async def test_a_connection_that_writes_at_once_commits_at_once(server: ServerFixture) -> None:
    socket, received = await server.receiver()
    [there] = server.broker.connections.peers()
    before = server.store.commits
    server.broker.namespace.queue("q").send([Message(b"\x00\x53\x75\xa0\x01x")])
    server.broker.connections.flush(there.connection)
    assert server.store.commits == before + 1
    await socket.until(lambda: received)
    assert server.store.commits == before + 1


async def test_what_comes_back_from_a_connection_that_is_lost_is_committed(server: ServerFixture) -> None:
    socket, queue = await server.peer(), server.broker.namespace.queue("s")
    source = Terminus("s", {SESSION_FILTER: "one"}).as_source()
    target, credit = Terminus("me").as_target(), Flow(Uint(0), Uint(9), Uint(0), Uint(9), Uint(7), Uint(0), Uint(9))
    socket.peer.received["r"] = []
    socket.peer.write(Attach("r", Uint(7), True, Ubyte(0), Ubyte(0), source, target), credit)
    queue.send([of_session("one")])
    await socket.until(lambda: socket.peer.received["r"])
    before = server.store.commits
    await socket.close()
    await server.until(lambda: not queue.users)
    await server.until(lambda: not server.store.pending)
    assert server.store.commits == before + 1
    assert [found.state for found in queue.messages.values()] == [State.ACTIVE]


def of_session(session_id: str) -> Message:
    """Make a message of a session."""
    made = Message(b"\x00\x53\x75\xa0\x01x")
    made.session_id = session_id
    return made


async def test_changes_made_by_timers_are_committed_without_a_client() -> None:
    store = Cautious()
    broker = Broker(Topology({"q": QueueOptions(default_time_to_live=0.01)}), store=store)
    await broker.start("127.0.0.1", 0)
    queue = broker.namespace.queue("q")
    queue.send([Message(b"\x00\x53\x75\xa0\x01x")])
    assert broker.commit()
    async with asyncio.timeout(SOON):
        while queue.counts().active or store.pending:
            await asyncio.sleep(0.001)
    assert store.commits == 3  # the definition, the message, its end
    await broker.stop()


async def test_what_happened_last_is_committed_when_the_broker_stops(server: ServerFixture) -> None:
    server.broker.namespace.queue("q").send([Message(b"\x00\x53\x75\xa0\x01x")])
    assert server.store.pending
    await server.broker.stop()
    assert not server.store.pending
