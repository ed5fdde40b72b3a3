"""Builds the PDF and DOCX files of the demo handbook from the Markdown files in `sources/`.

Every company, office, role and rule in the handbook is invented. Each source begins with a small header
(`output`, `title`, `header`, `date`); its body has headings, paragraphs, bulleted and numbered lists and pipe tables.
The output is deterministic: dates come from the header and nothing is compressed, so that a build gives the same bytes
with every zlib. `--check` compares instead of writing.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from docx import Document
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.table import WD_TABLE_ALIGNMENT
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Pt
from fpdf import FPDF
from fpdf.fonts import FontFace

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "sources"
HANDBOOK = HERE / "handbook"
AUTHOR = "Tessolund Instruments"
HEADING = re.compile(r"(#{1,3}) (.+)")
NUMBERED = re.compile(r"\d+\. (.+)")
TABLE_RULE = re.compile(r"\|[\s:|-]+\|")
HEADING_SIZES = {1: 20, 2: 14, 3: 12}
PARAGRAPH_GAP = 4
TABLE_HEADING = "Table Heading"
UNUSED_PARTS = ("docProps/thumbnail.jpeg", "word/stylesWithEffects.xml")


@dataclass(slots=True)
class Block:
    """One block of a source; `kind`: heading, paragraph, bullets, numbers or table."""

    kind: str
    text: str = ""
    level: int = 0
    items: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


@dataclass(slots=True)
class Source:
    """A Markdown file, parsed; `output`: the path to build, below `handbook/`."""

    output: Path
    title: str
    header: str
    date: datetime
    blocks: list[Block]


def parse_blocks(body: str) -> list[Block]:
    """The blocks of a body, which blank lines separate; raises `ValueError` for a malformed heading or table."""
    blocks: list[Block] = []
    for chunk in re.split(r"\n\s*\n", body.strip()):
        lines = [line.strip() for line in chunk.splitlines()]
        heading = HEADING.fullmatch(lines[0])
        if heading:
            if len(lines) > 1:
                raise ValueError(f"no blank line after the heading: {lines[0]}")
            blocks.append(Block("heading", heading[2], level=len(heading[1])))
        elif lines[0].startswith("|"):
            rows = [
                [cell.strip() for cell in line.strip("|").split("|")]
                for line in lines
                if not TABLE_RULE.fullmatch(line)
            ]
            if len({len(row) for row in rows}) != 1:
                raise ValueError(f"rows of different length in the table that begins with {lines[0]}")
            blocks.append(Block("table", rows=rows))
        elif lines[0].startswith("- "):
            blocks.append(Block("bullets", items=[line.removeprefix("- ") for line in lines]))
        elif NUMBERED.fullmatch(lines[0]):
            blocks.append(Block("numbers", items=[NUMBERED.sub(r"\1", line) for line in lines]))
        else:
            blocks.append(Block("paragraph", " ".join(lines)))
    return blocks


def read_source(path: Path) -> Source:
    """The source in `path`; raises `ValueError` or `KeyError` when its header or body is malformed."""
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    meta: dict[str, Any] = yaml.safe_load(head)
    day = meta["date"]
    return Source(
        output=Path(meta["output"]),
        title=meta["title"],
        header=meta["header"],
        date=datetime(day.year, day.month, day.day, 9, 0, tzinfo=UTC),
        blocks=parse_blocks(body),
    )


class HandbookPdf(FPDF):
    """A4 pages with a header line and a page number, in the core fonts (Latin-1 only)."""

    def __init__(self, header_text: str) -> None:
        super().__init__(format="A4")
        self.header_text = header_text

    def header(self) -> None:
        """Called by fpdf2 at the top of each page."""
        self.set_y(8)
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 6, self.header_text, border="B", new_x="LMARGIN", new_y="NEXT")
        self.ln(6)

    def footer(self) -> None:
        """Called by fpdf2 at the bottom of each page."""
        self.set_y(-15)
        self.set_font("Helvetica", "I", 8)
        self.cell(0, 8, f"Page {self.page_no()} of {{nb}}", align="C")


def column_widths(rows: list[list[str]]) -> tuple[int, ...]:
    """Relative widths: the longest cell of each column in characters, between 10 and 34."""
    return tuple(min(max(max(len(cell) for cell in column), 10), 34) for column in zip(*rows, strict=True))


def pdf_table(pdf: HandbookPdf, rows: list[list[str]]) -> None:
    """Add a table whose first row is its heading."""
    pdf.set_font("Helvetica", size=9.5)
    with pdf.table(
        col_widths=column_widths(rows),
        headings_style=FontFace(emphasis="", fill_color=(215, 226, 232)),
        line_height=6,
        text_align="LEFT",
        padding=1.5,
    ) as table:
        for cells in rows:
            row = table.row()
            for cell in cells:
                row.cell(cell)
    pdf.ln(4)


def pdf_block(pdf: HandbookPdf, block: Block) -> None:
    """Add `block` at the current position."""
    if block.kind == "heading":
        if pdf.will_page_break(30):
            pdf.add_page()
        pdf.ln(2)
        pdf.start_section(block.text, level=block.level - 1)
        pdf.set_font("Helvetica", "B", HEADING_SIZES[block.level])
        pdf.multi_cell(0, HEADING_SIZES[block.level] * 0.5, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(2)
    elif block.kind == "table":
        pdf_table(pdf, block.rows)
    elif block.kind == "paragraph":
        pdf.set_font("Helvetica", size=10.5)
        pdf.multi_cell(0, 5.6, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(PARAGRAPH_GAP)
    else:
        pdf.set_font("Helvetica", size=10.5)
        for number, item in enumerate(block.items, start=1):
            mark = "-" if block.kind == "bullets" else f"{number}."
            pdf.multi_cell(0, 5.6, f"{mark} {item}", align="L", new_x="LMARGIN", new_y="NEXT")
        pdf.ln(PARAGRAPH_GAP)


def build_pdf(source: Source) -> bytes:
    """The PDF file of `source`."""
    pdf = HandbookPdf(source.header)
    pdf.set_compression(False)
    pdf.set_creation_date(source.date)
    pdf.set_title(source.title)
    pdf.set_author(AUTHOR)
    pdf.set_producer("build_documents.py")
    pdf.set_lang("en")
    pdf.set_margins(22, 14, 22)
    pdf.set_auto_page_break(True, margin=20)
    pdf.add_page()
    for block in source.blocks:
        pdf_block(pdf, block)
    return bytes(pdf.output())


def docx_table(document: Any, rows: list[list[str]]) -> None:
    """Add a table whose first row is its heading, repeated on each page."""
    table = document.add_table(rows=len(rows), cols=len(rows[0]), style="Table Grid")
    table.alignment = WD_TABLE_ALIGNMENT.LEFT
    for row_number, cells in enumerate(rows):
        for column, text in enumerate(cells):
            paragraph = table.cell(row_number, column).paragraphs[0]
            paragraph.add_run(text)
            if row_number == 0:
                paragraph.style = TABLE_HEADING
    repeat = OxmlElement("w:tblHeader")
    repeat.set(qn("w:val"), "true")
    table.rows[0]._tr.get_or_add_trPr().append(repeat)
    document.add_paragraph()


def add_list(document: Any, items: list[str], style: str) -> None:
    """Add a list with a numbering of its own, so that each list begins at 1."""
    numbering = document.part.numbering_part.element
    style_number = document.styles[style].element.pPr.numPr.numId.val
    number = numbering.add_num(numbering.num_having_numId(style_number).abstractNumId.val)
    number.add_lvlOverride(ilvl=0).add_startOverride(1)
    for item in items:
        paragraph = document.add_paragraph(item, style=style)
        properties = paragraph._p.get_or_add_pPr().get_or_add_numPr()
        properties.get_or_add_ilvl().val = 0
        properties.get_or_add_numId().val = number.numId


def docx_block(document: Any, block: Block) -> None:
    """Add `block` at the end."""
    if block.kind == "heading":
        document.add_heading(block.text, level=block.level)
    elif block.kind == "table":
        docx_table(document, block.rows)
    elif block.kind == "paragraph":
        document.add_paragraph(block.text)
    else:
        add_list(document, block.items, "List Bullet" if block.kind == "bullets" else "List Number")


def drop_unused_parts(document: Any) -> None:
    """Remove the styles and parts of the template that nothing here uses; they are most of the size."""
    for style in list(document.styles):
        if style.type == WD_STYLE_TYPE.TABLE and style.name not in {"Normal Table", "Table Grid"}:
            style.delete()
    for holder in (document.part.package, document.part):
        for key, relation in list(holder.rels.items()):
            if str(relation.target_part.partname).lstrip("/") in UNUSED_PARTS:
                del holder.rels[key]


def repack(data: bytes) -> bytes:
    """Rewrite a DOCX package with fixed time stamps and without compression."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            new.writestr(entry, old.read(name), compress_type=zipfile.ZIP_STORED)
    return packed.getvalue()


