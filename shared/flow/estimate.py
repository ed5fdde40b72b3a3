"""How long something usually takes, from what it took before. Pure: numbers in, numbers out; all are seconds.

Mean and mean deviation, each moved a little by every observation, as TCP estimates its round trips (RFC 6298). Two
things differ. What was cut off took longer than nobody knows, so the mean is doubled, as TCP doubles its time-out.
And when what would be begun is refused because it usually takes too long, nothing is observed any more; so from time
to time one is begun all the same, as a probe, and if it is quick the estimate starts again from there.
"""

from dataclasses import dataclass, replace

# The weights of RFC 6298, 2.3: an eighth and a quarter of each new observation.
MEAN_WEIGHT, DEVIATION_WEIGHT = 1 / 8, 1 / 4
# An estimate without news halves in this time; each probe begins a new one.
HALF_LIFE = 10.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known; `mean` 0: nothing."""

    mean: float = 0.0
    deviation: float = 0.0
    at: float = 0.0
    """When it was last observed, or probed."""

    @property
    def usual(self) -> float:
        """Most take no longer than this."""
        return self.mean + self.deviation

    def after(self, took: float, now: float, *, probe: bool = False) -> "Estimate":
        """The estimate once something took so long from beginning to end."""
        if not self.mean or (probe and took < self.mean):
            return Estimate(took, took / 2, now)
        deviation = self.deviation + DEVIATION_WEIGHT * (abs(took - self.mean) - self.deviation)
        return Estimate(self.mean + MEAN_WEIGHT * (took - self.mean), deviation, now)

    def after_cut_off(self, lasted: float, now: float) -> "Estimate":
        """The estimate once something was not over after `lasted`: it takes longer, but not by how much."""
        if not self.mean:
            return Estimate(lasted, lasted / 2, now)
        return Estimate(max(self.mean, min(2 * self.mean, 1.5 * lasted)), self.deviation, now)

    def begun(self, left: float, now: float) -> "tuple[Estimate, bool] | None":
        """The estimate once something with so much time left is begun, and whether as a probe; None: it is not."""
        if left >= self.usual:
            return self, False
        if left >= self.usual * 0.5 ** (max(0.0, now - self.at) / HALF_LIFE):
            return replace(self, at=now), True
        return None
