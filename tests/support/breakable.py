"""A connection to Redis that a test can cut and mend."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shared.redis import FailFastRedis, RedisUnavailable

T = TypeVar("T")


class Breakable(FailFastRedis):
    """As `FailFastRedis`, but while it is `cut`, Redis is away."""

    cut = False

    async def run(self, command: Callable[[Any], Awaitable[T]]) -> T:
        """See `FailFastRedis.run`."""
        self._only_whole()
        return await super().run(command)

    async def script(self, source: str, keys: list[str], args: list[Any]) -> Any:
        """See `FailFastRedis.script`."""
        self._only_whole()
        return await super().script(source, keys, args)

    def _only_whole(self) -> None:
        if self.cut:
            raise RedisUnavailable("cut")
