"""A Redis connection that never makes anybody wait: a short timeout, no retries, and silence while Redis is away.

redis-py's defaults turn a hung server into a minute of silence (10 retries of 5 s). Here the first to meet a
dead Redis lose `TIMEOUT`, and nobody after them loses anything: a task of our own, not a request, asks until
Redis is back.

    here ──a command fails or is late──▶ away ──a PING is answered──▶ here
                                          └──◀─ every `PAUSE` ─┘
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

# A request meets up to three processes, each of which may be the first in it to find Redis hung: together they
# stay below the 0.3 s that Redis may cost a request (docs/explanation/delivery.md).
TIMEOUT = 0.08
# Between two looks whether it is back.
PAUSE = 1.0
# A burst waits for one of these rather than opening hundreds at once, which a busy server would refuse.
CONNECTIONS = 16
# How long the task that looks waits for a new connection and a first answer.
_PATIENCE = 1.0
# What has arrived while this process was busy is read in the next turn of its loop.
_NEXT_TURN = 0.005


class RedisAway(Exception):
    """Redis did not answer, or did not a moment ago."""


class QuickRedis:
    """Runs commands against one server; raises `RedisAway` at once or within `timeout` seconds."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT, pause: float = PAUSE) -> None:
        """`timeout` is that of one command, a new connection included; both are in seconds."""
        self._url = url
        self._timeout = timeout
        self._pause = pause
        self._client: Redis | None = None
        self._scripts: dict[str, Any] = {}
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._returning: asyncio.Task[None] | None = None

    @property
    def away(self) -> bool:
        """Whether commands fail at once, because one has failed and Redis has not answered since."""
        return self._returning is not None and not self._returning.done()

    async def run(self, command: "Callable[[Redis], Awaitable[T]]") -> T:
        """The result of `command`; raises `RedisAway`."""
        return await self._guard(lambda: command(self._connected()))

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        """The result of a Lua script, run as one atomic step; raises `RedisAway`."""
        return await self._guard(lambda: self._script(source)(keys=keys, args=args))

    async def close(self) -> None:
        """Close the connections."""
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T:
        self._raise_if_away()
        async with self._slots:
            self._raise_if_away()  # whoever had the slot may have found out
            try:
                return await self._soon(call())
            except _failures() as error:
                # Also a Redis that answers, but with an error (full, read-only, loading): it is of no use now.
                self._leave_alone()
                raise RedisAway(f"Redis: {error}") from error

    def _raise_if_away(self) -> None:
        if self.away:
            raise RedisAway("Redis failed a moment ago")

    async def _soon(self, command: Awaitable[T]) -> T:
        """The result of `command`; `TimeoutError` when there is none in time.

        redis-py's own timeouts blame Redis for what this process was busy with: a turn of its loop that takes longer
        than the timeout would be an outage, although the answer waits in the socket.
        """
        task = asyncio.ensure_future(command)
        try:
            await asyncio.wait({task}, timeout=self._timeout)
            if not task.done():
                await asyncio.wait({task}, timeout=_NEXT_TURN)
            if not task.done():
                raise TimeoutError(f"no answer within {self._timeout:g} s")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _leave_alone(self) -> None:
        if not self.away:
            self._returning = asyncio.create_task(self._until_it_is_back(), name="redis: is it back?")

    async def _until_it_is_back(self) -> None:
        await self._forget_idle_connections()
        answered = False
        while not answered:
            await asyncio.sleep(self._pause)
            answered = await self._answers()

    async def _answers(self) -> bool:
        try:
            # Opening a connection may take a while here, where nobody waits for it. Then it has to be quick.
            async with asyncio.timeout(_PATIENCE):
                await self._connected().ping()
            await self._soon(self._connected().ping())
        except _failures():
            return False
        return True

    async def _forget_idle_connections(self) -> None:
        """They may be as dead as the one that failed, and would cost a timeout each."""
        for _ in range(CONNECTIONS):  # so that nobody takes one while it is closed
            await self._slots.acquire()
        try:
            with suppress(*_failures()):
                await self._connected().connection_pool.disconnect(inuse_connections=False)
        finally:
            for _ in range(CONNECTIONS):
                self._slots.release()

    def _connected(self) -> "Redis":
        if self._client is None:
            from redis.asyncio import ConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            # No more connections than slots, and `_soon` keeps the time. Where redis-py does, it sends with `wait_for`,
            # which in Python 3.11 can lose a cancellation (python/cpython#86296): a call went on for its five seconds.
            pool = ConnectionPool.from_url(
                self._url,
                decode_responses=True,
                # A connection that introduces itself needs three more round trips before its first command, and this
                # is the command's time.
                protocol=2,
                driver_info=None,
                socket_timeout=None,
                socket_connect_timeout=None,
                retry=Retry(NoBackoff(), 0),
            )
            self._client = Redis.from_pool(pool)
        return self._client

    def _script(self, source: str) -> Any:
        if source not in self._scripts:
            self._scripts[source] = self._connected().register_script(source)
        return self._scripts[source]


def _failures() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return (RedisError, OSError, TimeoutError)
