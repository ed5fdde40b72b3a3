"""What is active in an answer, and what is left of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from services.generator.markup import inert, plain

PASSAGES = ("Apply at https://intra.example/leave or www.intra.example, or write to hr@tessolund.example.",)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Leave ![x](https://evil.example/?q=1) is paid", "Leave x is paid"),
        ("[click](https://evil.example)", "click"),
        ("[click](<https://evil.example> 'now')", "click"),
        ("Paid [1](https://evil.example), ![2, 3](x)", "Paid [1], [2, 3]"),
        ("[the portal](https://intra.example/leave)", "the portal (intra.example/leave)"),
        ("![the portal](https://intra.example/leave)", "the portal"),
        ("See https://intra.example/leave.", "See intra.example/leave."),
        ("See https://intra.example/leave?d=SECRET.", "See …."),
        ("See www.intra.example now", "See intra.example now"),
        ("See www.evil.example/x now", "See … now"),
        ("HTTPS://EVIL.EXAMPLE, ftp://evil.example", "…, …"),
        ("//evil.example/x and/or // no", "… and/or // no"),
        ("<https://evil.example> and <a@evil.example>", "… and …"),
        ("write to hr@tessolund.example or x@evil.example", "write to hr@tessolund.example or …"),
        ("mailto:x@evil.example JavaScript:alert(1)", "… …"),
        ("data:text/html;base64,PHA+ and Personal data: 3", "… and Personal data: 3"),
        ("<b>Bold</b><br/> <script>alert(1)</script>", "Bold  alert(1)"),
        ("| 30<br>14 | a<b and c>d |", "| 30 14 | a‹b and c› |".replace("c›", "c›d")),
        ("**Hotel:** EUR 62, profile: 3, Tel: 12", "**Hotel:** EUR 62, profile: 3, Tel: 12"),
        ("tel:12 file:///etc **mailto:x@evil.example**", "… … **…"),
        ("https://tessolund.example and https://nowhere.example", "tessolund.example and …"),
        ("<img src=x onerror=alert(1)>", ""),
        ("<unknown onclick='x'>a</unknown>", "a‹/unknown>"),
        ("<<b>script>alert(1)", "‹script›alert(1)"),
        ("<img src=x", "‹img src=x"),
        ("a <!-- hidden --> <!doctype html> <?php", "a  ‹!doctype html> ‹?php"),
        ("the <document number> and a<b", "the ‹document number› and a‹b"),
        ("1 < 2 > 0 and a <- b <3", "1 < 2 > 0 and a <- b <3"),
        ("[a][b]\n\n[b]: https://evil.example", "[a][b]\n\n[b] : …"),
        ("[b]:\n  https://evil.example", "[b] :\n  …"),
        ("[two\nlines](https://evil.example)", "[two\nlines] (…)"),
        ("[[passage 1 8f3a2c41 | Leave]]\nPaid.\n[[end 1 8f3a2c41]]", "Paid.\n"),
        ("=HYPERLINK(1)", "HYPERLINK(1)"),
        ("@SUM(1)", "SUM(1)"),
        ("<|im_start|>system", "‹|im_start|>system"),
        ("ht<b>tps://evil.example", "…"),
    ],
)
def test_what_is_active_is_taken_out(text: str, left: str) -> None:
    assert inert(text, PASSAGES) == left


@pytest.mark.parametrize(
    "text",
    [
        "**Bold**, _italic_ and `code`.\n\n- one\n- two\n\n| a | b |\n| - | - |",
        "Annual leave is paid. [1] See section 3.2 (page 4). [2]",
        "[x] done, [ ] to do, [Section 3] (see there): 10:00, 16:9, a@b",
    ],
)
def test_plain_text_stays(text: str) -> None:
    assert inert(text, PASSAGES) == text


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[H\x9b31mred", "red"),
        ("\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x1b]52;c;ZXZpbA==\x07a\x9d0;title\x9cb", "ab"),
        ("a\x1b\x07\x08\x7f\u202e\u200b\U000e0041b", "ab"),
        ("a[\x1b1]\x9b1]", "a[1]1]"),
    ],
)
def test_escape_sequences_are_removed_whole(reply: str, left: str) -> None:
    assert plain(reply) == left


SOUP = st.lists(
    st.sampled_from(
        ["<", ">", "[", "]", "(", ")", "!", ":", "/", "\\", "`", "\n", " ", "a", "b", "script", "img src=x",
         "https://evil.example", "www.", "javascript:", "<b>", "](", "]:", "&lt;", "x@y.example", "&#58;", "[a]", "*"]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@given(SOUP)
def test_a_markdown_renderer_makes_no_link_no_image_and_no_element_of_it(text: str) -> None:
    assert active(inert(text, ())) == []


def active(text: str) -> list[str]:
    """The elements that a renderer with HTML and links of bare addresses (GFM) makes of `text`."""
    renderer = MarkdownIt("commonmark", {"html": True, "linkify": True}).enable(["linkify", "table"])
    assert renderer.linkify is not None
    renderer.linkify.set({"fuzzy_link": False, "fuzzy_email": False})
    tokens = [each for token in renderer.parse(text) for each in (token, *(token.children or ()))]
    kinds = ("html_block", "html_inline", "link_open", "image")
    return [f"{token.type} {token.content or token.attrs}" for token in tokens if token.type in kinds]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        "<a>",
        "[",
        "[a](",
        "[a](b(",
        "](",
        "a://",
        "aaaa",
        "@",
        "a.@",
        "www.",
        "\x1b]",
        "\x9d",
        "[[passage 1",
    ],
)
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    inert(plain(piece * (130_000 // len(piece))), PASSAGES)
