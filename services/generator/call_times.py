"""How long the calls of a deployment usually take, so that none is begun that will be cut off by its deadline.

A call without enough time costs as much as one that is answered, and takes the slot of one that would have been: under
a steady overload all calls end so. Kept per tenant as well, so that one tenant's long answers do not count against
another's short ones. Of this process; a new replica finds out with its first calls.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from shared.flow.estimate import Recent

Seconds = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Call:
    """One that has begun."""

    key: tuple[str, str]
    began: float
    probe: bool


class CallTimes:
    """Of all deployments that this process calls."""

    def __init__(self, clock: Seconds = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[tuple[str, str], Recent] = {}

    def usual(self, deployment: str, tenant: str) -> timedelta:
        """What calls usually take; zero: unknown."""
        return timedelta(seconds=self._recent((deployment, tenant)).usual(self._clock()))

    def begin(self, deployment: str, tenant: str, within: timedelta) -> Call | None:
        """A call that may take `within` begins; None: calls usually take longer, so it does not."""
        key, now = (deployment, tenant), self._clock()
        begun = self._recent(key).begun(within.total_seconds(), now)
        if begun is None:
            return None
        self._times[key], probe = begun
        return Call(key, now, probe)

    def ended(self, call: Call) -> None:
        """The model has answered."""
        now = self._clock()
        self._times[call.key] = self._recent(call.key).after(now - call.began, now, probe=call.probe)

    def cut_off(self, call: Call) -> None:
        """The model had not answered when the time was up."""
        now = self._clock()
        self._times[call.key] = self._recent(call.key).after_cut_off(now - call.began, now)

    def _recent(self, key: tuple[str, str]) -> Recent:
        return self._times.get(key, Recent())
