"""A parsed document: one text, and the blocks it consists of, each under its headings. Pure."""

import re
from dataclasses import dataclass, field
from enum import StrEnum

# What hides text from people or steers how it is shown: tag characters, zero-width and bidirectional controls,
# variation selectors beyond the emoji one, soft hyphens (OWASP LLM01:2026 asks to strip them at ingest).
_HIDDEN = re.compile(
    "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufe00-\ufe0e"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff]")
_ENDINGS = re.compile(r"\r\n?|[\x0c\u2028\u2029]")


class Kind(StrEnum):
    """What a block is, as far as splitting it makes a difference."""

    PARAGRAPH = "paragraph"
    LIST = "list"
    TABLE = "table"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the text that belongs together: `text[start:end]` of its document."""

    kind: Kind
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """What a parser makes of a file. Every offset counts characters of `text`."""

    title: str
    text: str
    blocks: tuple[Block, ...]


def clean(text: str) -> str:
    """The text with ordinary line ends and without characters that nobody sees."""
    return _CONTROL.sub("", _HIDDEN.sub("", _ENDINGS.sub("\n", text)))


@dataclass(slots=True)
class Outline:
    """The headings that are open at some place of a document."""

    _open: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, heading: str) -> None:
        """A heading closes those of its own level and below."""
        self._open = [(above, text) for above, text in self._open if above < level]
        self._open.append((level, heading))

    def path(self) -> tuple[str, ...]:
        """The open headings, outermost first."""
        return tuple(text for _, text in self._open)


@dataclass(slots=True)
class Writer:
    """Writes a document block by block, for formats whose bytes are not text."""

    _outline: Outline = field(default_factory=Outline)
    _pieces: list[str] = field(default_factory=list)
    _blocks: list[Block] = field(default_factory=list)
    _length: int = 0
    _first: str = ""

    def heading(self, level: int, text: str) -> None:
        """Open a section."""
        heading = " ".join(clean(text).split())
        if heading:
            # A heading below text, unless it is of the first level, is the title of a part.
            if level == 1 or not self._blocks:
                self._first = self._first or heading
            self._outline.enter(level, heading)
            self._write(f"{'#' * level} {heading}")

    def block(self, kind: Kind, text: str, page: int | None = None) -> None:
        """Add a block to the open section; an empty one is nothing."""
        body = clean(text).strip()
        if body:
            start = self._write(body)
            self._blocks.append(Block(kind, self._outline.path(), page, start, start + len(body)))

    def done(self, title: str = "") -> ParsedDocument:
        """The document; its first heading is its title, then what its metadata says."""
        named = self._first or " ".join(clean(title).split())
        return ParsedDocument(named, "\n\n".join(self._pieces), tuple(self._blocks))

    def _write(self, text: str) -> int:
        start = self._length
        self._pieces.append(text)
        self._length += len(text) + 2
        return start


def table(rows: list[list[str]]) -> str:
    """A table as Markdown; its first row is the header."""
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) if lines else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
