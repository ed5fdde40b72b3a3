"""An outcome's usage and cost are the sums of its calls."""

import pytest

from shared.contracts.outcome import MOST_CALLS, Code, ModelCall, Outcome, charged, ending
from tests.support.builders import a_request

ANSWER = ending(a_request(), Outcome.ANSWERED, Code.OK, text="24")


def test_usage_and_cost_are_those_of_all_calls() -> None:
    broken_off = ModelCall(
        deployment="small", prompt_tokens=900, completion_tokens=7, cost=0.1, estimated=True, result="down"
    )
    answered = ModelCall(deployment="other", prompt_tokens=1_000, completion_tokens=50, cost=0.2, overrun=4)
    answer = charged(ANSWER, [broken_off, answered])
    assert answer.calls == (broken_off, answered)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1_900, 57)
    assert (answer.usage.estimated, answer.usage.overrun) == (True, 4)
    assert answer.cost.amount == 0.3  # not 0.30000000000000004
    assert answer.text == "24"


def test_without_calls_it_costs_nothing() -> None:
    assert charged(ANSWER, []) == ANSWER


@pytest.mark.parametrize("made", [MOST_CALLS, MOST_CALLS + 1, 5 * MOST_CALLS])
def test_it_lists_the_latest_calls_and_costs_what_all_cost(made: int) -> None:
    calls = [ModelCall(deployment=f"d{number}", prompt_tokens=1, cost=0.000001) for number in range(made)]
    answer = charged(ANSWER, calls)
    assert answer.calls == tuple(calls[-MOST_CALLS:])
    assert (answer.usage.prompt_tokens, answer.cost.amount) == (made, round(made / 1_000_000, 6))
