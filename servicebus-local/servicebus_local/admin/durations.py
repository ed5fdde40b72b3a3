"""Durations and moments as XML writes them, in ticks of 100 ns as .NET counts.

`PT1M`, `P1DT2H3M4.5S`; .NET's longest duration, `P10675199DT2H48M5.4775807S`, means without end. A
year has 365 days and a month 30, as in .NET's reading of a duration.
"""

import re
from datetime import UTC, datetime, timedelta
from math import inf, isinf
from typing import Final

_TICKS: Final = 10_000_000  # in a second
_LONGEST: Final = 2**63 - 1  # ticks
FOREVER: Final = 10_675_199 * 86_400
"""Seconds from which a duration is taken for endless: SDKs round the last fraction of the longest one."""

_DURATION: Final = re.compile(
    r"(?P<sign>-?)P(?=.)(?:(?P<Y>\d{1,10})Y)?(?:(?P<M>\d{1,10})M)?(?:(?P<W>\d{1,10})W)?(?:(?P<D>\d{1,10})D)?"
    r"(?:T(?=.)(?:(?P<h>\d{1,15})H)?(?:(?P<m>\d{1,15})M)?(?:(?P<s>\d{1,15})(?:[.,](?P<fraction>\d{1,30}))?S)?)?",
    re.ASCII,
)
_SECONDS: Final = {"Y": 365 * 86_400, "M": 30 * 86_400, "W": 7 * 86_400, "D": 86_400, "h": 3600, "m": 60, "s": 1}


def read_ticks(text: str) -> int:
    """Read a duration exactly; raises `ValueError` for what is none, or longer than the longest."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text[:60]}' is not an ISO 8601 duration such as PT1M")
    ticks = sum(int(match[unit] or 0) * seconds * _TICKS for unit, seconds in _SECONDS.items())
    ticks += int(((match["fraction"] or "") + "0000000")[:7])
    if ticks > _LONGEST:
        raise ValueError(f"the duration {text[:60]} is longer than the longest, P10675199DT2H48M5.4775807S")
    return -ticks if match["sign"] else ticks


def read_seconds(text: str) -> float:
    """Read a duration in seconds; the longest one is `inf`."""
    seconds = read_ticks(text) / _TICKS
    return inf if seconds >= FOREVER else seconds


def write_seconds(seconds: float) -> str:
    """Write a duration as .NET does: days at most, no zeros; `inf` is the longest one."""
    return write_ticks(_LONGEST if isinf(seconds) else round(seconds * _TICKS))


def write_ticks(ticks: int) -> str:
    """Write a duration, given in ticks."""
    sign, ticks = ("-", -ticks) if ticks < 0 else ("", ticks)
    minutes, rest = divmod(ticks, 60 * _TICKS)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    seconds = f"{rest // _TICKS}.{rest % _TICKS:07}".rstrip("0").rstrip(".")
    parts = ((f"{hours}", "H"), (f"{minutes}", "M"), (seconds, "S"))
    time = "".join(number + unit for number, unit in parts if number != "0")
    written = (f"{days}D" if days else "") + (f"T{time}" if time else "")
    return f"{sign}P{written or 'T0S'}"


def read_timedelta(text: str) -> timedelta:
    """Read a duration to the microsecond."""
    return timedelta(microseconds=read_ticks(text) // 10)


def write_timedelta(duration: timedelta) -> str:
    """Write a duration."""
    return write_ticks(duration // timedelta(microseconds=1) * 10)


def write_moment(seconds: float) -> str:
    """Write a moment, given in seconds since the Unix epoch, in UTC and to the microsecond."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def write_second(seconds: float) -> str:
    """Write a moment to the second, as ATOM's own elements have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_moment(text: str) -> datetime:
    """Read a moment to the microsecond, with its zone if it has one; raises `ValueError`."""
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text[:60]}' is not a moment such as 2026-11-22T12:00:00Z")
    fraction = ((match["fraction"] or "") + "000000")[:6]
    return datetime.fromisoformat(f"{match['whole']}.{fraction}{match['zone'] or ''}")


_MOMENT: Final = re.compile(
    r"(?P<whole>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?(?P<zone>Z|[+-]\d\d:\d\d)?", re.ASCII
)
