"""Every decision has a number, a title that its file is named after, a status and a date; the index lists them all."""

import pytest

from ops.reference import decisions

FIRST = "# 1. Cache before budget\n\nAccepted, 2026-11-22.\n\n**Context.** …\n"
NAME = "0001-cache-before-budget.md"


def test_the_index_links_each_decision_with_its_status_and_date() -> None:
    second = "# 2. Who's in\n\nSuperseded by [ADR 1](0001-cache-before-budget.md), 2026-12-01.\n"
    page = decisions.files({"0002-whos-in.md": second, NAME: FIRST})[decisions.PAGE]
    assert page.endswith(
        "| 1 | [Cache before budget](0001-cache-before-budget.md) | Accepted | 2026-11-22 |\n"
        "| 2 | [Who's in](0002-whos-in.md) | Superseded by [ADR 1](0001-cache-before-budget.md) | 2026-12-01 |\n"
    )


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("0001-cache-first.md", FIRST, "its title wants the file name 0001-cache-before-budget.md"),
        ("0002-cache-before-budget.md", FIRST, "its title wants the file name 0001-cache-before-budget.md"),
        ("0002-cache-before-budget.md", FIRST.replace("# 1.", "# 2."), "the numbers must go from 1 to 1"),
        (NAME, FIRST.replace("Accepted, 2026-11-22.\n\n", ""), "must begin with"),
        (NAME, FIRST.replace(", 2026-11-22", ""), "must begin with"),
    ],
)
def test_a_decision_without_its_number_title_status_or_date_is_refused(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        decisions.files({name: text})
