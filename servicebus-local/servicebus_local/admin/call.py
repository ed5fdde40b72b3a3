"""One request to the administration API, with what every handler needs of it."""

import re
from collections.abc import Sequence
from typing import Final, TypeVar
from xml.etree.ElementTree import Element

from servicebus_local.admin.atom import Page, View
from servicebus_local.admin.http import Request
from servicebus_local.admin.refusals import Outdated
from servicebus_local.admin.routes import Route, route
from servicebus_local.admin.xml import ATOM, SERVICE_BUS, Unreadable, child, local, parse
from servicebus_local.bus.errors import EntityNotFound, InvalidArgument
from servicebus_local.bus.messaging_entity import MessagingEntity

LATEST_VERSION: Final = "2024-05"
_PAGE: Final = 100  # entries at most, as in Azure
_VERSION: Final = re.compile(r"20\d\d-(0[1-9]|1[0-2])", re.ASCII)
T = TypeVar("T")


class Call:
    """A request, what it is about, and how its client wants the answer."""

    def __init__(self, request: Request, now: float) -> None:
        self.request = request
        self.route: Route = route(request.path)
        self.now = now
        self.view = View(request.host, request.query.get("api-version") or LATEST_VERSION, now)

    @property
    def token(self) -> str | None:
        """The credential the request came with."""
        return self.request.headers.get("authorization")

    def check_version(self) -> None:
        """Refuse a version that is none; any date will do, as what it brought is known or not there."""
        if not _VERSION.fullmatch(self.view.api_version):
            raise InvalidArgument(
                f"api-version: '{self.view.api_version[:40]}' is not a version such as {LATEST_VERSION}."
            )

    # ------------------------------------------------------------------ lists

    def page(self, items: Sequence[T]) -> tuple[Sequence[T], tuple[Page, Page | None]]:
        """Return the part of a list that is asked for; with it, what that page is called, and the next one."""
        skip, top = self._number("$skip", 0), self._number("$top", _PAGE)
        page = items[skip : skip + min(top, _PAGE)]
        more = bool(page) and skip + len(page) < len(items)
        return page, (Page(skip, top), Page(skip + len(page), top) if more else None)

    def _number(self, name: str, default: int) -> int:
        text = self.request.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise InvalidArgument(f"{name}: '{text[:40]}' is not a number of entries, which cannot be negative.")
        return int(text)

    # ------------------------------------------------------------------ changes

    @property
    def updates(self) -> bool:
        """Whether something is changed that must be there, rather than created."""
        return "if-match" in self.request.headers

    def check_current(self, entity: MessagingEntity) -> None:
        """Refuse to change an entity that is not as the client believes it to be."""
        wanted = self.request.headers.get("if-match", "*").strip().strip('"')
        if wanted not in ("*", etag(entity)):
            raise Outdated(f"'{entity.name}' has changed since it had the ETag {wanted[:40]}.")

    def description(self, *names: str) -> Element:
        """Return the description in the body, which must be one of these; raises `InvalidArgument`."""
        try:
            root = parse(self.request.body)
        except Unreadable as error:
            raise InvalidArgument(str(error)) from error
        content = child(root, "content") if root.tag == f"{{{ATOM}}}entry" else None
        found = next(iter(content), None) if content is not None else None
        if found is None or found.tag not in [f"{{{SERVICE_BUS}}}{name}" for name in names]:
            said = f"{local(root)} with {local(found)}" if found is not None else local(root)
            raise InvalidArgument(f"The body must be an ATOM entry with a {' or '.join(names)}, not a {said[:80]}.")
        return found


def etag(entity: MessagingEntity) -> str:
    """Return what changes with an entity's options: when they did, in microseconds."""
    return str(int(entity.updated_at * 1_000_000))


def missing(what: str, name: str) -> EntityNotFound:
    """Say that something is not there."""
    return EntityNotFound(f"There is no {what} '{name}'.")
