"""The record tells what happened, and its checker tells what must not happen."""

import json
from math import inf

import pytest

from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import BusError
from servicebus_local.bus.filters import FalseFilter, Rule
from servicebus_local.bus.message import Message
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.sessions import GRACE, Session
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, TopicOptions, Topology
from servicebus_local.contents import contents
from servicebus_local.record import Event, Record, check

TOPOLOGY = Topology(
    queues={
        "q": QueueOptions(max_delivery_count=2, lock_duration=10),
        "often": QueueOptions(),
        "once": QueueOptions(duplicate_detection=True),
        "door": QueueOptions(forward_to="room"),
        "room": QueueOptions(),
        "gap": QueueOptions(forward_to="nowhere"),
        "short": QueueOptions(default_time_to_live=5),
        "dead_letters": QueueOptions(forward_dead_letters_to="room"),
        "chats": QueueOptions(requires_session=True, lock_duration=10),
    },
    topics={
        "news": TopicDefinition(
            TopicOptions(),
            {
                "all": SubscriptionDefinition(),
                "none": SubscriptionDefinition(rules=(Rule("no", FalseFilter()),)),
                "chats": SubscriptionDefinition(QueueOptions(requires_session=True)),
            },
        )
    },
)


class FakeReceiver:
    """A receiver that takes what it is given, as far as it has credit."""

    sends, container, name = False, "me", "link"

    def __init__(self, credit: int = 0, *, deletes: bool = False) -> None:
        self.credit, self.deletes = credit, deletes
        self.tokens: list[bytes] = []

    @property
    def ready(self) -> bool:
        return self.credit > 0

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        self.credit -= 1
        self.tokens += [] if token is None else [token]

    def lost(self, error: BusError) -> None:
        self.credit = 0


class RecordedNamespace:
    """A namespace with a record, a clock, and shorthands."""

    def __init__(self) -> None:
        self.clock = ManualClock(1000)
        self.timers = Timers(self.clock)
        self.namespace = Namespace(TOPOLOGY, self.timers)
        self.record = Record(self.namespace)
        self.record.start()

    def queue(self, path: str) -> Queue:
        return self.namespace.queue(path)

    def send(self, path: str, name: str, *, due: float | None = None, session: str | None = None) -> int:
        message = Message(b"\x00\x53\x75\xa0\x01x")
        message.message_id, message.session_id = name, session
        message.scheduled_for = None if due is None else self.clock.now + due
        [sequence] = self.namespace.find(path).send([message])
        return sequence

    def receive(self, path: str, *, deletes: bool = False) -> bytes:
        """Take one message; return its token."""
        receiver, queue = FakeReceiver(1, deletes=deletes), self.queue(path)
        ready_queue = queue.subscribe(receiver)
        queue.dispatch(ready_queue)
        queue.unsubscribe(receiver)
        return receiver.tokens[0] if receiver.tokens else b""

    @property
    def story(self) -> list[tuple[str, str]]:
        """What was told, as entity and kind; the record keeps its own rules."""
        assert self.record.check() == []
        return [(event.entity, event.kind) for event in self.record.events()]

    def kinds(self, path: str) -> list[str]:
        return [kind for entity, kind in self.story if entity == path]


@pytest.fixture
def recorded() -> RecordedNamespace:
    return RecordedNamespace()


def test_a_message_that_is_done_at_the_second_try(recorded: RecordedNamespace) -> None:
    recorded.send("q", "a")
    recorded.queue("q").abandon(recorded.receive("q"))
    token = recorded.receive("q")
    recorded.queue("q").renew(token)
    recorded.queue("q").complete(token)
    assert recorded.kinds("q") == ["sent", "delivered", "abandoned", "delivered", "lock-renewed", "completed"]
    last = recorded.record.events()[-1]
    assert (last.sequence, last.message_id, last.delivery_count, last.container, last.link) == (1, "a", 1, "me", "link")
    assert last.lock_token is not None
    assert last.lock_token.replace("-", "") == token.hex()


