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


class Hand:
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


class Desk:
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
        hand, queue = Hand(1, deletes=deletes), self.queue(path)
        ready_queue = queue.subscribe(hand)
        queue.dispatch(ready_queue)
        queue.unsubscribe(hand)
        return hand.tokens[0] if hand.tokens else b""

    @property
    def story(self) -> list[tuple[str, str]]:
        """What was told, as entity and kind; the record keeps its own rules."""
        assert self.record.check() == []
        return [(event.entity, event.kind) for event in self.record.events()]

    def kinds(self, path: str) -> list[str]:
        return [kind for entity, kind in self.story if entity == path]


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_message_that_is_done_at_the_second_try(desk: Desk) -> None:
    desk.send("q", "a")
    desk.queue("q").abandon(desk.receive("q"))
    token = desk.receive("q")
    desk.queue("q").renew(token)
    desk.queue("q").complete(token)
    assert desk.kinds("q") == ["sent", "delivered", "abandoned", "delivered", "lock-renewed", "completed"]
    last = desk.record.events()[-1]
    assert (last.sequence, last.message_id, last.delivery_count, last.container, last.link) == (1, "a", 1, "me", "link")
    assert last.lock_token is not None
    assert last.lock_token.replace("-", "") == token.hex()


def test_a_message_that_fails_too_often_is_buried_with_the_reason(desk: Desk) -> None:
    desk.send("q", "a")
    desk.receive("q")
    desk.timers.advance(desk.clock, 10)
    desk.queue("q").abandon(desk.receive("q"))
    desk.queue("q/$DeadLetterQueue").complete(desk.receive("q/$DeadLetterQueue"))
    assert desk.story[-4:] == [
        ("q", "dead-lettered"),
        ("q/$DeadLetterQueue", "dead-letter-arrived"),
        ("q/$DeadLetterQueue", "delivered"),
        ("q/$DeadLetterQueue", "completed"),
    ]
    [dead] = [event for event in desk.record.events() if event.kind == "dead-lettered"]
    assert (dead.reason, dead.target) == ("MaxDeliveryCountExceeded", "q/$DeadLetterQueue")


def test_every_way_a_message_can_go(desk: Desk) -> None:
    queue = desk.queue("often")
    for name in ("released", "deferred", "dead", "deleted"):
        desk.send("often", name)
    token = desk.receive("often")
    queue.release(token)
    queue.complete(desk.receive("often"))
    queue.defer(desk.receive("often"))
    [(_, again, _)] = queue.receive_deferred([2], deletes=False)
    assert again is not None
    queue.abandon(again)
    queue.receive_deferred([2], deletes=True)
    queue.dead_letter(desk.receive("often"), "why", "because")
    desk.receive("often", deletes=True)
    kinds = desk.kinds("often")
    assert kinds[4:] == [
        *("delivered", "released", "delivered", "completed"),
        *("delivered", "deferred", "delivered", "abandoned", "delivered"),
        *("delivered", "dead-lettered", "delivered"),
    ]


def test_scheduled_messages_and_duplicates(desk: Desk) -> None:
    cancelled = desk.send("q", "never", due=5)
    first = desk.send("q", "later", due=5)
    desk.queue("q").cancel_scheduled([cancelled])
    desk.timers.advance(desk.clock, 5)
    assert desk.kinds("q") == ["scheduled", "scheduled", "cancelled", "activated", "sent"]
    sent = desk.record.events("Q")[-1]
    assert (sent.first_sequence, sent.sequence) == (first, 3)
    desk.send("once", "x")
    desk.send("once", "x")
    assert desk.kinds("once") == ["sent", "duplicate"]


def test_forwarding_and_its_failures(desk: Desk) -> None:
    desk.send("door", "through")
    desk.send("gap", "stuck")
    desk.send("dead_letters", "dead")
    desk.queue("dead_letters").dead_letter(desk.receive("dead_letters"), "why", None)
    assert desk.kinds("door") == ["sent", "forwarded"]
    assert desk.kinds("room") == ["sent", "sent"]
    assert desk.kinds("gap") == ["sent", "dead-lettered"]
    assert desk.kinds("gap/$Transfer/$DeadLetterQueue") == ["dead-letter-arrived"]
    assert desk.kinds("dead_letters") == ["sent", "delivered", "dead-lettered"]


