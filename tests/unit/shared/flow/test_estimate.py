"""Estimates of durations, and whether a call is begun."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.flow.estimate import HALF_LIFE, KEPT, YOUNG, Estimate, Recent
from shared.flow.rules import MARGIN, SAFETY, needs

durations = st.floats(min_value=0.01, max_value=100)


def estimated(*took: float) -> Estimate:
    estimate = Estimate()
    for number, seconds in enumerate(took):
        estimate = estimate.after(seconds, float(number))
    return estimate


def observed(*took: float) -> Recent:
    """All at second 0."""
    recent = Recent()
    for seconds in took:
        recent = recent.after(seconds, 0.0)
    return recent


# -- mean and deviation


@given(durations, st.integers(min_value=30, max_value=60))
def test_a_constant_duration_is_estimated_to_a_hundredth(took: float, times: int) -> None:
    assert estimated(*[took] * times).usual == pytest.approx(took, rel=0.01)


@given(st.lists(durations, min_size=1))
def test_the_estimate_stays_within_the_observed_range(took: list[float]) -> None:
    estimate = estimated(*took)
    assert min(took) * 0.999 <= estimate.mean <= max(took) * 1.001
    assert estimate.usual <= 2 * max(took) * 1.001


@given(durations, durations)
def test_a_cut_off_call_raises_the_estimate_to_one_and_a_half_times_its_duration_at_most(
    took: float, lasted: float
) -> None:
    late = estimated(took).after_cut_off(lasted, 1.0)
    assert took <= late.mean <= max(took, 1.5 * lasted)


def test_mean_and_deviation_move_as_in_rfc_6298() -> None:
    first = Estimate().after(8.0, 10.0)
    assert first == Estimate(mean=8.0, deviation=4.0, at=10.0)
    assert first.after(16.0, 11.0) == Estimate(mean=9.0, deviation=5.0, at=11.0)


@pytest.mark.parametrize(
    ("known", "lasted", "then"),
    [
        (Estimate(), 8.0, Estimate(mean=8.0, deviation=4.0, at=20.0)),
        (Estimate(8.0, 1.0, 10.0), 6.0, Estimate(9.0, 1.0, 20.0)),
        (Estimate(8.0, 1.0, 10.0), 4.0, Estimate(8.0, 1.0, 20.0)),
        (Estimate(8.0, 1.0, 10.0), 90.0, Estimate(16.0, 1.0, 20.0)),
    ],
    ids=["unknown", "longer", "shorter than usual", "doubles at most"],
)
def test_a_cut_off_call_would_have_taken_half_as_long_again(known: Estimate, lasted: float, then: Estimate) -> None:
    assert known.after_cut_off(lasted, 20.0) == then


@given(st.lists(durations, min_size=1), st.floats(min_value=0, max_value=1000))
def test_a_held_ask_needs_more_than_requests_take_and_next_to_nothing_when_that_is_long_ago(
    took: list[float], later: float
) -> None:
    estimate = estimated(*took)
    assert needs(Estimate(), later) == MARGIN
    assert needs(estimate, estimate.at) >= MARGIN + estimate.usual
    assert MARGIN <= needs(estimate, estimate.at + later) <= needs(estimate, estimate.at)
    assert needs(estimate, estimate.at + 20 * HALF_LIFE) < MARGIN + 0.01


def test_what_requests_took_counts_half_after_a_while() -> None:
    usual = Estimate(mean=4, deviation=0.5, at=100)
    beyond = SAFETY * 4 + 2 * 0.5
    assert needs(usual, 99) == needs(usual, 100) == MARGIN + beyond
    assert needs(usual, 100 + HALF_LIFE) == MARGIN + beyond / 2


# -- the last ones


@given(durations)
def test_without_observations_a_call_is_begun(left: float) -> None:
    assert Recent().begun(left, 0.0) == (Recent(), False)


@given(st.lists(durations, min_size=1, max_size=KEPT))
def test_three_of_four_took_no_longer_than_usual(took: list[float]) -> None:
    usual = observed(*took).usual(0.0)
    assert sum(seconds <= usual for seconds in took) >= 0.75 * len(took)
    assert sum(seconds < usual for seconds in took) < 0.75 * len(took)


@given(st.lists(durations, min_size=1), durations, durations)
def test_a_call_that_usually_takes_longer_than_is_left_is_not_begun(
    took: list[float], left: float, more: float
) -> None:
    recent = observed(*took)
    usual = recent.usual(0.0)
    assert (recent.begun(left, 0.0) is None) == (left < usual)
    assert recent.begun(usual + more, 0.0) == (recent, False)


def test_calls_that_are_cut_off_repeatedly_are_soon_not_begun() -> None:
    recent = observed(3, 3, 3, 3)
    for _ in range(4):
        recent = recent.after_cut_off(29, 0.0)
    assert recent.begun(29, 0.0) is None


@pytest.mark.parametrize("outlier", [observed(30, 0.1, 0.1, 0.1), observed(*[0.1] * 20).after_cut_off(29, 0.0)])
def test_one_slow_call_does_not_stop_the_others(outlier: Recent) -> None:
    assert outlier.begun(5, 0.0) == (outlier, False)


def test_old_observations_stop_counting_when_there_are_new_ones() -> None:
    recent = observed(*[40.0] * KEPT).after(0.1, 2 * YOUNG)
    assert recent.usual(2 * YOUNG) == 0.1


def test_the_last_observation_counts_however_old_it_is() -> None:
    assert Recent().usual(0.0) == 0.0
    recent = observed(1.0, 2.0, 3.0)
    assert recent.usual(YOUNG) == 3.0
    assert observed(3.0, 2.0, 1.0).usual(10 * YOUNG) == 1.0
    assert len(observed(*[1.0] * (2 * KEPT)).took) == KEPT


@pytest.mark.parametrize("ends", [Recent.after, Recent.after_cut_off])
def test_the_next_probe_waits_from_the_end_of_the_one_before(ends: Callable[..., Recent]) -> None:
    refused = observed(*[40.0] * KEPT).refused()
    assert ends(refused, 50.0, 100.0).waits == refused.waits == 0.0
    over = ends(refused, 50.0, 100.0, probe=True)
    assert (over.probed, over.waits) == (100.0, None)
    assert over.begun(over.usual(100.0) - 0.1, 100.0) is None
    left = over.usual(100.0) / 2
    probed = over.refused().begun(left, 100.0 + HALF_LIFE)
    assert probed == (replace(over, probed=100.0 + HALF_LIFE), True)


@given(st.floats(min_value=1.01, max_value=30))
def test_durations_of_other_calls_do_not_postpone_the_probe(times: float) -> None:
    recent, left, waited = observed(*[30.0] * KEPT), 30 / times, HALF_LIFE * math.log2(times)
    assert recent.begun(left, 0.0) is None
    recent = recent.refused()
    for tenth in range(1, 10):
        at = waited * tenth / 10
        recent = recent.after(30.0, at)
        assert recent.begun(left, at) is None
        recent = recent.refused()
    probing = recent.begun(left, waited * 1.001)
    assert probing is not None
    probed, is_probe = probing
    assert is_probe
    ended = waited * 1.001 + left
    over = probed.after_cut_off(left, ended, probe=True)
    assert over.begun(left, ended) is None
    assert over.usual(ended) == 30.0


def test_a_slow_spell_is_probed_one_at_a_time_and_forgotten_when_it_is_over() -> None:
    slow = observed(*[40.0] * KEPT)
    assert slow.begun(20, 0.0) is None
    later = 1.1 * HALF_LIFE
    probing = slow.begun(20, later)
    assert probing is not None
    probed, is_probe = probing
    assert is_probe
    assert probed.begun(20, later) is None
    over = probed.after(3.0, later + 3, probe=True)
    assert over.begun(20, later + 3) == (over, False)
