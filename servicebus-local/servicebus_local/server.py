"""Sockets: the only part of the broker that knows asyncio.

What a connection produces while its own input is handled leaves in one write. What another
connection's message produces here leaves at the end of this turn of the loop, so latency
does not become the next timer. A slow peer delays no other: above the high-water mark it
gets no more messages, and above the limit it is hung up on.

With a store that outlives the process, nothing leaves before what it follows from is durable:
what many connections change in one turn of the loop is committed together at its end.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from time import monotonic, time
from typing import Final, cast

from servicebus_local import emulator
from servicebus_local.admin.app import AdminApp
from servicebus_local.admin.authority import managers
from servicebus_local.admin.control import Control
from servicebus_local.admin.http import Application, HttpProtocol, Request, Response
from servicebus_local.amqp.composites import Error
from servicebus_local.amqp.connection import Connection
from servicebus_local.amqp.connection_state import ConnectionState
from servicebus_local.amqp.events import Event
from servicebus_local.amqp.limits import DEFAULT_LIMITS, Limits
from servicebus_local.amqp.link import LinkConnection
from servicebus_local.bus.access import Keys
from servicebus_local.bus.clock import Clock, ManualClock, Timers
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.store import MemoryStore, Store, StoreError
from servicebus_local.bus.topology import AccessRule, QueueOptions, Topology
from servicebus_local.faults import Faults
from servicebus_local.faults.fault import Where
from servicebus_local.foreign_protocols import peer_address, protocol_of
from servicebus_local.nodes.container import Container
from servicebus_local.record import Record

_LOGGER = logging.getLogger("servicebus_local")
_READ_SIZE: Final = 64 * 1024
_BACKLOG: Final = 1024  # connections that may wait to be accepted; the kernel caps it at its own limit
_HIGH_WATER: Final = 1024 * 1024
_OUTPUT_LIMIT: Final = 64 * 1024 * 1024
_ALONE: Final = 0.0001  # seconds since the last commit; a connection that is read sooner shares this turn of the loop
_FAILED: Final = Error("amqp:internal-error", "The broker cannot store messages and stops.")
_STOPPING: Final = Error("amqp:connection:forced", "The broker stops.")
_PLAIN: Final = "; clients are told by UseDevelopmentEmulator=true in their connection string"
_QUOTA_EXCEEDED: Final = Error("amqp:resource-limit-exceeded", "ConnectionsQuotaExceeded for the namespace.")


class Broker:
    """A namespace and the connections to it."""

    def __init__(
        self,
        topology: Topology,
        *,
        clock: Clock = time,
        store: Store | None = None,
        keys: Mapping[str, Sequence[AccessRule]] | None = None,
        auto_create: QueueOptions | None = None,
        strict_emulator: bool = False,
        wall_clock: Clock = time,
        limits: Limits = DEFAULT_LIMITS,
        idle_time_out: float | None = None,
    ) -> None:
        """Take the entities, and what is different from the usual.

        `clock` is the time of the queues, `wall_clock` that of the clients, by which they date
        their tokens. `keys` are shared access policies by path, those of the namespace under the
        empty one. With `auto_create` a queue that is asked for and not there is created with
        these options. `strict_emulator` sets the limits of Microsoft's emulator. `limits` bound each
        connection, and `idle_time_out` is how often a peer must be heard, in seconds.
        """
        self.limits = limits
        self.idle_time_out = idle_time_out
        self.timers = Timers(clock)
        self.store = store or MemoryStore()
        self.namespace = Namespace(topology, self.timers, self.store)
        self.namespace.default_options = auto_create
        self.keys = Keys(keys or {}, self.namespace, wall_clock)
        self.connection_limit: float = inf
        if strict_emulator:
            self.connection_limit = emulator.CONNECTIONS
            self.namespace.validate = partial(emulator.validate, self.namespace)
        self.connections = Connections()
        self.faults = Faults(self.namespace, self.connections, _soon)
        self.record = Record(self.namespace)
        self._admin_sockets: set[HttpProtocol] = set()
        self._servers: list[asyncio.Server] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._leaving: dict[BrokerProtocol, None] = {}
        self._committed_at = 0.0
        self.failure: StoreError | None = None
        self.on_failure: Callable[[], None] = _no_change

    # ------------------------------------------------------------------ life

    async def start(self, host: str, port: int) -> int:
        """Accept connections; return the port, which is a free one if 0 was asked for."""
        if not isinstance(self.timers.clock, ManualClock):
            self.timers.on_change = self._set_alarm
            self._set_alarm()
        return await self._listen(lambda: BrokerProtocol(self), host, port)

    async def start_admin(self, host: str, port: int) -> int:
        """Answer HTTP; return the port, which is a free one if 0 was asked for."""
        administration = AdminApp(self.namespace, self.connections, managers(self.keys))
        app = Control(self.faults, self.record, administration)
        answer = partial(self._answer, app)
        return await self._listen(lambda: HttpProtocol(answer, self._admin_sockets), host, port)

    def _answer(self, app: Application, request: Request) -> Response:
        """Answer a request once what it changed is durable."""
        try:
            response = app(request)
        except StoreError as failure:
            self._fail(failure)
        return response if self.commit() else Response(500, "text/plain", f"{self.failure}\n".encode())

    async def _listen(self, protocol: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> int:
        server = await asyncio.get_running_loop().create_server(protocol, host, port, backlog=_BACKLOG)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close all connections; what the queues hold is kept, and durable if the store is."""
        self.timers.on_change = _no_change
        if self._alarm is not None:
            self._alarm.cancel()
        while self._servers:
            self._servers.pop().close()
        self.connections.close()
        for admin_socket in list(self._admin_sockets):
            admin_socket.close()
        await asyncio.sleep(0)
        self.connections.drop()  # those that did not answer the close
        await asyncio.sleep(0)
        self.commit()

    # ------------------------------------------------------------------ time

    def _set_alarm(self) -> None:
        """Wake up when the earliest timer of the bus is due."""
        if self._alarm is not None:
            self._alarm.cancel()
        due = self.timers.next_due()
        if due is not None:
            delay = max(0.0, due - self.timers.clock())
            self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.timers.fire()
        if self.commit():
            self._set_alarm()

    # ------------------------------------------------------------------ durability

    def commit(self) -> bool:
        """Make durable what happened; return whether that worked. If not, the broker fails: see `failure`."""
        if self.failure is not None:
            return False
        if not self.store.pending:
            return True
        try:
            self.store.commit()
        except StoreError as failure:
            self._fail(failure)
        self._committed_at = monotonic()
        return self.failure is None

    def _fail(self, failure: StoreError) -> None:
        """Close all connections without confirming what is not durable."""
        if self.failure is not None:
            return
        self.failure = failure
        self.timers.on_change = _no_change
        while self._servers:
            self._servers.pop().close()
        self.connections.fail()
        self.on_failure()

    def flush_when_committed(self, protocol: "BrokerProtocol", since: float) -> None:
        """Write a connection's output: now, or after the commit at the end of this turn.

        Waiting for the end of the turn costs as much as a commit, so a connection that is busy alone does not wait.
        """
        if not self.store.pending or (not self._leaving and since - self._committed_at > _ALONE):
            protocol.flush()
        else:
            self.flush_after_turn(protocol)

    def flush_after_turn(self, protocol: "BrokerProtocol") -> None:
        """Let a connection write at the end of this turn of the loop, after one commit for all that do."""
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._flush_leaving)
        self._leaving[protocol] = None

    def _flush_leaving(self) -> None:
        leaving, self._leaving = self._leaving, {}
        if self.commit():
            for protocol in leaving:
                protocol.flush()