def test_a_message_that_fails_too_often_is_buried_with_the_reason(recorded: RecordedNamespace) -> None:
    recorded.send("q", "a")
    recorded.receive("q")
    recorded.timers.advance(recorded.clock, 10)
    recorded.queue("q").abandon(recorded.receive("q"))
    recorded.queue("q/$DeadLetterQueue").complete(recorded.receive("q/$DeadLetterQueue"))
    assert recorded.story[-4:] == [
        ("q", "dead-lettered"),
        ("q/$DeadLetterQueue", "dead-letter-arrived"),
        ("q/$DeadLetterQueue", "delivered"),
        ("q/$DeadLetterQueue", "completed"),
    ]
    [dead] = [event for event in recorded.record.events() if event.kind == "dead-lettered"]
    assert (dead.reason, dead.target) == ("MaxDeliveryCountExceeded", "q/$DeadLetterQueue")


def test_every_way_a_message_can_go(recorded: RecordedNamespace) -> None:
    queue = recorded.queue("often")
    for name in ("released", "deferred", "dead", "deleted"):
        recorded.send("often", name)
    token = recorded.receive("often")
    queue.release(token)
    queue.complete(recorded.receive("often"))
    queue.defer(recorded.receive("often"))
    [(_, again, _)] = queue.receive_deferred([2], deletes=False)
    assert again is not None
    queue.abandon(again)
    queue.receive_deferred([2], deletes=True)
    queue.dead_letter(recorded.receive("often"), "why", "because")
    recorded.receive("often", deletes=True)
    kinds = recorded.kinds("often")
    assert kinds[4:] == [
        *("delivered", "released", "delivered", "completed"),
        *("delivered", "deferred", "delivered", "abandoned", "delivered"),
        *("delivered", "dead-lettered", "delivered"),
    ]


def test_scheduled_messages_and_duplicates(recorded: RecordedNamespace) -> None:
    cancelled = recorded.send("q", "never", due=5)
    first = recorded.send("q", "later", due=5)
    recorded.queue("q").cancel_scheduled([cancelled])
    recorded.timers.advance(recorded.clock, 5)
    assert recorded.kinds("q") == ["scheduled", "scheduled", "cancelled", "activated", "sent"]
    sent = recorded.record.events("Q")[-1]
    assert (sent.first_sequence, sent.sequence) == (first, 3)
    recorded.send("once", "x")
    recorded.send("once", "x")
    assert recorded.kinds("once") == ["sent", "duplicate"]


def test_forwarding_and_its_failures(recorded: RecordedNamespace) -> None:
    recorded.send("door", "through")
    recorded.send("gap", "stuck")
    recorded.send("dead_letters", "dead")
    recorded.queue("dead_letters").dead_letter(recorded.receive("dead_letters"), "why", None)
    assert recorded.kinds("door") == ["sent", "forwarded"]
    assert recorded.kinds("room") == ["sent", "sent"]
    assert recorded.kinds("gap") == ["sent", "dead-lettered"]
    assert recorded.kinds("gap/$Transfer/$DeadLetterQueue") == ["dead-letter-arrived"]
    assert recorded.kinds("dead_letters") == ["sent", "delivered", "dead-lettered"]


def test_what_expires_what_is_purged_and_what_goes_with_its_queue(recorded: RecordedNamespace) -> None:
    recorded.send("short", "gone")
    recorded.timers.advance(recorded.clock, 5)
    recorded.send("q", "locked")
    recorded.send("q", "active")
    recorded.send("q", "later", due=5)
    token = recorded.receive("q")
    assert recorded.queue("q").purge() == 3
    with pytest.raises(BusError):
        recorded.queue("q").complete(token)
    recorded.timers.advance(recorded.clock, 20)
    recorded.send("room", "x")
    recorded.namespace.delete("room")
    assert recorded.kinds("short") == ["sent", "expired"]
    assert recorded.kinds("q")[-3:] == ["purged"] * 3
    assert recorded.kinds("room") == ["sent", "purged"]
    assert recorded.queue("q").counts().active == 0


def test_a_purged_session_is_not_handed_out(recorded: RecordedNamespace) -> None:
    recorded.send("chats", "x", session="one")
    queue = recorded.queue("chats")
    granted: list[Session] = []
    assert queue.purge() == 1
    queue.accept_next_session(FakeReceiver(), 5, granted.append)
    assert not granted


