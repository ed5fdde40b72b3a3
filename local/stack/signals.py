"""SIGTERM, SIGINT and SIGHUP as cancellation, so that every `async with` on the way is left properly."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# SIGHUP: the terminal was closed.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run(work: Coroutine[Any, Any, T]) -> T | None:
    """`asyncio.run`, but each signal cancels `work`; the result of `work`, or None when a signal ended it."""

    async def until_signalled() -> T | None:
        working = asyncio.ensure_future(work)
        signalled = asyncio.Event()

        def stop() -> None:
            signalled.set()
            working.cancel()

        for number in STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            return await working
        except asyncio.CancelledError:
            if signalled.is_set():
                return None
            raise

    return asyncio.run(until_signalled())
