"""In every format, only text that people can see reaches the index."""

import io
from collections.abc import Callable

import pytest
from docx import Document as Word
from fpdf import FPDF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.indexer.chunk import chunk
from services.indexer.parsing.document import ParsedDocument
from services.indexer.parsing.formats import Limits, read
from shared.text import visible

TAGS = "".join(chr(0xE0000 + ord(letter)) for letter in "obey")
UNSEEN = (
    f"\u034f\u061c\u115f\u17b4\u180b\u200b\u202e\u2066\u3164\ufe0f\ufeff\uffa0\ufff9\U0001d173\U000e0100\u00ad{TAGS}"
)


def markdown(title: str, heading: str, text: str) -> bytes:
    table = f"| {text} | b |\n|---|---|\n| c | d |"
    return f"---\ntitle: {title}\n---\n# {heading}\n\n{text}\n\n- {text}\n\n{table}\n".encode()


def plain(title: str, heading: str, text: str) -> bytes:
    return f"Subject: {title}\n\n{heading}\n======\n\n{text}\n".encode()


def html(title: str, heading: str, text: str) -> bytes:
    escaped = "".join(f"&#x{ord(char):x};" for char in text)
    page = f"<title>{title}</title><h1>{heading}</h1><p>{text}</p><ul><li>{escaped}</li></ul><pre>{text}</pre>"
    return f"{page}<table><tr><td>{text}</td></tr></table>".encode()


def word(title: str, heading: str, text: str) -> bytes:
    document, saved = Word(), io.BytesIO()
    document.core_properties.title = title[:255]
    document.add_heading(heading, 1)
    document.add_paragraph(text)
    document.add_paragraph(text, style="List Bullet")
    document.add_table(1, 1).cell(0, 0).text = text
    document.save(saved)
    return saved.getvalue()


def pdf(title: str, _heading: str, text: str) -> bytes:
    document = FPDF()
    document.set_title(title)
    document.add_page()
    document.set_font("Helvetica", size=11)
    # Of the set, the built-in fonts have nothing that stays invisible; the title has it all.
    document.multi_cell(0, text=visible(text))
    return bytes(document.output())


FORMATS: dict[str, Callable[[str, str, str], bytes]] = {
    "md": markdown, "txt": plain, "html": html, "docx": word, "pdf": pdf,
}  # fmt: skip


def indexed(document: ParsedDocument) -> list[str]:
    """All words of it that the index keeps."""
    chunks = chunk(document)
    return [document.title, document.text, *(each.section for each in chunks), *(each.text for each in chunks)]


@pytest.mark.parametrize("ending", FORMATS)
def test_hidden_text_of_a_document_is_not_indexed(ending: str) -> None:
    data = FORMATS[ending](f"Ti{UNSEEN}tle", f"Head{UNSEEN}ing", f"Twenty{UNSEEN} four days of leave.")
    document = read(data, f"leave.{ending}", "", Limits())
    assert "Twenty four days of leave." in document.text
    assert document.title in ("Title", "Heading")
    for words in indexed(document):
        assert visible(words) == words


ANYTHING = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_characters="\0"),
        st.sampled_from(UNSEEN + "\x01\x1b\r\x0b\x0c\x85\u2028 \n#|-"),
    )
)


@pytest.mark.parametrize("ending", ["md", "txt", "html"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(words=ANYTHING)
def test_the_index_has_the_visible_text_of_any_file(ending: str, words: str) -> None:
    document = read(FORMATS[ending](words, words, words), f"a.{ending}", "", Limits())
    assert all(visible(each) == each for each in indexed(document))


@pytest.mark.parametrize("name", [f"leave{UNSEEN}-policy.txt", "a/\u202eleave-policy.txt"])
def test_a_title_made_from_a_file_name_is_visible_text(name: str) -> None:
    assert read(b"words", name, "", Limits()).title == "leave policy"


@pytest.mark.parametrize("text", ["10⁵ is not 105", "ﬁ ½ Å", "e\u0301", "日本語 ไทย हिन्दी", "a\u00a0b", "🙂", "a\tb"])
def test_visible_text_is_indexed_unchanged(text: str) -> None:
    assert read(text.encode(), "a.txt", "", Limits()).text == text


@pytest.mark.parametrize("ending", ["md", "txt", "html", "docx"])
def test_a_heading_without_an_end_leaves_room_for_the_passage(ending: str) -> None:
    document = read(FORMATS[ending]("t" * 100_000, "h" * 100_000, "words"), f"a.{ending}", "", Limits())
    assert max(len(words) for block in document.blocks for words in (document.title, *block.headings)) < 400
