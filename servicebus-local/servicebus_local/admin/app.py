"""What the admin port answers.

GET  /health                    200 while the broker accepts connections
GET  /connections               how many there are, how many there were at most, and whose
POST /connections/reset-peak    start counting the peak again
GET  /stats, /stats/{path}      what is in every entity, or in one (`servicebus_local.admin.stats`)

These are for people and scripts, and need no credential. Every other path, and every
request with an `api-version`, is for the administration API (`servicebus_local.admin.administration`),
so an entity may be called `health`.
"""

import json
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from servicebus_local.admin.authority import Authorize, allow_all
from servicebus_local.admin.http import Request, Response
from servicebus_local.admin.stats import stats_of, stats_of_all
from servicebus_local.bus.errors import EntityNotFound
from servicebus_local.bus.namespace import Namespace, entity_of

if TYPE_CHECKING:
    from servicebus_local.admin.administration import Administration


class Connections(Protocol):
    """Who is connected."""

    @property
    def current(self) -> int:
        """How many connections there are."""
        ...

    @property
    def peak(self) -> int:
        """How many there were at most since the start or the last reset."""
        ...

    @property
    def containers(self) -> list[str]:
        """The container ids of those there are."""
        ...

    def reset_peak(self) -> None:
        """Start counting the peak again."""
        ...


class AdminApp:
    """Routes requests; a function of the request and the state of the broker."""

    def __init__(self, namespace: Namespace, connections: Connections, authorize: Authorize = allow_all) -> None:
        self._namespace = namespace
        self._connections = connections
        self._authorize = authorize
        self._pages: dict[str, tuple[str, Callable[[], Any]]] = {
            "/health": ("GET", lambda: {"status": "accepting"}),
            "/connections": ("GET", self._list_connections),
            "/connections/reset-peak": ("POST", self._reset_peak),
            "/stats": ("GET", lambda: stats_of_all(namespace)),
        }

    def __call__(self, request: Request) -> Response:
        """Answer a request; what it changed is durable before the answer leaves."""
        response = self._for_people(request) if "api-version" not in request.query else None
        if response is None:
            response = self._administration(request)
        if request.method != "GET":
            self._namespace.store.commit()
        return response

    @cached_property
    def _administration(self) -> "Administration":
        """Made for the first request that needs it: importing it takes as long as a fifth of a start."""
        from servicebus_local.admin.administration import Administration

        return Administration(self._namespace, self._authorize)

    def _for_people(self, request: Request) -> Response | None:
        path = request.path.rstrip("/")
        if path.lower().startswith("/stats/"):
            return _page(request, "GET", lambda: self._stats(path.removeprefix(path[: len("/stats/")])))
        known = self._pages.get(path.lower())
        return None if known is None else _page(request, *known)

    def _list_connections(self) -> Any:
        connections = self._connections
        return {"current": connections.current, "peak": connections.peak, "containers": connections.containers}

    def _reset_peak(self) -> Any:
        self._connections.reset_peak()
        return self._list_connections()

    def _stats(self, path: str) -> Any:
        if self._namespace.get(entity_of(path)) is None:  # `find` might create it
            raise EntityNotFound(f"There is no entity '{path}'.")
        return stats_of(self._namespace.find(path), self._namespace.timers.clock())


def _page(request: Request, method: str, content: Callable[[], Any]) -> Response:
    if request.method != method:
        said = f"{request.method} is not there for this, only {method}\n"
        return Response(405, "text/plain", said.encode(), (("allow", method),))
    try:
        return _json(content())
    except EntityNotFound as error:
        return _json({"error": error.description}, 404)


def _json(value: Any, status: int = 200) -> Response:
    return Response(status, "application/json", json.dumps(value).encode() + b"\n")
