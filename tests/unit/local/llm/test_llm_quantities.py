"""Amounts and ranges in running text."""

from math import inf

import pytest

from local.llm.quantities import Range, ranges


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2 to 5 years", [Range(2, 5, "year")]),
        ("More than EUR 500 and up to EUR 2,500", [Range(500, 2500, "EUR")]),
        ("up to EUR 500", [Range(-inf, 500, "EUR")]),
        ("more than 5 years", [Range(5, inf, "year")]),
        ("8 years and more", [Range(8, inf, "year")]),
        ("grades G1 to G5", [Range(1, 5, "G")]),
        ("three months", [Range(3, 3, "month")]),
        ("the year 2026 and 7", []),
    ],
)
def test_what_is_plainly_written_is_read(text: str, found: list[Range]) -> None:
    assert list(ranges(text)) == found


def test_a_range_holds_an_amount_of_the_same_unit_only() -> None:
    three_years = Range(3, 3, "year")
    assert Range(2, 5, "year").holds(three_years)
    assert not Range(2, 5, "month").holds(three_years)
    assert not Range(5, inf, "year").holds(three_years)
