"""Markdown into blocks, as CommonMark with tables has it (`markdown-it-py`). The text stays as it is written.

Of Markdown only what divides a text matters here: the outermost headings, paragraphs, lists, tables, code. A block is
the slice of the text that the parser's line numbers give; what is in it is not parsed.
"""

import re
from itertools import accumulate

from markdown_it import MarkdownIt

from services.indexer.parsing.document import Block, BlockKind, Outline, ParsedDocument
from shared.text import visible

_FRONT_MATTER = re.compile(r"\A---\n(?P<fields>(?:.*\n)*?)(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_TITLE = re.compile(r"^title:(?P<title>.*)$", re.MULTILINE)
# Left out everywhere: a model reads what people do not see.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_KINDS = {
    "bullet_list_open": BlockKind.LIST,
    "ordered_list_open": BlockKind.LIST,
    "table_open": BlockKind.TABLE,
    "fence": BlockKind.CODE,
    "code_block": BlockKind.CODE,
    "paragraph_open": BlockKind.PARAGRAPH,
    "blockquote_open": BlockKind.PARAGRAPH,
    "html_block": BlockKind.PARAGRAPH,
}
# Levels of quotes and lists (a list takes two). Below the last one the parser adds all the rest of the text to the open
# block, also what follows the list. Its default of 20 is ten lists; 100 take no longer, far from the stack limit.
_MOST_NESTED = 100
# Without link definitions, which would be no block: their addresses are text here.
_PARSER = MarkdownIt("commonmark", {"maxNesting": _MOST_NESTED}).enable("table").disable("reference")
_PARSER.core.ruler.enableOnly(["block"])


def read_markdown(raw: str) -> ParsedDocument:
    """Read Markdown; front matter gives the title, else the first heading; comments are left out."""
    text = visible(raw)
    front = _FRONT_MATTER.match(text)
    field = _TITLE.search(front["fields"]) if front else None
    title = field["title"].strip() if field else ""
    if title[:1] in ("'", '"') and title[-1] == title[0]:
        title = title[1:-1].strip()
    text = _COMMENT.sub("", text[front.end() :] if front else text)
    starts = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    outline, blocks, first = Outline(), list[Block](), ""
    tokens = _PARSER.parse(text)
    for number, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        if token.type == "heading_open":
            # Its words are in the next token.
            level, words = int(token.tag[1:]), " ".join(tokens[number + 1].content.split())
            if words:
                # A heading below text, unless it is of the first level, is the title of a part.
                if level == 1 or not blocks:
                    first = first or words
                outline.enter(level, words)
        elif token.type in _KINDS:
            start, end = (starts[line] for line in token.map)
            body = text[start:end]
            start += len(body) - len(body.lstrip())
            if body.strip():
                blocks.append(Block(_KINDS[token.type], outline.path(), None, start, start + len(body.strip())))
    return ParsedDocument(title or first, text, tuple(blocks))
