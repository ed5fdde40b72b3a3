"""Turns, for a broker that takes only a few AMQP connections: every sender and receiver of the SDK opens one.

Azure takes thousands, and there is no limit then. Microsoft's emulator takes ten in all, so its override of the compose
file adds `MaxConnections=2` to the connection string of a process, which then has

    one connection    for sending: a sender opens its link for what has gathered, and closes it again
    the others        for receiving: the inboxes take turns, in the order in which they ask

Nothing outside this package knows of it: `receive` and `send` take a second longer, that is all.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Seconds that an inbox keeps its connection while others wait; closing a link and opening another takes one.
TURN = 2.0


class Connections:
    """At most `limit` connections at once, two at the least; 0: no limit."""

    def __init__(self, limit: int = 0) -> None:
        if limit == 1 or limit < 0:
            raise ValueError("MaxConnections must be 0 (no limit) or at least 2: one to receive and one to send")
        self.limited = limit > 0
        self._for_receiving = asyncio.Semaphore(max(0, limit - 1))
        self._for_sending = asyncio.Lock()
        self._waiting = 0

    @property
    def is_awaited(self) -> bool:
        """Whether another inbox waits for its turn."""
        return self._waiting > 0

    async def begin_receiving(self) -> None:
        """Wait for a connection to receive on."""
        if self.limited:
            self._waiting += 1
            try:
                await self._for_receiving.acquire()
            finally:
                self._waiting -= 1

    def end_receiving(self) -> None:
        """Give it back."""
        if self.limited:
            self._for_receiving.release()

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Have a connection to receive on for a moment."""
        await self.begin_receiving()
        try:
            yield
        finally:
            self.end_receiving()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Have the connection to send on."""
        if not self.limited:
            yield
            return
        async with self._for_sending:
            yield
