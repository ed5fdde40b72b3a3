"""The line of a deployment: who is next, and when."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.pacing.rules import (
    CUSHION,
    GRACE,
    MINUTE,
    PLACES,
    Ask,
    Granted,
    Pace,
    Quota,
    Said,
    ask,
    room,
    settle,
    throttled,
)

QUOTA = Quota(tokens=6_000)  # a hundred a second
LONG = 1_000.0


def wants(who: str, tokens: float = 1_000, tenant: str = "a", due: float = 60, **changes: object) -> Ask:
    return replace(Ask(who, tenant, tokens, due, patience=LONG), **changes)  # type: ignore[arg-type]


def granted(pace: Pace, wanted: Ask, now: float, quota: Quota = QUOTA) -> tuple[Pace, Granted]:
    pace, result = ask(pace, quota, wanted, now)
    assert isinstance(result, Granted), result
    return pace, result


def waits(pace: Pace, wanted: Ask, now: float, quota: Quota = QUOTA) -> tuple[Pace, float]:
    pace, result = ask(pace, quota, wanted, now)
    assert isinstance(result, float), result
    return pace, result


def emptied(quota: Quota = QUOTA, now: float = 0.0) -> Pace:
    pace, _ = granted(Pace(), wants("all", quota.tokens, tenant="before"), now, quota)
    return replace(pace, served={}, virtual=0.0, tokens=CUSHION * quota.tokens)


def test_a_minutes_worth_without_a_cushion_is_granted_at_once_and_then_the_rate() -> None:
    pace = Pace()
    for number in range(5):
        pace, _ = granted(pace, wants(str(number)), 0)
    pace, wait = waits(pace, wants("6"), 0)
    assert wait == 3
    pace, wait = waits(pace, wants("7", due=61), 0)
    assert wait == 13
    pace, _ = granted(pace, wants("6"), 3)
    pace, wait = waits(pace, wants("7", due=61), 3)
    assert wait == 10


def test_of_requests_ten_seconds_worth_is_granted_at_once() -> None:
    quota, pace = Quota(requests=60), Pace()
    for number in range(10):
        pace, _ = granted(pace, wants(str(number)), 0, quota)
    assert waits(pace, wants("10"), 0, quota)[1] == 1


def test_everything_that_waits_has_a_time_of_its_own() -> None:
    pace, times = emptied(), []
    for number in range(20):
        pace, wait = waits(pace, wants(f"{number:02}"), 0)
        times.append(wait)
    assert times == [10.0 * (number + 1) for number in range(20)]


def test_the_earliest_deadline_of_a_tenant_is_first() -> None:
    pace, _ = waits(emptied(), wants("late", due=90), 0)
    pace, wait = waits(pace, wants("early", due=30), 0)
    assert wait == 10
    assert waits(pace, wants("late", due=90), 0)[1] == 20


def test_of_equal_deadlines_the_first_is_first() -> None:
    pace, _ = waits(emptied(), wants("z"), 0)
    pace, wait = waits(pace, wants("a"), 1)
    assert wait == 19
    assert waits(pace, wants("z"), 2)[1] == 8


def test_a_tenant_with_little_work_does_not_wait_behind_one_with_much() -> None:
    pace = emptied()
    for number in range(10):
        pace, _ = waits(pace, wants(f"busy{number}", tenant="busy"), 0)
    pace, wait = waits(pace, wants("quiet", tenant="quiet", due=500), 0)
    assert wait == 20  # behind one of the other's


def test_tenants_share_the_quota_by_tokens() -> None:
    pace, now, served = emptied(), 0.0, {"small": 0, "large": 0}
    line = [
        wants(f"{tenant}{number}", 200 if tenant == "small" else 800, tenant)
        for number in range(40)
        for tenant in served
    ]
    for wanted in line:
        pace, _ = waits(pace, wanted, 0)
    while now < 150:
        now += 1
        for wanted in list(line):
            pace, result = ask(pace, QUOTA, wanted, now)
            if isinstance(result, Granted):
                line.remove(wanted)
                served[wanted.tenant] += int(wanted.tokens)
    assert abs(served["small"] - served["large"]) <= 1_000


def test_ingestion_waits_for_all_asks_and_leaves_a_tenth() -> None:
    pace, _ = waits(emptied(), wants("batch", 100, ingestion=True), 0)
    pace, _ = waits(pace, wants("ask"), 0)
    pace, wait = waits(pace, wants("batch", 100, ingestion=True), 0)
    assert wait == 10 + 1 + 6
    pace, _ = granted(pace, wants("ask"), 10)
    assert waits(pace, wants("batch", 100, ingestion=True), 10)[1] == pytest.approx(7)


def test_a_backlog_of_documents_gets_times_one_behind_the_other_and_a_line_of_limited_length() -> None:
    pace, times = emptied(), []
    for number in range(3 * PLACES):
        pace, wait = waits(pace, wants(f"{number:03}", 100, due=0, ingestion=True), 0)
        times.append(wait)
    assert len(pace.line) == PLACES
    assert len(set(times)) == len(times)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(6 + 3 * PLACES + 1, abs=1.5)
    # With a place it keeps that, and an ask does not wait behind any of them.
    pace, again = waits(pace, wants("000", 100, due=0, ingestion=True), 0)
    assert again == times[0]
    assert waits(pace, wants("ask", 100), 0)[1] == 1


def test_the_oldest_ingestion_is_first_whenever_it_comes_back() -> None:
    pace, _ = waits(emptied(), wants("first", 100, ingestion=True), 0)
    pace, _ = waits(pace, wants("second", 100, ingestion=True), 1)
    assert (
        waits(pace, wants("first", 100, ingestion=True), 2)[1] < waits(pace, wants("second", 100, ingestion=True), 2)[1]
    )


def test_the_place_of_one_that_does_not_come_back_lapses() -> None:
    pace, wait = waits(emptied(), wants("dead"), 0)
    pace, _ = waits(pace, wants("next", due=61), 0)
    pace, wait = waits(pace, wants("next", due=61), wait + GRACE - 0.5)
    assert wait > 0
    granted(pace, wants("next", due=61), 10 + GRACE)


def test_what_cannot_wait_so_long_takes_no_place() -> None:
    pace, wait = waits(emptied(), wants("hasty", patience=9), 0)
    assert wait == 10
    assert not pace.line
    # Also if it had one.
    pace, _ = waits(pace, wants("calm", due=1), 0)
    pace, _ = waits(pace, wants("hasty", patience=30), 0)
    pace, _ = waits(pace, wants("hasty", patience=5), 0)
    assert set(pace.line) == {"calm"}


def test_more_than_a_whole_quota_is_granted_when_it_is_full() -> None:
    pace, _ = granted(Pace(), wants("huge", 9_000), 0)
    pace, wait = waits(pace, wants("huger", 9_000), 0)
    assert wait == 90
    granted(pace, wants("huger", 9_000), 90)


def test_what_the_provider_says_lowers_and_raises_the_levels() -> None:
    pace, first = granted(Pace(), wants("first"), 0)
    pace, second = granted(pace, wants("second"), 1)
    # Others use the same quota.
    low = settle(pace, QUOTA, first, Said(remaining_tokens=500), None, 2)
    assert low.tokens == 700
    # It counts what was used and not what could have been: nothing else was granted since the second.
    high = settle(low, QUOTA, second, Said(QUOTA, remaining_tokens=5_000), None, 3)
    assert high.tokens == 5_000
    # Of the first one's reply, the second is not yet counted.
    again = settle(low, QUOTA, first, Said(QUOTA, remaining_tokens=5_000), None, 3)
    assert again.tokens == 4_000


def test_calls_that_have_arrived_since_are_not_in_what_remains() -> None:
    pace, first = granted(Pace(), wants("first", 100), 10)
    for second in (10.5, 12, 13.5):
        pace, _ = granted(pace, wants(f"at {second}", 100), second)
    # Until 12 s two were granted, and the second of them may still be on its way; it is refilled by 100 a second.
    pace = settle(pace, QUOTA, first, Said(remaining_tokens=500), None, 14)
    assert pace.tokens == 500 + 4 * 100 - 100


def test_requests_that_others_sent_are_not_sent_again() -> None:
    quota = Quota(requests=60)
    pace, call = granted(Pace(), wants("one"), 0, quota)
    assert settle(pace, quota, call, Said(remaining_requests=3), None, 2).requests == 5
    assert settle(pace, quota, call, Said(remaining_requests=50), None, 0).requests == 9
    assert settle(pace, quota, call, Said(), None, 0).requests == 9


def test_after_a_throttle_requests_begin_one_by_one() -> None:
    quota = Quota(requests=60)
    pace, call = granted(Pace(), wants("one"), 0, quota)
    pace, _ = throttled(pace, quota, call, 20, 0)
    pace, _ = granted(pace, wants("one"), 20, quota)
    assert waits(pace, wants("two"), 20, quota)[1] == 1


def test_a_configured_part_of_a_larger_quota_is_kept() -> None:
    pace, call = granted(emptied(), wants("one"), 20)
    before = pace.tokens
    pace = settle(pace, QUOTA, call, Said(Quota(tokens=100_000), remaining_tokens=90_000), None, 20)
    assert pace.tokens == before
    assert pace.limit.tokens == 100_000


def test_a_limit_that_is_not_configured_is_learned() -> None:
    pace, call = granted(Pace(), wants("one"), 0, Quota())
    pace = settle(pace, Quota(), call, Said(QUOTA, remaining_tokens=0), None, 0)
    assert waits(pace, wants("two"), 0, Quota())[1] == 13


def test_without_a_word_of_the_provider_unused_tokens_are_given_back() -> None:
    pace, call = granted(Pace(), wants("one"), 0)
    assert settle(pace, QUOTA, call, Said(), 300, 0).tokens == 5_700
    assert settle(pace, QUOTA, call, Said(), None, 0).tokens == 5_000


def test_room_is_what_may_begin_within_a_time() -> None:
    quota = Quota(6_000, 120)
    assert room(Pace(), Quota(), 10, 0) is None
    assert room(Pace(), Quota(requests=120), 10, 0) == 20 + 20
    pace, call = granted(emptied(quota), wants("one", 300), 3, quota)
    assert room(replace(pace, total_tokens=1_000, total_requests=2), quota, 10, 3) == 2
    assert room(throttled(pace, quota, call, 20, 3)[0], quota, 10, 3) == pytest.approx(300 / (6_300 / 2))


def test_after_a_throttle_the_refused_call_is_first_and_the_others_follow_one_by_one() -> None:
    pace, call = granted(Pace(), wants("one"), 0)
    pace, _ = throttled(pace, QUOTA, call, 20, 0)
    pace, wait = waits(pace, wants("one"), 0)
    assert wait == 20
    pace, wait = waits(pace, wants("two", due=61), 5)
    assert wait == 25
    assert throttled(pace, QUOTA, call, 2, 5) == (pace, 2)
    pace, _ = granted(pace, wants("one"), 20)
    assert waits(pace, wants("two", due=61), 20)[1] == 10


def test_after_a_throttle_of_an_unknown_quota_calls_do_not_begin_together() -> None:
    pace, call = granted(Pace(), wants("one"), 0, Quota())
    pace, _ = throttled(pace, Quota(), call, 20, 0)
    times = []
    for number in range(5):
        pace, wait = waits(pace, wants(str(number)), 0, Quota())
        times.append(round(wait, 3))
    assert times == [20, 20.1, 20.2, 20.3, 20.4]
    granted(pace, wants("0"), 20, Quota())


def test_a_throttle_without_a_time_doubles_the_pause_until_a_success() -> None:
    pace, now, pauses = Pace(), 0.0, list[float]()
    for number in range(8):
        pace, call = granted(pace, wants("one"), now, Quota())
        assert call.backoff == (pauses[-1] if pauses else 0)
        pace, pause = throttled(pace, Quota(), call, None, now)
        # Its like, refused at the same time, waits as long.
        pace, same = throttled(pace, Quota(), replace(call, at=call.at - 1 - number), None, now)
        assert (same, pace.at) == (pause, now + pause)
        pauses.append(pause)
        now += pause
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    # What the provider says holds, and changes nothing of it; neither does another failure, nor an older success.
    pace, call = granted(pace, wants("one"), now, Quota())
    assert throttled(pace, Quota(), call, 3, now)[1] == 3
    assert throttled(pace, Quota(), call, 0, now)[1] == 0
    assert settle(pace, Quota(), call, Said(), None, now, succeeded=False).backoff == 60
    assert settle(pace, Quota(), replace(call, at=0), Said(), None, now).backoff == 60
    pace = settle(pace, Quota(), call, Said(), None, now)
    assert pace.backoff == 0
    # One that was under way since before the success.
    assert throttled(pace, Quota(), replace(call, at=0), None, now)[1] == 1
    assert throttled(pace, Quota(), call, None, now)[1] == 1


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(1, 8_000), st.sampled_from("abc"), st.integers(0, 3), st.booleans()),
        max_size=40,
    ),
    st.integers(1, 90),
)
def test_no_minute_is_granted_more_than_a_burst_and_the_rate(
    asks: list[tuple[int, int, str, int, bool]], rpm: int
) -> None:
    """Whatever comes in whatever order; one ask may be larger than the quota, and then it waits for a full burst."""
    quota = Quota(tokens=6_000, requests=rpm)
    pace, now, calls = Pace(), 0.0, list[tuple[float, float]]()
    for pause, tokens, tenant, who, ingestion in asks:
        now += pause
        pace, result = ask(pace, quota, wants(f"{who}", tokens, tenant, ingestion=ingestion), now)
        if isinstance(result, Granted):
            calls.append((now, min(tokens, quota.tokens)))
        else:
            assert result > 0
    for first, (began, _) in enumerate(calls):
        for last in range(first, len(calls)):
            within = calls[last][0] - began
            used = sum(tokens for _, tokens in calls[first : last + 1])
            assert used <= quota.tokens * (1 + within / MINUTE) + 1e-6
            assert last - first + 1 <= quota.requests_burst + quota.requests * within / MINUTE + 1e-6


@pytest.mark.parametrize("back", [-5.0, 0.0])
def test_a_clock_that_steps_back_adds_nothing(back: float) -> None:
    pace = emptied(now=100)
    assert waits(pace, wants("one"), 100 + back)[1] == 10 - back


def test_a_place_is_kept_by_one_that_only_asks_and_does_not_outlive_its_time() -> None:
    pace, wait = waits(emptied(), wants("one"), 0)
    place = pace.line["one"]
    pace, _ = waits(pace, wants("one", patience=0), wait - 1)
    assert pace.line["one"] == place
    pace, _ = waits(replace(pace, tokens=0.0, at=wait + GRACE), wants("one", patience=0), wait + GRACE)
    assert pace.line == {}
    pace, _ = waits(pace, wants("two", patience=0), wait + GRACE)
    assert pace.line == {}