def _no_change() -> None:
    """Before the broker listens no alarm is set."""


def _soon(action: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(action)


class Connections:
    """The open connections, and the most there were at once."""

    def __init__(self) -> None:
        self._open: dict[BrokerProtocol, None] = {}
        self.peak = 0

    @property
    def current(self) -> int:
        """How many connections there are."""
        return len(self._open)

    @property
    def containers(self) -> list[str]:
        """The container ids of those there are, oldest first."""
        return [protocol.connection.peer for protocol in self._open]

    def joined(self, protocol: "BrokerProtocol") -> None:
        """Count a connection in."""
        self._open[protocol] = None
        self.peak = max(self.peak, len(self._open))

    def left(self, protocol: "BrokerProtocol") -> None:
        """Count a connection out."""
        self._open.pop(protocol, None)

    def reset_peak(self) -> None:
        """Start counting the peak again."""
        self.peak = len(self._open)

    def drop(self, container: str = "") -> int:
        """Cut the connections whose container id starts so; return how many that were."""
        chosen = [protocol for protocol in self._open if protocol.connection.peer.startswith(container)]
        for protocol in chosen:
            protocol.abort()
        return len(chosen)

    # ------------------------------------------------------------------ what faults do

    def peers(self) -> list[Container]:
        """Return what is behind each connection."""
        return [protocol.container for protocol in self._open]

    def flush(self, connection: LinkConnection) -> None:
        """Write what there is to write now."""
        for protocol in self._of(connection):
            protocol.flush()

    def cut(self, connection: LinkConnection, where: Where) -> None:
        """Break a connection: before what waits to be written, within its last frame, or after it."""
        for protocol in self._of(connection):
            protocol.cut(where)

    def hold(self, connection: LinkConnection, *, reading: bool, writing: bool) -> None:
        """Stop reading from a socket, or writing to it."""
        for protocol in self._of(connection):
            protocol.hold(reading=reading, writing=writing)

    def let_go(self, connection: LinkConnection, *, reading: bool, writing: bool) -> None:
        """Go on."""
        for protocol in self._of(connection):
            protocol.let_go(reading=reading, writing=writing)

    def _of(self, connection: LinkConnection) -> "list[BrokerProtocol]":
        return [protocol for protocol in self._open if protocol.connection is connection]

    def close(self) -> None:
        """Close every connection, with an AMQP close frame."""
        for protocol in list(self._open):
            protocol.close()

    def fail(self) -> None:
        """Close every connection because the broker has failed."""
        for protocol in list(self._open):
            protocol.fail()


class BrokerProtocol(asyncio.BufferedProtocol):
    """One socket."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._inbox = memoryview(bytearray(_READ_SIZE))
        self._reading = False
        self._alarm: asyncio.TimerHandle | None = None
        self._state: ConnectionState | None = None  # the one the alarm was set for
        self._sent_eof = False
        self._one_too_many = False
        self.connection = Connection(
            on_output=self._on_output,
            limits=broker.limits,
            authenticate=lambda user, password: self.container.login(user, password),
            idle_time_out=broker.idle_time_out,
        )
        self.container = Container(broker.namespace, broker.keys, self.connection, broker.faults)
        self._not_reading = self._not_writing = 0  # how many faults want it so

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count in. Small frames leave at once: asyncio sets TCP_NODELAY on every socket."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._broker.connections.joined(self)
        self._one_too_many = self._broker.connections.current > self._broker.connection_limit
        self._watch()

    def get_buffer(self, _size_hint: int) -> memoryview:
        """Say where to read to. A plain protocol gets 256 KiB anew for each read, which malloc maps and unmaps."""
        return self._inbox

    def buffer_updated(self, size: int) -> None:
        """Handle everything that came in, then write everything that came of it."""
        if self._broker.failure is not None:
            return
        data = self._inbox[:size].tobytes()
        began = monotonic()
        self._reading = True
        self._handle(self.connection.receive(data))
        if self._one_too_many and self.connection.peer:
            self.connection.close(_QUOTA_EXCEEDED)
        self._reading = False
        self._broker.flush_when_committed(self, began)
        if self.connection.state is not self._state:
            if self._state is ConnectionState.HEADER and self.connection.closed:
                protocol = protocol_of(data)
                advice = _PLAIN if protocol == "TLS" else ""
                why = "%s: the AMQP port speaks plain AMQP 1.0, not %s%s"
                _LOGGER.warning(why, peer_address(self._transport), protocol, advice)
            self._watch()

    def _handle(self, events: Iterable[Event]) -> None:
        try:
            for event in events:
                self.container.handle(event)
        except Exception:  # a bug of ours ends this connection, not the broker
            _LOGGER.exception("connection %s failed", self.connection.peer)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the peer held here."""
        self._transport = None
        if self._alarm is not None:
            self._alarm.cancel()
        self._broker.connections.left(self)
        self._handle(self.connection.lost())
        self._broker.flush_after_turn(
            self
        )  # it has no output; but messages that came back to the queues must be committed

    def pause_writing(self) -> None:
        """Give a slow peer no more messages."""
        self.connection.paused = True

    def resume_writing(self) -> None:
        """Go on where it was left."""
        self.connection.paused = False
        self._resume()

    def close(self) -> None:
        """Send a close frame and close the socket."""
        self.connection.close(_STOPPING)
        self.flush()

    def fail(self) -> None:
        """Close because the broker has failed; what waited to be written may not be true."""
        self.connection.take()
        self.connection.close(_FAILED)
        self._write(self.connection.take())

    def abort(self) -> None:
        """Abort the socket, as a broken network would."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------ faults

    def cut(self, where: Where) -> None:
        """Break off: what is left to write is written, in part, or not."""
        output = self.connection.take()
        self.connection.abandon()
        self.connection.paused = True  # no message is delivered to a connection that is gone
        if self._transport is None or self._transport.is_closing():
            return
        if not self._broker.commit():
            return
        if where != "before":
            self._transport.write(output if where == "after" else torn(output))
        self._transport.close()

    def hold(self, *, reading: bool, writing: bool) -> None:
        """Stop reading, or writing, for one more fault."""
        self._not_reading += reading
        self._not_writing += writing
        if self._not_reading and self._transport is not None:
            self._transport.pause_reading()

    def let_go(self, *, reading: bool, writing: bool) -> None:
        """Go on, unless another fault still holds it."""
        self._not_reading -= reading
        self._not_writing -= writing
        if not self._not_reading and self._transport is not None:
            self._transport.resume_reading()
        if not self._not_writing:
            self.flush()

    # ------------------------------------------------------------------ output

    def _on_output(self) -> None:
        if not self._reading:
            self._broker.flush_after_turn(self)

    def flush(self) -> None:
        """Write what there is to write, once that is durable."""
        if not self._reading:
            self._handle(self.connection.pending())
        if self._not_writing or not self._broker.commit():
            return
        self._write(self.connection.take())

    def _write(self, output: bytes) -> None:
        """Write bytes; after the connection's close frame, close the socket."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if output:
            transport.write(output)
            if transport.get_write_buffer_size() > _OUTPUT_LIMIT:
                transport.abort()
        if self.connection.finished:
            transport.close()
            if transport.get_write_buffer_size():
                self._loop.call_later(self.connection.limits.closing, transport.abort)
        elif self.connection.closed:
            # Closing while the peer still sends would reset the connection, and our close frame might be lost.
            if not self._sent_eof:
                self._sent_eof = True
                with suppress(OSError):  # the peer has hung up already
                    transport.write_eof()
        elif self.connection.held_back and not self.connection.paused:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self.connection.held_back = False
        self.container.resume()

    def _watch(self) -> None:
        """Let the connection do what time demands: heartbeats, and an end to silence."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._state = self.connection.state
        due = self.connection.tick(self._loop.time())
        self._alarm = None if due is None else self._loop.call_at(due, self._watch)
        if self.connection.finished:
            self.flush()


def torn(output: bytes) -> bytes:
    """Return what is written without the second half of its last frame."""
    at = 0
    while at < len(output):
        size = int.from_bytes(output[at : at + 4], "big")
        if at + size >= len(output):
            return output[: at + (len(output) - at) // 2]
        at += size
    return output
