"""A stand-in that listens on this machine only answers this machine's programs only.

A page in a browser can make the browser ask 127.0.0.1: by DNS rebinding, then `Host` is the page's name, or by a
cross-site form or script, then `Origin` is. The stand-ins ask for no key, so both are refused.
"""

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Messages = MutableMapping[str, Any]
App = Callable[[Messages, Callable[[], Awaitable[Messages]], Callable[[Messages], Awaitable[None]]], Awaitable[None]]


def guarded(app: App, host: str) -> App:
    """`app`, which listens on `host`: on loopback it refuses what is addressed to, or comes from, another name."""
    if not is_loopback(host):
        return app

    async def guard(
        scope: Messages, receive: Callable[[], Awaitable[Messages]], send: Callable[[Messages], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http" or all(map(is_loopback, _names(scope["headers"]))):
            return await app(scope, receive, send)
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        said = b"this stand-in answers requests to and from this machine only: use 127.0.0.1 or localhost\n"
        return await send({"type": "http.response.body", "body": said})

    return guard


def is_loopback(name: str) -> bool:
    """Whether `name`, a host, is this machine for certain."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _names(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    """The hosts in `Host` and `Origin`."""
    for header, value in headers:
        text = value.decode("latin-1")
        if header in (b"host", b"origin"):
            try:
                yield urlsplit(f"//{text}" if header == b"host" else text).hostname or ""
            except ValueError:
                yield ""
