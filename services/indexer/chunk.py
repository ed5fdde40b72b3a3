"""Splits a document into passages along its structure, so small that a prompt has room for many. Pure.

A passage never spans two headings, is made of neighbouring blocks as long as they fit, and is a slice of the
text, except that every part of a split table begins with the table's header.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from services.indexer.parsing.document import Block, BlockKind, ParsedDocument
from shared.llm.tokens import count_tokens

# Goes into every document's registry entry: raising it re-indexes the lake at the next reconcile.
VERSION = "2"
SECTION_SEPARATOR = " > "


# Tokens of a passage: sixteen fill a window of 4,000 tokens.
MOST_TOKENS = 220
# Text with fewer letters per token is rare (tables of numbers, code); it is measured exactly.
_LETTERS_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage before it belongs to a version."""

    section: str
    page: int | None
    start: int
    end: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block or a part of one; `lead` is repeated before its text."""

    page: int | None
    start: int
    end: int
    lead: str = ""


def chunk(document: ParsedDocument, most: int = MOST_TOKENS) -> list[Chunk]:
    """Split `document` into passages of at most `most` tokens, in order."""
    chunks: list[Chunk] = []
    for headings, blocks in groupby(document.blocks, key=lambda block: block.headings):
        section = section_of(headings, document.title)
        pieces = (piece for block in blocks for piece in _split(block, document.text, most))
        for packed in _pack(pieces, document.text, most):
            body = packed.lead + document.text[packed.start : packed.end].rstrip()
            chunks.append(Chunk(section, packed.page, packed.start, packed.end, body, count_tokens(body)))
    return chunks


def section_of(headings: Sequence[str], title: str) -> str:
    """The headings above a passage, without the title."""
    inner = headings[1:] if headings and headings[0] == title else headings
    return SECTION_SEPARATOR.join(inner)


def _pack(pieces: Iterable[_Piece], text: str, most: int) -> Iterator[_Piece]:
    """Join neighbours while they fit."""
    packed: _Piece | None = None
    for piece in pieces:
        if packed is None:
            packed = piece
        elif (
            not piece.lead
            # Nothing stands between them, such as a rule or a repeated heading.
            and not text[packed.end : piece.start].strip()
            and count_tokens(packed.lead + text[packed.start : piece.end]) <= most
        ):
            packed = replace(packed, end=piece.end)
        else:
            yield packed
            packed = piece
    if packed is not None:
        yield packed


def _split(block: Block, text: str, most: int) -> Iterator[_Piece]:
    body = text[block.start : block.end]
    if count_tokens(body) <= most:
        yield _Piece(block.page, block.start, block.end)
    elif block.kind is BlockKind.TABLE:
        yield from _split_table(block, body, most)
    else:
        yield from _cut(block, 0, body, most)


def _cut(block: Block, offset: int, body: str, most: int) -> Iterator[_Piece]:
    """Split at line ends, else between sentences, else between words.

    By letters first, because counting tokens inside the splitter is a hundred times slower.
    """
    from semantic_text_splitter import TextSplitter

    start = block.start + offset
    exactly = TextSplitter.from_callback(count_tokens, most)
    for outer, part in TextSplitter(most * _LETTERS_PER_TOKEN).chunk_indices(body):
        for inner, small in [(0, part)] if count_tokens(part) <= most else exactly.chunk_indices(part):
            at = start + outer + inner
            yield _Piece(block.page, at, at + len(small))


def _split_table(block: Block, body: str, most: int) -> Iterator[_Piece]:
    """Join rows while they fit under their header; split a row that does not fit alone like text, under its header."""
    lines = body.splitlines(keepends=True)
    head = 2 if len(lines) > 2 and set(lines[1].strip()) <= set("|-: ") else 1
    header = "".join(lines[:head])
    # Counted together, two texts may have one token more.
    room = most - count_tokens(header) - 1
    if room < most // 2:
        yield from _cut(block, 0, body, most)
        return
    start = end = len(header)
    lead = ""
    for row in lines[head:]:
        if end > start and count_tokens(header + body[start:end] + row) > most:
            yield _rows(block, start, end, lead, header)
            start, lead = end, header
        if count_tokens(header + row) > most:
            for piece in _cut(block, start, row, room):
                yield _rows(block, piece.start - block.start, piece.end - block.start, lead, header)
                lead = header
            start = end + len(row)
        end += len(row)
    if end > start or not lead:
        yield _rows(block, start, end, lead, header)


def _rows(block: Block, start: int, end: int, lead: str, header: str) -> _Piece:
    # The first part has the header itself; the others begin with a copy.
    first = start if lead else start - len(header)
    return _Piece(block.page, block.start + first, block.start + end, lead)
