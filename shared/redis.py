"""A Redis client that fails fast: a short time-out, no retries, and no commands while Redis is unavailable.

redis-py's defaults turn a hung server into a minute of silence (10 retries of 5 s). Here the first commands to a dead
Redis lose `TIMEOUT`, and later ones fail at once: a background task, not a request, tries until Redis is back.

    closed ──a command fails or is late──▶ open ──`PAUSE`──▶ half-open ──a write succeeds on every node──▶ closed
                                            └──◀─────────────────┘ it fails

That is the circuit breaker of `shared/circuit_breaker.py`, with a threshold of one failure and one probe at a time.

Redis is one server or a Redis Cluster (`redis_cluster.py`). A cluster is available or unavailable as a whole: a request
that met several silent nodes would wait for each.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from shared.circuit_breaker import CLOSED, BreakerPolicy, asked_to_receive, failed, succeeded
from shared.telemetry.logs import get_logger

if TYPE_CHECKING:
    from shared.redis_cluster import RedisNodes

T = TypeVar("T")
log = get_logger()

# A request passes through up to three processes, and each may wait this long when Redis hangs: together they stay below
# the 0.3 s that Redis may cost a request (docs/explanation/delivery.md).
TIMEOUT = 0.08
# Seconds between two attempts during an outage.
PAUSE = 1.0
# Commands in progress at once. Those that wait have sent nothing when Redis turns out to hang.
COMMANDS = 64
# Seconds that new connections and their first replies may take then.
PATIENCE = 3.0
# A reply that arrived while this process was busy is read in the next turn of its event loop.
_NEXT_TURN = 0.005
# Workers write by scripts, so the probe does too: a replica, a full server and a cluster without its slots all answer
# PING.
_PROBE = "ragbus:probe"
_WRITE = "return redis.call('SET', KEYS[1], ARGV[1], 'EX', 60)"


class RedisUnavailable(Exception):
    """Redis did not answer, now or a moment ago."""


class FailFastRedis:
    """Runs commands on one server or cluster; raises `RedisUnavailable` at once or within `timeout` seconds."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = TIMEOUT,
        pause: float = PAUSE,
        patience: float = PATIENCE,
        changed: Callable[[bool], None] = lambda _up: None,
    ) -> None:
        """`url`: of the server, or of any node of the cluster; `changed`: called with whether Redis accepts commands.

        In seconds: `timeout` of one command, including a new connection; `pause` between attempts during an outage;
        `patience` with one such attempt.
        """
        self._url = url
        self._timeout = timeout
        self._policy = BreakerPolicy(threshold=1, first=pause, longest=pause)
        self._circuit = CLOSED
        self._patience = patience
        self._changed = changed
        self._nodes: RedisNodes | None = None
        self._digests: dict[str, str] = {}
        self._slots = asyncio.Semaphore(COMMANDS)
        self._returning: asyncio.Task[None] | None = None
        self._why = ""

    @property
    def unavailable(self) -> bool:
        """Whether commands fail at once, because one has failed and Redis has not answered since."""
        return not self._circuit.is_closed

    async def check(self) -> None:
        """Check whether Redis accepts commands, and connect; called at the start.

        If it does not, it counts as unavailable, the background task starts, and the log says why.
        """
        try:
            await self._probe()
        except _failures() as error:
            self._open(error)
        else:
            self._changed(True)

    async def probe(self) -> int:
        """Write on every node, as the workers do; returns their number, raises `RedisUnavailable` with the reason.

        Does not change whether Redis counts as unavailable.
        """
        try:
            await self._probe()
        except _failures() as error:
            raise RedisUnavailable(str(error) or repr(error)) from error
        return self._connected().count

    async def run(self, command: "Callable[[RedisNodes], Awaitable[T]]") -> T:
        """The result of `command`, which is given the client and must use one key; raises `RedisUnavailable`."""
        return await self._guard(lambda: command(self._connected()))

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        """The result of the Lua script `source`, run as one atomic step; raises `RedisUnavailable`.

        There is at least one key, and all are in one hash slot of a Redis Cluster: the parts in braces are the same.
        Otherwise it raises `ValueError`.
        """
        return await self._guard(lambda: self._evaluate(source, keys, args))

    async def close(self) -> None:
        """Close the connections."""
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        if self._nodes is not None:
            await self._nodes.aclose()

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T:
        from redis.exceptions import TryAgainError

        self._raise_if_unavailable()
        async with self._slots:
            self._raise_if_unavailable()  # the command before this one may have failed
            try:
                return await self._soon(call())
            except TryAgainError as moving:
                # Some keys are between two nodes of the cluster; all others can be used.
                raise RedisUnavailable(f"Redis: {moving}") from moving
            except _failures() as error:
                # Also when Redis answers with an error (full, read-only, loading): it cannot be used now.
                self._open(error)
                raise RedisUnavailable(f"Redis: {error}") from error

    async def _evaluate(self, source: str, keys: list[str], args: list[Any]) -> Any:
        from redis.exceptions import NoScriptError

        if source not in self._digests:
            self._digests[source] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        nodes = self._connected()
        try:
            return await nodes.evalsha(self._digests[source], len(keys), *keys, *args)
        except NoScriptError:
            return await nodes.eval(source, len(keys), *keys, *args)

    def _raise_if_unavailable(self) -> None:
        if self.unavailable:
            raise RedisUnavailable(f"Redis failed a moment ago ({self._why})")

    async def _soon(self, command: Awaitable[T]) -> T:
        """The result of `command`; `TimeoutError` when there is none in time.

        A time-out alone would blame Redis for a busy process: a turn of the event loop that takes longer than the
        time-out would count as an outage, although the reply is already in the socket.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                late = loop.call_later(self._timeout, lambda: limit.reschedule(loop.time() + _NEXT_TURN))
                try:
                    return await command
                finally:
                    late.cancel()
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._timeout:g} s") from None

    def _open(self, error: Exception) -> None:
        if self.unavailable:
            return
        self._circuit = failed(self._circuit, _PROBE, time.monotonic(), 0, self._policy)
        self._why = str(error) or repr(error)
        log.warning("redis.unavailable", detail=self._why)
        self._changed(False)
        self._returning = asyncio.create_task(self._until_it_is_back(), name="redis: watch for its return")

    async def _until_it_is_back(self) -> None:
        since = time.monotonic()
        try:
            while not self._circuit.is_closed:
                await self._forget_connections()
                await asyncio.sleep(self._circuit.until - time.monotonic())
                self._circuit = asked_to_receive(self._circuit, _PROBE, time.monotonic(), self._policy)
                try:
                    await self._probe()
                except _failures():
                    self._circuit = failed(self._circuit, _PROBE, time.monotonic(), 0, self._policy)
                else:
                    self._circuit = succeeded(self._circuit)
        finally:
            self._circuit = CLOSED  # also after a bug here: then the next command opens it again
        log.info("redis.available", seconds=round(time.monotonic() - since, 1))
        self._changed(True)

    async def _probe(self) -> None:
        """Write on every node, by a script as the workers do; raises what fails."""
        nodes = self._connected()
        # Opening connections may take long here, because no request waits for it. The next command must be fast.
        try:
            async with asyncio.timeout(self._patience):
                await nodes.learn()
                keys = nodes.keys_on_every_node(_PROBE)
                await self._write(keys)
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._patience:g} s") from None
        await self._soon(self._write(keys))

    async def _write(self, keys: list[str]) -> None:
        done = await asyncio.gather(*(self._evaluate(_WRITE, [key], [1]) for key in keys), return_exceptions=True)
        for error in done:
            if isinstance(error, BaseException):
                raise error

    async def _forget_connections(self) -> None:
        """Close the connections: after a command was late, nothing tells whether its reply would ever come."""
        for _ in range(COMMANDS):  # so that no command is in progress
            await self._slots.acquire()
        try:
            with suppress(*_failures()):
                await self._connected().forget_connections()
        finally:
            for _ in range(COMMANDS):
                self._slots.release()

    def _connected(self) -> "RedisNodes":
        if self._nodes is None:
            from shared.redis_cluster import RedisNodes

            # `_soon` keeps the time.
            # redis-py's commands declare an attribute that only its subscriptions use.
            self._nodes = RedisNodes(self._url)  # type: ignore[abstract]
        return self._nodes


def _failures() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return (RedisError, OSError, TimeoutError)
