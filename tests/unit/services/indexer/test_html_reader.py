"""HTML into blocks: the content without the navigation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.indexer.parsing.document import BlockKind
from services.indexer.parsing.html import read_html

PAGE = """<!doctype html><html><head><title>Leave &amp; rest</title><style>p{}</style><script>alert("x")</script></head>
<body><header><nav><a href="/">Home</a></nav></header><div class=banner>Cookies!</div>
<main><h1>Leave</h1><p>You have <b>30&nbsp;days</b>
of leave.</p><h2>Parents</h2>
<ul><li>Six weeks</li><li>Paid <a href="http://x">in full</a><ol><li>first</li><li>second</li></ol></li></ul>
<table><tr><th>Years</th><th>Days | hours</th></tr><tr><td>1</td><td>30</td></tr><tr><td>2</td></tr></table>
<p hidden>secret</p><div aria-hidden="true">ghost</div>
<pre>code
  here</pre><aside>Related</aside><footer>sub</footer></main><footer>copyright</footer></body></html>"""


def blocks(page: str) -> list[tuple[BlockKind, tuple[str, ...], str]]:
    document = read_html(page)
    return [(block.kind, block.headings, document.text[block.start : block.end]) for block in document.blocks]


def test_navigation_and_hidden_elements_are_left_out() -> None:
    assert blocks(PAGE) == [
        (BlockKind.PARAGRAPH, ("Leave",), "You have 30 days of leave."),
        (BlockKind.LIST, ("Leave", "Parents"), "- Six weeks\n- Paid in full\n  1. first\n  2. second"),
        (
            BlockKind.TABLE,
            ("Leave", "Parents"),
            "| Years | Days \\| hours |\n| --- | --- |\n| 1 | 30 |\n| 2 |  |",
        ),
        (BlockKind.CODE, ("Leave", "Parents"), "code\n  here"),
    ]
    assert read_html(PAGE).title == "Leave"


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("plain words", ["plain words"]),
        ("<p>one<p>two<div>three</div>four", ["one", "two", "three", "four"]),
        ("<p>a<br>b &lt;c&gt; &eacute;</p>", ["a b <c> é"]),
        ("<li>stray</li><td>cell</td>", ["straycell"]),
        ("<script>x</script>seen<script>never closed", ["seen"]),
        ("<table><tr><td><table><tr><td>inner</td></tr></table></td></tr></table>", ["| inner |\n| --- |"]),
        ("<img alt='a chart'><p></p>", ["a chart"]),
        ("<ul><li>open", ["- open"]),
        ("", []),
    ],
)
def test_broken_html_is_read_as_far_as_possible(page: str, expected: list[str]) -> None:
    assert [text for _, _, text in blocks(page)] == expected


def test_a_page_without_headings_gets_its_title_element() -> None:
    assert read_html("<title>A &amp; B</title><p>text").title == "A & B"


MARKUP = """<p> </p> <ul> </ul> <li> </li> <table> </table> <tr> <td> </td> <nav> </nav> <main> </main> <h2> </h2>
<pre> </pre> word <br> <div> </div> &amp; < >"""
TAGS = st.sampled_from(MARKUP.split())


@given(st.lists(TAGS, max_size=40))
def test_any_text_can_be_read_as_html(tags: list[str]) -> None:
    document = read_html("".join(tags))
    for block in document.blocks:
        assert document.text[block.start : block.end].strip()
