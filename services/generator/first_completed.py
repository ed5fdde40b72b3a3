"""Work that is cancelled when a condition comes first."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.generator.reply import Cancelled

T = TypeVar("T")


async def first_completed(over: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises `Cancelled`, after `work` was cancelled, when `over` ends before it."""
    watching, working = asyncio.ensure_future(over), asyncio.ensure_future(work)
    try:
        await asyncio.wait({watching, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        watching.result()  # a watch that failed is a bug, and not a wish
        raise Cancelled
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(watching, working, return_exceptions=True)
