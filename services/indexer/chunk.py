"""A document into passages: along its own structure, each small enough to be one of many in a prompt. Pure.

A passage never spans two headings, is made of neighbouring blocks as long as they fit, and is a slice of the
text, except that every part of a split table begins with the table's header.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from services.indexer.parsing.document import Block, BlockKind, ParsedDocument
from shared.llm.tokens import count_tokens

# Goes into every document's registry entry: raising it re-indexes the lake at the next reconcile.
VERSION = "1"
SECTION_SEPARATOR = " > "


# What a passage may have: three of them and the question fit a small window with room, sixteen fill 4,000 tokens.
MOST_TOKENS = 220
# Text with fewer letters a token than this is rare (tables of numbers, code); it is measured exactly.
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
    """Cut `document` into passages of at most `most` tokens, in order."""
    chunks: list[Chunk] = []
    for headings, blocks in groupby(document.blocks, key=lambda block: block.headings):
        section = section_of(headings, document.title)
        pieces = (piece for block in blocks for piece in _split(block, document.text, most))
        chunks += (_chunk(packed, section, document.text) for packed in _pack(pieces, document.text, most))
    return chunks


def section_of(headings: Sequence[str], title: str) -> str:
    """The headings above a passage; the title is not said twice."""
    inner = headings[1:] if headings and headings[0] == title else headings
    return SECTION_SEPARATOR.join(inner)


def _pack(pieces: Iterable[_Piece], text: str, most: int) -> Iterator[_Piece]:
    """Put neighbours together while they fit."""
    packed: _Piece | None = None
    for piece in pieces:
        if packed is None:
            packed = piece
        elif (
            _are_neighbours(packed, piece, text) and count_tokens(packed.lead + text[packed.start : piece.end]) <= most
        ):
            packed = replace(packed, end=piece.end)
        else:
            yield packed
            packed = piece
    if packed is not None:
        yield packed


def _are_neighbours(before: _Piece, after: _Piece, text: str) -> bool:
    """Whether nothing stands between two pieces, such as a rule or the same heading once more."""
    return not after.lead and not text[before.end : after.start].strip()


def _split(block: Block, text: str, most: int) -> Iterator[_Piece]:
    body = text[block.start : block.end]
    if count_tokens(body) <= most:
        yield _Piece(block.page, block.start, block.end)
    elif block.kind is BlockKind.TABLE:
        yield from _split_table(block, body, most)
    else:
        yield from _cut(block, 0, body, most)


def _cut(block: Block, offset: int, body: str, most: int) -> Iterator[_Piece]:
    start = block.start + offset
    for at, part in _parts(body, most):
        yield _Piece(block.page, start + at, start + at + len(part))


def _parts(body: str, most: int) -> Iterator[tuple[int, str]]:
    """Cut at line ends, else between sentences, else between words; with the offset of each part.

    By letters first: counting tokens inside the splitter is a hundred times slower.
    """
    from semantic_text_splitter import TextSplitter

    exactly = TextSplitter.from_callback(count_tokens, most)
    for offset, part in TextSplitter(most * _LETTERS_PER_TOKEN).chunk_indices(body):
        if count_tokens(part) <= most:
            yield offset, part
        else:
            yield from ((offset + inner, small) for inner, small in exactly.chunk_indices(part))


def _split_table(block: Block, body: str, most: int) -> Iterator[_Piece]:
    """Rows together as long as they fit under their header; a row that does not fit even alone is cut like text."""
    lines = body.splitlines(keepends=True)
    head = 2 if len(lines) > 2 and set(lines[1].strip()) <= set("|-: ") else 1
    header = "".join(lines[:head])
    if most - count_tokens(header) < most // 2:
        yield from _cut(block, 0, body, most)
        return
    start = end = len(header)
    lead = ""
    for row in lines[head:]:
        # Counted together: the tokens of two texts may be one more than those of each.
        if end > start and count_tokens(header + body[start:end] + row) > most:
            yield _rows(block, start, end, lead, header)
            start, lead = end, header
        if count_tokens(header + row) > most:
            # Cut together with the header, unless that was told before.
            whole = 0 if not lead else start
            yield from _cut(block, whole, body[whole : end + len(row)], most)
            start, lead = end + len(row), header
        end += len(row)
    if end > start or not lead:
        yield _rows(block, start, end, lead, header)


def _rows(block: Block, start: int, end: int, lead: str, header: str) -> _Piece:
    # The first part has the header as it stands in the text; the others are led by a copy.
    first = start if lead else start - len(header)
    return _Piece(block.page, block.start + first, block.start + end, lead)


def _chunk(piece: _Piece, section: str, text: str) -> Chunk:
    body = piece.lead + text[piece.start : piece.end].rstrip()
    return Chunk(section, piece.page, piece.start, piece.end, body, count_tokens(body))
