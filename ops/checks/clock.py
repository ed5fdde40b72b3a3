"""Whether our clock and the broker's agree."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ops.checks.http import get
from ops.findings import Finding, Level
from ops.target import Target
from shared.contracts.queues import SKEW


def clock(at: Target) -> Iterator[Finding]:
    """Our clock against the broker's, or that of whatever else tells the time; where nothing answers, nothing."""
    for url in (at.admin_url if at.is_emulator else f"https://{at.host}", at.qdrant_url, at.gateway):
        try:
            told = get(url, {}).headers.get("date")
        except OSError:
            continue
        if told:
            yield skew(told, datetime.now(UTC), urlsplit(url).netloc)
            return


def skew(told: str, now: datetime, who: str) -> Finding:
    """How far apart the clocks are; an HTTP date is cut to seconds."""
    apart = abs((now - parsedate_to_datetime(told)).total_seconds())
    if apart > SKEW.total_seconds():
        return Finding(
            Level.FAIL, "clock", f"{apart:.0f} s apart from {who}'s", "synchronise this machine's clock (NTP)"
        )
    return Finding(Level.OK, "clock", f"within {max(1, round(apart))} s of {who}'s")
