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
    """Our clock against that of the broker, else of Qdrant or the gateway; no finding if none answers."""
    for url in (at.admin_url if at.is_emulator else f"https://{at.host}", at.qdrant_url, at.gateway):
        try:
            date = get(url, {}).headers.get("date")
        except OSError:
            continue
        if date:
            yield skew(date, datetime.now(UTC), urlsplit(url).netloc)
            return


def skew(date: str, now: datetime, who: str) -> Finding:
    """How far the clocks differ; an HTTP date has whole seconds."""
    apart = abs((now - parsedate_to_datetime(date)).total_seconds())
    if apart > SKEW.total_seconds():
        return Finding(
            Level.FAIL,
            "clock",
            f"differs from that of {who} by {apart:.0f} s",
            "synchronise this machine's clock (NTP)",
        )
    return Finding(Level.OK, "clock", f"within {max(1, round(apart))} s of that of {who}")
