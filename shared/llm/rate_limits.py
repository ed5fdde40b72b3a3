"""What providers say about their quotas in the headers of a reply (OpenAI API, "Rate limits": `x-ratelimit-*`).

A reply's headers are seen by the HTTP client only, below the SDK; `seen` hands them to whoever made the call.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# As OpenAI writes a span of time: 120ms, 1.5s, 6m0s, 1h2m3s.
_SPAN = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")
# Seconds; daily quotas are the longest that providers have.
DAY = 86_400.0


@dataclass(slots=True)
class RateLimits:
    """The quotas of a deployment as its last reply in a `seen` block gave them; None: not said."""

    limit_tokens: float | None = None
    limit_requests: float | None = None
    remaining_tokens: float | None = None
    remaining_requests: float | None = None
    back_after: float | None = None
    """Seconds until what is used up is full again; None: nothing is used up."""

    def read(self, headers: Mapping[str, str]) -> None:
        """Take over what `headers` say."""
        for kind in ("tokens", "requests"):
            setattr(self, f"limit_{kind}", _number(headers.get(f"x-ratelimit-limit-{kind}")) or None)
            remaining = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
            setattr(self, f"remaining_{kind}", remaining)
            if remaining == 0 and (span := _span(headers.get(f"x-ratelimit-reset-{kind}"))) is not None:
                self.back_after = max(self.back_after or 0.0, span)


_SEEN: ContextVar[RateLimits | None] = ContextVar("rate limits", default=None)


@contextmanager
def seen() -> Iterator[RateLimits]:
    """Within the block, also in tasks begun there, the headers of replies are read into the result."""
    limits = RateLimits()
    token = _SEEN.set(limits)
    try:
        yield limits
    finally:
        _SEEN.reset(token)


def read(headers: Mapping[str, str]) -> None:
    """Called by the HTTP client with the headers of every reply."""
    limits = _SEEN.get()
    if limits is not None:
        limits.read(headers)


def _number(written: str | None) -> float | None:
    try:
        number = float(written or "")
    except ValueError:
        return None
    # OpenRouter and others say -1 for no limit.
    return number if 0 <= number < float("inf") else None


def _span(written: str | None) -> float | None:
    """Seconds; None if it is no span of time, or longer than a day: then it is a date as a number."""
    seconds = _seconds(written)
    return seconds if seconds is not None and seconds <= DAY else None


def _seconds(written: str | None) -> float | None:
    if (plain := _number(written)) is not None:
        return plain
    found = _SPAN.fullmatch(written.strip()) if written else None
    if found is None or not any(found.groups()):
        return None
    try:
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
