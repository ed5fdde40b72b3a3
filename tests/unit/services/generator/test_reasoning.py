"""What of a model's text is reasoning."""

import pytest

from services.generator.reasoning import without_reasoning


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm [1]</think>Answer [1].",
        "<think>\nhm\n</think>\n\nAnswer [1].",
        "  \n<THINK >hm</ThInK>Answer [1].",
        "<thinking>hm</thinking> Answer [1].",
        "<reasoning>hm</reasoning>Answer [1].",
        "[THINK]hm[/THINK]Answer [1].",
        "<seed:think>hm</seed:think>Answer [1].",
        "hm, the user asks\n</think>\n\nAnswer [1].",
        "hm</think>Answer [1].",
        "<think>a <think>b</think> c</think>Answer [1].",
        "<think>I write <think> here</think>Answer [1].",
        "<think>a</think><think>b</think>Answer [1].",
        "<think></think>\n\nAnswer [1].",
        "Answer [1].\n<think>was that right?</think>",
        "Answer [1].\n<think>was that right? It goes on",
        "Answer [1]. <think>was that right? Yes, it was.</think>",
        "<th\u200bink>hm</th\u200bink>Answer [1].",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Answer [1].<|return|>",
    ],
)
def test_reasoning_is_left_out(text: str) -> None:
    assert without_reasoning(text) == "Answer [1]."


@pytest.mark.parametrize(
    "text",
    [
        "<think>hm",
        "<think>hm</think>",
        "  <think>\nhm\n</think>\n",
        "<|channel|>analysis<|message|>hm",
        "hm</think>",
    ],
)
def test_reasoning_alone_leaves_nothing(text: str) -> None:
    assert without_reasoning(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Answer [1].",
        " Answer [1].\n",
        "Write `<think>` before it and `</think>` after it [1].",
        'The tags "<think>" and "</think>" mark reasoning [1].',
        "The tags <think> and </think> mark reasoning [1].",
        "Open it with <think> and write on [1].",
        "a < b and c > d [1].",
        "<thinker>is a tag of its own</thinker> [1].",
        "Use <b>bold</b> [1].",
    ],
)
def test_text_about_tags_stays(text: str) -> None:
    assert without_reasoning(text) == text


@pytest.mark.parametrize(
    "text",
    ["a <" + " " * 100_000 + "b", "a <think>" + "!" * 100_000 + " so it is</think> [1]", "<think " * 15_000],
    ids=["spaces", "marks", "beginnings"],
)
def test_odd_text_of_the_largest_size_does_not_hold_up_the_worker(text: str) -> None:
    """A minute and more, before; pytest's time-out is the guard."""
    assert without_reasoning(text)
