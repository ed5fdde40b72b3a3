"""Holding a delivery while it is worked on: its lock is renewed, and on loss the work stops.

The SDK's own renewer gives up after one failure and after 300 s, and tells the handler nothing.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from shared.bus.port import BusUnavailable, Delivery, LockLost

T = TypeVar("T")

# A third leaves room for two failed renewals before the lock ends.
RENEW_AFTER = 1 / 3
RETRY_EVERY = 1.0
SHORTEST = 0.5


async def holding(delivery: Delivery, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises `LockLost` (and cancels `work`) when the lock is gone."""
    working = asyncio.ensure_future(work)
    keeping = asyncio.create_task(_keep(delivery), name="lease")
    try:
        await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise keeping.exception() or LockLost("the lock could not be renewed in time")
    finally:
        await _end(keeping)
        await _end(working)


async def _keep(delivery: Delivery) -> None:
    """Renew until told to stop; ends only by raising `LockLost`."""
    loop = asyncio.get_running_loop()
    remaining = _remaining(delivery.locked_until)
    while True:
        ends = loop.time() + remaining
        await asyncio.sleep(max(SHORTEST, remaining * RENEW_AFTER))
        remaining = _remaining(await _renewed(delivery, ends))


async def _renewed(delivery: Delivery, ends: float) -> datetime:
    loop = asyncio.get_running_loop()
    while True:
        try:
            async with asyncio.timeout_at(ends):
                return await delivery.renew()
        except (BusUnavailable, TimeoutError) as away:
            if loop.time() + RETRY_EVERY >= ends:
                raise LockLost("the lock could not be renewed before it ended") from away
            await asyncio.sleep(RETRY_EVERY)


def _remaining(until: datetime) -> float:
    # The broker's clock and ours may differ; a lock is never treated as shorter than a moment.
    return max(SHORTEST, (until - datetime.now(UTC)).total_seconds())


async def _end(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task
    elif not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not complain about it
