"""How long calls take is known by deployment, tenant and use case; the clock is a number."""

from datetime import timedelta

import pytest

from services.generator.call_times import Call, CallTimes, share
from shared.flow.estimate import HALF_LIFE, LONGER
from tests.support.builders import a_request

REQUEST = a_request()
LONG = timedelta(hours=1)


class Times:
    """Call times whose clock stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0
        self.times = CallTimes(lambda: self.now)

    def begin(self, within: timedelta = LONG) -> Call:
        call = self.times.begin("a", REQUEST, within)
        assert call is not None
        return call

    def call(self, seconds: float) -> None:
        call = self.begin()
        self.now += seconds
        self.times.ended(call)


@pytest.mark.parametrize(
    ("usual", "following", "expected"),
    [
        (4, None, 60),  # there is no other
        (4, 8, 50),  # 1.25 times its usual call is left
        (0, 8, 50),
        (4, 0, 55),  # unknown: as long as this one
        (0, 0, 30),
        (30, 20, 60),  # no time for both
        (28, 20, 35),
    ],
)
def test_a_call_leaves_the_next_deployment_its_usual_time(
    usual: float, following: float | None, expected: float
) -> None:
    after = None if following is None else timedelta(seconds=following)
    assert share(timedelta(seconds=60), timedelta(seconds=usual), after) == timedelta(seconds=expected)


def test_a_duration_counts_for_its_deployment_tenant_and_use_case_only() -> None:
    known = Times()
    known.call(3)
    assert known.times.usual("a", REQUEST) == timedelta(seconds=3)
    for deployment, request in (
        ("b", REQUEST),
        ("a", a_request(tenant="other-company")),
        ("a", a_request(use_case="payroll")),
    ):
        assert known.times.usual(deployment, request) == timedelta(0)


def test_the_longest_of_a_deployment_is_over_its_tenants() -> None:
    known = Times()
    assert known.times.longest("a") == timedelta(0)
    known.call(3)
    assert known.times.longest("a") == timedelta(seconds=3)
    assert known.times.longest("b") == timedelta(0)


def test_a_call_that_was_cut_off_counts_as_longer_than_it_lasted() -> None:
    known = Times()
    call = known.begin()
    known.now += 4
    known.times.cut_off(call)
    assert known.times.usual("a", REQUEST) == timedelta(seconds=LONGER * 4)


def test_one_long_call_among_several_is_not_what_is_usual() -> None:
    known = Times()
    for seconds in (2, 2, 2, 9):
        known.call(seconds)
    assert known.times.usual("a", REQUEST) == timedelta(seconds=2)
    call = known.begin()
    known.now += 9
    known.times.cut_off(call)
    assert known.times.usual("a", REQUEST) == timedelta(seconds=9)


def test_a_call_that_would_be_cut_off_is_not_begun() -> None:
    known = Times()
    known.call(8)
    assert known.times.begin("a", REQUEST, timedelta(seconds=7)) is None
    assert known.times.begin("a", REQUEST, timedelta(seconds=8)) is not None


def test_a_fast_probe_ends_a_slow_period() -> None:
    known = Times()
    known.call(8)
    known.call(8)
    known.now += HALF_LIFE
    probe = known.begin(timedelta(seconds=4))
    known.now += 1
    known.times.ended(probe)
    assert known.times.usual("a", REQUEST) == timedelta(seconds=1)


def test_after_a_probe_that_was_cut_off_the_wait_for_the_next_begins_anew() -> None:
    known = Times()
    for _ in range(3):
        known.call(8)
    known.now += HALF_LIFE
    probe = known.begin(timedelta(seconds=4))
    assert known.times.begin("a", REQUEST, timedelta(seconds=4)) is None
    known.now += HALF_LIFE / 2
    known.times.cut_off(probe)
    assert known.times.begin("a", REQUEST, timedelta(seconds=7)) is None
