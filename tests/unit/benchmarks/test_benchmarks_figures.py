"""Figures as the table shows them: the median is judged, the spread is told."""

import pytest

from benchmarks.figures import Aim, Figure, number, table


@pytest.mark.parametrize(
    ("values", "aim", "kept"),
    [
        ([0.1, 0.3, 0.9], Aim(0.3), "yes"),
        ([0.1, 0.31, 0.2, 0.9, 0.8], Aim(0.3), "**no**"),
        ([1.0, 1.3, 2.0], Aim(1.3, at_least=True), "yes"),
        ([1.0, 1.2, 2.0], Aim(1.3, at_least=True), "**no**"),
        ([1.0], None, ""),
    ],
)
def test_the_median_decides_whether_an_aim_is_kept(values: list[float], aim: Aim | None, kept: str) -> None:
    assert Figure("send", values, "× SDK", aim).row()[5] == kept


def test_a_row_tells_the_median_the_spread_and_how_often_it_was_measured() -> None:
    row = Figure("start", [140.2, 151.9, 133.0], "ms", Aim(150), "from nothing").row()
    assert row == ("start", "140 ms", "133 … 152", "3", "≤ 150", "yes", "from nothing")


def test_an_aim_says_on_which_side_it_is() -> None:
    assert (str(Aim(2)), str(Aim(1.3, at_least=True))) == ("≤ 2.00", "≥ 1.30")


@pytest.mark.parametrize(
    ("value", "written"), [(0.304, "0.30"), (12.34, "12.3"), (-0.04, "-0.04"), (761.6, "762"), (16600, "16,600")]
)
def test_a_number_has_the_digits_that_mean_something(value: float, written: str) -> None:
    assert number(value) == written


def test_a_table_has_a_head_and_a_row_for_each_figure() -> None:
    lines = table([Figure("one", [1.0]), Figure("two", [2.0])]).splitlines()
    assert [line.count("|") for line in lines] == [8] * 4
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| one", "| two"]
