"""Feeds and entries, the envelopes of the administration API (RFC 4287, as Azure fills them in).

    feed ── title, id, link rel=self [, link rel=next] ── entry ── title, dates, link ── content ── description

The Python SDK takes the second link of a feed for the next page, and the query of that link for
where it begins.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote

from servicebus_local.admin.durations import write_second
from servicebus_local.admin.http import Response
from servicebus_local.admin.xml import ATOM, INSTANCE, SERVICE_BUS, escaped, quoted, tag, tags

NAMESPACE: Final = "sbemulatorns"
"""What Microsoft's emulator calls the one namespace it has."""
_TYPE: Final = "application/atom+xml;type={};charset=utf-8"


class View(NamedTuple):
    """How a client looks at the namespace: by which host, through which version of the API, when."""

    host: str
    api_version: str
    now: float  # seconds since the Unix epoch

    def url(self, path: str, query: str = "") -> str:
        """Return where something is."""
        return f"http://{self.host}/{quote(path, safe='/$')}?{query}api-version={self.api_version}"

    def target(self, name: str) -> str:
        """Return what messages are forwarded to, as Azure writes it."""
        return f"sb://{self.host}/{name}"


class Page(NamedTuple):
    """A part of a list."""

    skip: int
    top: int

    @property
    def query(self) -> str:
        """How it is asked for."""
        return f"$skip={self.skip}&$top={self.top}&"


class Shown(NamedTuple):
    """Something as an entry shows it."""

    path: str
    title: str
    element: str  # the name of the description
    content: str  # what is in it
    created_at: float
    updated_at: float


def entry(shown: Shown, view: View) -> str:
    """Write an entry."""
    url = view.url(shown.path)
    dates = [("published", write_second(shown.created_at)), ("updated", write_second(shown.updated_at))]
    return (
        f'<entry xmlns="{ATOM}">{tag("id", url)}{_title(shown.title)}{tags(dates)}'
        f'<author>{tag("name", NAMESPACE)}</author><link rel="self" href={quoted(url)}/>'
        f'<content type="application/xml"><{shown.element} xmlns="{SERVICE_BUS}" xmlns:i="{INSTANCE}">'
        f"{shown.content}</{shown.element}></content></entry>"
    )


def feed(
    title: str, path: str, entries: Iterable[str], view: View, pages: tuple[Page, Page | None] | None = None
) -> str:
    """Write a feed; `pages` are the one it is and, when there is more, the one that follows."""
    this, following = pages or (None, None)
    url = view.url(path, this.query if this is not None else "")
    next_link = f'<link rel="next" href={quoted(view.url(path, following.query))}/>' if following is not None else ""
    return (
        f'<feed xmlns="{ATOM}">{_title(title)}{tag("id", url)}{tag("updated", write_second(view.now))}'
        f'<link rel="self" href={quoted(url)}/>{next_link}{"".join(entries)}</feed>'
    )


def _title(text: str) -> str:
    return f'<title type="text">{escaped(text)}</title>'


def of_entry(xml: str, status: int = 200, etag: str = "") -> Response:
    """Answer with an entry."""
    return Response(status, _TYPE.format("entry"), xml.encode(), (("etag", etag),) if etag else ())


def of_feed(xml: str) -> Response:
    """Answer with a feed."""
    return Response(200, _TYPE.format("feed"), xml.encode())
