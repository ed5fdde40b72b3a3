"""Sockets: the only part of the broker that knows asyncio.

What a connection produces while its own input is handled leaves in one write. What another
connection's message produces here leaves at the end of this turn of the loop, so latency
does not become the next timer. Nobody waits for a slow peer: above the high-water mark it
gets no more messages, and above the limit it is hung up on.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Final

from local.broker.admin.app import AdminApp
from local.broker.admin.http import HttpProtocol
from local.broker.amqp.endpoint import Connection
from local.broker.bus.clock import Clock, ManualClock, Timers
from local.broker.bus.namespace import Namespace
from local.broker.bus.queue import QueueOptions
from local.broker.bus.store import MemoryStore, Store
from local.broker.nodes.cbs import Keys
from local.broker.nodes.container import Container

_LOGGER = logging.getLogger("local.broker")
DEFAULT_KEYS: Final[Mapping[str, Sequence[str]]] = {
    # the second is the placeholder in the connection strings of Microsoft's emulator
    "RootManageSharedAccessKey": ("local", "SAS_KEY_VALUE"),
}
_HIGH_WATER: Final = 1024 * 1024
_OUTPUT_LIMIT: Final = 64 * 1024 * 1024
_SHORTEST_BEAT: Final = 0.01


class Broker:
    """A namespace and the connections to it."""

    def __init__(
        self,
        queues: Mapping[str, QueueOptions],
        *,
        clock: Clock = time,
        store: Store | None = None,
        keys: Mapping[str, Sequence[str]] = DEFAULT_KEYS,
    ) -> None:
        self.timers = Timers(clock)
        self.store = store or MemoryStore()
        self.namespace = Namespace(queues, self.timers, self.store)
        self.keys = Keys(keys, time)
        self.connections = Connections()
        self._admin_sockets: set[HttpProtocol] = set()
        self._servers: list[asyncio.Server] = []
        self._alarm: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ life

    async def start(self, host: str, port: int) -> int:
        """Accept connections; return the port, which is a free one if 0 was asked for."""
        if not isinstance(self.timers.clock, ManualClock):
            self.timers.on_change = self._set_alarm
            self._set_alarm()
        return await self._listen(lambda: BrokerProtocol(self), host, port)

    async def start_admin(self, host: str, port: int) -> int:
        """Answer HTTP; return the port, which is a free one if 0 was asked for."""
        app = AdminApp(self.namespace, self.connections)
        return await self._listen(lambda: HttpProtocol(app, self._admin_sockets), host, port)

    async def _listen(self, protocol: Callable[[], asyncio.Protocol], host: str, port: int) -> int:
        server = await asyncio.get_running_loop().create_server(protocol, host, port)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Hang up on everybody; what the queues hold is kept."""
        self.timers.on_change = _no_change
        if self._alarm is not None:
            self._alarm.cancel()
        while self._servers:
            self._servers.pop().close()
        self.connections.close()
        for admin_socket in list(self._admin_sockets):
            admin_socket.close()
        await asyncio.sleep(0)
        self.connections.drop()  # whoever did not take the goodbye
        await asyncio.sleep(0)

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
        self._set_alarm()


def _no_change() -> None:
    """Nobody listens: alarms wait until somebody does."""


class Connections:
    """Who is connected, and how many were at most."""

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

    def close(self) -> None:
        """Say goodbye to everybody."""
        for protocol in list(self._open):
            protocol.close()


class BrokerProtocol(asyncio.Protocol):
    """One socket."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reading = False
        self._heartbeat: asyncio.TimerHandle | None = None
        self.connection = Connection(on_output=self._on_output)
        self._container = Container(broker.namespace, broker.keys, self.connection)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count in. Small frames leave at once: asyncio sets TCP_NODELAY on every socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._broker.connections.joined(self)

    def data_received(self, data: bytes) -> None:
        """Handle everything that came in, then write everything that came of it."""
        self._reading = True
        try:
            for event in self.connection.receive(data):
                self._container.handle(event)
        except Exception:  # a bug of ours ends this connection, not the broker
            _LOGGER.exception("connection %s failed", self.connection.peer)
            self.abort()
        finally:
            self._reading = False
        self._flush()
        if self._heartbeat is None and self.connection.peer_idle_time_out is not None:
            self._beat()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free what the peer held here."""
        self._transport = None
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        self._broker.connections.left(self)
        for event in self.connection.lost():
            self._container.handle(event)

    def pause_writing(self) -> None:
        """Give a slow peer no more messages."""
        self.connection.paused = True

    def resume_writing(self) -> None:
        """Go on where it was left."""
        self.connection.paused = False
        self._resume()

    def close(self) -> None:
        """Say goodbye and hang up."""
        self.connection.close()
        self._flush()

    def abort(self) -> None:
        """Hang up without a word, as a network would."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------ output

    def _on_output(self) -> None:
        if not self._reading:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        transport, output = self._transport, self.connection.take()
        if transport is None or transport.is_closing():
            return
        if output:
            self._broker.store.commit()
            transport.write(output)
            if transport.get_write_buffer_size() > _OUTPUT_LIMIT:
                transport.abort()
        if self.connection.closed:
            transport.close()
        elif self.connection.held_back and not self.connection.paused:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        self.connection.held_back = False
        self._container.resume()

    def _beat(self) -> None:
        """Keep a peer that has an idle time-out from giving up on us."""
        interval = max(_SHORTEST_BEAT, (self.connection.peer_idle_time_out or 0.0) / 2)
        self.connection.heartbeat()
        self._heartbeat = self._loop.call_later(interval, self._beat)
