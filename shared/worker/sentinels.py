"""Cancels the sentinels of requests that have their outcome, so that they do not wake the gateway.

In the background: the sentinels of all outcomes that one process sent within `GATHER` seconds are cancelled in one
operation. A sentinel that is not cancelled arrives, and the gateway finds in the ledger that its request has its
outcome.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from shared.bus.port import Bus
from shared.contracts.envelope import SENTINEL_DELAY
from shared.contracts.queues import OUTCOMES
from shared.contracts.request import Request
from shared.telemetry.logs import get_logger

log = get_logger()

GATHER = 1.0


class Sentinels:
    """Sentinels of the requests whose outcomes this process sends."""

    def __init__(self, bus: Bus, clock: Callable[[], datetime], gather: float = GATHER) -> None:
        self._bus = bus
        self._clock = clock
        self._gather = gather
        self._unneeded: list[int] = []
        self._cancelling: asyncio.Task[None] | None = None

    def cancel(self, request: Request) -> None:
        """Have the sentinel of `request` cancelled soon; the broker has confirmed its outcome."""
        if request.sentinel is None or self._clock() >= request.answer_by + SENTINEL_DELAY:
            return
        self._unneeded.append(request.sentinel)
        if self._cancelling is None or self._cancelling.done():
            self._cancelling = asyncio.create_task(self._cancel(), name="sentinels")

    async def _cancel(self) -> None:
        while self._unneeded:
            await asyncio.sleep(self._gather)
            numbers, self._unneeded = self._unneeded, []
            try:
                await self._bus.cancel(OUTCOMES, numbers)
            except Exception as unavailable:  # noqa: BLE001 - it arrives then, which is harmless
                log.debug("sentinels.not_cancelled", sentinels=len(numbers), detail=repr(unavailable))
