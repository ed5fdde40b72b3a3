"""A token bucket. Pure; Redis runs the same rule as a script (`tenant.py`)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bucket:
    """`level` tokens at second `at`, refilled evenly up to `per_minute`."""

    per_minute: float
    level: float
    at: float

    def refilled(self, now: float) -> "Bucket":
        """The bucket at `now`; a clock that steps back adds nothing."""
        gained = max(0.0, now - self.at) * self.per_minute / 60
        return Bucket(self.per_minute, min(self.per_minute, self.level + gained), max(self.at, now))

    def reserve(self, tokens: int, now: float) -> "tuple[Bucket, float | None]":
        """The bucket after taking `tokens`, and None; or the unchanged bucket, and the seconds until it has enough."""
        bucket = self.refilled(now)
        if tokens <= bucket.level:
            return Bucket(bucket.per_minute, bucket.level - tokens, bucket.at), None
        return bucket, (tokens - bucket.level) * 60 / bucket.per_minute

    def correct(self, reserved: int, spent: int) -> "Bucket":
        """Return unspent tokens, or take tokens that were spent beyond the reservation; never above full."""
        return Bucket(self.per_minute, min(self.per_minute, self.level + reserved - spent), self.at)
