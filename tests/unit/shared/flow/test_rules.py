"""How many requests are admitted, at the edges of the rules."""

import pytest

from shared.flow.rules import MOST, SLOTS_UNKNOWN, SPARE, admits, limit

LIMIT = 24
ALL_OUT = LIMIT * MOST


@pytest.mark.parametrize(("slots", "at_once"), [(1, 2), (4, 5), (5, 7), (16, 20)])
def test_the_limit_is_a_quarter_more_than_the_slots_and_a_few(slots: int, at_once: int) -> None:
    assert limit(slots) == at_once + SPARE


def test_without_a_generator_there_is_a_limit_all_the_same() -> None:
    assert limit(0) == limit(SLOTS_UNKNOWN)


@pytest.mark.parametrize(
    ("slots", "quota", "at_once"), [(16, 4, 5), (16, 100, 20), (0, 4, 5), (16, 0, 0), (16, 0.5, 1)]
)
def test_a_quota_below_the_slots_is_the_limit(slots: int, quota: float, at_once: int) -> None:
    assert limit(slots, quota) == at_once + SPARE


@pytest.mark.parametrize(
    ("total", "held", "tenants", "admitted"),
    [
        (0, 0, 0, True),
        (LIMIT - 1, LIMIT - 1, 1, True),
        (LIMIT - 1, LIMIT - 1, 5, True),
        (LIMIT, LIMIT, 1, False),
        (LIMIT, 0, 1, False),
        (LIMIT, 0, 0, False),
        (LIMIT, LIMIT // 2 - 1, 2, True),
        (LIMIT, LIMIT // 2, 2, False),
        (LIMIT, LIMIT // 3, 3, False),
        (ALL_OUT - 1, 0, 2, True),
        (ALL_OUT, 0, 2, False),
        (ALL_OUT + 1, 0, 9, False),
    ],
    ids=[
        "no other tenant",
        "room for one",
        "room, also above its share",
        "no room",
        "alone, there is no share to be below",
        "no share",
        "below its share",
        "at its share",
        "at a smaller share",
        "below twice the limit",
        "at twice the limit",
        "beyond twice the limit",
    ],
)
def test_a_tenant_below_its_share_is_admitted_beyond_the_limit(
    total: int, held: int, tenants: int, admitted: bool
) -> None:
    assert admits(LIMIT, total, held, tenants) is admitted
