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
        "analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Answer [1].",
        "analysisThe user asks. How many?assistantfinalAnswer [1].",
        "<|start|>assistant<|channel|>final <|constrain|>json<|message|>Answer [1].",
        "<|start|>assistant<|message|>Answer [1].<|end|>",
        "◁think▷hm [1]◁/think▷Answer [1].",
        "hm [1]◁/think▷Answer [1].",
        "<|begin_of_thought|>\nhm\n<|end_of_thought|>\n\n<|begin_of_solution|>\nAnswer [1].\n<|end_of_solution|>",
        "<|begin_of_thought|>hm<|end_of_thought|><|begin_of_solution|>Answer [1].",
        "<|channel>thought\nhm\n<channel|>Answer [1].",
        "hm\n<channel|>Answer [1].<turn|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Answer [1].<|END_RESPONSE|>",
        "<|START_THINKING|>hm<|END_THINKING|><|START_TEXT|>Answer [1].<|END_TEXT|><|END_OF_TURN_TOKEN|>",
        "<|inner_prefix|>hm<|inner_suffix|>Answer [1].",
        "<mm:think>hm</mm:think>Answer [1].",
        "<think>hm</think><answer>Answer [1].</answer>",
        "<think>hm</think>\n<answer>\nAnswer [1].",
        "<think>hm</think><response>Answer [1].</response>",
        "<answer>Answer [1].</answer>",
        "Answer [1].<|im_end|>",
        "Answer [1].</s>",
        "Answer [1].\n<|eot_id|>\n<|endoftext|>",
        "Answer [1].<|begin_of_thought|>was that right? It goes on",
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
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        "analysisThe user asks. How many?",
        "◁think▷hm",
        "<|channel>thought\nhm",
        "<|START_THINKING|>hm<|END_THINKING|>",
        "<think>hm</think><answer></answer>",
        "<|endoftext|>",
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
        "Kimi writes `◁think▷` and `◁/think▷` around it [1].",
        "Its thoughts begin with <|begin_of_thought|> and go on [1].",
        "What follows `<|channel|>final<|message|>` is the answer [1].",
        "What follows <|channel|>final<|message|> is the answer [1].",
        "The header <|channel|>analysis<|message|> comes first [1].",
        "The tokens <|channel|>, <|start|> and <|end|> are special [1].",
        "The last token is <|im_end|>",
        "The tag <answer>holds it</answer>, and <response> is another [1].",
        "<answer> is the tag that holds it [1].",
        "<answer>, not </answer>, comes first [1].",
        "analysis is what assistants do [1].",
        "Analysis of leave: 30 days [1].",
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
