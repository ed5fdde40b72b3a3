"""When a deployment is not paid again for the same failure."""

import pytest

from services.generator.failover import spent_in_vain
from shared.contracts.outcome import Code, ModelCall


def calls(result: str, times: int, deployment: str = "d", tokens: int = 100) -> list[ModelCall]:
    return [ModelCall(deployment=deployment, prompt_tokens=tokens, result=result)] * times


@pytest.mark.parametrize("code", [Code.EMPTY_ANSWER, Code.REASONING_ONLY, Code.TOOL_CALLED])
def test_a_reply_without_an_answer_is_bought_once(code: Code) -> None:
    failure = spent_in_vain("d", calls(code, 1))
    assert failure is not None
    assert failure.code is code
    assert spent_in_vain("e", calls(code, 1)) is None


@pytest.mark.parametrize(("result", "most"), [("down", 8), ("InvalidReply", 3)])
def test_calls_that_break_off_are_paid_a_few_times(result: str, most: int) -> None:
    assert spent_in_vain("d", calls(result, most - 1)) is None
    failure = spent_in_vain("d", calls(result, most))
    assert failure is not None
    assert failure.code is Code.INVALID_REPLY
    assert spent_in_vain("e", calls(result, most)) is None


def test_calls_that_cost_nothing_and_other_ends_do_not_count() -> None:
    assert spent_in_vain("d", calls("down", 99, tokens=0)) is None
    assert spent_in_vain("d", calls("ok", 99) + calls("throttled", 99) + calls("cancelled", 99)) is None
    assert spent_in_vain("d", []) is None
