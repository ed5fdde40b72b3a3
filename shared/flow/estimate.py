"""Estimates how long something takes from earlier durations. Pure; all numbers are seconds.

Estimate   mean and mean deviation, each moved a little by every observation, as TCP estimates its round trips
           (RFC 6298); few numbers, so that it can be kept in Redis. A call that was cut off up to doubles the mean, as
           TCP doubles its time-out: it would have taken longer, by an unknown time.
Recent     three of four of the last observations took no longer. One call that took ten times as long says little,
           and is forgotten soon; for that a few observations have to be kept.
"""

from dataclasses import dataclass, field, replace

# The weights of RFC 6298, 2.3: an eighth and a quarter of each new observation.
MEAN_WEIGHT, DEVIATION_WEIGHT = 1 / 8, 1 / 4
# Without news an estimate halves in this time; each probe begins a new one.
HALF_LIFE = 10.0
# How many observations are kept, and for how many seconds they count; the last one always counts.
KEPT, YOUNG = 16, 30.0
# A call that was cut off counts as this many times its duration.
LONGER = 1.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate; `mean` 0: unknown."""

    mean: float = 0.0
    deviation: float = 0.0
    at: float = 0.0
    """When it was last observed."""

    @property
    def usual(self) -> float:
        """Mean plus mean deviation: most take no longer."""
        return self.mean + self.deviation

    def after(self, took: float, now: float) -> "Estimate":
        """The estimate after something took `took` from beginning to end."""
        if not self.mean:
            return Estimate(took, took / 2, now)
        deviation = self.deviation + DEVIATION_WEIGHT * (abs(took - self.mean) - self.deviation)
        return Estimate(self.mean + MEAN_WEIGHT * (took - self.mean), deviation, now)

    def after_cut_off(self, lasted: float, now: float) -> "Estimate":
        """The estimate after something was cut off at `lasted`."""
        if not self.mean:
            return Estimate(lasted, lasted / 2, now)
        return Estimate(max(self.mean, min(2 * self.mean, LONGER * lasted)), self.deviation, now)


@dataclass(frozen=True, slots=True)
class Recent:
    """The last observations."""

    took: tuple[tuple[float, float], ...] = field(default=())
    """Each with the moment when it was observed, the oldest first."""
    probed: float = 0.0
    """When the last probe (a call that was begun although it usually takes too long) was begun, or ended."""
    waits: float | None = None
    """The time of the last news when the first since the last probe was refused: the next probe counts from it."""

    def usual(self, now: float) -> float:
        """The third quartile of the recent observations; 0: there is none."""
        if not self.took:
            return 0.0
        young = sorted(took for took, at in self.took if now - at <= YOUNG) or [self.took[-1][0]]
        return young[-(-3 * len(young) // 4) - 1]

    def after(self, took: float, now: float, *, probe: bool = False) -> "Recent":
        """The state after an observation; a fast probe ends a slow period."""
        before = () if probe and took < self.usual(now) else self.took
        known = replace(self, took=(*before[1 - KEPT :], (took, now)))
        return replace(known, probed=now, waits=None) if probe else known

    def after_cut_off(self, lasted: float, now: float, *, probe: bool = False) -> "Recent":
        """The state after a call that was cut off after `lasted` seconds."""
        known = self.after(LONGER * lasted, now)
        return replace(known, probed=now, waits=None) if probe else known

    def begun(self, left: float, now: float) -> "tuple[Recent, bool] | None":
        """The state when a call with this much time left starts, and whether it is a probe; None: do not start it.

        When all calls are refused because they usually take too long, there are no observations. So from time to time
        one starts anyway: the durations of calls with more time say nothing about it.
        """
        usual = self.usual(now)
        if left >= usual or not self.took:
            return self, False
        if left >= usual * 0.5 ** (max(0.0, now - self._news()) / HALF_LIFE):
            return replace(self, probed=now, waits=None), True
        return None

    def refused(self) -> "Recent":
        """The state after a call that was not started."""
        return replace(self, waits=self._news())

    def _news(self) -> float:
        return max(self.probed, self.took[-1][1]) if self.waits is None else self.waits
