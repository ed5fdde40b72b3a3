"""The token bucket's arithmetic; that Redis computes the same is tested beside the script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.budget.bucket import Bucket


@pytest.mark.parametrize(
    ("now", "level", "at"),
    [(100.0, 20.0, 100.0), (100.5, 25.0, 100.5), (106.0, 80.0, 106.0), (1_000.0, 600.0, 1_000.0), (40.0, 20.0, 100.0)],
    ids=["no time has passed", "half a second", "six seconds", "never above full", "the clock stepped back"],
)
def test_it_refills_evenly(now: float, level: float, at: float) -> None:
    assert Bucket(600, 20, 100).refilled(now) == Bucket(600, level, at)


def test_the_whole_level_can_be_reserved() -> None:
    assert Bucket(600, 20, 100).reserve(20, 100) == (Bucket(600, 0, 100), None)


def test_a_refused_reservation_says_how_long_to_wait_and_takes_nothing() -> None:
    bucket, wait = Bucket(600, 20, 100).reserve(80, 101)
    assert (bucket, wait) == (Bucket(600, 30, 101), 5.0)
    assert bucket.reserve(80, 106) == (Bucket(600, 0, 106), None)


@pytest.mark.parametrize(
    ("reserved", "spent", "level"),
    [(50, 20, 130), (50, 50, 100), (50, 80, 70), (550, 0, 600)],
    ids=["less than reserved", "as reserved", "more than reserved", "never above full"],
)
def test_what_was_reserved_is_corrected_to_what_was_spent(reserved: int, spent: int, level: int) -> None:
    assert Bucket(600, 100, 7).correct(reserved, spent) == Bucket(600, level, 7)


@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(0, 1_500), st.none() | st.integers(0, 1_500)), max_size=30)
)
def test_the_level_is_never_negative_after_a_reservation_and_never_above_full(
    steps: list[tuple[float, int, int | None]],
) -> None:
    bucket, now, spent = Bucket(1_000, 1_000, 0), 0.0, 0.0
    for gap, tokens, actual in steps:
        now += gap
        bucket, wait = bucket.reserve(tokens, now)
        if wait is None:
            used = tokens if actual is None else min(actual, tokens)
            bucket = bucket.correct(tokens, used)
            spent += used
        assert 0 <= bucket.level <= 1_000
        assert spent <= 1_000 + now * 1_000 / 60 + 1e-6
