"""The rules of budgets; that Redis keeps to them is tested in `tests/conformance/test_machine_budget.py`."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.budget.rules import AT_ONCE, SOON, Accounts, Amount, Hold, Quota, mean, month_of, until_next
from shared.settings.budget import TENANT, Limit, Unit, Window

ALL = (TENANT, "use_case:u", "caller:c")
MINUTE = Limit(TENANT, Unit.TOKENS, Window.MINUTE, 600)
DAY = Limit(TENANT, Unit.TOKENS, Window.DAY, 1_000)
MONTH = Limit(TENANT, Unit.TOKENS, Window.MONTH, 5_000)
USD = Limit("caller:c", Unit.USD, Window.DAY, 90)


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp() * 1_000)


NOON = at(2026, 3, 2, 12)
LATE = NOON + 10**9


def hold(tokens: int = 0, usd: int = 0, ends: int = LATE) -> Hold:
    return Hold(Amount(tokens, usd), ALL, ends)


def spend(accounts: Accounts, tokens: int, limit: Limit, now: int = NOON, usd: int = 0) -> None:
    accounts.settle("unknown", Amount(tokens, usd), ALL, [limit], now)


# -- a minute


def test_all_of_a_minute_can_be_reserved_and_no_more() -> None:
    accounts = Accounts()
    assert accounts.reserve("r1", hold(600), [MINUTE], NOON) == 0
    assert accounts.reserve("r2", hold(1), [MINUTE], NOON) == 100  # 600 a minute are ten a second
    assert accounts.reserve("r2", hold(1), [MINUTE], NOON + 99) == 1
    assert accounts.reserve("r2", hold(1), [MINUTE], NOON + 100) == 0


def test_a_minute_refills_evenly_and_never_above_its_limit() -> None:
    accounts = Accounts()
    spend(accounts, 600, MINUTE)
    assert [quota.left for quota in accounts.quotas([MINUTE], NOON)] == [0]
    assert accounts.reserve("r1", hold(300), [MINUTE], NOON + 29_999) == 1
    assert accounts.reserve("r1", hold(300), [MINUTE], NOON + 30_000) == 0
    assert accounts.reserve("r2", hold(600), [MINUTE], NOON + 600_000) == 0
    assert accounts.reserve("r3", hold(1), [MINUTE], NOON + 600_000) == 100


def test_a_clock_that_steps_back_refills_nothing_and_begins_no_day() -> None:
    accounts = Accounts()
    spend(accounts, 600, MINUTE)
    assert accounts.reserve("r1", hold(10), [MINUTE], NOON - 60_000) == 1_000
    spend(accounts, 1_000, DAY)
    assert accounts.reserve("r2", hold(10), [DAY], NOON - 13 * 3_600_000)


def test_what_was_used_beyond_a_minute_is_waited_for() -> None:
    accounts = Accounts()
    spend(accounts, 900, MINUTE)
    assert accounts.reserve("r1", hold(100), [MINUTE], NOON) == 40_000


# -- days and months


@pytest.mark.parametrize(
    ("limit", "now", "wait"),
    [
        (DAY, at(2026, 3, 2, 12), 12 * 3_600_000),
        (DAY, at(2026, 12, 31, 23, 59, 59), 1_000),
        (MONTH, at(2026, 12, 31, 23, 59, 59), 1_000),
        (MONTH, at(2028, 2, 28, 0, 0, 0), 2 * 86_400_000),  # a leap year
        (MONTH, at(2026, 2, 28, 0, 0, 0), 86_400_000),
        (MONTH, at(2026, 3, 1, 0, 0, 0), 31 * 86_400_000),
    ],
)
def test_a_spent_day_or_month_is_waited_for_to_its_end_in_utc(limit: Limit, now: int, wait: int) -> None:
    accounts = Accounts()
    spend(accounts, limit.most, limit, now)
    assert accounts.reserve("r1", hold(1), [limit], now) == wait
    assert accounts.reserve("r1", hold(1), [limit], now + wait - 1) == 1
    assert accounts.reserve("r1", hold(limit.most), [limit], now + wait) == 0


def test_what_others_have_reserved_is_asked_for_again_soon() -> None:
    accounts = Accounts()
    assert accounts.reserve("r1", hold(900), [DAY], NOON) == 0
    assert accounts.reserve("r2", hold(200), [DAY], NOON) == SOON
    midnight = at(2026, 3, 3)
    assert accounts.reserve("r2", hold(200), [DAY], midnight - 5) == 5


def test_what_is_held_over_midnight_counts_in_the_day_in_which_it_is_spent() -> None:
    accounts = Accounts()
    before, after = at(2026, 3, 2, 23, 59, 59), at(2026, 3, 3, 0, 0, 3)
    assert accounts.reserve("c1", hold(700), [DAY], before) == 0
    assert accounts.reserve("r2", hold(400), [DAY], after) == SOON
    accounts.settle("c1", Amount(650), ALL, [DAY], after)
    account = accounts.accounts[Unit.TOKENS, TENANT]
    assert (account.day_spent, account.held, account.month_spent) == (650, 0, 650)


@pytest.mark.parametrize("limit", [MINUTE, DAY, MONTH])
def test_what_is_above_a_limit_never_fits(limit: Limit) -> None:
    accounts = Accounts()
    assert accounts.reserve("r1", hold(limit.most + 1), [limit], NOON) is None
    assert accounts.reserve("r1", hold(limit.most), [limit], NOON) == 0


def test_a_tenant_without_a_budget_reserves_nothing_but_nothing() -> None:
    accounts, none = Accounts(), [Limit(TENANT, Unit.TOKENS, Window.MINUTE, 0)]
    assert accounts.reserve("r1", hold(1), none, NOON) is None
    assert accounts.reserve("r1", hold(0), none, NOON) == 0
    assert accounts.quotas(none, NOON) == [Quota(none[0], 0, 0)]


def test_the_longest_wait_of_all_limits_counts() -> None:
    accounts = Accounts()
    spend(accounts, 600, MINUTE, usd=90)
    assert accounts.reserve("r1", hold(100, 1), [MINUTE, USD], NOON) == 12 * 3_600_000
    assert accounts.reserve("r1", hold(100, 0), [MINUTE, USD], NOON) == 10_000


# -- reservations


def test_a_reservation_counts_once() -> None:
    accounts = Accounts()
    for _ in range(3):
        assert accounts.reserve("r1", hold(900), [DAY], NOON) == 0
    assert accounts.release("r1") == hold(900)
    assert accounts.release("r1") is None
    assert accounts.reserve("r2", hold(1_000), [DAY], NOON) == 0


def test_a_call_takes_the_place_of_the_estimate() -> None:
    accounts = Accounts()
    assert accounts.reserve("r1", hold(400), [DAY], NOON) == 0
    assert accounts.reserve("c1", hold(1_000), [DAY], NOON, instead="r1") == 0
    assert set(accounts.holds) == {"c1"}


def test_a_call_that_does_not_fit_leaves_nothing_held() -> None:
    accounts = Accounts()
    assert accounts.reserve("r1", hold(400), [DAY], NOON) == 0
    assert accounts.reserve("r2", hold(400), [DAY], NOON) == 0
    assert accounts.reserve("c1", hold(700), [DAY], NOON, instead="r1") == SOON
    assert set(accounts.holds) == {"r2"}
    assert accounts.reserve("c2", hold(1_001), [DAY], NOON, instead="r2") is None
    assert accounts.holds == {}


@pytest.mark.parametrize(("call", "rest"), [(100, 300), (400, None), (500, None)])
def test_of_an_estimate_that_is_kept_only_what_the_call_needs_is_replaced(call: int, rest: int | None) -> None:
    accounts = Accounts()
    assert accounts.reserve("r1", hold(400, 4), [DAY], NOON) == 0
    assert accounts.reserve("c1", hold(call, 4), [DAY], NOON, instead="r1", keep=True) == 0
    assert accounts.holds.get("r1") == (hold(rest) if rest is not None else None)
    assert accounts.accounts[Unit.TOKENS, TENANT].held == max(call, 400)


def test_reservations_whose_time_is_over_are_given_back() -> None:
    accounts = Accounts()
    for number in range(AT_ONCE + 1):
        assert accounts.reserve(f"r{number}", hold(9, ends=NOON + number), [DAY], NOON - 1) == 0
    assert accounts.reserve("late", hold(1_000), [DAY], NOON + AT_ONCE) == SOON  # so many at a time
    assert accounts.reserve("late", hold(1_000), [DAY], NOON + AT_ONCE) == 0


# -- settling


@pytest.mark.parametrize(("used", "spent", "overrun"), [(0, 0, 0), (300, 300, 0), (400, 400, 0), (470, 400, 70)])
def test_spending_is_at_most_what_was_reserved_and_the_rest_an_overrun(used: int, spent: int, overrun: int) -> None:
    accounts = Accounts()
    assert accounts.reserve("c1", hold(400), [DAY, MINUTE], NOON) == 0
    accounts.settle("c1", Amount(used), ALL, [DAY, MINUTE], NOON)
    account = accounts.accounts[Unit.TOKENS, TENANT]
    assert (account.held, account.day_spent, account.day_overrun) == (0, spent, overrun)
    assert (account.month_spent, account.month_overrun) == (spent, overrun)
    # An overrun leaves less for others, too.
    left = {quota.limit.window: quota.left for quota in accounts.quotas([DAY, MINUTE], NOON)}
    assert left == {Window.DAY: 1_000 - used, Window.MINUTE: 600 - used}


def test_without_a_reservation_what_fits_is_spent_and_the_rest_an_overrun() -> None:
    accounts = Accounts()
    spend(accounts, 950, DAY)
    assert accounts.reserve("r1", hold(30), [DAY], NOON) == 0
    spend(accounts, 50, DAY)
    account = accounts.accounts[Unit.TOKENS, TENANT]
    assert (account.day_spent, account.day_overrun) == (970, 30)


def test_tokens_and_money_are_counted_in_every_scope() -> None:
    accounts = Accounts()
    accounts.settle("c1", Amount(100, 7), ALL, [], NOON)
    found = {key: account.day_spent for key, account in accounts.accounts.items()}
    assert found == {(unit, scope): 100 if unit is Unit.TOKENS else 7 for unit in Unit for scope in ALL}


def test_what_is_left_and_when_it_is_whole_again() -> None:
    accounts = Accounts()
    spend(accounts, 90, MINUTE)
    assert accounts.quotas([MINUTE, DAY], NOON) == [Quota(MINUTE, 510, 9), Quota(DAY, 910, 12 * 3_600)]


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 30_000), st.integers(0, 700), st.integers(0, 900), st.booleans()), max_size=30
    )
)
def test_nothing_that_was_reserved_and_then_spent_exceeds_a_limit(steps: list[tuple[int, int, int, bool]]) -> None:
    accounts, now, spent, limits = Accounts(), NOON, 0, [MINUTE, DAY, USD]
    for number, (pause, tokens, actual, dies) in enumerate(steps):
        now += pause
        name = f"c{number}"
        if accounts.reserve(name, hold(tokens, tokens // 10, ends=now + 20_000), limits, now) == 0 and not dies:
            used = min(actual, tokens)
            accounts.settle(name, Amount(used, used // 10), ALL, limits, now)
            spent += used
        tenant, caller = accounts.accounts[Unit.TOKENS, TENANT], accounts.accounts[Unit.USD, "caller:c"]
        assert tenant.day_spent + tenant.held <= 1_000
        assert caller.day_spent + caller.held <= 90
        assert spent <= 600 + (now - NOON) * 600 / 60_000
        assert (tenant.day_overrun, caller.day_overrun) == (0, 0)


# -- the calendar


@given(st.integers(0, 4_000 * 366))
def test_a_month_ends_when_the_next_begins(days: int) -> None:
    now = min(days * 86_400_000 + 1, at(9999, 11, 30))
    ends = now + until_next(Window.MONTH, now)
    assert month_of(ends) == month_of(ends - 1) + 1 == month_of(now) + 1
    assert until_next(Window.DAY, now) == 86_400_000 - now % 86_400_000


@pytest.mark.parametrize(("before", "latest", "after"), [(None, 80, 80), (80, 160, 90), (80, 0, 70), (5, 4, 4)])
def test_a_running_mean_moves_an_eighth_of_the_way(before: int | None, latest: int, after: int) -> None:
    assert mean(before, latest) == after
