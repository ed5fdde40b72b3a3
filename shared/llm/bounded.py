"""An HTTP client that reads only the beginning of an error or redirection: the SDK reads all, and some never end."""

from collections.abc import AsyncIterator

import httpx2
from openai import DefaultAsyncHttpxClient

from shared.llm import rate_limits
from shared.llm.aiohttp_transport import AiohttpTransport

# Larger than a provider's JSON; errors quote one sentence of a proxy's HTML page.
MOST_OF_AN_ERROR = 64 * 1024


class Beginning(httpx2.AsyncByteStream):
    """The first `most` bytes of a body. If bytes remain unread, the connection is closed."""

    def __init__(self, body: httpx2.AsyncByteStream, most: int) -> None:
        self._body = body
        self._left = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._body:
            yield block[: self._left]
            self._left -= len(block)
            if self._left <= 0:
                return

    async def aclose(self) -> None:
        """Close the body below."""
        await self._body.aclose()


def bounded_client(timeout: httpx2.Timeout, transport: httpx2.AsyncBaseTransport | None = None) -> httpx2.AsyncClient:
    """The SDK's HTTP client, with errors and redirections cut to `MOST_OF_AN_ERROR` bytes."""
    return DefaultAsyncHttpxClient(
        timeout=timeout, transport=transport or AiohttpTransport(), event_hooks={"response": [_bound]}
    )


async def _bound(response: httpx2.Response) -> None:
    rate_limits.read(response.headers)
    if not response.is_success and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = Beginning(response.stream, MOST_OF_AN_ERROR)
