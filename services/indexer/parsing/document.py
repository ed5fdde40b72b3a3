"""A parsed document: one text, and the blocks it consists of, each under its headings. Pure."""

from dataclasses import dataclass, field
from enum import StrEnum

from shared.text import visible


class BlockKind(StrEnum):
    """The kind of a block, which decides how a long one is split."""

    PARAGRAPH = "paragraph"
    LIST = "list"
    TABLE = "table"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the text that belongs together: `text[start:end]` of its document."""

    kind: BlockKind
    headings: tuple[str, ...]
    page: int | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A file as its reader returns it. Every offset counts characters of `text`."""

    title: str
    text: str
    blocks: tuple[Block, ...]


@dataclass(slots=True)
class Outline:
    """The headings that are open at some place of a document."""

    _open: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, heading: str) -> None:
        """Open a heading (`level` from 1); it closes those of its own level and below."""
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
        heading = " ".join(visible(text).split())
        if heading:
            # A heading below text, unless it is of the first level, is the title of a part.
            if level == 1 or not self._blocks:
                self._first = self._first or heading
            self._outline.enter(level, heading)
            self._write(f"{'#' * level} {heading}")

    def block(self, kind: BlockKind, text: str, page: int | None = None) -> None:
        """Add a block to the open section, unless it is blank; `page` counts from 1, None: the format has no pages."""
        body = visible(text).strip()
        if body:
            start = self._write(body)
            self._blocks.append(Block(kind, self._outline.path(), page, start, start + len(body)))

    def done(self, title: str = "") -> ParsedDocument:
        """The document; its title is the first heading, else `title`, which comes from the metadata."""
        named = self._first or " ".join(visible(title).split())
        return ParsedDocument(named, "\n\n".join(self._pieces), tuple(self._blocks))

    def _write(self, text: str) -> int:
        start = self._length
        self._pieces.append(text)
        self._length += len(text) + 2
        return start


def table(rows: list[list[str]]) -> str:
    """A table as Markdown; its first row is the header. Empty for no rows."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) if lines else ""
