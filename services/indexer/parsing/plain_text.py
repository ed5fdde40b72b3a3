"""Plain text into blocks: paragraphs between blank lines, lists, and the headings that letters and minutes have."""

import re

from services.indexer.parsing.document import Block, BlockKind, Outline, ParsedDocument
from shared.text import visible

_UNDERLINE = re.compile(r" {0,3}(?P<mark>=|-)(?P=mark){2,}[ \t]*$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S")
# A line of its own in capitals, possibly numbered: "2. KEY DATES".
_CAPITALS = re.compile(r"\s*(?:\d+(?:\.\d+)*[.)]?[ \t]+)?[^\Wa-z\d_](?:[^a-z\n]{2,78})(?<![.,;:])$")
_LEVEL = 2
_SUBJECT = re.compile(r"^Subject:[ \t]*(?P<subject>\S.*?)[ \t]*$", re.MULTILINE)
_LETTERHEAD = 2_000


def read_plain_text(raw: str) -> ParsedDocument:
    """Read plain text; underlined lines and lines in capitals are headings, a letter's subject is its title."""
    text = visible(raw)
    outline, blocks, first = Outline(), list[Block](), ""
    # The lines of the open block, and where it began.
    open_lines: list[str] = []
    start = at = 0

    def close() -> None:
        if open_lines:
            kind = BlockKind.LIST if _ITEM.match(open_lines[0]) else BlockKind.PARAGRAPH
            body = "\n".join(open_lines)
            begin = start + len(body) - len(body.lstrip())
            blocks.append(Block(kind, outline.path(), None, begin, begin + len(body.strip())))
            open_lines.clear()

    lines = text.split("\n")
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        underline = _UNDERLINE.match(line) if len(open_lines) == 1 and not _ITEM.match(open_lines[0]) else None
        alone = not open_lines and not after.strip()
        if underline or (alone and _CAPITALS.match(line)):
            level = _LEVEL if not underline else 1 if underline["mark"] == "=" else 2
            heading = " ".join((open_lines.pop() if underline else line).split())
            # A heading below text, unless it is of the first level, is the title of a part.
            if level == 1 or not blocks:
                first = first or heading
            outline.enter(level, heading)
        elif not line.strip():
            close()
        else:
            # A list begins a block; it goes on in wrapped lines.
            if open_lines and _ITEM.match(line) and not _ITEM.match(open_lines[0]):
                close()
            if not open_lines:
                start = at
            open_lines.append(line)
        at += len(line) + 1
    close()
    subject = _SUBJECT.search(text[:_LETTERHEAD])
    return ParsedDocument(subject["subject"] if subject else first, text, tuple(blocks))
