"""What a provider's count of tokens may be."""

from hypothesis import given
from hypothesis import strategies as st

from services.generator.reply import usable_usage
from shared.llm.errors import Used

ESTIMATE = Used(20, 2, estimated=True)
ANYTHING = st.one_of(
    st.integers(), st.floats(), st.text(max_size=5), st.none(), st.booleans(), st.lists(st.integers(), max_size=2)
)


@given(ANYTHING, ANYTHING)
def test_a_count_is_never_negative_nor_more_than_the_request_could_have_used(prompt: object, output: object) -> None:
    used, replaced = usable_usage((prompt, output), estimate=lambda: ESTIMATE, most_prompt=100, most_output=50)
    assert 1 <= used.prompt_tokens <= 100
    assert 1 <= used.completion_tokens <= 50
    assert used.estimated is replaced


@given(st.integers(1, 100), st.integers(1, 50))
def test_a_count_that_can_be_is_taken_as_it_is(prompt: int, output: int) -> None:
    for reported in ((prompt, output), (str(prompt), float(output))):
        used, replaced = usable_usage(reported, estimate=lambda: ESTIMATE, most_prompt=100, most_output=50)
        assert (used, replaced) == (Used(prompt, output), False)


def test_an_answer_without_text_may_have_no_output_tokens() -> None:
    used, replaced = usable_usage((9, 0), estimate=lambda: Used(20, 0, estimated=True), most_prompt=100, most_output=50)
    assert (used, replaced) == (Used(9, 0), False)


def test_without_a_count_it_is_estimated() -> None:
    assert usable_usage(None, estimate=lambda: ESTIMATE, most_prompt=100, most_output=50) == (ESTIMATE, False)
