"""What the tests of the administration sit at: the app without a socket, and requests as clients write them."""

from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from servicebus_local.admin.app import AdminApp
from servicebus_local.admin.authority import Authorize, allow_all
from servicebus_local.admin.http import Request, Response
from servicebus_local.admin.xml import ATOM, INSTANCE, SERVICE_BUS, escaped
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.store import Store
from servicebus_local.bus.topology import Topology

HOST = "here:5300"


class NoConnections:
    """Nobody is connected."""

    current = 0
    peak = 0

    @property
    def containers(self) -> list[str]:
        """None."""
        return []

    def reset_peak(self) -> None:
        """Nothing to forget."""


class AdminFixture:
    """An administration without a socket."""

    def __init__(
        self, topology: Topology | None = None, *, authorize: Authorize = allow_all, store: Store | None = None
    ) -> None:
        self.clock = ManualClock(1_800_000_000.0)
        self.timers = Timers(self.clock)
        self.namespace = Namespace(topology or Topology(), self.timers, store)
        self.app = AdminApp(self.namespace, NoConnections(), authorize)

    def ask(
        self,
        method: str,
        path: str,
        body: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        api_version: str = "2021-05",
        skip: str | None = None,
        top: str | None = None,
    ) -> Response:
        """Send a request as an administration client does."""
        fields = {"api-version": api_version, "$skip": skip, "$top": top}
        query = {name: value for name, value in fields.items() if value is not None}
        data = body.encode() if isinstance(body, str) else body
        return self.app(Request(method, path, query, HOST, True, dict(headers or {}), data))

    def put(self, path: str, description: str, **headers: str) -> Response:
        """Create something."""
        return self.ask("PUT", path, in_entry(description), headers)

    def update(self, path: str, description: str, etag: str = "*") -> Response:
        """Change something."""
        return self.ask("PUT", path, in_entry(description), {"if-match": etag})

    def made(self, path: str, description: str) -> Element:
        """Create something that can be created; return its description."""
        return described(self.put(path, description), 201)

    def look(self, path: str, api_version: str = "2021-05") -> Element:
        """Return the description of something that is there."""
        return described(self.ask("GET", path, api_version=api_version))


def in_entry(description: str) -> str:
    """Wrap a description for the way."""
    return f'<entry xmlns="{ATOM}"><content type="application/xml">{description}</content></entry>'


def write(name: str, properties: Iterable[tuple[str, Any]] = (), inner: str = "") -> str:
    """Write a description with these elements, and with XML that is ready."""
    elements = "".join(f"<{element}>{escaped(str(value))}</{element}>" for element, value in properties)
    return f'<{name} xmlns="{SERVICE_BUS}" xmlns:i="{INSTANCE}">{elements}{inner}</{name}>'


def queue(inner: str = "", **properties: Any) -> str:
    """Write the description of a queue."""
    return write("QueueDescription", properties.items(), inner)


def topic(inner: str = "", **properties: Any) -> str:
    """Write the description of a topic."""
    return write("TopicDescription", properties.items(), inner)


def subscription(inner: str = "", **properties: Any) -> str:
    """Write the description of a subscription."""
    return write("SubscriptionDescription", properties.items(), inner)


def rule(inner: str = "") -> str:
    """Write the description of a rule."""
    return write("RuleDescription", (), inner)


def described(response: Response, status: int = 200) -> Element:
    """Return the description in an entry."""
    assert response.status == status, response.body.decode()
    found = fromstring(response.body).find(f"{{{ATOM}}}content/*")
    assert found is not None
    return found


def said(element: Element, name: str) -> str | None:
    """Return the text of an element of a description; None when it is not there."""
    found = element.find(f"{{{SERVICE_BUS}}}{name}")
    return None if found is None else found.text or ""


def titles(response: Response) -> list[str]:
    """Return what the entries of a feed are called."""
    assert response.status == 200, response.body.decode()
    found = fromstring(response.body).findall(f"{{{ATOM}}}entry/{{{ATOM}}}title")
    return [title.text or "" for title in found]


def next_page(response: Response) -> str | None:
    """Return where the next page of a feed is, as the Python SDK finds it: the second link."""
    links = fromstring(response.body).findall(f"{{{ATOM}}}link")
    return links[1].get("href") if len(links) == 2 else None


def refused(response: Response) -> tuple[int, str]:
    """Return status and sub-code of a refusal, after a look at its form."""
    error = fromstring(response.body)
    assert error.tag == "Error"
    assert error.findtext("Code") == str(response.status)
    detail = error.findtext("Detail") or ""
    assert detail.startswith("SubCode=")
    assert len(detail) > len("SubCode=40000. ")
    return response.status, detail[len("SubCode=") : len("SubCode=40000")]


def detail(response: Response) -> str:
    """Return the sentence of a refusal."""
    return fromstring(response.body).findtext("Detail") or ""
