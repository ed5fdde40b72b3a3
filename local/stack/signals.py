"""SIGTERM, SIGINT and SIGHUP as cancellation, so that every `async with` on the way is left properly."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# SIGHUP: the terminal was closed.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(work: Coroutine[Any, Any, T]) -> T | None:
    """`asyncio.run`, but a signal cancels `work`, and another one cancels it again; None when it was stopped so."""
    return asyncio.run(_until_told(work))


async def _until_told(work: Coroutine[Any, Any, T]) -> T | None:
    loop = asyncio.get_running_loop()
    working = asyncio.ensure_future(work)
    told = asyncio.Event()

    def stop() -> None:
        told.set()
        working.cancel()

    for number in STOPPING:
        loop.add_signal_handler(number, stop)
    try:
        return await working
    except asyncio.CancelledError:
        if told.is_set():
            return None
        raise
