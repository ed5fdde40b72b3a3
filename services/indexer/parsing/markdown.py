"""Markdown and plain text into blocks, line by line. The text stays as it is written; blocks are slices of it.

Of Markdown only what divides a text matters here: headings, fences, tables, lists, blank lines.
"""

import re
from dataclasses import dataclass, field

from services.indexer.parsing.document import Block, BlockKind, Outline, ParsedDocument
from shared.text import visible

_FRONT_MATTER = re.compile(r"\A---\n(?P<fields>(?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_TITLE = re.compile(r"^title:[ \t]*(?P<quote>[\"']?)(?P<title>.+?)(?P=quote)[ \t]*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_ATX = re.compile(r" {0,3}(?P<marks>#{1,6})[ \t]+(?P<text>.*?)[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(?P<mark>=|-)(?P=mark){2,}[ \t]*$")
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S")
_RULE = re.compile(r" {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$")
# A line of its own in capitals, possibly numbered, as letters and minutes have them: "2. KEY DATES".
_CAPITALS = re.compile(r"\s*(?:\d+(?:\.\d+)*[.)]?[ \t]+)?[^\Wa-z\d_](?:[^a-z\n]{2,78})(?<![.,;:])$")
_PLAIN_LEVEL = 2
_SUBJECT = re.compile(r"^Subject:[ \t]*(?P<subject>\S.*?)[ \t]*$", re.MULTILINE)
_LETTERHEAD = 2_000


def read_markdown(raw: str) -> ParsedDocument:
    """Read Markdown; front matter gives the title, comments are left out."""
    text = visible(raw)
    front = _FRONT_MATTER.match(text)
    named = _TITLE.search(front["fields"]) if front else None
    body = _COMMENT.sub("", text[front.end() :] if front else text)
    return _Lines(body, markdown=True).read(named["title"] if named else "")


def read_text(raw: str) -> ParsedDocument:
    """Read plain text; underlined lines and lines in capitals are headings, a letter's subject is its title."""
    text = visible(raw)
    subject = _SUBJECT.search(text[:_LETTERHEAD])
    return _Lines(text, markdown=False).read(subject["subject"] if subject else "")


@dataclass(slots=True)
class _Lines:
    text: str
    markdown: bool
    outline: Outline = field(default_factory=Outline)
    blocks: list[Block] = field(default_factory=list)
    first: str = ""
    # The block being read: where it began, what it is, and the fence that ends it.
    start: int | None = None
    kind: BlockKind = BlockKind.PARAGRAPH
    fence: str = ""

    def read(self, title: str) -> ParsedDocument:
        """Read line by line, then close what is open."""
        at = 0
        for line in self.text.split("\n"):
            self._line(line, at)
            at += len(line) + 1
        self._close(len(self.text))
        return ParsedDocument(title or self.first, self.text, tuple(self.blocks))

    def _line(self, line: str, at: int) -> None:
        if self.fence:
            self._inside_fence(line, at)
        elif not line.strip():
            self._close(at)
        elif not self._is_heading(line, at):
            self._body(line, at)

    def _inside_fence(self, line: str, at: int) -> None:
        if line.strip().startswith(self.fence):
            self.fence = ""
            self._close(at + len(line))

    def _is_heading(self, line: str, at: int) -> bool:
        if (underline := _UNDERLINE.match(line)) and self._underlined(at):
            heading = self.text[self.start : at].strip()
            self.start = None
            self._enter(1 if underline["mark"] == "=" else 2, heading)
            return True
        if self.markdown and (atx := _ATX.match(line)):
            self._close(at)
            self._enter(len(atx["marks"]), atx["text"])
            return True
        if not self.markdown and self.start is None and _CAPITALS.match(line) and self._stands_alone(line, at):
            self._enter(_PLAIN_LEVEL, line.strip())
            return True
        if self.markdown and _RULE.match(line):
            self._close(at)
            return True
        return False

    def _underlined(self, at: int) -> bool:
        """Whether the line before `at` is a paragraph of one line, which an underline makes a heading."""
        if self.start is None or self.kind is not BlockKind.PARAGRAPH:
            return False
        return "\n" not in self.text[self.start : at].rstrip("\n")

    def _stands_alone(self, line: str, at: int) -> bool:
        after = self.text[at + len(line) + 1 :].split("\n", 1)[0]
        return not after.strip()

    def _enter(self, level: int, heading: str) -> None:
        words = " ".join(heading.split())
        if words:
            # A heading below text, unless it is of the first level, is the title of a part.
            if level == 1 or not self.blocks:
                self.first = self.first or words
            self.outline.enter(level, words)

    def _body(self, line: str, at: int) -> None:
        kind = self._kind_of(line)
        if self.start is not None and self._begins_another(kind, line):
            self._close(at)
        if self.start is None:
            self.start, self.kind = at, kind
            if kind is BlockKind.CODE and (opening := _FENCE.match(line)):
                self.fence = opening["fence"]

    def _begins_another(self, kind: BlockKind, line: str) -> bool:
        """Whether a line leaves the open block. A list goes on in indented and wrapped lines."""
        if kind is self.kind:
            return False
        return not (self.kind is BlockKind.LIST and kind is BlockKind.PARAGRAPH)

    def _kind_of(self, line: str) -> BlockKind:
        if self.markdown and _FENCE.match(line):
            return BlockKind.CODE
        if self.markdown and line.lstrip().startswith("|"):
            return BlockKind.TABLE
        return BlockKind.LIST if _ITEM.match(line) else BlockKind.PARAGRAPH

    def _close(self, at: int) -> None:
        if self.start is None:
            return
        body = self.text[self.start : at]
        start = self.start + len(body) - len(body.lstrip())
        self.blocks.append(Block(self.kind, self.outline.path(), None, start, self.start + len(body.rstrip())))
        self.start = None
