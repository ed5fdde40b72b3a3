"""Whether a part is ready: one request over TCP, and a word that the first line of the response must contain."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from local.stack.ports import HOST

# Seconds; a part that does not respond within this is not ready, and is asked again.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """Send `question` to `port`; the part is ready when the first line of the response contains `answer`."""

    port: int
    question: bytes
    answer: bytes

    async def passes(self) -> bool:
        """Whether the part is ready; never raises."""
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_PATIENCE):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                try:
                    writer.write(self.question)
                    return self.answer in await reader.readline()
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
        return False


def http_ok(port: int, path: str) -> Check:
    """Ready when GET `path` is answered with 200."""
    return Check(port, f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode(), b" 200 ")


def redis_pong(port: int) -> Check:
    """Ready when Redis says PONG."""
    return Check(port, b"PING\r\n", b"+PONG")
