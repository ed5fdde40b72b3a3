"""A message that fails again and again, until it is done or dead: the retry policy and the copies it makes.

A Hypothesis state machine on a clock of its own: failures of every kind, a worker that leaves, time that passes.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.bus.port import Outgoing, Received
from shared.contracts.envelope import to_generator, to_retriever
from shared.contracts.generate import GenerateAnswer
from shared.contracts.ids import MAX_ID
from shared.errors import DeadlineMissed, DependencyDown, Reason, TryLater, Unprocessable
from shared.worker.outbox import SHORTEST_LIFE, handed_back, internal_identity, outgoing, retry_copy
from shared.worker.retry import MARGIN, DeadLetter, Reschedule, Retry, RetryPolicy, after_failure
from tests.support.builders import NOW, a_candidate, a_request

POLICY = RetryPolicy(attempts=5)
SECONDS = st.floats(0.001, 30).map(lambda seconds: timedelta(seconds=seconds))
ASKED = st.just(timedelta(0)) | st.floats(0, 90).map(lambda seconds: timedelta(seconds=seconds))
CHANCE = st.floats(0, 1)
LEFT = st.none() | st.integers(1, 600)
# So often it is tried at most within ten minutes if an attempt takes 10 s and no wait is ever drawn.
MOST = 60


class RetryLaw(RuleBasedStateMachine):
    """One message and all its copies."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.number = self.runs = 0
        self.generated = False
        self.ids: list[str] = []
        self.deadline: datetime | None = None
        self.end: DeadLetter | None = None
        self.message = self.first = Received("", b"")

    @initialize(left=LEFT, generated=st.booleans())
    def begin(self, left: int | None, generated: bool) -> None:
        self.generated = generated
        self.run_once(left, "")

    @precondition(lambda self: self.end is not None)
    @rule(left=LEFT)
    def replay(self, left: int | None) -> None:
        """The operator has fixed the cause, and replays it."""
        self.runs += 1
        self.run_once(left, f"p{self.runs}")

    def run_once(self, left: int | None, run: str) -> None:
        self.end = None
        self.deadline = None if left is None else self.now + timedelta(seconds=left)
        request = a_request(request_id="r" + "x" * 26, answer_by=self.deadline or self.now, run=run)
        task = GenerateAnswer(request=request, candidates=(a_candidate(),))
        envelope = to_generator(task) if self.generated else to_retriever(request)
        sent = outgoing(replace(envelope, expires_at=self.deadline), self.now)
        self.message = self.first = self.arrive(sent)

    def arrive(self, sent: Outgoing) -> Received:
        """What the broker makes of a message when it becomes visible."""
        assert sent.message_id is not None
        self.now = max(self.now, sent.enqueue_at or self.now)
        self.number += 1
        self.ids.append(sent.message_id)
        return Received(
            queue=sent.queue,
            body=sent.body,
            subject=sent.subject,
            message_id=sent.message_id,
            correlation_id=sent.correlation_id,
            session_id=sent.session_id,
            reply_to=sent.reply_to,
            content_type=sent.content_type,
            time_to_live=sent.time_to_live,
            enqueued_at=self.now,
            sequence_number=self.number,
            properties=dict(sent.properties),
        )

    def decide(self, failure: BaseException, chance: float) -> Retry | DeadLetter:
        """What becomes of the message; deciding it twice comes to the same."""
        facts = {"attempt": self.message.attempt, "now": self.now, "deadline": internal_identity(self.message).deadline}
        decision = after_failure(failure, policy=POLICY, chance=chance, **facts)  # type: ignore[arg-type]  # each fits
        assert decision == after_failure(failure, policy=POLICY, chance=chance, **facts)  # type: ignore[arg-type]
        assert not isinstance(decision, Reschedule)
        return decision

    @precondition(lambda self: self.end is None)
    @rule(took=SECONDS, asked=ASKED, chance=CHANCE, down=st.booleans())
    def fail(self, took: timedelta, asked: timedelta, chance: float, down: bool) -> None:
        """The moment is bad: there is a copy for later, unless that is too late."""
        self.now += took
        failure = DependencyDown("away") if down else TryLater("busy", after=asked)
        decision = self.decide(failure, chance)
        if isinstance(decision, DeadLetter):
            self.die(decision, failure.after)
            return
        assert decision.at >= self.now + failure.after
        assert self.deadline is None or decision.at <= self.deadline - MARGIN
        before, copy = self.message, retry_copy(self.message, internal_identity(self.message), decision.at)
        assert copy == retry_copy(self.message, internal_identity(self.message), decision.at)
        self.message = self.arrive(copy)
        assert self.now == decision.at
        assert self.message.attempt == before.attempt + 1

    def die(self, decision: DeadLetter, asked: timedelta) -> None:
        self.end = decision
        if self.deadline is None:
            assert (decision.reason, self.message.attempt) == (Reason.RETRIES_EXHAUSTED, POLICY.attempts)
        else:
            assert decision.reason is Reason.DEADLINE_EXCEEDED
            assert self.now + asked + POLICY.base > self.deadline - MARGIN, "there was still time"

    @precondition(lambda self: self.end is None)
    @rule()
    def leave(self) -> None:
        """Its worker stops: another one makes the same attempt, from now on."""
        before, copy = self.message, handed_back(self.message, internal_identity(self.message), self.now)
        self.message = self.arrive(copy)
        assert self.message.attempt == before.attempt

    @precondition(lambda self: self.end is None)
    @rule(
        chance=CHANCE,
        failure=st.sampled_from([KeyError("x"), Unprocessable(Reason.POISON_CONTENT, "no"), DeadlineMissed("late")]),
    )
    def fail_for_good(self, chance: float, failure: Exception) -> None:
        """No other moment would be better."""
        decision = self.decide(failure, chance)
        assert isinstance(decision, DeadLetter)
        assert decision.reason == getattr(failure, "reason", Reason.CRASHED)
        self.end = decision

    @invariant()
    def no_copy_is_taken_for_another(self) -> None:
        assert len(set(self.ids)) == len(self.ids)
        assert all(len(known) <= MAX_ID for known in self.ids)

    @invariant()
    def it_stays_the_same_message_with_the_same_deadline(self) -> None:
        if self.ids:
            assert internal_identity(self.message).deadline == self.deadline
            kept = ("queue", "body", "subject", "correlation_id", "session_id", "reply_to", "content_type")
            assert all(getattr(self.message, name) == getattr(self.first, name) for name in kept)

    @invariant()
    def it_does_not_outlive_its_deadline_by_a_second(self) -> None:
        life = self.message.time_to_live
        if self.deadline is not None and life is not None:
            assert self.message.enqueued_at is not None
            ends = max(self.deadline, self.message.enqueued_at + SHORTEST_LIFE)
            assert ends <= self.message.enqueued_at + life < ends + timedelta(seconds=1)

    def teardown(self) -> None:
        """It ends: were every attempt from now on to fail after ten seconds, and no wait ever drawn."""
        for _ in range(MOST):
            if self.ids and self.end is None:
                self.fail(timedelta(seconds=10), timedelta(0), 0.0, down=True)
        assert not self.ids or self.end is not None, "it is retried without end"


RetryLaw.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None, derandomize=True)
TestRetryLaw = RetryLaw.TestCase