def test_a_topic_publishes_to_its_subscriptions(recorded: RecordedNamespace) -> None:
    recorded.send("news", "a", session="s")
    recorded.send("news", "later", due=5, session="s")
    recorded.timers.advance(recorded.clock, 5)
    recorded.send("news", "without a session")
    assert recorded.kinds("news") == [
        "sent",
        "published",
        "scheduled",
        "activated",
        "sent",
        "published",
        "sent",
        "published",
    ]
    assert recorded.kinds("news/Subscriptions/all") == ["sent"] * 3
    assert recorded.kinds("news/Subscriptions/none") == []
    assert recorded.kinds("news/Subscriptions/chats") == ["sent", "sent", "dead-lettered"]
    assert recorded.kinds("news/Subscriptions/chats/$DeadLetterQueue") == ["dead-letter-arrived"]


def test_a_session_is_accepted_released_and_lost(recorded: RecordedNamespace) -> None:
    for name in ("a", "b"):
        recorded.send("chats", name, session="one")
    queue, first, second = recorded.queue("chats"), FakeReceiver(1), FakeReceiver(2)
    queue.dispatch(queue.accept_session(first, "one"))
    queue.unsubscribe(first)
    queue.accept_next_session(second, 5, queue.dispatch)
    recorded.timers.advance(recorded.clock, 10 + GRACE)
    assert recorded.kinds("chats")[2:] == [
        *("session-accepted", "delivered", "session-released", "released"),
        *("session-accepted", "delivered", "delivered", "session-lost", "lock-lost", "lock-lost"),
    ]


def test_entities_created_later_are_watched_too(recorded: RecordedNamespace) -> None:
    recorded.namespace.create_queue("new", QueueOptions())
    recorded.namespace.create_subscription("news", "new", SubscriptionDefinition())
    recorded.send("new", "a")
    recorded.send("news", "b")
    assert recorded.kinds("new") == recorded.kinds("news/Subscriptions/new") == ["sent"]


def test_the_ring_drops_the_oldest_and_counts_them(recorded: RecordedNamespace) -> None:
    recorded.record.start(limit=3)
    for number in range(5):
        recorded.send("q", str(number))
    assert [event.message_id for event in recorded.record.events()] == ["2", "3", "4"]
    assert recorded.record.as_json() == {"limit": 3, "kept": 3, "dropped": 2, "last": 5}
    assert [event.number for event in recorded.record.events(since=4)] == [5]
    recorded.queue("q").complete(recorded.receive("q"))
    assert recorded.record.check() == []
    with pytest.raises(ValueError, match="at least one event"):
        recorded.record.start(limit=0)


def test_a_record_that_is_switched_on_late_accepts_what_was_there_before(recorded: RecordedNamespace) -> None:
    recorded.send("q", "unseen")
    token = recorded.receive("q")
    recorded.record.stop()
    recorded.send("q", "unheard")
    recorded.record.start()
    recorded.queue("q").complete(token)
    recorded.queue("q").complete(recorded.receive("q"))
    assert [event.kind for event in recorded.record.events()] == ["completed", "delivered", "completed"]
    assert recorded.record.check() == []
    assert recorded.queue("q").observer is not None
    recorded.record.stop()
    assert recorded.queue("q").observer is None


def test_an_event_goes_through_json_and_back(recorded: RecordedNamespace) -> None:
    recorded.send("q", "a")
    for event in recorded.record.events():
        assert Event.from_json(json.loads(json.dumps(event.as_json()))) == event


# --------------------------------------------------------------------------- what must not happen


def story(*lines: str) -> list[Event]:
    """Write events, one in each line: kind, entity:sequence, then fields as name=value."""
    events = []
    for number, line in enumerate(lines, 1):
        kind, subject, *fields = line.split()
        entity, _, sequence = subject.partition(":")
        given = dict(field.split("=") for field in fields)
        events.append(
            Event(
                number,
                float(given.get("time", 0)),
                kind,
                entity,
                int(sequence) if sequence else None,
                session_id=given.get("session"),
                delivery_count=int(given.get("count", 0)),
                link=given.get("link", "r" if kind == "delivered" else None),
                lock_token=given.get("lock"),
                target=given.get("to"),
            )
        )
    return events


