"""How long a deployment's calls usually take, so that no call starts that its deadline will cut off.

A call without enough time costs as much as one that is answered, and takes the slot of one that would be: under steady
overload all calls end like that. Times are kept per tenant and use case, too, so that the long answers of one do not
count against another's short ones. Each process has its own; a new replica learns with its first calls.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from shared.contracts.request import Request
from shared.flow.estimate import Recent

Seconds = Callable[[], float]
# A call that takes this many times as long as usual is late: another deployment is called if there is one.
PATIENCE = 1.25
# Deployment, tenant, use case.
Key = tuple[str, str, str]


def share(left: timedelta, usual: timedelta, next_usual: timedelta | None) -> timedelta:
    """How much of the time `left` a call may take, so that the next deployment has its usual call after it.

    `usual`, `next_usual`: how long calls take there; zero: unknown. `next_usual` None: there is no next one. If there
    is no time for two calls, the first has all of it.
    """
    if next_usual is None:
        return left
    needed = PATIENCE * (next_usual or usual) or left / 2
    return left - needed if left - needed >= PATIENCE * usual else left


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has begun."""

    key: Key
    began: float
    probe: bool


class CallTimes:
    """The durations of this process's calls, by deployment, tenant and use case."""

    def __init__(self, clock: Seconds = time.monotonic) -> None:
        self._clock = clock
        self._times: dict[Key, Recent] = {}

    def usual(self, deployment: str, request: Request) -> timedelta:
        """How long calls usually take; zero: unknown."""
        return timedelta(seconds=self._recent(_key(deployment, request)).usual(self._clock()))

    def longest(self, deployment: str) -> timedelta:
        """How long calls of any tenant and use case usually take at most; zero: unknown."""
        now = self._clock()
        usual = (recent.usual(now) for key, recent in self._times.items() if key[0] == deployment)
        return timedelta(seconds=max(usual, default=0.0))

    def begin(self, deployment: str, request: Request, within: timedelta) -> Call | None:
        """Start a call that may take `within`; None: calls usually take longer, so do not start it."""
        key, now = _key(deployment, request), self._clock()
        begun = self._recent(key).begun(within.total_seconds(), now)
        if begun is None:
            self._times[key] = self._recent(key).refused()
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
        self._times[call.key] = self._recent(call.key).after_cut_off(now - call.began, now, probe=call.probe)

    def _recent(self, key: Key) -> Recent:
        return self._times.get(key, Recent())


def _key(deployment: str, request: Request) -> Key:
    return deployment, request.tenant, request.use_case
