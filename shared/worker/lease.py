"""Keeps a delivery locked while it is worked on: renews its lock, and cancels the work when the lock is lost.

The SDK's own renewer gives up after one failure and after 300 s, and does not tell the handler.
"""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

from shared.bus.port import BusUnavailable, Delivery, LockLost

T = TypeVar("T")
Clock = Callable[[], datetime]

# A third leaves room for two failed renewals before the lock ends.
RENEW_AFTER = 1 / 3
RETRY_EVERY = 1.0
SHORTEST = 0.5
CANCEL_AGAIN = 1.0


class Lease:
    """Until when a delivery is locked, as far as this process knows."""

    def __init__(self, delivery: Delivery, clock: Clock) -> None:
        self._delivery = delivery
        self._clock = clock
        self._ends = 0.0
        self._extend(delivery.locked_until)

    def check(self) -> None:
        """Call it before an effect; raises `LockLost` when the lock has ended, even if no renewal has failed yet.

        A process that was paused (by the machine, a debugger) continues where it was.
        """
        if asyncio.get_running_loop().time() >= self._ends:
            raise LockLost("the lock ended while this process was paused")

    @property
    def renew_in(self) -> float:
        """Seconds until the lock should be renewed."""
        return max(0.0, self._ends - asyncio.get_running_loop().time()) * RENEW_AFTER

    async def keep(self) -> None:
        """Renew now, and again before each end of the lock, until cancelled; raises `LockLost`."""
        while True:
            self._extend(await _renewed(self._delivery, self._ends))
            await asyncio.sleep(self.renew_in)

    def _extend(self, until: datetime) -> None:
        # The broker's clock and ours may differ; a lock is never treated as shorter than a moment.
        left = max(SHORTEST, (until - self._clock()).total_seconds())
        self._ends = asyncio.get_running_loop().time() + left


async def holding(delivery: Delivery, work: Callable[[Lease], Coroutine[Any, Any, T]], clock: Clock) -> T:
    """The result of `work`, which is given the lease; raises `LockLost` (and cancels it) when the lock is gone."""
    lease = Lease(delivery, clock)
    working = asyncio.ensure_future(work(lease))
    try:
        # Most work has ended by then, and needs no second task.
        await asyncio.wait({working}, timeout=lease.renew_in)
        if not working.done():
            keeping = asyncio.create_task(lease.keep(), name="lease")
            try:
                await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise keeping.exception() or LockLost("the lock could not be renewed in time")
            finally:
                await _end(keeping)
        return working.result()
    finally:
        await _end(working)


async def _renewed(delivery: Delivery, ends: float) -> datetime:
    loop = asyncio.get_running_loop()
    while True:
        try:
            async with asyncio.timeout_at(ends):
                return await delivery.renew()
        except (BusUnavailable, TimeoutError) as unavailable:
            if loop.time() + RETRY_EVERY >= ends:
                raise LockLost("the lock could not be renewed before it ended") from unavailable
            await asyncio.sleep(RETRY_EVERY)


async def _end(task: "asyncio.Future[Any]") -> None:
    while not task.done():
        # Until it is: `asyncio.wait_for` of Python 3.11 may swallow a cancellation (cpython#86296).
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_AGAIN)
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not complain about it
