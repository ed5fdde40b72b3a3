"""The blocks of kreuzberg's tree of a PDF: no running headers, no false headings, no paragraph cut in two."""

from typing import Any

import pytest

from services.indexer.parsing.office import _as_printed, _Node, _nodes, _rejoin, _without_running_lines, _write


def paragraph(text: str, page: int = 1) -> _Node:
    return _Node("paragraph", text, page)


@pytest.mark.parametrize(
    ("text", "is_heading"),
    [
        ("4. Per diems and hotel limits", True),
        ("Questions?", True),
        ("Table 1: Hotel limits", False),
        ("Owner: Finance. Version 3.0, effective from 1 February 2026.", False),
        ("taken within 8 weeks", False),
        ("Every accident is reported in Compass on the same day, and every near miss within 3 working", False),
    ],
)
def test_a_line_in_larger_type_is_a_heading_only_if_it_reads_like_one(text: str, is_heading: bool) -> None:
    kept = _as_printed(_Node("heading", text, 1, level=2))
    assert (kept.kind == "heading") is is_heading
    assert kept.text == text


def test_a_line_at_the_edge_of_most_pages_is_not_text() -> None:
    pages = [
        [paragraph("Policy | 3.0", n), paragraph(f"text {n}", n), paragraph(f"Page {n} of 3", n)] for n in (1, 2, 3)
    ]
    kept = _without_running_lines([node for page in pages for node in page])
    # The numbers in a text differ as those of pages do, but it stands at no edge once the running lines are gone.
    assert [node.text for node in kept] == ["text 1", "text 2", "text 3"]


def test_a_line_that_repeats_inside_pages_remains() -> None:
    pages = [
        [paragraph(f"first {'abc'[n]}", n), paragraph("repeated", n), paragraph(f"last {'abc'[n]}", n)]
        for n in (0, 1, 2)
    ]
    nodes = [node for page in pages for node in page]
    assert _without_running_lines(nodes) == nodes


def test_numbered_headings_at_the_top_of_pages_remain() -> None:
    nodes = [_Node("heading", f"Section {n}", n, level=1) for n in (1, 2, 3)]
    assert _without_running_lines(nodes) == nodes


def test_a_document_of_one_page_has_no_running_header() -> None:
    nodes = [paragraph("Only line")]
    assert _without_running_lines(nodes) == nodes


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [
        (paragraph("time off of the same length, to be", 2), paragraph("taken within 8 weeks.", 3), True),
        (paragraph("A sentence ends.", 2), paragraph("another begins", 3), False),
        (paragraph("Time off", 2), paragraph("Another line", 3), False),
        (paragraph("short line", 2), paragraph("another on the same page", 2), False),
        (_Node("item", "an item that goes on", 1), paragraph("on the next page", 2), True),
        (_Node("item", "fines", 1), _Node("item", "minibar", 1), False),
        (
            paragraph("Every accident is reported in Compass on the same day, within 3 working"),
            _Node("item", "days.", 1),
            True,
        ),
        (_Node("heading", "a heading", 1, level=1), paragraph("text", 2), False),
    ],
)
def test_paragraphs_cut_by_a_page_or_a_guess_are_joined(before: _Node, after: _Node, joined: bool) -> None:
    mended = list(_rejoin([before, after]))
    assert len(mended) == (1 if joined else 2)
    if joined:
        assert mended[0].text == f"{before.text} {after.text}"
        assert (mended[0].page, mended[0].kind) == (before.page, before.kind)


def node(
    kind: str, page: int | None = None, layer: str | None = None, parent: int | None = None, **content: Any
) -> Any:
    return {"content": {"node_type": kind, **content}, "page": page, "content_layer": layer, "parent": parent}


def test_the_tree_becomes_blocks() -> None:
    grid = {
        "rows": 2,
        "cols": 2,
        "cells": [{"row": r, "col": c, "content": f"{r}{c}"} for r in (0, 1) for c in (0, 1)],
    }
    tree = {
        "nodes": [
            node("group", heading_text="A"),
            node("heading", 1, level=1, text="A"),
            node("paragraph", 1, layer="header", text="running head"),
            node("paragraph", 1, text="two\nlines"),
            node("list", ordered=True),
            node("list_item", 1, parent=4, text="first"),
            node("list_item", 1, parent=4, text="second"),
            node("table", 2, grid=grid),
            node("code", 2, text="a\n  b"),
            node("quote", 2, text="quoted"),
        ]
    }
    document = _write(_nodes(tree), "metadata title")
    assert document.title == "A"
    assert [(str(b.kind), b.page, document.text[b.start : b.end]) for b in document.blocks] == [
        ("paragraph", 1, "two lines"),
        ("list", 1, "1. first\n2. second"),
        ("table", 2, "| 00 | 01 |\n| --- | --- |\n| 10 | 11 |"),
        ("code", 2, "a\n  b"),
        ("paragraph", 2, "quoted"),
    ]


def test_without_a_heading_the_title_comes_from_the_metadata() -> None:
    assert _write(iter([paragraph("text")]), "  From the\nmetadata ").title == "From the metadata"
