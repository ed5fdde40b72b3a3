"""PDF and DOCX into blocks, through kreuzberg's structure tree. Runs in the parser process only.

kreuzberg drops lines silently unless told otherwise: `strip_repeating_text` (on by default) takes numbered
headings for page headers. So everything is kept here, and what really repeats on pages is found below.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from services.indexer.parsing.document import BlockKind, ParsedDocument, Writer, table

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

# A heading of a PDF is guessed from its type size. What is longer, or reads like a sentence or a caption, is text.
_LONGEST_HEADING = 80
_CAPTION = re.compile(r"(?:table|figure|tab\.|fig\.) \d+", re.IGNORECASE)
# Of a running header or footer.
_LONGEST_RUNNING_LINE = 150
# A line of a PDF that is at least this long may have been cut from its paragraph by the guess.
_WRAPPED = 60
_DIGITS = re.compile(r"\d+")
_ENDS = re.compile(r"[.!?:;…)\]\"'”’]\s*$")


class Unreadable(Exception):
    """The file cannot be indexed; the text says why."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A leaf of kreuzberg's tree; `kind` is heading, item, table, code or paragraph."""

    kind: str
    text: str
    page: int | None
    level: int = 0
    ordered: bool = False
    rows: tuple[tuple[str, ...], ...] = ()


def read_pdf(data: bytes, *, most_pages: int) -> ParsedDocument:
    """Read a PDF that has text; a scan gives an empty document. Raises `Unreadable`."""
    found = _extract(data, PDF)
    pages = int(found.metadata.get("page_count") or 0)
    if pages > most_pages:
        raise Unreadable(f"it has {pages} pages; the maximum is {most_pages}")
    nodes = [_as_printed(node) for node in _nodes(found.document or {})]
    return _write(_rejoin(_without_running_lines(nodes)), str(found.metadata.get("title") or ""))


def read_docx(data: bytes) -> ParsedDocument:
    """Read a Word document; raises `Unreadable`."""
    found = _extract(data, DOCX)
    return _write(_nodes(found.document or {}), str(found.metadata.get("title") or ""))


def _extract(data: bytes, mime: str) -> Any:
    import kreuzberg

    config = kreuzberg.ExtractionConfig(
        use_cache=False,
        enable_quality_processing=False,
        disable_ocr=True,  # type: ignore[call-arg]  # its stub does not know it
        # Without it the tree has one node per page.
        output_format="markdown",
        include_document_structure=True,
        content_filter=kreuzberg.ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False
        ),
    )
    try:
        return kreuzberg.extract_bytes_sync(data, mime, config)
    except kreuzberg.KreuzbergError as refused:
        # In our words, because the library's are for its own developers.
        what = "PDF" if mime == PDF else "Word document"
        if "password" in str(refused).casefold():
            raise Unreadable(f"it is a password-protected {what}") from refused
        raise Unreadable(f"it is not a readable {what} (damaged or truncated)") from refused


def _nodes(tree: dict[str, Any]) -> Iterator[_Node]:
    """The leaves that carry text, in reading order. Word's own page headers and footers are left out."""
    nodes = tree.get("nodes", [])
    ordered = {index: bool(node["content"].get("ordered")) for index, node in enumerate(nodes)}
    for node in nodes:
        content, page = node["content"], node.get("page")
        if node.get("content_layer") in ("header", "footer"):
            continue
        match content.get("node_type"):
            case "heading":
                yield _Node("heading", content["text"], page, level=int(content["level"]))
            case "list_item":
                yield _Node("item", content["text"], page, ordered=ordered.get(node.get("parent"), False))
            case "table":
                yield _Node("table", "", page, rows=_rows(content["grid"]))
            case "group" | "list" | "page_break" | "image":
                continue
            case kind:
                yield _Node("code" if kind == "code" else "paragraph", str(content.get("text") or ""), page)


def _rows(grid: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    rows = [[""] * grid["cols"] for _ in range(grid["rows"])]
    for cell in grid["cells"]:
        rows[cell["row"]][cell["col"]] = cell["content"]
    return tuple(tuple(row) for row in rows)


def _as_printed(node: _Node) -> _Node:
    """A line set in a larger type is a heading only if it reads like one."""
    text = node.text.strip()
    is_sentence = text.endswith((".", ",", ";")) or text[:1].islower()
    if node.kind == "heading" and (len(text) > _LONGEST_HEADING or is_sentence or _CAPTION.match(text)):
        return _Node("paragraph", node.text, node.page)
    return node


def _without_running_lines(nodes: list[_Node]) -> list[_Node]:
    """The nodes without running headers and footers: what is first or last on most pages, apart from its numbers."""
    pages = [list(group) for _, group in groupby(nodes, key=lambda node: node.page)]
    edges = Counter(line for page in pages for line in {_pattern(page[0]), _pattern(page[-1])})
    repeated = {line for line, count in edges.items() if line and count > max(1, len(pages) // 2)}
    kept: list[_Node] = []
    for page in pages:
        first = 1 if _pattern(page[0]) in repeated else 0
        last = len(page) - (1 if len(page) > first and _pattern(page[-1]) in repeated else 0)
        kept += page[first:last]
    return kept


def _pattern(node: _Node) -> str:
    if node.kind == "table" or len(node.text) > _LONGEST_RUNNING_LINE:
        return ""
    line = " ".join(node.text.split())
    # "Section 1", "Section 2" may well begin their pages; a heading is a running header only if it is always the same.
    return line if node.kind == "heading" else _DIGITS.sub("#", line)


def _rejoin(nodes: list[_Node]) -> Iterator[_Node]:
    """Join paragraphs that a page break or a wrong guess has cut in two."""
    held: _Node | None = None
    for node in nodes:
        if held and _continues(held, node):
            held = _Node(held.kind, f"{held.text.rstrip()} {node.text.lstrip()}", held.page)
            continue
        if held:
            yield held
        held = node
    if held:
        yield held


def _continues(before: _Node, after: _Node) -> bool:
    """Whether `after` is the rest of the sentence that `before` begins."""
    if _ENDS.search(before.text) or not after.text.lstrip()[:1].islower():
        return False
    if before.kind == "paragraph" and len(before.text) >= _WRAPPED:
        return after.kind in ("paragraph", "item")
    return before.kind in ("paragraph", "item") and after.kind == "paragraph" and before.page != after.page


def _write(nodes: Iterator[_Node], title: str) -> ParsedDocument:
    writer = Writer()
    for (kind, page), run in groupby(nodes, key=lambda node: (node.kind, node.page)):
        if kind == "item":
            lines = (
                f"{number}. {' '.join(item.text.split())}" if item.ordered else f"- {' '.join(item.text.split())}"
                for number, item in enumerate(run, 1)
            )
            writer.block(BlockKind.LIST, "\n".join(lines), page)
            continue
        for node in run:
            match kind:
                case "heading":
                    writer.heading(node.level, node.text)
                case "table":
                    writer.block(BlockKind.TABLE, table([list(row) for row in node.rows]), page)
                case "code":
                    writer.block(BlockKind.CODE, node.text, page)
                case _:
                    writer.block(BlockKind.PARAGRAPH, " ".join(node.text.split()), page)
    return writer.done(title)
