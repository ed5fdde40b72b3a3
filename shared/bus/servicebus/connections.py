"""A budget of AMQP connections. Every sender and receiver of the SDK opens one of its own.

Azure allows thousands per namespace and the budget is without end; Microsoft's emulator allows ten in all, so
there a process gets a few:

    one for each queue that is always listened to
    one that the patrols share: queues that are looked into now and then, one after the other
    one that the senders share
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Protocol


class Lender(Protocol):
    """A holder of a connection that can give it back when it has nothing to do."""

    def is_idle(self) -> bool: ...

    async def give_back(self) -> None: ...


class Connections:
    """At most `limit` connections at once; 0: no limit."""

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._held = 0
        self._lenders: dict[Lender, None] = {}  # in order of use, the longest unused first
        self._changed = asyncio.Condition()
        # Two patrols at once could hold every connection while both need one to send what they found.
        self.patrolling = asyncio.Lock()

    @property
    def limited(self) -> bool:
        """Whether connections are scarce, so that idle ones should be closed."""
        return self._limit > 0

    async def take(self, lender: Lender | None = None) -> None:
        """Wait for a free connection; idle lenders are asked to close theirs. Without `lender`: for good."""
        async with self._changed:
            while self._limit and self._held >= self._limit:
                idle = next((other for other in self._lenders if other.is_idle()), None)
                if idle is None:
                    await self._changed.wait()
                    continue
                del self._lenders[idle]
                self._held -= 1
                await idle.give_back()
            self._held += 1
            if lender is not None:
                self._lenders[lender] = None

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """One for a short while, for a queue with a poll interval."""
        async with self.patrolling if self.limited else nullcontext():
            await self.take()
            try:
                yield
            finally:
                await self.free()

    async def free(self, lender: Lender | None = None) -> None:
        """Give one back."""
        async with self._changed:
            if lender is not None and lender not in self._lenders:
                return  # it was asked to give it back meanwhile
            self._lenders.pop(lender, None) if lender is not None else None
            self._held -= 1
            self._changed.notify_all()

    async def now_idle(self, lender: Lender) -> None:
        """Tell those who wait that `lender` could give its connection back."""
        if self.limited:
            async with self._changed:
                if lender in self._lenders:
                    self._lenders[lender] = self._lenders.pop(lender)
                self._changed.notify_all()
