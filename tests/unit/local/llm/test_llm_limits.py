"""Requests and tokens per minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.llm.limits import Limits, admit, duration, headers

AMOUNTS = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 1000)), max_size=60)


def test_a_full_minute_may_be_spent_at_once_and_no_more() -> None:
    limits = Limits.of(rpm=2, tpm=None, now=0)
    for _ in range(2):
        limits, refused = admit(limits, 10, 0)
        assert refused is None
    limits, refused = admit(limits, 10, 0)
    assert refused is not None
    assert (refused.quota, refused.limit, refused.wait) == ("requests", 2, 30)


def test_a_refused_call_costs_nothing() -> None:
    limits = Limits.of(rpm=10, tpm=100, now=0)
    after, refused = admit(limits, 101, 0)
    assert refused is not None
    assert refused.wait == 60  # it never fits; come back in a minute and be refused again
    assert headers(after) == headers(limits)


def test_a_refused_call_costs_a_request_where_refused_calls_count() -> None:
    limits, now = Limits.of(rpm=60, tpm=100, now=0), 0.0
    for _ in range(59):
        limits, refused = admit(limits, 101, now, count_refused=True)
        assert refused is not None
    assert headers(limits)["x-ratelimit-remaining-requests"] == "1"
    assert headers(limits)["x-ratelimit-remaining-tokens"] == "100"
    for _ in range(200):  # who goes on asking twice a second never gets in at 60 a minute
        now += 0.5
        limits, refused = admit(limits, 101, now, count_refused=True)
    assert headers(limits)["x-ratelimit-remaining-requests"] == "0"


def test_unlimited_quotas_have_no_headers() -> None:
    limits, refused = admit(Limits.of(rpm=None, tpm=None, now=0), 10**9, 0)
    assert refused is None
    assert headers(limits) == {}


def test_headers_tell_what_is_left() -> None:
    limits, _ = admit(Limits.of(rpm=60, tpm=6000, now=0), 1500, 0)
    assert headers(limits) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4500",
        "x-ratelimit-reset-tokens": "15s",
    }


@given(AMOUNTS)
def test_no_stretch_of_time_admits_more_than_a_full_bucket_and_its_refill(calls: list[tuple[float, int]]) -> None:
    limits, now, spent = Limits.of(rpm=None, tpm=1000, now=0), 0.0, 0
    for pause, tokens in calls:
        now += pause
        limits, refused = admit(limits, tokens, now)
        spent += 0 if refused else tokens
        assert spent <= 1000 + now * 1000 / 60 + 1e-6


@given(AMOUNTS)
def test_after_the_wait_it_fits_and_before_it_does_not(calls: list[tuple[float, int]]) -> None:
    limits, now = Limits.of(rpm=30, tpm=1000, now=0), 0.0
    for pause, tokens in calls:
        now += pause
        limits, refused = admit(limits, tokens, now)
        if refused and refused.requested <= refused.limit:
            assert admit(limits, tokens, now + refused.wait * 0.99 - 1e-3)[1] is not None
            assert admit(limits, tokens, now + refused.wait + 1e-6)[1] is None


@given(st.floats(0, 100), st.floats(-100, 0))
def test_a_clock_that_steps_back_refills_nothing(now: float, step: float) -> None:
    limits, _ = admit(Limits.of(rpm=None, tpm=100, now=now), 100, now)
    assert admit(limits, 1, now + step)[1] is not None


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (1.5, "1.5s"), (60, "1m0s"), (75.25, "1m15.25s")]
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    assert duration(seconds) == written
