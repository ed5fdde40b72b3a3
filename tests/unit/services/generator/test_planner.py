"""Which deployment answers."""

from typing import Any

import pytest

from services.generator.planner import Need, at_attempt, plan, why_none
from shared.llm.deployments import Deployment
from tests.support.builders import a_deployment, a_use_case

FOUR = [a_deployment(f"{size}k", size * 1000) for size in (16, 4, 32, 8)]
ANY = a_use_case(deployments=("4k", "8k", "16k", "32k"), context_window=32_000)


@pytest.mark.parametrize(
    ("passages", "order"),
    [
        (2_600, ["4k", "8k", "16k", "32k"]),
        (6_000, ["8k", "16k", "32k", "4k"]),
        (12_000, ["16k", "32k", "8k", "4k"]),
        (20_000, ["32k", "16k", "8k", "4k"]),
        (50_000, ["32k", "16k", "8k", "4k"]),
    ],
)
def test_the_smallest_window_that_holds_everything_comes_first(passages: int, order: list[str]) -> None:
    choices = plan(ANY, FOUR, Need(fixed=600, passages=passages, answer=400))
    assert [choice.deployment.name for choice in choices] == order


def test_a_model_that_cannot_hold_the_question_is_no_choice() -> None:
    choices = plan(ANY, FOUR, Need(fixed=7_800, passages=10, answer=400))
    assert [choice.deployment.name for choice in choices] == ["16k", "32k"]


def test_the_use_case_limits_what_may_be_filled() -> None:
    [choice, *_] = plan(a_use_case(deployments=("32k",), context_window=4000), FOUR, Need(100, 2000, 400))
    assert choice.window == 4000


def test_reasoning_takes_its_share_of_the_deployments_window_and_of_its_price() -> None:
    thinks = a_deployment("small", 4000, reasoning_tokens=1000, price={"output": 1})
    answers = a_deployment("other", 4000, price={"output": 2})
    chosen = plan(a_use_case(), [thinks, answers], Need(100, 100, 100))
    assert [(choice.deployment.name, choice.window) for choice in chosen] == [("other", 4000), ("small", 3000)]
    [choice, *_] = plan(a_use_case(context_window=2000), [thinks], Need(100, 100, 100))
    assert choice.window == 2000


def test_data_never_leaves_the_allowed_regions() -> None:
    deployments = [a_deployment("4k", 4000, region="eastus"), a_deployment("8k", 8000)]
    use_case = a_use_case(deployments=("4k", "8k"), regions=("westeurope",))
    assert [choice.deployment.name for choice in plan(use_case, deployments, Need(100, 100, 100))] == ["8k"]


def test_only_named_chat_deployments_are_used() -> None:
    deployments = [a_deployment("small", 4000), a_deployment("stranger", 4000)]
    assert [c.deployment.name for c in plan(a_use_case(), deployments, Need(100, 100, 100))] == ["small"]


def test_the_cheaper_of_two_equal_deployments_comes_first_unless_priority_differs() -> None:
    dear = a_deployment("small", 4000, price={"input": 2, "output": 2})
    cheap = a_deployment("other", 4000, price={"input": 1, "output": 1})
    need = Need(100, 100, 100)
    assert [c.deployment.name for c in plan(a_use_case(), [dear, cheap], need)] == ["other", "small"]
    preferred = dear.model_copy(update={"priority": 1})
    assert [c.deployment.name for c in plan(a_use_case(), [preferred, cheap], need)] == ["small", "other"]


def test_a_reserved_deployment_comes_before_all_that_are_paid_by_use() -> None:
    metered = a_deployment("small", 4000, priority=1)
    reserved = a_deployment("other", 4000, priority=2, reserved=True)
    for need in (Need(100, 100, 100), Need(100, 9_000, 100)):
        choices = plan(a_use_case(), [metered, reserved], need)
        assert [choice.deployment.name for choice in choices] == ["other", "small"]


def test_the_price_is_of_prompt_and_answer() -> None:
    cheap_input = a_deployment("small", 4000, price={"input": 1, "output": 3})
    cheap_output = a_deployment("other", 4000, price={"input": 3, "output": 1})

    def first(need: Need) -> str:
        return plan(a_use_case(), [cheap_input, cheap_output], need)[0].deployment.name

    assert first(Need(fixed=100, passages=100, answer=300)) == "other"
    assert first(Need(fixed=100, passages=400, answer=300)) == "small"
    assert first(Need(fixed=400, passages=100, answer=300)) == "small"


@pytest.mark.parametrize(
    ("attempt", "order"), [(1, [1, 2, 3]), (2, [1, 2, 3]), (3, [2, 3, 1]), (6, [3, 1, 2]), (7, [1, 2, 3])]
)
def test_each_deployment_comes_first_for_its_tries_then_the_next_round_and_round(
    attempt: int, order: list[int]
) -> None:
    assert list(at_attempt([1, 2, 3], attempt, 2)) == order


def test_the_plan_says_why() -> None:
    [choice, *_] = plan(ANY, FOUR, Need(600, 2_600, 400))
    assert choice.why == "4k in westeurope: 4000 tokens, need 3600; holds all candidates"
    [choice, *_] = plan(ANY, FOUR, Need(600, 3_000, 400))
    assert choice.deployment.name == "4k"  # it holds all, to the last token
    assert choice.why.endswith("holds all candidates")
    [choice, *_] = plan(ANY, FOUR, Need(600, 50_000, 400))
    assert choice.why.endswith("holds the best candidates")


@pytest.mark.parametrize(
    ("deployments", "changes", "said"),
    [
        ([], {}, "use case onboarding names small, and models.yaml has none of them"),
        (
            [a_deployment("small", 4000, kind="embedding", dimensions=3)],
            {},
            "use case onboarding names small, and none of them is a chat deployment",
        ),
        (
            [a_deployment("small", 4000, region="eastus")],
            {"regions": ("westeurope", "northeurope")},
            "use case onboarding allows the regions westeurope, northeurope, but small is in eastus",
        ),
        (
            # The region is the cause, however small the window.
            [a_deployment("small", 10, region="eastus"), a_deployment("stranger", 9000)],
            {"regions": ("westeurope",)},
            "use case onboarding allows the regions westeurope, but small is in eastus",
        ),
        (
            [a_deployment("small", 900), a_deployment("small-too", 8000)],
            {},
            "prompt, question and answer need more than 1000 tokens, and the largest window that use case onboarding "
            "may fill has 900",
        ),
    ],
)
def test_the_reason_why_no_deployment_fits_is_the_real_one(
    deployments: list[Deployment], changes: dict[str, Any], said: str
) -> None:
    use_case, need = a_use_case(deployments=("small",), **changes), Need(fixed=600, passages=50, answer=400)
    assert plan(use_case, deployments, need) == []
    assert why_none(use_case, deployments, need) == said
