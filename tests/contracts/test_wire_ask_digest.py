"""What a message id is bound to: every field of an ask is classed as in or out, and means it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.ask import Ask, ask_digest
from shared.contracts.request import Turn

# A change of it changes the answer, or who may read it: it is another ask.
IN = {"question", "use_case", "conversation", "cache"}
IN_A_TURN = {"role", "text"}
# Nothing is out. What is (where the outcome goes, by when) is in native properties.
OUT: set[str] = set()

ASK = Ask(question="How?", use_case="onboarding", conversation=(Turn(role="user", text="Hello"),), cache="use")
OTHER: dict[str, Any] = {
    "question": "Why?",
    "use_case": "travel",
    "conversation": (Turn(role="user", text="Good day"),),
    "cache": "refresh",
}
texts = st.text(st.sampled_from("ab"), max_size=2)
turns = st.lists(st.builds(Turn, role=st.sampled_from(["user", "assistant"]), text=texts), max_size=2).map(tuple)
asks = st.builds(Ask, question=st.sampled_from(["a", "b", "ab"]), conversation=turns)
groups = st.frozensets(texts, max_size=2)


def digest(ask: Ask, readers: Any = ("employees",)) -> str:
    return ask_digest(ask, ask.use_case or "onboarding", readers)


def test_every_field_is_classed() -> None:
    """Each field is listed as bound to the id or not, and `ask_digest` agrees."""
    assert set(Ask.model_fields) == IN | OUT
    assert set(Turn.model_fields) == IN_A_TURN


@pytest.mark.parametrize("field", sorted(IN))
def test_another_value_of_a_field_is_another_ask(field: str) -> None:
    assert digest(ASK.model_copy(update={field: OTHER[field]})) != digest(ASK)


def test_another_reader_is_another_ask() -> None:
    assert digest(ASK, ["employees", "managers"]) != digest(ASK, ["employees"])
    assert digest(ASK, ["employees,managers"]) != digest(ASK, ["employees", "managers"])
    assert digest(ASK, ["managers", "employees"]) == digest(ASK, ["employees", "managers"])


def test_naming_the_only_use_case_makes_no_difference() -> None:
    unnamed = ASK.model_copy(update={"use_case": None})
    assert ask_digest(unnamed, "onboarding", []) == ask_digest(ASK, "onboarding", [])


@given(asks, groups, asks, groups)
def test_different_asks_have_different_digests(
    one: Ask, readers: frozenset[str], other: Ask, others: frozenset[str]
) -> None:
    assert (digest(one, readers) == digest(other, others)) == ((one, readers) == (other, others))
