"""A Redis connection that never makes anybody wait: short timeouts, no retries, and a pause after a failure.

redis-py's defaults turn a hung server into a minute of silence (10 retries of 5 s); here a request that meets
a dead Redis loses a quarter of a second once, and the ones after it lose nothing until the pause is over.
"""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from redis.asyncio import Redis

T = TypeVar("T")

TIMEOUT = 0.25
# How long nobody tries again after a failure.
PAUSE = 1.0
# A burst waits for one of these rather than opening hundreds at once, which a busy server would refuse.
CONNECTIONS = 16


class RedisAway(Exception):
    """Redis did not answer, or did not a moment ago."""


class QuickRedis:
    """Runs commands against one server; raises `RedisAway` at once or within `timeout` seconds."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._timeout = timeout
        self._clock = clock
        self._away_until = 0.0
        self._client: Redis | None = None
        self._scripts: dict[str, Any] = {}

    async def run(self, command: "Callable[[Redis], Awaitable[T]]") -> T:
        """The result of `command`; raises `RedisAway`."""
        return await self._guard(lambda: command(self._connected()))

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        """The result of a Lua script, run as one atomic step; raises `RedisAway`."""
        return await self._guard(lambda: self._script(source)(keys=keys, args=args))

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _guard(self, call: Callable[[], Awaitable[T]]) -> T:
        from redis.exceptions import RedisError

        if self._clock() < self._away_until:
            raise RedisAway("Redis failed a moment ago")
        try:
            return await call()
        except (RedisError, OSError) as error:
            # Also a Redis that answers, but with an error (full, read-only, loading): it is of no use at the moment.
            self._away_until = self._clock() + PAUSE
            raise RedisAway(f"Redis: {error}") from error

    def _connected(self) -> "Redis":
        if self._client is None:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            pool = BlockingConnectionPool.from_url(
                self._url,
                max_connections=CONNECTIONS,
                timeout=PAUSE,
                decode_responses=True,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                retry=Retry(NoBackoff(), 0),
            )
            self._client = Redis.from_pool(pool)
        return self._client

    def _script(self, source: str) -> Any:
        if source not in self._scripts:
            self._scripts[source] = self._connected().register_script(source)
        return self._scripts[source]
