"""Whether an ask waits for its budget."""

from datetime import timedelta

import pytest

from shared.budget.waiting import LEAST_LEFT, comes_back
from tests.support.builders import NOW, a_request

LEFT = 60 - LEAST_LEFT.total_seconds()


@pytest.mark.parametrize(
    ("wait", "when_spent", "usual", "back"),
    [
        (5.0, "wait", 0, 5.0),
        (LEFT - 0.1, "wait", 0, LEFT - 0.1),
        (LEFT, "wait", 0, None),
        (30.0, "wait", 29.9, 30.0),
        (30.0, "wait", 30.0, None),
        (None, "wait", 0, None),
        (5.0, "refuse", 0, None),
    ],
)
def test_it_waits_by_policy_while_it_can_still_be_answered(
    wait: float | None, when_spent: str, usual: float, back: float | None
) -> None:
    found = comes_back(a_request(), wait, when_spent, NOW, usual)
    assert found == (timedelta(seconds=back) if back is not None else None)
