"""What is known of how long something takes, and whether it is worth beginning."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.flow.estimate import HALF_LIFE, Estimate

durations = st.floats(min_value=0.01, max_value=100)


def observed(*took: float) -> Estimate:
    estimate = Estimate()
    for number, seconds in enumerate(took):
        estimate = estimate.after(seconds, float(number))
    return estimate


@given(durations)
def test_what_was_never_seen_is_begun(left: float) -> None:
    assert Estimate().begun(left, 0.0) == (Estimate(), False)


@given(durations, st.integers(min_value=30, max_value=60))
def test_what_always_takes_the_same_is_known_to_a_hundredth(took: float, times: int) -> None:
    assert observed(*[took] * times).usual == pytest.approx(took, rel=0.01)


@given(st.lists(durations, min_size=1))
def test_the_estimate_stays_within_what_was_seen(took: list[float]) -> None:
    estimate = observed(*took)
    assert min(took) * 0.999 <= estimate.mean <= max(took) * 1.001
    assert estimate.usual <= 2 * max(took) * 1.001


@given(st.lists(durations, min_size=1), durations, durations)
def test_what_usually_takes_longer_than_is_left_is_not_begun(took: list[float], left: float, more: float) -> None:
    estimate = observed(*took)
    now = float(len(took) - 1)  # the moment of the last observation
    assert (estimate.begun(left, now) is None) == (left < estimate.usual)
    assert estimate.begun(estimate.usual + more, now) == (estimate, False)


def test_what_is_cut_off_again_and_again_is_soon_not_begun_any_more() -> None:
    estimate = observed(3, 3, 3, 3)
    for _ in range(5):
        estimate = estimate.after_cut_off(29, 10.0)
    assert estimate.begun(29, 10.0) is None


def test_one_that_was_cut_off_does_not_stop_the_others() -> None:
    estimate = observed(*[3.0] * 20).after_cut_off(29, 20.0)
    assert estimate.begun(10, 20.0) is not None


def test_a_slow_spell_is_probed_one_at_a_time_and_forgotten_when_it_is_over() -> None:
    slow = observed(*[40.0] * 20)
    now = 19.0
    assert slow.begun(20, now) is None
    later = now + 1.1 * HALF_LIFE
    probing = slow.begun(20, later)
    assert probing is not None
    probed, is_probe = probing
    assert is_probe
    assert probed.begun(20, later) is None
    over = probed.after(3.0, later + 3, probe=True)
    assert over.begun(20, later + 3) == (over, False)
