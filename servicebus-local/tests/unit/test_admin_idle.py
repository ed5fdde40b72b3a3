"""AutoDeleteOnIdle: an entity goes when nobody has used it for so long, and not a moment before."""

from collections.abc import Callable
from math import inf

import pytest

from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import BusError
from servicebus_local.bus.filters import Rule, TrueFilter
from servicebus_local.bus.message import Message
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.topics import Subscription
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, TopicOptions, Topology

IDLE = 300.0
BODY = b"\x00\x53\x75\xa0\x03abc"  # a data section
SHORT = QueueOptions(auto_delete_on_idle=IDLE)


class IdleFixture:
    """A queue and a topic with a subscription, all of which go when they are idle."""

    def __init__(self) -> None:
        self.clock = ManualClock(0.0)
        self.timers = Timers(self.clock)
        topic = TopicDefinition(TopicOptions(), {"all": SubscriptionDefinition(SHORT)})
        self.namespace = Namespace(Topology({"q": SHORT, "kept": QueueOptions()}, {"news": topic}), self.timers)

    def has_queue(self) -> bool:
        """Whether the queue is there."""
        return self.namespace.get("q") is not None

    def has_subscription(self) -> bool:
        """Whether the subscription is there."""
        return "all" in self.namespace.topic("news").subscriptions

    @property
    def subscription(self) -> Subscription:
        """The subscription."""
        return self.namespace.subscription("news", "all")

    def wait(self, seconds: float) -> None:
        """Let time go by."""
        self.timers.advance(self.clock, seconds)


class FakeLink:
    """Somebody who attaches."""

    def __init__(self, *, sends: bool) -> None:
        self.sends = sends
        self.errors: list[BusError] = []

    def lost(self, error: BusError) -> None:
        """Remember why."""
        self.errors.append(error)


def message(delay: float = 0.0) -> Message:
    made = Message(BODY)
    made.scheduled_for = delay or None
    return made


def test_an_idle_queue_goes_at_its_time_and_others_stay() -> None:
    fixture = IdleFixture()
    fixture.wait(IDLE - 0.001)
    assert fixture.has_queue()
    fixture.wait(0.001)
    assert not fixture.has_queue()
    assert fixture.namespace.get("kept") is not None


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda fixture: fixture.namespace.queue("q").send([message()]), id="a message is sent"),
        pytest.param(lambda fixture: fixture.namespace.queue("q").peek(0, 1), id="somebody peeks"),
        pytest.param(lambda fixture: fixture.namespace.queue("q/$DeadLetterQueue").peek(0, 1), id="at dead letters"),
        pytest.param(lambda fixture: fixture.namespace.update_queue("q", SHORT), id="it is updated"),
    ],
)
def test_use_begins_the_time_again(use: Callable[[IdleFixture], object]) -> None:
    fixture = IdleFixture()
    fixture.wait(200)
    use(fixture)
    fixture.wait(IDLE - 1)
    assert fixture.has_queue()
    fixture.wait(1)
    assert not fixture.has_queue()


@pytest.mark.parametrize("sends", [True, False])
@pytest.mark.parametrize("path", ["q", "q/$DeadLetterQueue"])
def test_an_attached_link_keeps_an_idle_entity_and_its_time_begins_at_detach(path: str, sends: bool) -> None:
    fixture, link = IdleFixture(), FakeLink(sends=sends)
    entity = fixture.namespace.find(path)
    entity.join(link)
    fixture.wait(10 * IDLE + 17)
    assert fixture.has_queue()
    entity.part(link)
    fixture.wait(IDLE - 1)
    assert fixture.has_queue()
    fixture.wait(1)
    assert not fixture.has_queue()
    assert link.errors == []


def test_a_scheduled_message_keeps_it_and_its_time_begins_when_that_appears() -> None:
    fixture = IdleFixture()
    fixture.namespace.queue("q").send([message(delay=1000)])
    fixture.wait(1000 + IDLE - 1)
    assert fixture.has_queue()
    fixture.wait(1)
    assert not fixture.has_queue()


def test_a_queue_that_forwards_is_never_idle() -> None:
    fixture = IdleFixture()
    fixture.namespace.update_queue("q", QueueOptions(auto_delete_on_idle=IDLE, forward_to="kept"))
    fixture.wait(10 * IDLE)
    assert fixture.has_queue()


@pytest.mark.parametrize(("idle", "left"), [(inf, True), (2 * IDLE, True), (IDLE / 2, False)])
def test_an_update_changes_how_long_it_takes(idle: float, left: bool) -> None:
    fixture = IdleFixture()
    fixture.wait(1)
    fixture.namespace.update_queue("q", QueueOptions(auto_delete_on_idle=idle))
    fixture.wait(IDLE)
    assert fixture.has_queue() is left


def test_a_copy_from_a_topic_does_not_count_as_use_of_a_subscription() -> None:
    """Azure's list of what idle means has receiving, updates, rules and peeking for subscriptions."""
    fixture = IdleFixture()
    fixture.wait(200)
    fixture.namespace.topic("news").send([message()])
    assert fixture.subscription.counts().active == 1
    fixture.wait(100)
    assert not fixture.has_subscription()


def test_a_new_rule_is_use_of_a_subscription() -> None:
    fixture = IdleFixture()
    fixture.wait(200)
    fixture.namespace.change_rules(fixture.subscription, lambda it: it.add_rule(Rule("r", TrueFilter())))
    fixture.wait(IDLE - 1)
    assert fixture.has_subscription()
    fixture.wait(1)
    assert not fixture.has_subscription()


def test_use_of_a_subscription_is_use_of_its_topic() -> None:
    fixture, link = IdleFixture(), FakeLink(sends=False)
    fixture.namespace.update_topic("news", TopicOptions(auto_delete_on_idle=2 * IDLE))
    fixture.subscription.join(link)
    fixture.wait(10 * IDLE)
    fixture.subscription.part(link)
    fixture.wait(2 * IDLE - 1)
    assert fixture.namespace.get("news") is not None
    fixture.wait(1)
    assert fixture.namespace.get("news") is None


def test_what_was_deleted_is_not_deleted_again() -> None:
    fixture = IdleFixture()
    fixture.namespace.delete("q")
    fixture.namespace.delete("news")
    fixture.namespace.create_queue("q", QueueOptions())
    fixture.wait(10 * IDLE)
    assert fixture.has_queue()
    assert fixture.timers.next_due() is None
