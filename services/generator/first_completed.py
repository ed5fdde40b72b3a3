"""Work that is cancelled when a condition comes first."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.generator.reply import Cancelled

T = TypeVar("T")


async def first_completed(over: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises `Cancelled`, after `work` was cancelled, when `over` ends before it.

    Raises what `work` raises, or `over` if it fails first. Neither runs any longer when this returns.
    """
    watching, working = asyncio.ensure_future(over), asyncio.ensure_future(work)
    try:
        await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        watching.result()  # raises if the watch failed, which is a bug and no cancellation
        raise Cancelled
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)
