"""What a call costs, in whole millionths of a dollar."""

import pytest

from shared.budget.price import amount
from shared.budget.rules import Amount
from shared.llm.deployments import Price


@pytest.mark.parametrize(
    ("price", "prompt", "completion", "usd"),
    [
        ((0.5, 1.5), 412, 21, 238),  # 237.5
        ((0.15, 0.6), 20, 0, 3),  # and not 4, for 0.15 * 20 is a little more than 3
        ((1, 2), 1_000, 50, 1_100),
        ((0.13, 0), 1, 0, 1),
        ((0, 0), 9_999, 9_999, 0),
        ((0.1, 0.2), 0, 0, 0),
    ],
)
def test_a_started_millionth_counts(price: tuple[float, float], prompt: int, completion: int, usd: int) -> None:
    found = amount(Price(input=price[0], output=price[1]), prompt, completion)
    assert found == Amount(prompt + completion, usd)
