"""Waiting for a condition, without a word about speed."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

# A guard against hanging: longer than any test that passes needs, however busy the machine is.
PATIENCE = 300.0


async def until(what: Callable[[], Awaitable[Any]], patience: float = PATIENCE) -> Any:
    """Ask again and again until there is something true to be had."""
    deadline = time.monotonic() + patience
    while True:
        if found := await what():
            return found
        assert time.monotonic() < deadline, f"still not: {what.__name__}"
        await asyncio.sleep(0.1)
