"""XML in and out: a reader that refuses what XML can be abused for, and the little that writing needs.

Documents with a DOCTYPE are refused before anything in it is looked at, so there are no entities
to expand and nothing outside to fetch. Namespaces are kept in the names, `{uri}name`, as
`xml.etree` has them; prefixes do not matter.
"""

import re
from collections.abc import Iterable
from typing import Any, Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape

ATOM: Final = "http://www.w3.org/2005/Atom"
SERVICE_BUS: Final = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
COUNTS: Final = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance"
SCHEMA: Final = "http://www.w3.org/2001/XMLSchema"
SERIALIZATION: Final = "http://schemas.microsoft.com/2003/10/Serialization/"

_DEEPEST: Final = 32
_NOT_XML: Final = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"  # XML 1.0, 2.2
_ILLEGAL: Final = re.compile(f"[{_NOT_XML}]")
_SPECIAL: Final = re.compile(f"[&<>\r{_NOT_XML}]")
_QUOTES: Final = {'"': "&quot;"}
_RETURNS: Final = {"\r": "&#xD;"}  # a bare one would be read back as a line feed


class Unreadable(ValueError):
    """The bytes are not a document that is read here."""


def parse(data: bytes) -> Element:
    """Read a document; return its root. Raises `Unreadable` with what is wrong, and where."""
    reader = _Reader()
    parser = ParserCreate(namespace_separator="}")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.refuse_doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
    except (ExpatError, LookupError, ValueError) as error:  # LookupError: an unknown encoding
        raise Unreadable(f"The body is not XML that is read here: {error}.") from error
    return reader.root


class _Reader:
    """Builds the tree from what the parser finds."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._depth = 0

    @property
    def root(self) -> Element:
        return self._builder.close()

    def refuse_doctype(self, *_details: Any) -> None:
        raise Unreadable("a document type is not accepted")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Unreadable(f"elements are nested deeper than {_DEEPEST}")
        self._builder.start(_qualified(name), {_qualified(key): value for key, value in attributes.items()})

    def end(self, name: str) -> None:
        self._depth -= 1
        self._builder.end(_qualified(name))

    def text(self, data: str) -> None:
        self._builder.data(data)


def _qualified(name: str) -> str:
    return "{" + name if "}" in name else name


# --------------------------------------------------------------------------- looking


def local(element: Element) -> str:
    """Return an element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def child(element: Element, name: str) -> Element | None:
    """Return the first child with this name, whatever its namespace."""
    return next((each for each in element if local(each) == name), None)


def children(element: Element, name: str) -> list[Element]:
    """Return what is in the first child with this name; nothing when there is no such child."""
    found = child(element, name)
    return [] if found is None else list(found)


def text_of(element: Element, name: str) -> str | None:
    """Return the text of a child, empty if it has none; None when there is no such child."""
    found = child(element, name)
    return None if found is None else found.text or ""


def instance_type(element: Element) -> str | None:
    """Return `xsi:type` without its prefix."""
    written = element.get(f"{{{INSTANCE}}}type")
    return None if written is None else written.rpartition(":")[2].strip()


# --------------------------------------------------------------------------- writing


def tag(name: str, text: str) -> str:
    """Write an element with text."""
    return f"<{name}>{escaped(text)}</{name}>"


def tags(elements: Iterable[tuple[str, str | None]]) -> str:
    """Write elements with text; those that are None are left out."""
    return "".join(tag(name, text) for name, text in elements if text is not None)


def escaped(text: str) -> str:
    """Write text so that it is read back as it is; what XML cannot hold becomes a replacement character."""
    return escape(_legal(text), _RETURNS) if _SPECIAL.search(text) else text


def quoted(text: str) -> str:
    """Write an attribute's value, with its quotes."""
    return f'"{escape(_legal(text), _QUOTES)}"'


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)


def boolean(value: bool) -> str:
    """Write a truth value."""
    return "true" if value else "false"
