"""Is a part ready? One short question over TCP, and a word that its first line must hold."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from local.stack.ports import HOST

# A part that does not answer within this is not ready; it is asked again.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """Ask `question` on `port`; ready when the first line of the answer holds `answer`."""

    port: int
    question: bytes
    answer: bytes

    async def passes(self) -> bool:
        """Whether the part is ready; never raises."""
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_PATIENCE):
                return self.answer in await self._first_line()
        return False

    async def _first_line(self) -> bytes:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        try:
            writer.write(self.question)
            return await reader.readline()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def http_ok(port: int, path: str) -> Check:
    """Ready when GET `path` is answered with 200."""
    return Check(port, f"GET {path} HTTP/1.0\r\nHost: {HOST}\r\n\r\n".encode(), b" 200 ")


def redis_pong(port: int) -> Check:
    """Ready when Redis says PONG."""
    return Check(port, b"PING\r\n", b"+PONG")
