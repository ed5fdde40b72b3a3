"""Hidden characters are removed from a text; visible ones are unchanged."""

import json
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.text import BRIEF, brief, escaped, visible

# Default_Ignorable_Code_Point of Unicode 18.0.0 (DerivedCoreProperties.txt), written as that file has it.
IGNORABLE = """00AD 034F 061C 115F..1160 17B4..17B5 180B..180D 180E 180F 200B..200F 202A..202E 2060..2064 2065
2066..206F 3164 FE00..FE0F FEFF FFA0 FFF0..FFF8 1BCA0..1BCA3 1D173..1D17A E0000 E0001 E0002..E001F E0020..E007F
E0080..E00FF E0100..E01EF E01F0..E0FFF"""
# Format characters that are younger than the oldest Python's tables.
FORMAT = "13430..1343F"
BREAKS = ("\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029")


def points(ranges: str) -> set[str]:
    found: set[str] = set()
    for each in ranges.split():
        first, _, last = each.partition("..")
        found |= {chr(point) for point in range(int(first, 16), int(last or first, 16) + 1)}
    return found


EVERYTHING = [chr(point) for point in range(sys.maxunicode + 1)]
HIDDEN = (
    points(f"{IGNORABLE} {FORMAT}")
    | {c for c in EVERYTHING if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")}
    | {c for c in EVERYTHING if ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF}
) - {"\n", "\t"}
# Drawn from, and by category, because a choice among 137,000 private characters is slow.
SOME = [c for c in sorted(HIDDEN) if unicodedata.category(c) not in ("Cs", "Co")] + ["\ud83d", "\ude42", "\ue000"]
SEEN = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"), exclude_characters=points(IGNORABLE))
)
MIXED = st.lists(st.one_of(SEEN, st.sampled_from(SOME), st.sampled_from(BREAKS))).map("".join)


def test_exactly_the_hidden_characters_are_removed() -> None:
    """Of every code point that there is."""
    wanted = ["\n" if c in BREAKS else "" if c in HIDDEN else c for c in EVERYTHING]
    assert visible("".join(EVERYTHING)) == "".join(wanted)


@given(MIXED)
@example("\r\u200b\n")
@example("\ud83d\u200b\ude42")
def test_removal_is_complete_and_idempotent(text: str) -> None:
    shown = visible(text)
    assert not HIDDEN & set(shown)
    assert visible(shown) == shown
    shown.encode()  # can be sent


@given(SEEN)
@example("10⁵ isn't 105; ﬁ, ½, Å, é and é stay what they are")
@example("नमस्ते ไทย 日本 🙂 ❤ \u00a0\u2003|\tcell")
def test_visible_characters_are_unchanged(text: str) -> None:
    assert visible(text) == text
    assert escaped(text) == text


@pytest.mark.parametrize("line_break", BREAKS)
def test_lines_remain_lines(line_break: str) -> None:
    assert visible(f"one{line_break}two") == "one\ntwo"


@given(MIXED)
def test_a_name_shows_what_is_hidden_in_it(text: str) -> None:
    shown = escaped(text)
    assert not HIDDEN & set(shown)
    assert escaped(shown) == shown


@given(MIXED)
def test_escaped_json_remains_json(text: str) -> None:
    assert json.loads(escaped(json.dumps([text], ensure_ascii=False))) == json.loads(json.dumps([text]))


@given(MIXED)
def test_brief_text_is_one_short_visible_line(text: str) -> None:
    shown = brief(text * 40)
    assert len(shown) <= BRIEF + 2
    assert not (HIDDEN | {"\n"}) & set(shown)


def test_brief_keeps_a_short_text() -> None:
    assert brief("a  short\n error") == "a short error"
    assert brief("x" * (BRIEF + 1)) == "x" * BRIEF + " …"
