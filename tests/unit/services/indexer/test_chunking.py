"""Passages along the structure of a document."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.indexer.chunk import MOST_TOKENS, chunk
from services.indexer.parsing.document import Block, BlockKind, ParsedDocument, Writer, table
from services.indexer.parsing.markdown import read_markdown
from shared.llm.tokens import count_tokens

SENTENCE = "Every employee may carry over five days of leave. "


def test_neighbours_under_one_heading_are_one_passage_as_long_as_they_fit() -> None:
    [one] = chunk(read_markdown("# A\n\nfirst\n\n- item\n\nlast\n"))
    assert one.text == "first\n\n- item\n\nlast"
    parts = chunk(read_markdown("# A\n\n" + "\n\n".join([SENTENCE * 12] * 3)))
    assert [part.text for part in parts] == [(SENTENCE * 12).strip()] * 3


def test_no_passage_spans_two_headings() -> None:
    document = read_markdown("# A\n\none\n\n## B\n\ntwo\n\n## B\n\nthree\n\n---\n\nfour\n")
    assert [(each.section, each.text) for each in chunk(document)] == [
        ("", "one"),
        ("B", "two"),
        ("B", "three"),
        ("B", "four"),
    ]


def test_sections_are_named_by_their_path_without_the_title() -> None:
    document = read_markdown("# Leave\n\n## Sick\n\n### Abroad\n\ntext\n")
    assert [each.section for each in chunk(document)] == ["Sick > Abroad"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    parts = chunk(read_markdown("# A\n\n" + SENTENCE * 100))
    assert len(parts) > 3
    assert all(part.text.startswith("Every") and part.text.endswith("leave.") for part in parts)
    assert all(MOST_TOKENS / 2 < part.tokens <= MOST_TOKENS for part in parts[:-1])


def test_a_long_table_is_cut_between_rows_and_each_part_has_the_header() -> None:
    rows = [["City", "Limit"], *([f"City {n}", f"EUR {n}"] for n in range(100))]
    writer = Writer()
    writer.heading(1, "Hotels")
    writer.block(BlockKind.TABLE, table(rows))
    document = writer.done()
    parts = chunk(document)
    assert len(parts) > 3
    assert all(part.text.startswith("| City | Limit |\n| --- | --- |\n| City ") for part in parts)
    assert all(part.tokens <= MOST_TOKENS for part in parts)
    body_lines = [line for part in parts for line in part.text.splitlines()[2:]]
    assert body_lines == [f"| City {n} | EUR {n} |" for n in range(100)]
    assert all(part.text.endswith(document.text[part.start : part.end].strip()) for part in parts)


def test_the_page_of_a_passage_is_where_it_begins() -> None:
    writer = Writer()
    writer.block(BlockKind.PARAGRAPH, SENTENCE * 15, page=1)
    writer.block(BlockKind.PARAGRAPH, SENTENCE * 15, page=2)
    assert [part.page for part in chunk(writer.done())] == [1, 2]


def test_an_edit_in_one_section_changes_only_its_passages() -> None:
    sections = [f"## Part {n}\n\n" + SENTENCE * 30 for n in range(10)]
    before = {each.text for each in chunk(read_markdown("# A\n\n" + "\n\n".join(sections)))}
    sections[3] = sections[3].replace("five", "six", 1)
    after = chunk(read_markdown("# A\n\n" + "\n\n".join(sections)))
    assert sum(each.text not in before for each in after) <= 2


BLOCKS = st.lists(
    st.tuples(
        st.sampled_from(list(BlockKind)),
        st.text(st.sampled_from("ab .\n|-é9漢"), min_size=1, max_size=300).map(lambda text: text * 3),
        st.integers(0, 3),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(BLOCKS, st.integers(10, 60))
@example(blocks=[(BlockKind.TABLE, "9a9a9a漢9\n-\n\n9a" * 3, 0)], most=47)
def test_passages_of_any_text_fit_and_lose_nothing(blocks: list[tuple[BlockKind, str, int]], most: int) -> None:
    writer = Writer()
    for kind, text, level in blocks:
        if level:
            writer.heading(level, f"H{level}")
        writer.block(kind, text)
    document = writer.done()
    parts = chunk(document, most)
    assert all(before.end <= after.start for before, after in pairwise(parts))
    kept = "".join("".join(document.text[part.start : part.end].split()) for part in parts)
    wanted = "".join("".join(document.text[block.start : block.end].split()) for block in document.blocks)
    assert kept == wanted
    for part in parts:
        assert part.tokens == count_tokens(part.text) <= most


def test_a_row_that_is_too_long_for_a_passage_is_split_like_text() -> None:
    writer = Writer()
    writer.block(BlockKind.TABLE, table([["a", "b"], ["1", SENTENCE * 60], ["2", "short"]]))
    parts = chunk(writer.done())
    assert all(part.tokens <= MOST_TOKENS for part in parts)
    assert parts[-1].text == "| a | b |\n| --- | --- |\n| 2 | short |"


HEADER = "| a | b |\n| --- | --- |\n"
LONG = SENTENCE * 30


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([LONG, "short", "brief"], ["| 2 | short |", "| 3 | brief |"]),
        (["short", LONG, "brief"], ["| 1 | short |", "| 3 | brief |"]),
        (["short", "brief", LONG], ["| 1 | short |", "| 2 | brief |"]),
        ([LONG, LONG], []),
    ],
    ids=["first", "middle", "last", "each"],
)
def test_around_a_row_that_is_too_long_every_part_has_the_header_and_stands_where_it_says(
    rows: list[str], lines: list[str]
) -> None:
    writer = Writer()
    writer.block(BlockKind.PARAGRAPH, SENTENCE * 15, page=6)
    writer.heading(2, "Table")
    writer.block(BlockKind.TABLE, table([["a", "b"], *([str(n), row] for n, row in enumerate(rows, 1))]), page=7)
    document = writer.done()
    paragraph, *parts = chunk(document)
    assert (paragraph.page, {part.page for part in parts}) == (6, {7})
    assert paragraph.end < parts[0].start
    for part in parts:
        here = document.text[part.start : part.end].rstrip()
        assert part.text in (here, HEADER + here)
    assert all(part.text.startswith(HEADER) for part in parts)
    whole = [part.text for part in parts if part.text.startswith(HEADER) and LONG[:40] not in part.text]
    assert [line for text in whole for line in text.removeprefix(HEADER).splitlines()] == lines


def test_a_table_of_its_header_alone_is_one_passage_or_cut_like_text() -> None:
    writer = Writer()
    writer.block(BlockKind.TABLE, table([["a", "b"]]))
    assert [part.text for part in chunk(writer.done())] == [HEADER.rstrip()]
    writer = Writer()
    writer.block(BlockKind.TABLE, table([[LONG, "b"], ["1", "2"]]))
    document = writer.done()
    assert "".join("".join(part.text.split()) for part in chunk(document)) == "".join(document.text.split())


def test_a_first_heading_that_is_not_the_title_is_part_of_the_section() -> None:
    part = ParsedDocument("Leave", "text", (Block(BlockKind.PARAGRAPH, ("Sick", "Abroad"), None, 0, 4),))
    assert [each.section for each in chunk(part)] == ["Sick > Abroad"]


@pytest.mark.parametrize("document", [ParsedDocument("", "", ()), read_markdown("# Only a heading")])
def test_a_document_without_text_has_no_passages(document: ParsedDocument) -> None:
    assert chunk(document) == []
