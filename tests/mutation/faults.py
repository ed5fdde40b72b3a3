"""What can go wrong with an effect at a port: it is lost, undone, done twice or too late, or its answer is another.

The wrappers are those of the crash points (`tests/crash_points/ports.py`), with a `Fault` where these have a trap. An
effect is told by its name, as `make crash-points` prints it: `bus send retrieve.v1 to retrieve`, `redis ledger.DECIDE`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from shared.bus.port import Inbox
from shared.bus.servicebus import ServiceBus
from shared.redis import FailFastRedis
from tests.crash_points.ports import TrappedBus, TrappedDelivery, TrappedInbox, TrappedRedis
from tests.crash_points.trap import Begun, Trap
from tests.support.memory_bus import MemoryBus, MemoryDelivery


@dataclass(frozen=True, slots=True)
class Call:
    """An effect that is about to happen."""

    do: Callable[[], Awaitable[Any]]
    keys: tuple[str, ...]
    """Of Redis: those that it may change, which are all in one slot of a cluster."""
    fault: "Fault"


How = Callable[[Call], Awaitable[Any]]


class Fault(Trap):
    """Stands at every effect of a test, and does something else at those that `effect`, a pattern, names."""

    def __init__(self, effect: str, how: How) -> None:
        """See above."""
        self._effect = effect
        self._how = how
        self.late: list[tuple[str, Callable[[], Awaitable[Any]]]] = []
        """What was put off, each with the name of the effect that it comes after."""
        self.redis: FailFastRedis | None = None
        self.unheard: set[asyncio.Task[None]] = set()
        self.alone = asyncio.Lock()
        """For what is done to Redis in several steps."""

    def take_up(self, message: str) -> None:
        """All work is the same here."""

    async def around(
        self, name: str, call: Callable[[], Awaitable[Any]], *about: Any, detail: str = "", shared: bool = False
    ) -> Any:
        """See `Trap.around`."""
        if fnmatchcase(name, self._effect):
            keys = tuple(each for each in about if isinstance(each, str) and each.startswith("ragbus:"))
            result = await self._how(Call(call, keys, self))
        else:
            result = await call()
        due = [do for after, do in self.late if fnmatchcase(name, after)]
        self.late = [(after, do) for after, do in self.late if not fnmatchcase(name, after)]
        for do in due:
            await do()
        return result

    def begin(self, name: str, *about: Any, detail: str = "", shared: bool = False) -> Begun | None:
        """Nothing is done to effects that cannot be taken back."""
        return None

    def wire(self, port: Any) -> Any:
        """`port` behind its wrapper."""
        match port:
            case FailFastRedis():
                self.redis, self.alone = port, asyncio.Lock()  # of this test
                return TrappedRedis(port, self)
            case MemoryBus() | ServiceBus():
                return _Bus(port, self)
            case MemoryDelivery():
                return _Delivery(port, port.message.queue, self)
        return port

    async def script(self, source: str, *keys: str) -> None:
        """Do something to Redis behind the back of the code under test."""
        assert self.redis is not None
        await self.redis.script(source, list(keys), [])


# -- what goes wrong


def lost(answer: Callable[[], Any] = lambda: None) -> How:
    """It does not happen, and the peer says `answer`."""

    async def how(call: Call) -> Any:
        return answer()

    return how


async def unconfirmed(call: Call) -> None:
    """Nobody waits for the peer, or hears that it refused."""

    async def do() -> None:
        try:
            await call.do()
        except Exception:  # noqa: BLE001 - nobody hears of it: that is the fault
            return

    call.fault.unheard.add(asyncio.create_task(do()))


async def twice(call: Call) -> Any:
    """It happens once more."""
    await call.do()
    return await call.do()


def late(after: str) -> How:
    """It happens after the next effect that `after` names."""

    async def how(call: Call) -> None:
        call.fault.late.append((after, call.do))

    return how


def misnamed(refusal: type[Exception] | tuple[type[Exception], ...], said: BaseException) -> How:
    """A refusal of the peer is raised as another one."""

    async def how(call: Call) -> Any:
        try:
            return await call.do()
        except refusal as refused:
            raise said from refused

    return how


def ignored(refusal: type[Exception], answer: Callable[[], Any] = lambda: None) -> How:
    """A refusal of the peer is taken for `answer`."""

    async def how(call: Call) -> Any:
        try:
            return await call.do()
        except refusal:
            return answer()

    return how


def forgotten(*fields: str) -> How:
    """Redis has forgotten these fields of its keys, or with none all of them, when it comes to it."""
    forget = f"redis.call('HDEL', KEYS[1], {str(fields)[1:].rstrip(',)')})" if fields else "redis.call('DEL', KEYS[1])"

    async def how(call: Call) -> Any:
        async with call.fault.alone:
            for key in call.keys:
                await call.fault.script(forget, key)
            return await call.do()

    return how


def undone(only: str = "*") -> How:
    """Redis does it, says so, and has the keys that `only` names as they were."""

    async def how(call: Call) -> Any:
        keys = [key for key in call.keys if fnmatchcase(key, only)]
        async with call.fault.alone:
            for key in keys:
                await call.fault.script("redis.call('COPY', KEYS[1], KEYS[2], 'REPLACE')", key, f"{key}:before")
            result = await call.do()
            for key in keys:
                await call.fault.script(
                    "redis.call('DEL', KEYS[1]) "
                    "if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('RENAME', KEYS[2], KEYS[1]) end",
                    key,
                    f"{key}:before",
                )
            return result

    return how


async def everlasting(call: Call) -> Any:
    """Redis keeps it for ever."""
    result = await call.do()
    for key in call.keys:
        await call.fault.script("return redis.call('PERSIST', KEYS[1])", key)
    return result


class SlowClock(Fault):
    """The clock is an hour slow."""

    def __init__(self) -> None:
        """Nothing else is wrong."""
        super().__init__("", lost())

    def wire(self, port: Any) -> Any:
        """Only the clock has a fault."""
        return (lambda: port() - timedelta(hours=1)) if callable(port) else port


# -- the wrappers, where tests look at more of a port than it promises


class _Bus(TrappedBus):
    def inbox(self, queue: str) -> Inbox:
        return _Inbox(self._bus.inbox(queue), queue, self._trap)


class _Inbox(TrappedInbox):
    """Nothing is lost when a worker dies in these two; they can fail all the same."""

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> Any:
        receive = super().receive
        return await self._trap.around(f"bus receive from {self._queue}", lambda: receive(wait, prefetch=prefetch))

    async def close(self) -> None:
        await self._trap.around(f"bus close {self._queue}", super().close)


class _Delivery(TrappedDelivery):
    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)
