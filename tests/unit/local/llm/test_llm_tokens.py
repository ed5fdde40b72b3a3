"""The token estimate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.llm import tokens


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("hello world", 2), ("internationalisation", 4), ("2026-01-15", 6), ("a\n\nb", 3), ("Größe", 2)],
)
def test_counts(text: str, count: int) -> None:
    assert tokens.count(text) == count


@given(st.text(), st.integers(0, 50))
def test_a_cut_text_begins_the_text_and_keeps_the_limit(text: str, limit: int) -> None:
    kept = tokens.cut(text, limit)
    assert text.startswith(kept)
    assert tokens.count(kept) <= limit


@given(st.text())
def test_a_text_within_the_limit_is_not_cut(text: str) -> None:
    assert tokens.cut(text, tokens.count(text)) == text
