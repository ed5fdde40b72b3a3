"""Requests and tokens per minute, as two token buckets. Pure: the clock is an argument, in seconds.

A bucket holds one minute's worth when full and refills evenly. A request is admitted when both buckets can pay for it,
and then pays both; otherwise the result says when it could. "Unsuccessful requests contribute to your per-minute limit"
(OpenAI's guide to rate limits), so a refused one still costs a request, where `count_refused` says so.
"""

from dataclasses import dataclass, replace

MINUTE = 60.0


@dataclass(frozen=True)
class Bucket:
    """`level` of `per_minute` as of `at`."""

    per_minute: int
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: int, now: float) -> "Bucket":
        """A full bucket."""
        return cls(per_minute, float(per_minute), now)

    def refilled(self, now: float) -> "Bucket":
        """The same bucket later; a clock that steps back refills nothing."""
        passed = max(0.0, now - self.at)
        level = min(float(self.per_minute), self.level + passed * self.per_minute / MINUTE)
        return replace(self, level=level, at=max(now, self.at))

    def wait_for(self, amount: float) -> float:
        """Seconds until `amount` is there; a whole minute when it never will be."""
        if amount > self.per_minute:
            return MINUTE
        return max(0.0, (amount - self.level) * MINUTE / self.per_minute)

    def without(self, amount: float) -> "Bucket":
        """The bucket after paying."""
        return replace(self, level=max(0.0, self.level - amount))


@dataclass(frozen=True)
class Limits:
    """What is left of a deployment's minute; None means unlimited."""

    requests: Bucket | None = None
    tokens: Bucket | None = None

    @classmethod
    def of(cls, rpm: int | None, tpm: int | None, now: float) -> "Limits":
        """Full buckets for these quotas."""
        return cls(
            Bucket.full(rpm, now) if rpm is not None else None,
            Bucket.full(tpm, now) if tpm is not None else None,
        )


@dataclass(frozen=True)
class Refused:
    """The quota that is exceeded, and the seconds to wait."""

    quota: str
    limit: int
    requested: int
    wait: float


def admit(limits: Limits, tokens: int, now: float, *, count_refused: bool = False) -> tuple[Limits, Refused | None]:
    """The limits after one request of `tokens`; if it is refused, with the quota that forbids it longest."""
    current = Limits(
        limits.requests.refilled(now) if limits.requests else None,
        limits.tokens.refilled(now) if limits.tokens else None,
    )
    refusals = [
        Refused(quota, bucket.per_minute, amount, bucket.wait_for(amount))
        for quota, bucket, amount in (("requests", current.requests, 1), ("tokens", current.tokens, tokens))
        if bucket and bucket.level < amount
    ]
    if refusals:
        if count_refused and current.requests:
            current = replace(current, requests=current.requests.without(1))
        return current, max(refusals, key=lambda refusal: refusal.wait)
    paid = Limits(
        current.requests.without(1) if current.requests else None,
        current.tokens.without(tokens) if current.tokens else None,
    )
    return paid, None


def headers(limits: Limits) -> dict[str, str]:
    """The `x-ratelimit-*` headers, as OpenAI sends them; none for a quota that is not limited."""
    found: dict[str, str] = {}
    for quota, bucket in (("requests", limits.requests), ("tokens", limits.tokens)):
        if bucket:
            found[f"x-ratelimit-limit-{quota}"] = str(bucket.per_minute)
            found[f"x-ratelimit-remaining-{quota}"] = str(max(0, int(bucket.level)))
            found[f"x-ratelimit-reset-{quota}"] = duration(bucket.wait_for(bucket.per_minute))
    return found


def duration(seconds: float) -> str:
    """`120ms`, `1.5s`, `1m0s`: how OpenAI writes a span of time."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    minutes, rest = divmod(round(seconds, 3), MINUTE)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
