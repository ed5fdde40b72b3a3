"""A broker inside a test: free ports, faults on demand, and time that obeys.

    async with LocalBus("orders", clock=ManualClock()) as bus:       # in this event loop
        client = ServiceBusClient.from_connection_string(bus.connection_string)
        ...
        await bus.advance(61)                  # locks end, scheduled messages appear, without sleeping
        bus.faults.drop("send", where="within")
        assert [each.state for each in bus.messages("orders")] == ["locked"]
        assert bus.record.check() == []        # nothing lost, nothing settled twice

    with LocalBus("orders", "news/Subscriptions/all") as bus:        # in a thread of its own,
        ...                                    # for tests that know no event loop
        bus.advance(61)

What a bus can be asked is safe to ask from any thread.
"""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from servicebus_local import config as configuration
from servicebus_local.bus.clock import Clock, ManualClock
from servicebus_local.bus.filters import Rule, SqlFilter
from servicebus_local.bus.store import Store
from servicebus_local.bus.topics import Subscription
from servicebus_local.bus.topology import (
    DEFAULT_RULE,
    AccessRule,
    Counts,
    QueueOptions,
    Right,
    SubscriptionDefinition,
    TopicOptions,
)
from servicebus_local.contents import StoredMessage, contents
from servicebus_local.faults import Faults
from servicebus_local.given import Given, topology_of
from servicebus_local.record import LIMIT, Record
from servicebus_local.server import Broker, Connections

__all__ = ["Given", "LocalBus", "ManualClock", "Right", "StoredMessage", "ThreadedBus", "connection_string"]

T = TypeVar("T")
_BLINK = 0.002  # seconds between two looks at a condition


class Controls:
    """What can be called from any thread."""

    def __init__(self, broker: Broker, clock: Clock | None, host: str, port: int, record: int) -> None:
        self._broker = broker
        self._clock = clock
        self._host, self._port = host, port
        self._admin_port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        broker.faults.run = broker.record.run = self._call
        if record:
            broker.record.start(record)

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function in the broker's thread."""
        loop = self._loop
        if loop is None or self._thread == threading.get_ident():
            return function()

        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), loop).result()

    async def _listen(self) -> None:
        try:
            self._port = await self._broker.start(self._host, self._port)
            self._admin_port = await self._broker.start_admin(self._host, self._admin_port)
        except BaseException:
            await self._broker.stop()
            raise

    def _live_here(self) -> None:
        """Remember this thread and loop: everything is done there."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def _live_nowhere(self) -> None:
        """Remember that nothing runs, so that any thread may look."""
        self._loop = None

    async def _advance(self, seconds: float) -> None:
        clock = self._clock
        if not isinstance(clock, ManualClock):
            raise TypeError("only a bus with a ManualClock can be advanced")
        self._broker.timers.advance(clock, seconds)
        await asyncio.sleep(0)

    # ------------------------------------------------------------------ where it is

    @property
    def port(self) -> int:
        """The port AMQP is spoken on."""
        return self._port

    @property
    def connection_string(self) -> str:
        """What an SDK client needs to connect; it may do everything."""
        return connection_string(self._host, self._port)

    def connection_string_with(self, *rights: Right, entity: str = "") -> str:
        """Return a connection string for these rights only: in the namespace, or at one queue or topic."""
        rule = AccessRule(f"test-{secrets.token_hex(4)}", (secrets.token_hex(16),), frozenset(rights))
        self._call(lambda: self._broker.keys.add(entity, rule))
        string = connection_string(self._host, self._port, rule.keys[0], rule.name)
        return f"{string};EntityPath={entity}" if entity else string

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

    @property
    def faults(self) -> Faults:
        """What goes wrong on purpose."""
        return self._broker.faults

    @property
    def record(self) -> Record:
        """What happened to every message: `events()`, `check()`."""
        return self._broker.record

    def counts(self, path: str) -> Counts:
        """How many messages an entity holds; a path such as `orders/$DeadLetterQueue` works too."""
        return self._call(lambda: self._broker.namespace.find(path).counts())

    def messages(self, path: str) -> list[StoredMessage]:
        """The messages of an entity in any state, in sequence order."""
        return self._call(lambda: contents(self._broker.namespace.find(path)))

    def waiting(self, path: str) -> int:
        """How many receivers of a queue or subscription have asked for a message and wait for it."""
        return self._call(lambda: self._broker.namespace.queue(path).waiting)

    def waiting_for_session(self, path: str) -> int:
        """How many receivers wait in line for any session."""
        return self._call(lambda: self._broker.namespace.queue(path).sessions.waiting)

    # ------------------------------------------------------------------ making things happen

    def create_queue(self, name: str, options: QueueOptions | None = None, **changes: Any) -> None:
        """Create a queue; without options with the emulator's, and with changes such as `lock_duration=5`."""
        wanted = replace(options or configuration.EMULATOR_DEFAULTS, **changes)
        self._call(lambda: self._broker.namespace.create_queue(name, wanted))

    def create_topic(self, name: str, options: TopicOptions | None = None, **changes: Any) -> None:
        """Create a topic without subscriptions; options as for a queue."""
        wanted = replace(options or configuration.EMULATOR_TOPIC_DEFAULTS, **changes)
        self._call(lambda: self._broker.namespace.create_topic(name, wanted))

    def create_subscription(
        self, topic: str, name: str, *rules: Rule | str, options: QueueOptions | None = None, **changes: Any
    ) -> None:
        """Create a subscription that chooses by these rules, text being conditions in SQL; without rules, all."""
        wanted = replace(options or configuration.EMULATOR_DEFAULTS, **changes)
        chosen = tuple(
            Rule(f"rule-{number}", SqlFilter(rule)) if isinstance(rule, str) else rule
            for number, rule in enumerate(rules, 1)
        )
        definition = SubscriptionDefinition(wanted, chosen or (DEFAULT_RULE,))
        self._call(lambda: self._broker.namespace.create_subscription(topic, name, definition))

    def delete(self, path: str) -> None:
        """Delete a queue, a topic or a subscription with everything in it."""

        def delete() -> None:
            namespace = self._broker.namespace
            entity = namespace.find(path)
            if isinstance(entity, Subscription):
                namespace.delete_subscription(entity.topic.name, entity.short_name)
            else:
                namespace.delete(entity.name)

        self._call(delete)

    def purge(self, path: str) -> int:
        """Forget every message of an entity, also those that are locked; return how many."""
        return self._call(lambda: self._broker.namespace.find(path).purge())

    def drop_connections(self, container: str = "") -> int:
        """Cut the connections whose container id starts so, as a network would; return how many."""
        return self._call(lambda: self._broker.connections.drop(container))


