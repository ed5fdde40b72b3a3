"""When workers stop receiving from a queue because a dependency is down. Pure: state in, state out.

               failure × threshold                 the wait is over
    ┌──────────┐ ───────────────▶ ┌──────┐ ───────────────────────▶ ┌───────────┐
    │  closed  │                  │ open │                          │ half-open │ ──┐ the lease of its probe ended
    └──────────┘ ◀─────────────── └──────┘ ◀─────────────────────── └───────────┘ ◀─┘
         ▲         any success               the probe failed             │
         └────────────────────────────────────────────────────────────────┘ the probe succeeded

A circuit breaker (Nygard, "Release It!", ch. 5) whose only probe is one delivery of one replica. Otherwise a scaler
that reads the backlog would send every new replica against a dead model. The waits double, with jitter.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open, and for how long; times in seconds."""

    threshold: int = 5
    """Failures in a row, over all replicas; a success in between resets the count."""
    first: float = 1.0
    longest: float = 15.0
    lease: float = 10.0
    """How long a worker keeps the probe without a result."""

    def wait(self, times: int, chance: float) -> float:
        """Seconds to stay open, for the `times`-th time in a row (from 1); `chance` in 0..1 takes off up to half."""
        longest: float = min(self.longest, self.first * (1 << min(times - 1, 20)))
        return longest * (1 - chance / 2)


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The state of one breaker; times are seconds of the caller's clock."""

    failures: int = 0
    """In a row, while closed."""
    opened: int = 0
    """How often in a row it opened; 0: it is closed."""
    until: float = 0.0
    """Open: when the probe may start. Half-open: when another worker may take the probe."""
    prober: str = ""
    """The worker that has the probe; empty unless half-open."""

    @property
    def is_closed(self) -> bool:
        """Whether every replica may receive."""
        return self.opened == 0


CLOSED = BreakerState()


def failed(state: BreakerState, who: str, now: float, chance: float, rules: BreakerPolicy) -> BreakerState:
    """The state after a failure at worker `who`; `chance` in 0..1 spreads the wait."""
    if state.is_closed:
        failures = state.failures + 1
        if failures < rules.threshold:
            return BreakerState(failures)
        return _open(1, now, chance, rules)
    if state.prober == who:
        return _open(state.opened + 1, now, chance, rules)
    # Work that was received before the breaker opened says nothing new.
    return state


def succeeded(_state: BreakerState) -> BreakerState:
    """The state after a success at any worker: closed, because the dependency is up."""
    return CLOSED


def asked_to_receive(state: BreakerState, who: str, now: float, rules: BreakerPolicy) -> BreakerState:
    """The state after `who` asks to receive: it gets the probe when the wait is over and no other worker has it."""
    if state.is_closed or (state.prober != who and now < state.until):
        return state
    return replace(state, prober=who, until=now + rules.lease)


def may_receive(state: BreakerState, who: str) -> bool:
    """Whether `who` may receive: deliveries without a limit when closed, one delivery when it has the probe."""
    return state.is_closed or state.prober == who


def _open(times: int, now: float, chance: float, rules: BreakerPolicy) -> BreakerState:
    return BreakerState(opened=times, until=now + rules.wait(times, chance))
