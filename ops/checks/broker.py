"""Whether the broker is reachable and accepts our credentials."""

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from ops.checks.http import PATIENCE
from ops.connect import bus
from ops.findings import Finding, Level
from ops.target import Target
from shared.contracts.queues import DEAD


def broker(at: Target) -> Iterator[Finding]:
    """Whether the broker is reachable and accepts our credentials."""
    name, port = urlsplit(f"//{at.host}").hostname or "", urlsplit(f"//{at.host}").port or 5671
    try:
        socket.create_connection((name, port), PATIENCE).close()
    except OSError as unavailable:
        fix = (
            "is `ragbus up` running?"
            if at.is_emulator
            else "check name, network and firewall (AMQP over TLS, port 5671)"
        )
        yield Finding(Level.FAIL, "broker", f"{name}:{port} is unreachable ({unavailable})", fix)
        return

    async def peek() -> None:
        async with bus(at) as connected:
            await connected.peek(DEAD, limit=1)

    asyncio.run(peek())
    yield Finding(Level.OK, "broker", f"{at.host} accepts our credentials")
