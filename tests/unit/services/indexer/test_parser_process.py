"""The parser process: real documents come out whole, hostile ones fail alone."""

import asyncio
import io
import os
import signal
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from docx import Document as Word
from fpdf import FPDF
from pydantic import SecretStr

from services.indexer.parsing.document import ParsedDocument
from services.indexer.parsing.formats import Limits
from services.indexer.parsing.sandbox import SandboxedParser
from services.indexer.settings import IndexerSettings
from shared.errors import Reason, SettingsError, TryLater, Unprocessable

SENTENCE = "Hotels are paid up to 140 euro a night in all cities where we have an office. "


@pytest.fixture(scope="module")
def handbook_pdf() -> bytes:
    """Write three pages with a running head, a heading each, and a paragraph that goes on overleaf."""
    pdf = FPDF()
    pdf.set_title("Travel policy")
    for page in range(1, 4):
        pdf.add_page()
        pdf.set_font("Helvetica", "I", 8)
        pdf.cell(0, 6, f"Larkfield | Version 3.0 | {page}", new_x="LMARGIN", new_y="NEXT")
        pdf.set_font("Helvetica", "B", 18)
        pdf.cell(0, 12, f"Section {page}", new_x="LMARGIN", new_y="NEXT")
        pdf.set_font("Helvetica", size=11)
        pdf.multi_cell(0, 6, SENTENCE * 5, new_x="LMARGIN", new_y="NEXT")
    return bytes(pdf.output())


@pytest.fixture(scope="module")
def expenses_docx() -> bytes:
    """Write headings, text, a list and a table."""
    word = Word()
    word.add_heading("Expenses", 1)
    word.add_paragraph("Meals are paid.")
    word.add_heading("Limits", 2)
    cells = word.add_table(rows=2, cols=2)
    for row, texts in enumerate((("City", "Limit"), ("Aveiro", "115"))):
        for column, text in enumerate(texts):
            cells.cell(row, column).text = text
    out = io.BytesIO()
    word.save(out)
    return out.getvalue()


@pytest.fixture
async def parser() -> AsyncIterator[SandboxedParser]:
    """Give a parser with one process and tight limits."""
    made = SandboxedParser(Limits(wall_seconds=20, most_pages=5, most_bytes=2_000_000))
    yield made
    await made.close()


def sections(document: ParsedDocument) -> list[tuple[tuple[str, ...], int | None, str]]:
    return [(block.headings, block.page, document.text[block.start : block.end]) for block in document.blocks]


async def test_every_format_is_read(parser: SandboxedParser, handbook_pdf: bytes, expenses_docx: bytes) -> None:
    """One warm process for all of them, in turn."""
    pdf = await parser.parse(handbook_pdf, "travel.pdf", "")
    assert pdf.title == "Section 1"
    assert sections(pdf) == [((f"Section {page}",), page, (SENTENCE * 5).strip()) for page in (1, 2, 3)]

    word = await parser.parse(expenses_docx, "expenses.docx", "")
    assert sections(word) == [
        (("Expenses",), None, "Meals are paid."),
        (("Expenses", "Limits"), None, "| City | Limit |\n| --- | --- |\n| Aveiro | 115 |"),
    ]
    assert (await parser.parse(b"# T\n\ntext", "a.md", "")).title == "T"
    assert (await parser.parse(b"<title>P</title><p>text", "a.html", "")).title == "P"
    assert (await parser.parse(b"text", "some-file_name.txt", "")).title == "some file name"
    assert (await parser.parse(b"# T", "no-ending", "text/markdown; charset=utf-8")).title == "T"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Größe".encode(), "Größe"),
        ("Größe".encode("utf-8-sig"), "Größe"),
        ("Größe".encode("utf-16"), "Größe"),
        ("Größe €".encode("cp1252"), "Größe €"),
    ],
)
async def test_text_in_any_usual_encoding_is_decoded(parser: SandboxedParser, data: bytes, text: str) -> None:
    assert (await parser.parse(data, "a.txt", "")).text == text


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"<a>" + b" " * 50_000_000)
    return out.getvalue()


def many_pages() -> bytes:
    pdf = FPDF()
    for _ in range(6):
        pdf.add_page()
    return bytes(pdf.output())


@pytest.mark.parametrize(
    ("path", "make", "says"),
    [
        ("broken.pdf", lambda: b"%PDF-1.7 nothing", "not a readable PDF"),
        ("empty.pdf", lambda: b"", "not a readable PDF"),
        ("long.pdf", many_pages, "6 pages; the maximum is 5"),
        ("broken.docx", lambda: b"PK\x03\x04", "not a Word document"),
        ("bomb.docx", bomb, "zip bomb"),
        ("large.txt", lambda: b"x" * 2_000_001, "2,000,001 bytes"),
        ("binary.md", lambda: b"\x00" * 10, "binary"),
        ("picture.png", lambda: b"", "supported are Markdown"),
        ("no-ending", lambda: b"text", "not supported"),
    ],
)
async def test_a_hostile_document_fails_with_a_sentence_and_alone(
    parser: SandboxedParser, path: str, make: object, says: str
) -> None:
    assert callable(make)
    with pytest.raises(Unprocessable, match=says) as raised:
        await parser.parse(make(), path, "")
    assert raised.value.reason is Reason.POISON_CONTENT
    assert path in raised.value.detail
    assert (await parser.parse(b"still here", "a.txt", "")).text == "still here"