def test_what_expires_what_is_purged_and_what_goes_with_its_queue(desk: Desk) -> None:
    desk.send("short", "gone")
    desk.timers.advance(desk.clock, 5)
    desk.send("q", "locked")
    desk.send("q", "active")
    desk.send("q", "later", due=5)
    token = desk.receive("q")
    assert desk.queue("q").purge() == 3
    with pytest.raises(BusError):
        desk.queue("q").complete(token)
    desk.timers.advance(desk.clock, 20)
    desk.send("room", "x")
    desk.namespace.delete("room")
    assert desk.kinds("short") == ["sent", "expired"]
    assert desk.kinds("q")[-3:] == ["purged"] * 3
    assert desk.kinds("room") == ["sent", "purged"]
    assert desk.queue("q").counts().active == 0


def test_a_purged_session_is_not_handed_out(desk: Desk) -> None:
    desk.send("chats", "x", session="one")
    queue = desk.queue("chats")
    granted: list[Session] = []
    assert queue.purge() == 1
    queue.accept_next_session(Hand(), 5, granted.append)
    assert not granted


def test_a_topic_publishes_to_its_subscriptions(desk: Desk) -> None:
    desk.send("news", "a", session="s")
    desk.send("news", "later", due=5, session="s")
    desk.timers.advance(desk.clock, 5)
    desk.send("news", "without a session")
    assert desk.kinds("news") == [
        "sent",
        "published",
        "scheduled",
        "activated",
        "sent",
        "published",
        "sent",
        "published",
    ]
    assert desk.kinds("news/Subscriptions/all") == ["sent"] * 3
    assert desk.kinds("news/Subscriptions/none") == []
    assert desk.kinds("news/Subscriptions/chats") == ["sent", "sent", "dead-lettered"]
    assert desk.kinds("news/Subscriptions/chats/$DeadLetterQueue") == ["dead-letter-arrived"]


def test_a_session_is_accepted_released_and_lost(desk: Desk) -> None:
    for name in ("a", "b"):
        desk.send("chats", name, session="one")
    queue, first, second = desk.queue("chats"), Hand(1), Hand(2)
    queue.dispatch(queue.accept_session(first, "one"))
    queue.unsubscribe(first)
    queue.accept_next_session(second, 5, queue.dispatch)
    desk.timers.advance(desk.clock, 10 + GRACE)
    assert desk.kinds("chats")[2:] == [
        *("session-accepted", "delivered", "session-released", "released"),
        *("session-accepted", "delivered", "delivered", "session-lost", "lock-lost", "lock-lost"),
    ]


def test_entities_created_later_are_watched_too(desk: Desk) -> None:
    desk.namespace.create_queue("new", QueueOptions())
    desk.namespace.create_subscription("news", "new", SubscriptionDefinition())
    desk.send("new", "a")
    desk.send("news", "b")
    assert desk.kinds("new") == desk.kinds("news/Subscriptions/new") == ["sent"]


def test_the_ring_drops_the_oldest_and_counts_them(desk: Desk) -> None:
    desk.record.start(limit=3)
    for number in range(5):
        desk.send("q", str(number))
    assert [event.message_id for event in desk.record.events()] == ["2", "3", "4"]
    assert desk.record.as_json() == {"limit": 3, "kept": 3, "dropped": 2, "last": 5}
    assert [event.number for event in desk.record.events(since=4)] == [5]
    desk.queue("q").complete(desk.receive("q"))
    assert desk.record.check() == []
    with pytest.raises(ValueError, match="at least one event"):
        desk.record.start(limit=0)


def test_a_record_that_is_switched_on_late_accepts_what_was_there_before(desk: Desk) -> None:
    desk.send("q", "unseen")
    token = desk.receive("q")
    desk.record.stop()
    desk.send("q", "unheard")
    desk.record.start()
    desk.queue("q").complete(token)
    desk.queue("q").complete(desk.receive("q"))
    assert [event.kind for event in desk.record.events()] == ["completed", "delivered", "completed"]
    assert desk.record.check() == []
    assert desk.queue("q").observer is not None
    desk.record.stop()
    assert desk.queue("q").observer is None


def test_an_event_goes_through_json_and_back(desk: Desk) -> None:
    desk.send("q", "a")
    for event in desk.record.events():
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
def test_a_broken_rule_is_told(lines: list[str], violation: str) -> None:
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


def test_contents_are_shown_with_state_properties_and_body(desk: Desk) -> None:
    desk.send("q", "active")
    desk.send("q", "later", due=5)
    desk.queue("q").defer(desk.receive("q"))
    unreadable = Message(b"\x00\x53\x75\xff\xff")
    desk.namespace.find("q").send([unreadable])
    shown = contents(desk.queue("q"))
    assert [(each.sequence, each.state, each.body) for each in shown] == [
        (1, "deferred", b"x"),
        (2, "scheduled", b"x"),
        (3, "active", unreadable.bare),
    ]
    assert (shown[1].scheduled_for, shown[1].expires_at) == (1005, inf)