@pytest.mark.parametrize(
    ("lines", "violation"),
    [
        (
            ["sent q:1", "delivered q:1 lock=a", "delivered q:1 lock=b"],
            "event 3: message 1 of q: delivered: it is locked by r",
        ),
        (
            ["sent q:1", "delivered q:1 lock=a", "completed q:1 lock=a", "completed q:1 lock=a"],
            "event 4: message 1 of q: completed: it is ended",
        ),
        (["sent q:1", "delivered q:1", "delivered q:1"], "event 3: message 1 of q: delivered: it is ended"),
        (
            ["sent q:1", "delivered q:1 lock=a", "completed q:1 lock=b"],
            "event 3: message 1 of q: completed: the lock is a, not b",
        ),
        (
            ["sent q:1", "delivered q:1 lock=a", "abandoned q:1 lock=a", "delivered q:1 lock=b count=2"],
            "event 4: message 1 of q: delivered: its delivery count is 2, and 1 deliveries counted",
        ),
        (
            ["sent q:1", "delivered q:1 lock=a", "released q:1 lock=a", "delivered q:1 lock=b count=1"],
            "event 4: message 1 of q: delivered: its delivery count is 1, and 0 deliveries counted",
        ),
        (["sent q:1", "completed q:1"], "event 2: message 1 of q: completed: it is active"),
        (["sent q:1", "sent q:1"], "event 2: message 1 of q: sent: its number was given before"),
        (["delivered q:1 lock=a"], "event 1: message 1 of q: delivered: there is no event of its arrival"),
        (["scheduled q:1", "delivered q:1 lock=a"], "event 2: message 1 of q: delivered: it is scheduled"),
        (
            ["sent q:1", "delivered q:1 lock=a", "deferred q:1 lock=a", "delivered q:1 lock=b count=1"],
            "event 4: message 1 of q: delivered: it is deferred, and was not asked for by its number",
        ),
        (
            ["session-accepted q session=s link=a", "session-accepted q session=s link=b"],
            "event 2: session 's' of q: session-accepted: it is held by a",
        ),
        (["session-lost q session=s"], "event 1: session 's' of q: session-lost: no receiver held it"),
        (
            ["session-accepted q session=s link=a", "sent q:1 session=s", "delivered q:1 session=s link=b lock=x"],
            "event 3: message 1 of q: delivered: its session is held by a, not by b",
        ),
        (
            ["sent q:1 time=2", "sent q:2 time=1"],
            "event 2: message 2 of q: sent: its time is before that of the previous event",
        ),
        (
            ["sent q:1", "dead-lettered q:1 to=q/$DeadLetterQueue"],
            "1 messages that were dead-lettered never arrived in q/$deadletterqueue",
        ),
    ],
)
def test_a_broken_rule_is_reported(lines: list[str], violation: str) -> None:
    [told] = check(story(*lines))
    assert told.startswith(violation)


def test_nothing_may_be_lost_and_nothing_may_come_back() -> None:
    events = story("sent q:1", "sent q:2", "delivered q:2 lock=a", "completed q:2 lock=a")
    assert check(events, held={"Q": [1]}) == []
    assert check(events, held={}) == ["message 1 of q was active and is lost"]
    assert check(events, held={"q": [1, 2]}) == ["message 2 of q had ended and is still there"]
    assert check(events, held={"q": [1, 3]}) == ["message 3 of q is there without an event of its arrival"]
    assert check(events, held={"q": [1, 3]}, partial=True) == []


# --------------------------------------------------------------------------- what an entity holds


def test_contents_are_shown_with_state_properties_and_body(recorded: RecordedNamespace) -> None:
    recorded.send("q", "active")
    recorded.send("q", "later", due=5)
    recorded.queue("q").defer(recorded.receive("q"))
    unreadable = Message(b"\x00\x53\x75\xff\xff")
    recorded.namespace.find("q").send([unreadable])
    shown = contents(recorded.queue("q"))
    assert [(each.sequence, each.state, each.body) for each in shown] == [
        (1, "deferred", b"x"),
        (2, "scheduled", b"x"),
        (3, "active", unreadable.bare),
    ]
    assert (shown[1].scheduled_for, shown[1].expires_at) == (1005, inf)