async def test_a_document_that_needs_too_much_memory_fails_alone() -> None:
    parser = SandboxedParser(Limits(memory_bytes=400 * 1024 * 1024, most_characters=10**9))
    many = b"- x\n\n" * 1_000_000
    with pytest.raises(Unprocessable, match=r"memory|crashed"):
        await parser.parse(many, "many.md", "")
    assert (await parser.parse(b"still here", "a.txt", "")).text == "still here"
    await parser.close()


async def test_a_document_that_takes_too_long_fails_alone() -> None:
    parser = SandboxedParser(Limits(wall_seconds=0.5, most_characters=10**9))
    await parser.parse(b"warm", "a.txt", "")
    with pytest.raises(Unprocessable, match=r"longer than 0\.5 s"):
        await parser.parse(b"word\n\n" * 2_000_000, "long.md", "")
    await parser.close()


async def test_a_document_that_takes_too_much_processor_time_fails_alone_and_once() -> None:
    """For nested quotes that end empty, the time of markdown-it-py grows with the square of their number."""
    parser = SandboxedParser(Limits(cpu_seconds=1))
    await parser.parse(b"an earlier document", "a.txt", "")
    with pytest.raises(
        Unprocessable, match=r"slow\.md cannot be indexed: parsing took longer than 1 s of processor time"
    ):
        await parser.parse(b"x\n> >\n" * 20_000, "slow.md", "")
    assert parser._children[0]._process is None
    assert (await parser.parse(b"still here", "a.txt", "")).text == "still here"
    await parser.close()


@pytest.mark.parametrize(("wall", "cpu"), [(90, 60), (3.5, 3), (300, 200)])
def test_more_time_to_parse_is_more_processor_time(wall: float, cpu: int) -> None:
    connection = SecretStr("Endpoint=sb://127.0.0.1;UseDevelopmentEmulator=true")
    settings = IndexerSettings(servicebus_connection_string=connection, parse_seconds=wall)
    assert (settings.limits().wall_seconds, settings.limits().cpu_seconds) == (wall, cpu)


def test_time_to_parse_without_an_end_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGBUS_SERVICEBUS_CONNECTION_STRING", "Endpoint=sb://127.0.0.1;UseDevelopmentEmulator=true")
    monkeypatch.setenv("RAGBUS_PARSE_SECONDS", "inf")
    with pytest.raises(SettingsError, match=r"^RAGBUS_PARSE_SECONDS: "):
        IndexerSettings.load()


async def test_a_process_that_died_between_documents_is_replaced() -> None:
    parser = SandboxedParser(Limits())
    await parser.parse(b"one", "a.txt", "")
    process = parser._children[0]._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert (await parser.parse(b"two", "a.txt", "")).text == "two"
    await parser.close()


async def test_a_cancelled_delivery_leaves_nothing_behind() -> None:
    parser = SandboxedParser(Limits(most_characters=10**9))
    await parser.parse(b"warm", "a.txt", "")
    slow = asyncio.create_task(parser.parse(b"word\n\n" * 2_000_000, "long.md", ""))
    await asyncio.sleep(0.1)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    assert parser._children[0]._process is None
    assert (await parser.parse(b"next", "a.txt", "")).text == "next"
    await parser.close()


async def test_several_documents_are_parsed_at_once_by_several_processes() -> None:
    parser = SandboxedParser(Limits(), processes=2)
    parsed = await asyncio.gather(*(parser.parse(f"text {n}".encode(), "a.txt", "") for n in range(6)))
    assert [document.text for document in parsed] == [f"text {n}" for n in range(6)]
    assert all(child._process for child in parser._children)
    await parser.close()


async def test_a_document_is_retried_later_when_no_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    parser = SandboxedParser(Limits())
    with pytest.raises(TryLater, match="does not start"):
        await parser.parse(b"text", "a.txt", "")
    await parser.close()


async def test_the_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGBUS_MODEL_KEY", "sk-secret")
    parser = SandboxedParser(Limits())
    await parser.parse(b"text", "a.txt", "")
    process = parser._children[0]._process
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ")
    if environment.exists():
        assert b"sk-secret" not in environment.read_bytes()
    await parser.close()


async def test_the_first_pdf_on_a_machine_is_read(
    handbook_pdf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the PDF library is unpacked, before the process is confined
    parser = SandboxedParser(Limits())
    try:
        document = await parser.parse(handbook_pdf, "travel.pdf", "application/pdf")
    finally:
        await parser.close()
    assert SENTENCE.split(" in ")[0] in document.text
