"""Durations and moments, as .NET and the SDKs write them."""

from datetime import UTC, datetime, timedelta
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isodate import duration_isoformat, parse_duration  # type: ignore[import-untyped]

from servicebus_local.admin.durations import (
    read_moment,
    read_seconds,
    read_ticks,
    read_timedelta,
    write_moment,
    write_seconds,
    write_ticks,
    write_timedelta,
)

LONGEST = "P10675199DT2H48M5.4775807S"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT0S", 0),
        ("PT0.5S", 0.5),
        ("PT30S", 30),
        ("PT1M", 60),
        ("PT1M30S", 90),
        ("PT1H", 3600),
        ("P1D", 86_400),
        ("P14D", 1_209_600),
        ("P1DT2H3M4.5S", 93_784.5),
        ("PT0.0000001S", 1e-7),
        (LONGEST, inf),
    ],
)
def test_durations_are_read_and_written_in_one_way(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds
    assert write_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT60S", 60),
        ("PT90M", 5400),
        (" P1W ", 604_800),
        ("P1Y", 31_536_000),
        ("P1M", 2_592_000),
        ("PT1,5S", 1.5),
        ("PT1.500000S", 1.5),
        ("-PT1S", -1),
        ("P10675199DT2H48M5.477539S", inf),  # what the Python SDK makes of the longest one
    ],
)
def test_other_ways_to_write_a_duration_are_read(text: str, seconds: float) -> None:
    assert read_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "P",
        "PT",
        "1M",
        "PT1",
        "PT1.5M",
        "P1DT",
        "T1S",
        "00:01:00",
        "PT١S",
        "P10675199DT2H48M5.477581S",
        "P1" + "0" * 9999 + "D",
    ],
)
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        read_seconds(text)


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_every_duration_is_read_back_to_the_tick(ticks: int) -> None:
    assert read_ticks(write_ticks(ticks)) == ticks


@given(st.timedeltas(timedelta(0), timedelta(days=10_675_198)))
def test_the_sdk_and_this_broker_read_each_other(duration: timedelta) -> None:
    assert read_timedelta(duration_isoformat(duration)) == duration
    assert parse_duration(write_timedelta(duration)) == duration


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2020-07-05T11:12:13", datetime(2020, 7, 5, 11, 12, 13)),  # noqa: DTZ001 - the SDK sends it so
        ("2020-07-05T11:12:13.1234567Z", datetime(2020, 7, 5, 11, 12, 13, 123456, UTC)),
        (
            "2020-07-05T11:12:13.5+02:00",
            datetime(2020, 7, 5, 11, 12, 13, 500000, datetime.fromisoformat("2020-01-01T00:00+02:00").tzinfo),
        ),
    ],
)
def test_moments_are_read_with_and_without_a_zone(text: str, moment: datetime) -> None:
    assert read_moment(text) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2020-07-05", "2020-13-05T00:00:00Z", "2020-07-05T11:12"])
def test_an_invalid_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - from here or from the calendar
        read_moment(text)


def test_moments_are_written_in_utc() -> None:
    assert write_moment(1_800_000_000.25) == "2027-01-15T08:00:00.250000Z"
