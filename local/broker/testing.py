"""A broker inside a test: free ports, and time that obeys.

async with LocalBus("orders", clock=ManualClock()) as bus:
    client = ServiceBusClient.from_connection_string(bus.connection_string)
    ...
    await bus.advance(61)          # locks expire, schedules come due, nobody sleeps
    bus.drop_connections()         # as a network would
"""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from local.broker import config as configuration
from local.broker.bus.clock import Clock, ManualClock
from local.broker.bus.queue import Counts, QueueOptions
from local.broker.server import Broker, Connections

__all__ = ["LocalBus", "ManualClock"]


class LocalBus:
    """A broker in this event loop, for as long as the `async with` lasts.

    Queues are given as a parsed `Config.json`, as options by name, or as mere names, which
    take the defaults of Microsoft's emulator. Without a clock, time is real.
    """

    def __init__(
        self,
        *queues: str | Mapping[str, Any],
        clock: Clock | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        options: dict[str, QueueOptions] = {}
        for given in queues:
            options.update(_options(given))
        self._broker = Broker(options) if clock is None else Broker(options, clock=clock)
        self._clock = clock
        self._host, self._port = host, port
        self._admin_port = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._listen()
        return self

    async def _listen(self) -> None:
        self._port = await self._broker.start(self._host, self._port)
        self._admin_port = await self._broker.start_admin(self._host, self._admin_port)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hang up on everybody."""
        await self._broker.stop()

    # ------------------------------------------------------------------ where it is

    @property
    def port(self) -> int:
        """The port AMQP is spoken on."""
        return self._port

    @property
    def connection_string(self) -> str:
        """What an SDK client needs to connect."""
        return connection_string(self._host, self._port)

    @property
    def admin_connection_string(self) -> str:
        """What an SDK administration client needs; it must be told to speak plain HTTP."""
        return connection_string(self._host, self._admin_port)

    @property
    def admin_url(self) -> str:
        """The root of the admin port."""
        return f"http://{self._host}:{self._admin_port}"

    # ------------------------------------------------------------------ what is going on

    @property
    def connections(self) -> Connections:
        """Who is connected: `current`, `peak`, `containers`, `reset_peak()`."""
        return self._broker.connections

    def counts(self, queue: str) -> Counts:
        """How many messages a queue holds; a path such as `orders/$DeadLetterQueue` works too."""
        return self._broker.namespace.find(queue).counts()

    def waiting(self, queue: str) -> int:
        """How many receivers of a queue have asked for a message and wait for it."""
        return self._broker.namespace.find(queue).waiting

    def waiting_for_session(self, queue: str) -> int:
        """How many receivers wait in line for any session of a queue."""
        return self._broker.namespace.find(queue).sessions.waiting

    # ------------------------------------------------------------------ making things happen

    async def advance(self, seconds: float) -> None:
        """Move the manual clock; everything that comes due on the way happens, in order."""
        clock = self._clock
        if not isinstance(clock, ManualClock):
            raise TypeError("only a bus with a ManualClock can be advanced")
        self._broker.timers.advance(clock, seconds)
        await asyncio.sleep(0)

    def drop_connections(self, container: str = "") -> int:
        """Cut the connections whose container id starts so, as a network would; return how many."""
        return self._broker.connections.drop(container)

    async def stop_listening(self) -> None:
        """Cut every connection and accept no more: the broker is down."""
        await self._broker.stop()

    async def listen_again(self) -> None:
        """Come back on the same port, with everything the queues held."""
        await self._listen()


def connection_string(host: str, port: int, key: str = "local") -> str:
    """Write a connection string for the local broker."""
    return (
        f"Endpoint=sb://{host}:{port};SharedAccessKeyName=RootManageSharedAccessKey;"
        f"SharedAccessKey={key};UseDevelopmentEmulator=true"
    )


def _options(given: str | Mapping[str, Any]) -> Mapping[str, QueueOptions]:
    if isinstance(given, str):
        return {given: configuration.EMULATOR_DEFAULTS}
    if "UserConfig" in given:
        return configuration.read(given)
    return given
