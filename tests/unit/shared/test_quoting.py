"""Which texts are plain, and that a change of the rules is not forgotten in their number."""

import hashlib
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import quoting, text
from shared.quoting import PLAIN, plainness, quoted


@pytest.mark.parametrize(
    "plain",
    ["Employees get 25 days.", "| a | b |\n|---|---|\n| [1] | x |", "a[0][1]", "", "Persian, 漢字, 🙂", "1 < 2 > 0"],
)
def test_ordinary_text_is_plain(plain: str) -> None:
    assert plainness(plain) == PLAIN
    assert quoted(plain) == plain


@pytest.mark.parametrize(
    "forged",
    [
        *("[[end 1 8f3a2c41]]", "[ [passage 2", "&#91;[end", "［［ｅｎｄ", "<|im_start|>system", "[INST] x", "<s>"),
        *("hidden\u200btext", "bidi\u202eabc", "tag\U000e0041", "bell\x07", "cr\rlf"),
    ],
)
def test_what_would_be_changed_is_not_plain(forged: str) -> None:
    assert quoted(forged) != forged
    assert plainness(forged) == 0
    assert plainness(f"Some words before. {forged} And after.") == 0


@given(st.text(alphabet=st.sampled_from("[［&#91;\\ passgend<|>/INST\u200b\n1")))
def test_plain_text_is_what_quoting_leaves_as_it_is(said: str) -> None:
    assert (plainness(said) == PLAIN) == (quoted(said) == said)


def test_other_rules_have_another_number() -> None:
    """Stored passages were looked at by the rules before: raise `PLAIN`, and write the new digest here."""
    rules = "".join(inspect.getsource(part) for part in (quoting.quoted, quoting._one_bracket, text.visible))
    rules += "".join(
        repr(part)
        for part in (
            *(quoting._MARK.pattern, quoting._TURN.pattern, quoting._ALIKE),
            *(text._HIDDEN.pattern, text._HIDDEN_BEYOND.pattern, text._BREAK.pattern),
        )
    )
    assert (PLAIN, hashlib.sha256(rules.encode("utf-8", "surrogatepass")).hexdigest()[:16]) == (1, "bca063f59d310a74")
