"""Cut a passage into units that may be quoted: a sentence, a list item, a list with its lead-in, a table row.

Each unit keeps, beside its own words, the words that say what it is about: the headings above it, the line that leads
into its list, the header of its table, the sentence before it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from local.llm.passages import Passage


class Kind(Enum):
    """What a unit was in the document."""

    SENTENCE = "sentence"
    ITEM = "item"
    LIST = "list"
    ROW = "row"


@dataclass(frozen=True)
class Unit:
    """Something quotable. `text` is what is quoted; the rest is what it is about."""

    passage: int
    kind: Kind
    text: str
    own: str  # the words that are this unit's own; for a list its lead-in
    above: str = ""  # headings, lead-in, table header
    label: str = ""
    near: str = ""  # the sentence before, or the items of a list
    heading: str = ""  # the nearest one


@dataclass
class _Reader:
    """Where we are while going down the lines of one passage."""

    passage: Passage
    headings: dict[int, str] = field(default_factory=dict)
    paragraph: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    lead: str = ""
    fresh_heading: str = ""
    gap: bool = False  # a blank line has just gone by

    @property
    def above(self) -> str:
        """All headings over the current line."""
        return " ".join(self.headings[level] for level in sorted(self.headings))

    @property
    def heading(self) -> str:
        """The nearest heading: in the passage, or else the last part of its label."""
        return self.headings[max(self.headings)] if self.headings else _LABEL_PART.split(self.passage.label)[-1]


_LABEL_PART = re.compile(r"\s+[›>»/–-]\s+")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*")
_BOLD_LINE = re.compile(r"(\*\*|__)([^*_]{2,80}?):?\1:?")
_ITEM = re.compile(r"(\s*)(?:[-*+•]|\d{1,3}[.)])\s+(.*)")
_ROW = re.compile(r"\s*\|(.*)\|\s*")
_RULE = re.compile(r"[\s|:-]*-[\s|:-]*")
_UNDERLINE = re.compile(r"={3,}|-{3,}")
_FENCE = re.compile(r"\s*(```|~~~)")
_QUOTE = re.compile(r"\s*>\s?")
_QUESTION_LEVEL = 8  # a question on its own line heads its answer, below every real heading
_BOLD_LEVEL = 7
_LONG_ITEM = 320
_SHORT_SENTENCE = 3  # words
_LONGEST_LIST = 12

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)\]*_]*\s+(?=[^\sa-zà-ÿ])")
_LONGEST_ABBREVIATION = 12
_NUMBER_SIGN = re.compile(r"\bnos?\.$", re.IGNORECASE)  # only before a number: "No." may also be a whole answer
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|approx|vs|cf|art|sec|fig|mr|mrs|ms|dr|prof|inc|ltd|st|a\.m|p\.m|max|min|incl|excl)"
    r"|\b[A-Z]|^\d{1,3})\.$",
    re.IGNORECASE,
)


def units(passage: Passage) -> list[Unit]:
    """Everything quotable in a passage, top to bottom."""
    reader = _Reader(passage)
    found: list[Unit] = []
    for line in passage.text.splitlines():
        found += _read_line(reader, _QUOTE.sub("", line, count=1))
    return found + list(_flush(reader))


def sentences(text: str) -> list[str]:
    """Split running text; abbreviations, initials and decimals do not end a sentence."""
    parts: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        tail = text[max(start, match.start() - _LONGEST_ABBREVIATION) : match.start()]
        if not _abbreviated(tail, text[match.end()]):
            parts.append(text[start : match.end()].strip())
            start = match.end()
    return [part for part in [*parts, text[start:].strip()] if part]


def _abbreviated(before: str, following: str) -> bool:
    return bool(_ABBREVIATION.search(before) or (following.isdigit() and _NUMBER_SIGN.search(before)))


def _read_line(reader: _Reader, line: str) -> Iterable[Unit]:
    if not line.strip() or _FENCE.match(line):
        return _end_of_block(reader)
    gap, reader.gap = reader.gap, False
    if _UNDERLINE.fullmatch(line.strip()):
        return _underline(reader, line.strip()[0])
    if heading := _heading(line):
        return _open_heading(reader, *heading)
    if row := _ROW.fullmatch(line):
        return _add_row(reader, line, row[1])
    if item := _ITEM.fullmatch(line):
        return _add_item(reader, item[2])
    return _add_text(reader, line.strip(), gap=gap)


def _heading(line: str) -> tuple[int, str] | None:
    stripped = line.strip()
    if match := _HEADING.fullmatch(stripped):
        return len(match[1]), match[2]
    if match := _BOLD_LINE.fullmatch(stripped):
        return _BOLD_LEVEL, match[2]
    return None


def _underline(reader: _Reader, mark: str) -> list[Unit]:
    """`====` under a line makes it a heading; anywhere else it is a rule across the page."""
    if len(reader.paragraph) != 1:
        return list(_flush(reader))
    title = reader.paragraph.pop()
    return _open_heading(reader, 1 if mark == "=" else 2, title)


def _open_heading(reader: _Reader, level: int, title: str) -> list[Unit]:
    found = list(_flush(reader))
    reader.headings = {above: text for above, text in reader.headings.items() if above < level}
    reader.headings[level] = title
    reader.fresh_heading, reader.lead = title, ""
    return found


def _add_row(reader: _Reader, line: str, inside: str) -> list[Unit]:
    found = [*_flush_paragraph(reader), *_flush_items(reader)]
    if _RULE.fullmatch(line):
        reader.rows.append([])  # marks that the row above is the header
    else:
        reader.rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", inside)])
    return found


def _add_item(reader: _Reader, text: str) -> list[Unit]:
    found = [*_flush_paragraph(reader), *_flush_rows(reader)]
    reader.items.append(text.strip())
    return found


def _add_text(reader: _Reader, text: str, *, gap: bool) -> list[Unit]:
    if reader.items and not gap:
        reader.items[-1] = f"{reader.items[-1]} {text}"
        return []
    found = [*_flush_items(reader), *_flush_rows(reader)]
    reader.paragraph.append(text)
    return found


def _end_of_block(reader: _Reader) -> list[Unit]:
    """A blank line ends a paragraph and a table; a list may go on after it."""
    reader.gap = True
    return [] if reader.items else list(_flush(reader))


def _flush(reader: _Reader) -> Iterator[Unit]:
    yield from _flush_paragraph(reader)
    yield from _flush_items(reader)
    yield from _flush_rows(reader)


def _flush_paragraph(reader: _Reader) -> Iterator[Unit]:
    if not reader.paragraph:
        return
    text, reader.paragraph = " ".join(reader.paragraph), []
    yield from _flush_items(reader)
    said = sentences(text)
    if len(said) == 1 and text.endswith("?"):
        _open_heading(reader, _QUESTION_LEVEL, text)
        return
    reader.lead, reader.fresh_heading = (said[-1] if text.endswith(":") else ""), ""
    yield from _as_sentences(reader, said)


def _as_sentences(reader: _Reader, said: list[str]) -> Iterator[Unit]:
    before = ""
    for sentence in _joined(said):
        if not sentence.endswith(("?", ":")):
            yield _unit(reader, Kind.SENTENCE, sentence, near=before)
        before = sentence


def _joined(said: list[str]) -> Iterator[str]:
    """`Yes.` says nothing without the sentence after it."""
    short = ""
    for sentence in said:
        whole = f"{short} {sentence}".strip()
        short = whole if len(whole.split()) < _SHORT_SENTENCE and not whole.endswith(("?", ":")) else ""
        if not short:
            yield whole
    if short:
        yield short


def _flush_items(reader: _Reader) -> Iterator[Unit]:
    if not reader.items:
        return
    items, reader.items = reader.items, []
    lead = reader.lead or reader.fresh_heading
    reader.lead = reader.fresh_heading = ""
    for item in items:
        yield from _as_items(reader, item, lead)
    if lead and 1 < len(items) <= _LONGEST_LIST and all(len(item) < _LONG_ITEM for item in items):
        yield _as_list(reader, lead, items)


def _as_items(reader: _Reader, item: str, lead: str) -> Iterator[Unit]:
    pieces = sentences(item) if len(item) > _LONG_ITEM else [item]
    before = ""
    for piece in pieces:
        yield _unit(reader, Kind.ITEM, piece, above=lead, near=before)
        before = piece


def _as_list(reader: _Reader, lead: str, items: list[str]) -> Unit:
    title = lead.rstrip(" :.")
    body = "; ".join(item.rstrip(" .;,") for item in items)
    return _unit(reader, Kind.LIST, f"{title}: {body}", own=title, near=body)


def _flush_rows(reader: _Reader) -> Iterator[Unit]:
    if not reader.rows:
        return
    rows, reader.rows = reader.rows, []
    header = rows[0] if len(rows) > 1 and not rows[1] else []
    for cells in rows[2:] if header else rows:
        if any(cells):
            yield _unit(reader, Kind.ROW, _as_row(header, cells), own=_as_row(header, cells))
    reader.lead = reader.fresh_heading = ""


def _as_row(header: list[str], cells: list[str]) -> str:
    """`Country: Spain; Days: 23`: every name and every value as the table has it."""
    names = header + [""] * (len(cells) - len(header))
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, cells, strict=False) if cell)


def _unit(reader: _Reader, kind: Kind, text: str, *, own: str | None = None, above: str = "", near: str = "") -> Unit:
    about = f"{reader.above} {above}".strip()
    return Unit(
        reader.passage.number,
        kind,
        text,
        text if own is None else own,
        about,
        reader.passage.label,
        near,
        reader.heading,
    )
