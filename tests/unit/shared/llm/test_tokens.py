"""The estimate of tokens: cheap, and never far below."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from semantic_text_splitter import TextSplitter

from shared.llm.tokens import count_tokens

HANDBOOK = Path(__file__).parents[4] / "examples/onboarding/handbook"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        # As o200k_base counts them; the estimate may be higher, never lower.
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("Employees may carry over up to five days of annual leave.", 12),
        ("EUR 1,350 per night (Copenhagen DKK 1,600)", 17),
        ("def handle(self, task: GenerateAnswer) -> None:", 12),
        ("", 0),
    ],
)
def test_the_estimate_errs_upwards(text: str, tokens: int) -> None:
    assert tokens <= count_tokens(text) <= 2 * tokens + 2


def test_documents_never_have_more_tokens_than_estimated() -> None:
    for file in HANDBOOK.glob("*.[mt]*"):
        text = file.read_text("utf-8")
        # The splitter knows the vocabulary, but tells only whether a text fits a size.
        assert len(TextSplitter.from_tiktoken_model("gpt-4o", count_tokens(text)).chunks(text)) == 1, file.name


@given(st.text(max_size=200), st.text(max_size=200))
def test_joined_texts_need_no_more_than_both_and_one(one: str, other: str) -> None:
    assert count_tokens(one + other) <= count_tokens(one) + count_tokens(other) + 1
