"""HTTP to models through aiohttp, below the SDK's own client: a third less processor time for a call than its default.

The SDK has such a transport, too (`DefaultAioHttpClient`). Ours names faults as what they are: there a server that
hangs up counts as a time-out while connecting, and a reply that is not HTTP raises an error that the SDK does not know,
which would crash the request (docs/adr/0023-models-through-aiohttp.md).
"""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache

import aiohttp
import httpx2
from yarl import URL

# Seconds that an idle connection is kept, as by the SDK's default client.
IDLE = 5.0
# Bytes of a line or a header of the reply.
LONGEST_HEADER = 64 * 1024


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Opens its connections with the first request; `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` apply."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._proxy = cache(_proxy)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send `request` and read the headers of its response; raises `httpx2.TransportError`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Without a limit: the worker bounds its calls.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE, ssl=httpx2.create_ssl_context()),
                cookie_jar=aiohttp.DummyCookieJar(),  # httpx2 has one
                auto_decompress=False,  # httpx2 does it
                max_line_size=LONGEST_HEADER,
                max_field_size=LONGEST_HEADER,
            )
        limits = request.extensions.get("timeout", {})
        connect, write, read = (limits.get(name) for name in ("connect", "write", "read"))
        # aiohttp has no limit for writing, and begins the one for reading when all is written.
        whole = None if None in (connect, write, read) else connect + write + read
        # httpx2 has made a header of the user and the password.
        address = request.url.copy_with(userinfo=b"") if request.url.userinfo else request.url
        with named_by_httpx(request, late=httpx2.WriteTimeout):
            async with asyncio.timeout(whole):
                response = await self._session.request(
                    request.method,
                    URL(str(address), encoded=True),
                    headers=request.headers.multi_items(),
                    data=await request.aread(),
                    allow_redirects=False,
                    # `connect` includes the name's address, and a proxy's answer to CONNECT.
                    timeout=aiohttp.ClientTimeout(total=None, connect=connect, sock_read=read),
                    proxy=self._proxy(request.url.scheme, request.url.host),
                )
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response, request),
            request=request,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": (response.reason or "").encode()},
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


class _Body(httpx2.AsyncByteStream):
    """The body of a response; closing it before its end closes the connection, and the server sees that."""

    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request
        self._patience = request.extensions.get("timeout", {}).get("read")
        # Neither, when the body came with the headers.
        protocol = response.connection.protocol if response.connection is not None else None
        self._closed = protocol.closed if protocol is not None else None
        if self._closed is not None:
            self._closed.add_done_callback(self._has_closed)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            with named_by_httpx(self._request):
                async with asyncio.timeout(self._patience):
                    block = await self._response.content.readany()
            if not block:
                return
            yield block

    async def aclose(self) -> None:
        """Close the connection, or leave it for the next request when the body was read to its end."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._has_closed)
        self._response.close()

    def _has_closed(self, closed: "asyncio.Future[None]") -> None:
        """End the wait for a body that turned out to be no HTTP.

        aiohttp closes the connection then, and goes on waiting; its own limit for reading no longer applies.
        """
        why = None if closed.cancelled() else closed.exception()
        body = self._response.content
        if not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError(str(why or "the connection broke off inside the body")))


# The first that fits: most of aiohttp's errors are kinds of one another.
_NAMES: tuple[tuple[type[Exception], type[httpx2.TransportError]], ...] = (
    (aiohttp.ConnectionTimeoutError, httpx2.ConnectTimeout),
    (aiohttp.ServerTimeoutError, httpx2.ReadTimeout),
    (aiohttp.ClientProxyConnectionError, httpx2.ProxyError),
    (aiohttp.ClientHttpProxyError, httpx2.ProxyError),
    (aiohttp.ClientConnectorError, httpx2.ConnectError),
    (aiohttp.ServerDisconnectedError, httpx2.RemoteProtocolError),
    (aiohttp.InvalidURL, httpx2.UnsupportedProtocol),
    (aiohttp.ClientOSError, httpx2.ReadError),
    (aiohttp.ClientError, httpx2.RemoteProtocolError),
    (OSError, httpx2.ReadError),
    (ValueError, httpx2.LocalProtocolError),  # such as a redirection to port 99999
)


@contextmanager
def named_by_httpx(
    request: httpx2.Request, *, late: type[httpx2.TimeoutException] = httpx2.ReadTimeout
) -> Iterator[None]:
    """Raise aiohttp's errors as those of httpx2, which the SDK knows; `late`: the name of a time-out of our own."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:
        name = late if type(error) is TimeoutError else next(name for kind, name in _NAMES if isinstance(error, kind))
        raise name(str(error) or name.__name__, request=request) from error


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment names for `host`."""
    if urllib.request.proxy_bypass(host):
        return None
    named = urllib.request.getproxies()
    proxy = named.get(scheme) or named.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy
