"""The law of the durable store: what was committed is there after a kill, once, and nothing else.

Two games of Hypothesis. In the first, sender, receivers and clock play against one queue, as they
do against the queue in memory, and somebody pulls the plug. In the second, messages move between
the entities of a namespace, and after each kill everything is compared with the last commit.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from servicebus_local.bus.filters import CorrelationFilter, Rule, SqlAction, SqlFilter
from servicebus_local.bus.message import Message, State
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, TopicOptions, Topology
from tests.examples import examples
from tests.unit.stored_namespace import FakeReceiver, StoredNamespace, message
from tests.unit.test_bus_model import DEFAULT_TTL, LOCK, MAX_DELIVERIES, Known, QueueLaw, QueueReceiver

SOME = examples(40, steps=40)
LIMITED = QueueOptions(
    lock_duration=LOCK,
    max_delivery_count=MAX_DELIVERIES,
    default_time_to_live=DEFAULT_TTL,
    dead_lettering_on_expiration=True,
)


class DurableQueueLaw(QueueLaw):
    """The law of the queue, with a plug that can be pulled."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.stored_namespace = StoredNamespace(Path(self.folder.name), Topology({"q": LIMITED}), now=0.0)
        self.begin()
        self.committed: dict[str, Known] = {}
        self.highest = 0

    def begin(self) -> None:
        self.clock, self.timers, self.queue = (
            self.stored_namespace.clock,
            self.stored_namespace.timers,
            self.stored_namespace["q"],
        )
        self.hands = {deletes: QueueReceiver(deletes=deletes) for deletes in (False, True)}
        for hand in self.hands.values():
            self.queue.subscribe(hand)

    def teardown(self) -> None:
        self.stored_namespace.close()
        self.folder.cleanup()

    @rule()
    def commit(self) -> None:
        self.stored_namespace.store.commit()
        self.committed = deepcopy(self.known)
        self.highest = max([self.highest, *(known.sequence for known in self.known.values())])

    @rule()
    def pull_the_plug(self) -> None:
        self.stored_namespace.kill()
        self.begin()
        self.known = deepcopy(self.committed)
        self.given = [(name, token) for name, token in self.given if name in self.known]
        for known in self.known.values():
            if known.place == "locked":
                self.comes_back(known, counted=True)
            elif known.place == "scheduled" and known.due <= self.clock():
                known.place, known.sequence = "active", 0
                known.expires_at = self.clock() + min(known.expires_at, DEFAULT_TTL)
            elif known.place == "active" and known.expires_at <= self.clock():
                known.place = "dead"  # a deferred one expires when it is asked for, as ever
        self.read_new_numbers()
        assert self.stored_namespace.store.last_sequence("q") >= self.highest
        self.commit()  # the broker does it before it accepts connections


DurableQueueLaw.TestCase.settings = SOME
TestDurableQueueLaw = DurableQueueLaw.TestCase


PLAIN = QueueOptions(lock_duration=1e6, max_delivery_count=100)
SESSIONS = replace(PLAIN, requires_session=True)
WORLD = Topology(
    {
        "work": replace(PLAIN, forward_dead_letters_to="dead", duplicate_detection=True, duplicate_window=1e6),
        "door": replace(PLAIN, forward_to="room"),
        "room": PLAIN,
        "dead": PLAIN,
        "talk": SESSIONS,
        "loop": replace(PLAIN, forward_dead_letters_to="nowhere"),
    },
    {
        "news": TopicDefinition(
            TopicOptions(duplicate_detection=True, duplicate_window=1e6),
            {
                "all": SubscriptionDefinition(PLAIN),
                "talk": SubscriptionDefinition(SESSIONS),
                "some": SubscriptionDefinition(
                    PLAIN,
                    (
                        Rule("x", CorrelationFilter(message_id="m1")),
                        Rule("act", SqlFilter("1=1"), SqlAction("SET x = 1")),
                    ),
                ),
                "on": SubscriptionDefinition(replace(PLAIN, forward_to="room")),
            },
        )
    },
)
SENT_TO = ["work", "door", "room", "talk", "loop", "news"]
RECEIVED_FROM = ["work", "room", "dead", "loop", "news/Subscriptions/all", "news/Subscriptions/some"]
RECEIVED_FROM += [f"{path}/$DeadLetterQueue" for path in (*RECEIVED_FROM, "news/Subscriptions/talk")]
RECEIVED_FROM += ["loop/$Transfer/$DeadLetterQueue"]
ONCE = ["work", "news"]
IN_SESSIONS = ["talk", "news/Subscriptions/talk"]
Snapshot = dict[str, Any]


@dataclass
class Lock:
    """What a receiver holds."""

    path: str
    sequence: int
    token: bytes


class DurableNamespaceLaw(RuleBasedStateMachine):
    """Messages move between entities, and somebody pulls the plug."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.stored_namespace = StoredNamespace(Path(self.folder.name), WORLD)
        self.locks: list[Lock] = []
        self.deferred: list[tuple[str, int]] = []
        self.sent = 0
        self.seen: dict[tuple[str, str], int] = {}  # the number an id got where duplicates are found
        self.commit()

    def teardown(self) -> None:
        self.stored_namespace.close()
        self.folder.cleanup()

    # ------------------------------------------------------------------ what happens

    @rule(path=st.sampled_from(SENT_TO), again=st.booleans(), session=st.sampled_from("st"), later=st.booleans())
    def send(self, path: str, again: bool, session: str, later: bool) -> None:
        self.sent += not again
        due, name = self.stored_namespace.clock() + 50.0 if later else None, f"m{self.sent}"
        [sequence] = self.stored_namespace.namespace.find(path).send([message(name, session, scheduled_for=due)])
        if path in ONCE:
            assert self.seen.setdefault((path, name), sequence) == sequence
            assert [known for known in self.seen if known[0] == path and self.seen[known] == sequence] == [(path, name)]

    @rule(path=st.sampled_from(RECEIVED_FROM), deletes=st.booleans(), credit=st.integers(1, 3))
    def receive(self, path: str, deletes: bool, credit: int) -> None:
        taken = FakeReceiver(deletes=deletes).take(self.stored_namespace[path], credit)
        if not deletes:
            self.locks += [Lock(path, found.sequence, token) for found, token in taken]

    @rule(
        path=st.sampled_from(IN_SESSIONS), session=st.sampled_from("st"), state=st.sampled_from([None, b"", b"state"])
    )
    def take_part(self, path: str, session: str, state: bytes | None) -> None:
        queue, receiver = self.stored_namespace[path], FakeReceiver()
        held = queue.accept_session(receiver, session)
        receiver.credit = 2
        queue.dispatch(held)
        for _, token in receiver.taken[:1]:
            queue.complete(token)
        queue.set_session_state(held, state)
        queue.unsubscribe(receiver)

    @precondition(lambda self: self.locks)
    @rule(data=st.data(), how=st.sampled_from(["complete", "abandon", "release", "defer", "dead_letter"]))
    def settle(self, data: st.DataObject, how: str) -> None:
        lock = self.locks.pop(data.draw(st.integers(0, len(self.locks) - 1)))
        queue = self.stored_namespace[lock.path]
        match how:
            case "dead_letter":
                queue.dead_letter(lock.token, "reason", None)
            case "defer":
                queue.defer(lock.token, {"deferred": True})
                self.deferred.append((lock.path, lock.sequence))
            case _:
                getattr(queue, how)(lock.token)

    @precondition(lambda self: self.deferred)
    @rule(data=st.data())
    def receive_deferred(self, data: st.DataObject) -> None:
        path, sequence = self.deferred.pop(data.draw(st.integers(0, len(self.deferred) - 1)))
        [(_, token, _)] = self.stored_namespace[path].receive_deferred([sequence], deletes=False)
        assert token is not None
        self.locks.append(Lock(path, sequence, token))

    @rule(seconds=st.sampled_from([1.0, 60.0]))
    def advance(self, seconds: float) -> None:
        self.stored_namespace.advance(seconds)
        self.commit()

    # ------------------------------------------------------------------ the law

    @rule()
    def commit(self) -> None:
        self.stored_namespace.store.commit()
        self.committed = self.snapshot()
        self.committed_seen = dict(self.seen)

    @rule()
    def pull_the_plug(self) -> None:
        self.stored_namespace.kill()
        self.locks.clear()
        self.seen = dict(self.committed_seen)
        assert self.snapshot() == self.committed
        self.deferred = [
            (queue.name, found.sequence)
            for queue in self.queues()
            for found in queue.messages.values()
            if found.state is State.DEFERRED and queue.name not in IN_SESSIONS
        ]

    def queues(self) -> list[Queue]:
        found = list(self.stored_namespace.namespace.queues())
        for topic in self.stored_namespace.namespace.topics():
            found += topic.subscriptions.values()
        return [part for queue in found for part in (queue, queue.dead_letters, queue.transfer_dead_letters)]

    def snapshot(self) -> Snapshot:
        """Everything there is, as it must be found after a kill."""
        entities = [*self.queues(), *self.stored_namespace.namespace.topics()]
        return {
            "messages": {e.name: {key: _expected(found) for key, found in e.messages.items()} for e in entities},
            "counts": {e.name: e.counts() for e in entities},
            "states": {
                (path, session): found.state
                for path in IN_SESSIONS
                for session in "st"
                if (found := self.stored_namespace[path].sessions.find(session)) is not None
            },
            "numbers": {e.name: self.stored_namespace.store.last_sequence(e.name) for e in entities},
        }


def _expected(found: Message) -> dict[str, object]:
    """Return a message's fields, after the return of the lock if there is one."""
    fields = {name: getattr(found, name) for name in Message.__slots__}
    if found.state is State.LOCKED:
        fields["state"] = State.DEFERRED if found.deferred else State.ACTIVE
        fields["delivery_count"] = found.delivery_count + 1
    return fields


DurableNamespaceLaw.TestCase.settings = SOME
TestDurableNamespaceLaw = DurableNamespaceLaw.TestCase
