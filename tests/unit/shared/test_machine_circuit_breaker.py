"""The breaker that replicas share, in any order of failures, successes, questions and silence.

A Hypothesis state machine on a clock of its own; what the replicas would do is left to chance.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.circuit_breaker import CLOSED, BreakerPolicy, asked_to_receive, failed, may_receive, succeeded

RULES = BreakerPolicy(threshold=3, first=1.0, longest=15.0, lease=10.0)
REPLICAS = ("a", "b", "c")
REPLICA = st.sampled_from(REPLICAS)
CHANCE = st.floats(0, 1)


class BreakerLaw(RuleBasedStateMachine):
    """Three replicas and one state."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.state = CLOSED
        self.in_a_row = 0

    @rule(who=REPLICA, chance=CHANCE)
    def fail(self, who: str, chance: float) -> None:
        """What the work needs did not answer, to work that was received whenever."""
        before = self.state
        self.state = failed(before, who, self.now, chance, RULES)
        if before.is_closed:
            self.in_a_row += 1
            assert self.state.is_closed == (self.in_a_row < RULES.threshold)
            if not self.state.is_closed:
                self.opens(1)
        elif before.prober == who:
            self.opens(before.opened + 1)
        else:
            assert self.state == before, "work from before it opened says nothing new"

    def opens(self, times: int) -> None:
        """It stays open for a time that doubles, up to the longest, of which chance takes at most half."""
        assert self.state.opened == times
        assert self.state.prober == ""
        longest = min(RULES.longest, RULES.first * 2 ** (times - 1))
        assert longest / 2 - 1e-6 <= self.state.until - self.now <= longest + 1e-6
        assert not any(may_receive(self.state, who) for who in REPLICAS)

    @rule()
    def work(self) -> None:
        """It answered."""
        self.state = succeeded(self.state)
        self.in_a_row = 0
        assert self.state == CLOSED

    @rule(who=REPLICA)
    def ask(self, who: str) -> None:
        """A replica would like to receive; the one that probes does so to say that it lives."""
        before = self.state
        self.state = asked_to_receive(before, who, self.now, RULES)
        mine, due = before.prober == who, self.now >= before.until
        assert may_receive(self.state, who) == (before.is_closed or mine or due)
        assert self.state.opened == before.opened
        if not before.is_closed and (mine or due):
            assert self.state.until == self.now + RULES.lease

    @precondition(lambda self: self.state.prober != "")
    @rule(part=st.floats(0.01, 0.99))
    def the_prober_says_that_it_lives(self, part: float) -> None:
        """Within its lease, so that no other worker begins."""
        self.now += part * max(0.0, self.state.until - self.now)
        self.ask(self.state.prober)

    @rule(seconds=st.floats(0.001, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.state.is_closed)
    @rule()
    def its_time_comes(self) -> None:
        """The moment at which the next probe may start, to the instant."""
        self.now = max(self.now, self.state.until)

    @invariant()
    def while_it_is_not_closed_one_replica_at_most_receives(self) -> None:
        receiving = [who for who in REPLICAS if may_receive(self.state, who)]
        assert len(receiving) == (len(REPLICAS) if self.state.is_closed else int(self.state.prober != ""))

    @invariant()
    def it_says_what_it_is(self) -> None:
        assert self.state.is_closed or self.state.failures == 0
        assert not (self.state.is_closed and (self.state.prober != ""))
        assert self.state.failures == (self.in_a_row if self.state.is_closed else 0)

    @invariant()
    def a_new_worker_gets_the_probe_in_the_end(self) -> None:
        """Whatever has happened, even a prober that died: the next probe is near, and its success is the end."""
        assert self.state.until <= self.now + max(RULES.longest, RULES.lease)
        later = max(self.now, self.state.until)
        probing = asked_to_receive(self.state, "a new worker", later, RULES)
        assert may_receive(probing, "a new worker")
        assert succeeded(probing).is_closed


BreakerLaw.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)
TestBreakerLaw = BreakerLaw.TestCase
