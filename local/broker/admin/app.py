"""What the admin port answers.

GET  /health                    200 while the broker accepts connections
GET  /connections               how many there are, how many there were at most, and whose
POST /connections/reset-peak    start counting the peak again
GET  /$Resources/queues         the queues, a page at a time
GET  /{queue}                   one queue; an empty feed when it is not there, as in Azure
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

from local.broker.admin.atom import feed, queue_entry
from local.broker.admin.http import Request, Response
from local.broker.bus.errors import EntityNotFound
from local.broker.bus.namespace import Namespace

_PAGE = 100


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

    def __init__(self, namespace: Namespace, connections: Connections) -> None:
        self._namespace = namespace
        self._connections = connections
        self._created = datetime.now(UTC)
        self._routes: dict[tuple[str, str], Callable[[Request], Response]] = {
            ("GET", "/health"): self._health,
            ("GET", "/connections"): self._list_connections,
            ("POST", "/connections/reset-peak"): self._reset_peak,
            ("GET", "/$resources/queues"): self._list_queues,
            ("GET", "/$resources/topics"): self._list_topics,
        }

    def __call__(self, request: Request) -> Response:
        """Answer a request."""
        route = self._routes.get((request.method, request.path.lower().rstrip("/")))
        if route is not None:
            return route(request)
        if request.method == "GET":
            return self._get_entity(request)
        return Response(501, "text/plain", b"only reading is there; queues come from the configuration\n")

    # ------------------------------------------------------------------ for people and scripts

    def _health(self, _request: Request) -> Response:
        return _json({"status": "accepting"})

    def _list_connections(self, _request: Request) -> Response:
        connections = self._connections
        return _json(
            {
                "current": connections.current,
                "peak": connections.peak,
                "containers": connections.containers,
            }
        )

    def _reset_peak(self, request: Request) -> Response:
        self._connections.reset_peak()
        return self._list_connections(request)

    # ------------------------------------------------------------------ for administration clients

    def _list_queues(self, request: Request) -> Response:
        skip, top = _number(request, "$skip", 0), _number(request, "$top", _PAGE)
        queues = sorted(self._namespace, key=lambda queue: queue.name)
        entries = [queue_entry(queue, _base(request), self._created) for queue in queues[skip : skip + top]]
        following = _page(request, skip + top, top) if skip + top < len(queues) else None
        return _atom(feed("Queues", _page(request, skip, top), entries, following))

    def _list_topics(self, request: Request) -> Response:
        return _atom(feed("Topics", _base(request), []))

    def _get_entity(self, request: Request) -> Response:
        try:
            queue = self._namespace.find(request.path)
        except EntityNotFound:
            return _atom(feed("Publicly Listed Services", _base(request), []))
        return _atom(queue_entry(queue, _base(request), self._created))


def _base(request: Request) -> str:
    return f"https://{request.host}"


def _page(request: Request, skip: int, top: int) -> str:
    return f"{_base(request)}{quote(request.path)}?$skip={skip}&$top={top}&api-version=2021-05"


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isdigit() else default


def _json(value: Any) -> Response:
    return Response(200, "application/json", json.dumps(value).encode() + b"\n")


def _atom(xml: str) -> Response:
    return Response(200, "application/atom+xml;charset=utf-8", xml.encode())