def build_docx(source: Source) -> bytes:
    """The DOCX file of `source`."""
    document: Any = Document()
    properties = document.core_properties
    properties.title = source.title
    properties.author = properties.last_modified_by = AUTHOR
    properties.comments = ""
    properties.created = properties.modified = source.date.replace(tzinfo=None)
    properties.revision = 1
    document.styles["Normal"].font.size = Pt(10.5)
    document.sections[0].header.paragraphs[0].text = source.header
    table_heading = document.styles.add_style(TABLE_HEADING, WD_STYLE_TYPE.PARAGRAPH)
    table_heading.base_style = document.styles["Normal"]
    table_heading.font.bold = True
    for block in source.blocks:
        docx_block(document, block)
    drop_unused_parts(document)
    packed = io.BytesIO()
    document.save(packed)
    return repack(packed.getvalue())


BUILDERS = {".pdf": build_pdf, ".docx": build_docx}


def main(arguments: list[str] | None = None) -> int:
    """0; with `--check`: 1 when a file is not current."""
    parser = argparse.ArgumentParser(description="Build the PDF and DOCX files of the demo handbook.")
    parser.add_argument("--check", action="store_true", help="compare with the built files, write nothing")
    check: bool = parser.parse_args(arguments).check
    different = 0
    for path in sorted(SOURCES.glob("*.md")):
        source = read_source(path)
        data = BUILDERS[source.output.suffix](source)
        target = HANDBOOK / source.output
        same = target.is_file() and target.read_bytes() == data
        different += not same
        if not same and not check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        state = "same" if same else "different" if check else "written"
        sys.stdout.write(f"{state:9} {source.output.as_posix()} ({len(data):,} bytes)\n")
    return 1 if check and different else 0


if __name__ == "__main__":
    raise SystemExit(main())
