"""Failures on request."""

from typing import Any

import pytest

from local.llm.faults import NOTHING, Faults, parse


def test_rules_are_used_in_order_and_used_up() -> None:
    faults = Faults()
    faults.set(parse([{"deployment": "a", "status": 429, "times": 2}, {"status": 500, "times": 1}]))
    seen = [faults.next(deployment, "chat").status for deployment in ("a", "b", "a", "a", "b")]
    assert seen == [429, 500, 429, None, None]
    assert faults.left() == []


def test_a_rule_without_a_count_lasts_until_it_is_cleared() -> None:
    faults = Faults()
    faults.set(parse({"kind": "embeddings", "hang": True}))
    assert faults.next("a", "chat") is NOTHING
    assert [faults.next("a", "embeddings").hang for _ in range(3)] == [True] * 3
    assert faults.left() == [{"kind": "embeddings", "hang": True, "times": None}]
    faults.set([])
    assert faults.next("a", "embeddings") is NOTHING


@pytest.mark.parametrize(
    ("rules", "complaint"),
    [
        ([{"staus": 429}], "unknown field 'staus'"),
        ([{"status": "429"}], "status cannot be '429'"),
        ([{"times": -1}], "times cannot be -1"),
        ([{"hang": 1}], "hang cannot be 1"),
        (["429"], "a rule is an object"),
        ("429", "a list of rules"),
    ],
)
def test_a_wrong_rule_is_named(rules: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(rules)
