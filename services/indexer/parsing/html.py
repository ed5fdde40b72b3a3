"""HTML into blocks: the text of the page, without navigation.

Where the page marks its main part, only that is read. (kreuzberg's converter keeps navigation and footers, and
puts broken front matter before the text.)
"""

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from services.indexer.parsing.document import BlockKind, ParsedDocument, Writer, table

_SKIPPED = frozenset(
    "script style nav footer aside form button noscript template svg iframe object select head dialog".split()
)
_BREAKS = frozenset(
    "p div section article main header blockquote dl dt dd figure figcaption address details summary hr body".split()
)
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_HEADING = re.compile(r"h([1-6])")
_MAIN = re.compile(r"<main[\s>]|role\s*=\s*[\"']main[\"']", re.IGNORECASE)


def read_html(raw: str) -> ParsedDocument:
    """Read a page, also with broken tags; its title is the first heading, else `<title>`."""
    page = _Page(only_main=bool(_MAIN.search(raw)))
    page.feed(raw)
    page.close()
    return page.finish()


@dataclass(slots=True)
class _Table:
    rows: list[list[str]] = field(default_factory=list)

    def add(self, words: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += words


class _Page(HTMLParser):
    """Collects the blocks of a page; `only_main`: of its main part alone."""

    def __init__(self, *, only_main: bool) -> None:
        super().__init__(convert_charrefs=True)
        self._writer = Writer()
        self._words: list[str] = []
        self._items: list[str] = []
        self._lists: list[int | None] = []
        self._tables: list[_Table] = []
        self._skipping: list[str] = []
        self._level = 0
        self._preformatted = False
        self._in_title = False
        self._title = ""
        self._main_depth = 0 if only_main else 1

    def finish(self) -> ParsedDocument:
        while self._tables:
            self._end_table()
        self._item()
        self._lists.clear()
        self._flush()
        return self._writer.done(self._title)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        hidden = any(name == "hidden" or (name, value) == ("aria-hidden", "true") for name, value in attrs)
        if self._skipping or tag in _SKIPPED or (hidden and tag not in _VOID):
            if tag not in _VOID and (not self._skipping or tag == self._skipping[0]):
                self._skipping.append(tag)
            return
        if tag == "main" or ("role", "main") in attrs:
            self._main_depth += 1
        if self._main_depth:
            self._open(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False
        if self._skipping:
            if tag == self._skipping[0]:
                self._skipping.pop()
            return
        if self._main_depth:
            self._close(tag)
        if tag == "main":
            self._main_depth = max(0, self._main_depth - 1)

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title += data
        elif self._main_depth and not self._skipping:
            words = data if self._preformatted else re.sub(r"\s+", " ", data)
            if self._tables:
                self._tables[-1].add(words)
            else:
                self._words.append(words)

    def _open(self, tag: str, attrs: dict[str, str | None]) -> None:
        match tag:
            case "table":
                self._flush()
                self._tables.append(_Table())
            case "tr" if self._tables:
                self._tables[-1].rows.append([])
            case "td" | "th" if self._tables:
                rows = self._tables[-1].rows
                if not rows:
                    rows.append([])
                rows[-1].append("")
            case "br":
                self.handle_data("\n" if self._preformatted else " ")
            case "ul" | "ol":
                self._item()
                self._lists.append(0 if tag == "ol" else None)
            case "li":
                self._item()
            case "pre":
                self._flush()
                self._preformatted = True
            case "img" if attrs.get("alt"):
                self.handle_data(f" {attrs['alt']} ")
            case _ if not self._tables and (heading := _HEADING.fullmatch(tag)):
                self._flush()
                self._level = int(heading[1])
            case _ if not self._tables and tag in _BREAKS and not self._lists:
                self._flush()

    def _close(self, tag: str) -> None:
        match tag:
            case "table" if self._tables:
                self._end_table()
            case "ul" | "ol" if self._lists:
                self._item()
                self._lists.pop()
                self._flush()
            case "li":
                self._item()
            case "pre":
                self._flush(BlockKind.CODE)
                self._preformatted = False
            case _ if not self._tables and (_HEADING.fullmatch(tag) or (tag in _BREAKS and not self._lists)):
                self._flush()

    def _end_table(self) -> None:
        rows = [row for row in self._tables.pop().rows if any(cell.strip() for cell in row)]
        if self._tables:
            # A table inside a cell is layout; its words belong to the cell.
            self._tables[-1].add(" ".join(" ".join(row) for row in rows))
        elif rows:
            width = max(len(row) for row in rows)
            self._writer.block(BlockKind.TABLE, table([row + [""] * (width - len(row)) for row in rows]))

    def _item(self) -> None:
        """Put the words read so far into the list, under the number of its innermost level."""
        words = " ".join("".join(self._words).split())
        if not self._lists or not words:
            return
        self._words = []
        number = self._lists[-1]
        if number is not None:
            self._lists[-1] = number + 1
        mark = "-" if number is None else f"{number + 1}."
        self._items.append("  " * (len(self._lists) - 1) + f"{mark} {words}")

    def _flush(self, kind: BlockKind = BlockKind.PARAGRAPH) -> None:
        if self._lists:
            return
        words = "".join(self._words)
        self._words = []
        if self._items:
            self._writer.block(BlockKind.LIST, "\n".join(self._items))
            self._items = []
        if self._level:
            self._writer.heading(self._level, words)
            self._level = 0
        else:
            self._writer.block(kind, words if kind is BlockKind.CODE else " ".join(words.split()))