class LocalBus(Controls):
    """A broker for as long as the `async with` lasts, in this event loop; or the `with`, in a thread.

    Entities are names, which take the defaults of Microsoft's emulator; a `Config.json`, as a
    file or parsed; a `Topology`; or options by name. `news/Subscriptions/all` names a
    subscription, and its topic. Without a clock, time is real. The last `record` events are
    recorded, none when it is 0. With `data`, a directory or a `.sqlite3` file, everything is kept
    there, for the next bus or broker on the same data. Other options are those of `Broker`:
    `store`, `auto_create`, …
    """

    def __init__(
        self,
        *entities: Given,
        clock: Clock | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        record: int = LIMIT,
        data: Path | None = None,
        **options: Any,
    ) -> None:
        self._kept: Store | None = None
        if data is not None:
            from servicebus_local.bus.sqlite_store import open_store  # the only one who needs SQLite

            self._kept = options["store"] = open_store(data)
        broker = Broker(topology_of(*entities), clock=clock or time.time, **options)
        super().__init__(broker, clock, host, port, record)
        self._record = record
        self._threaded: ThreadedBus | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        self._live_here()
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections and stop."""
        await self._broker.stop()
        self._live_nowhere()
        self._close_store()

    def __enter__(self) -> "ThreadedBus":
        """Listen, in a thread that does nothing else."""
        self._threaded = ThreadedBus(self._broker, self._clock, self._host, self._port, self._record)
        self._threaded.start()
        return self._threaded

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections, stop, and wait until the thread has ended."""
        if self._threaded is not None:
            self._threaded.stop()
        self._close_store()

    def _close_store(self) -> None:
        if self._kept is not None:
            self._kept.close()

    async def advance(self, seconds: float) -> None:
        """Move the manual clock; everything that comes due on the way happens, in order."""
        await self._advance(seconds)

    async def wait_until(self, condition: Callable[[], object], within: float = 30.0) -> None:
        """Return when a condition is true; raises `TimeoutError` after `within` seconds of real time."""
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 - the condition is the caller's, and there is no event for its change
                await asyncio.sleep(_BLINK)

    async def stop_listening(self) -> None:
        """Cut every connection and accept no more: the broker is down."""
        await self._broker.stop()

    async def listen_again(self) -> None:
        """Come back on the same port, with everything the queues held."""
        await self._listen()


class ThreadedBus(Controls):
    """A broker in a thread of its own: what `with LocalBus(...) as bus` gives."""

    def start(self) -> None:
        """Begin to listen; raises what prevents it."""
        started: Future[None] = Future()
        self._worker = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="local-broker", daemon=True
        )
        self._worker.start()
        try:
            started.result()
        except BaseException:
            self._worker.join()
            self._live_nowhere()
            raise

    def stop(self) -> None:
        """Close all connections, stop, and wait until the thread has ended."""
        self._call(self._over.set)
        self._worker.join()
        self._live_nowhere()

    async def _serve(self, started: "Future[None]") -> None:
        self._live_here()
        self._over = asyncio.Event()
        try:
            await self._listen()
        except Exception as error:  # noqa: BLE001 - all of them are raised where the thread is started
            started.set_exception(error)
            return
        started.set_result(None)
        await self._over.wait()
        await self._broker.stop()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None, "the bus is used outside of its `with`"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def advance(self, seconds: float) -> None:
        """Move the manual clock; everything that comes due on the way happens, in order."""
        self._do(self._advance(seconds))

    def wait_until(self, condition: Callable[[], object], within: float = 30.0) -> None:
        """Return when a condition is true; raises `TimeoutError` after `within` seconds of real time."""
        end = time.monotonic() + within
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"the condition was not true within {within} seconds")
            time.sleep(_BLINK)

    def stop_listening(self) -> None:
        """Cut every connection and accept no more: the broker is down."""
        self._do(self._broker.stop())

    def listen_again(self) -> None:
        """Come back on the same port, with everything the queues held."""
        self._do(self._listen())


def connection_string(host: str, port: int, key: str = "local", policy: str = "RootManageSharedAccessKey") -> str:
    """Write a connection string for the local broker."""
    return f"Endpoint=sb://{host}:{port};SharedAccessKeyName={policy};SharedAccessKey={key};UseDevelopmentEmulator=true"
