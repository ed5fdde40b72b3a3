"""Who sends a request, decided from its headers alone, and how long a peer without a valid key waits for its answer.

The key is checked twice: by the connection, before a byte of the body is read (`connection.py`), and by the
application, before anything is routed (`RequireKey`), so that no route can be added that forgets it.
"""

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.problems import Problem
from shared.access.callers import Caller, Callers

# Characters of a wrong key that identify the attempted key.
PREFIX = 8


class Authentication:
    """Finds the caller of a request."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller whose key is in `headers` (names in lower case); raises `Problem` 400 or 401."""
        key = presented_key(headers)
        found = self._callers.with_key(key) if key else None
        if found is None:
            challenge = {"WWW-Authenticate": "Bearer"}
            raise Problem(HTTPStatus.UNAUTHORIZED, "send a valid API key as a bearer token", headers=challenge)
        return found


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The one API key in `Authorization: Bearer` or `X-API-Key`, or ""; raises `Problem` 400 when there are two.

    A proxy that reads the first of two headers and a server that reads the last would see different callers.
    """
    authorization, api_key = [], []
    for name, value in headers:
        if name == b"authorization":
            authorization.append(value)
        elif name == b"x-api-key":
            api_key.append(value)
    if len(authorization) > 1 or len(api_key) > 1:
        raise Problem(HTTPStatus.BAD_REQUEST, "send one Authorization or X-API-Key header, not several")
    scheme, _, token = (authorization[0] if authorization else b"").decode("latin-1").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    given = api_key[0].decode("latin-1").strip() if api_key else ""
    if bearer and given and bearer != given:
        raise Problem(HTTPStatus.BAD_REQUEST, "Authorization and X-API-Key hold different keys; send one of them")
    return bearer or given


class RequireKey:
    """ASGI middleware: a request without a valid key reaches no route, whatever its path, method or body.

    Neither does a request of a caller that has `at_once` requests in progress: one whose connection is gone continues.
    """

    def __init__(self, app: ASGIApp, authentication: Authentication, at_once: int) -> None:
        self._app = app
        self._authentication = authentication
        self._at_once = at_once
        self._at_work: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the caller into `request.state.caller`, or answer 401 or 429 without reading the body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = self._authentication.caller(scope["headers"])
        except Problem as problem:
            await problem.response({"Connection": "close"})(scope, receive, send)
            return
        if self._at_work[caller.name] >= self._at_once:
            await too_many_requests(self._at_once).response()(scope, receive, send)
            return
        scope["state"] = {**scope.get("state", {}), "caller": caller}
        self._at_work[caller.name] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._at_work[caller.name] -= 1


def too_many_requests(at_once: int) -> Problem:
    """429 for a caller with `at_once` requests in progress, the most that it may have."""
    detail = f"{at_once} requests of one caller may run at once; wait until one of yours has finished"
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, headers={"Retry-After": "1"})


class Slowdown:
    """How long the refusal of a peer, or of keys with the same prefix, is delayed.

    Each gets `free` refusals at once, then one every `interval` seconds, and waits at most `longest` seconds (the
    generic cell rate algorithm of ITU-T I.371: one number per peer or prefix). The table keeps the `size` latest.
    A valid key is never looked up here.
    """

    def __init__(self, *, free: int = 20, interval: float = 1.0, longest: float = 5.0, size: int = 1024) -> None:
        self._free = free
        self._interval = interval
        self._longest = longest
        self._size = size
        self._due: OrderedDict[str | int, float] = OrderedDict()

    def refused(self, address: str, key: str, now: float) -> float:
        """Count a refusal of `address`, which sent `key` ("": none); returns the seconds until it is sent."""
        # Only a hash of the first characters is kept: a mistyped key is nearly a valid one.
        subjects: list[str | int] = [_network(address)] + ([hash(key[:PREFIX])] if key else [])
        return max(self._wait(subject, now) for subject in subjects)

    def _wait(self, subject: str | int, now: float) -> float:
        due = max(self._due.pop(subject, now), now)
        wait = min(max(0.0, due - now - self._free * self._interval), self._longest)
        # Refusals beyond the longest wait do not add up, so that a peer recovers soon after a storm.
        self._due[subject] = min(due, now + self._free * self._interval + self._longest) + self._interval
        if len(self._due) > self._size:
            self._due.popitem(last=False)
        return wait


def _network(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 address, which one host usually has."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
