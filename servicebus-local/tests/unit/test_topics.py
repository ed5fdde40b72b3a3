"""Topics: who gets a copy, how often, and what becomes of what nobody can judge."""

from dataclasses import replace

import pytest

from servicebus_local.amqp.types import encode
from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import EntityDisabled, EntityExists, EntityNotFound, NotAllowed
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.message import Message, read, read_body
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topics import Subscription
from servicebus_local.bus.topology import (
    QueueOptions,
    Status,
    SubscriptionDefinition,
    TopicDefinition,
    TopicOptions,
    Topology,
)

PLAIN = QueueOptions()


def subscription(*rules: Rule, options: QueueOptions = PLAIN) -> SubscriptionDefinition:
    return SubscriptionDefinition(options, rules)


class News:
    """A namespace with one topic, a queue beside it, and a clock."""

    def __init__(self, options: TopicOptions | None = None, **subscriptions: SubscriptionDefinition) -> None:
        self.clock = ManualClock(1000)
        self.timers = Timers(self.clock)
        topic = TopicDefinition(options or TopicOptions(), subscriptions)
        self.namespace = Namespace(Topology({"all": PLAIN}, {"news": topic}), self.timers)

    def __getitem__(self, name: str) -> Subscription:
        return self.namespace.subscription("news", name)

    def publish(self, name: str = "m", **properties: object) -> None:
        self.namespace.topic("news").send([message(name, **properties)])

    def advance(self, seconds: float) -> None:
        self.timers.advance(self.clock, seconds)


def message(name: str, **properties: object) -> Message:
    application = b"\x00\x53\x74" + encode(dict(properties)) if properties else b""
    made = read(application + b"\x00\x53\x75\xa0\x04body")
    made.message_id = name
    return made


def properties_of(message: Message) -> dict[str, object]:
    return read_body(message.bare)[1]


def held(queue: Queue) -> list[Message]:
    return list(queue.messages.values())


RED = Rule("red", SqlFilter("colour = 'red'", {}), None)
LARGE = Rule("large", SqlFilter("size > 10", {}), None)


def test_a_subscription_without_rules_of_its_own_gets_everything() -> None:
    news = News(every=SubscriptionDefinition())
    news.publish(colour="red")
    assert len(held(news["every"])) == 1


def test_rules_choose_and_several_that_match_make_one_copy() -> None:
    news = News(picky=subscription(RED, LARGE), none=subscription(Rule("no", FalseFilter(), None)))
    for properties in ({"colour": "red", "size": 20}, {"colour": "blue", "size": 1}, {"size": 20}):
        news.publish(**properties)
    assert [properties_of(kept) for kept in held(news["picky"])] == [{"colour": "red", "size": 20}, {"size": 20}]
    assert held(news["none"]) == []


def test_each_rule_with_an_action_makes_a_copy_that_names_it() -> None:
    paint = Rule("paint", TrueFilter(), SqlAction("SET colour = 'green'; REMOVE size", {}))
    news = News(both=subscription(RED, paint))
    news.publish(colour="red", size=1)
    assert [properties_of(kept) for kept in held(news["both"])] == [
        {"colour": "red", "size": 1},
        {"colour": "green", "RuleName": "paint"},
    ]


def test_a_correlation_filter_chooses_too() -> None:
    news = News(mine=subscription(Rule("mine", CorrelationFilter(properties={"to": "me"}), None)))
    news.publish(to="me")
    news.publish(to="you")
    assert len(held(news["mine"])) == 1


def test_each_subscription_numbers_its_own_and_keeps_the_topics_number() -> None:
    news = News(few=subscription(RED), every=SubscriptionDefinition())
    news.publish(colour="blue")
    news.publish(colour="red")
    [kept] = held(news["few"])
    assert (kept.sequence, kept.enqueued_sequence) == (1, 2)


def test_the_shorter_time_to_live_wins() -> None:
    short = replace(PLAIN, default_time_to_live=5.0, dead_lettering_on_expiration=True)
    news = News(TopicOptions(default_time_to_live=20.0), short=subscription(RED, options=short), long=subscription(RED))
    news.publish(colour="red")
    assert [held(news[name])[0].time_to_live for name in ("short", "long")] == [5.0, 20.0]
    news.advance(6)
    assert (news["short"].counts().dead_lettered, news["long"].counts().active) == (1, 1)


def test_a_scheduled_message_waits_in_the_topic() -> None:
    news = News(every=SubscriptionDefinition())
    later = message("later")
    later.scheduled_for = 1010.0
    [number] = news.namespace.topic("news").send([later])
    assert (news.namespace.topic("news").counts().scheduled, news["every"].counts().active) == (1, 0)
    news.advance(10)
    assert (news.namespace.topic("news").counts().scheduled, news["every"].counts().active) == (0, 1)
    assert number == 1


def test_duplicates_are_found_before_the_copies_are_made() -> None:
    news = News(TopicOptions(duplicate_detection=True, duplicate_window=60), every=SubscriptionDefinition())
    news.publish("same")
    news.publish("same")
    assert len(held(news["every"])) == 1


def test_sessions_need_an_id_or_the_copy_is_dead() -> None:
    news = News(talks=subscription(Rule("all", TrueFilter(), None), options=replace(PLAIN, requires_session=True)))
    news.publish("anonymous")
    assert news["talks"].counts().dead_lettered == 1
    [dead] = held(news["talks"].dead_letters)
    assert properties_of(dead)["DeadLetterReason"] == "Session ID is null."


def test_a_rule_that_cannot_judge_makes_a_dead_letter_or_nothing() -> None:
    broken = Rule("broken", SqlFilter("size / nothing > 1", {}), None)
    keeps = subscription(broken)
    drops = subscription(broken, options=replace(PLAIN, dead_lettering_on_filter_errors=False))
    news = News(keeps=keeps, drops=drops, every=SubscriptionDefinition())
    news.publish(size=1, nothing=0)
    assert [news[name].counts().dead_lettered for name in ("keeps", "drops", "every")] == [1, 0, 0]
    assert len(held(news["every"])) == 1


def test_a_subscription_may_forward() -> None:
    news = News(onward=subscription(RED, options=replace(PLAIN, forward_to="all")))
    news.publish(colour="red")
    assert news.namespace.queue("all").counts().active == 1
    assert news["onward"].counts().active == 0


def test_a_subscription_is_found_by_its_path_and_filled_by_its_topic_alone() -> None:
    news = News(every=SubscriptionDefinition())
    found = news.namespace.queue("NEWS/subscriptions/Every")
    assert found is news["every"]
    assert news.namespace.queue("news/Subscriptions/every/$deadletterqueue") is found.dead_letters
    with pytest.raises(NotAllowed, match="send to the topic 'news'"):
        found.send([message("direct")])
    with pytest.raises(NotAllowed, match="is a topic"):
        news.namespace.queue("news")
    with pytest.raises(EntityNotFound):
        news.namespace.queue("news/Subscriptions/other")


def test_rules_have_names_once() -> None:
    news = News(every=SubscriptionDefinition())
    with pytest.raises(EntityExists):
        news["every"].add_rule(Rule("$DEFAULT", FalseFilter(), None))
    news["every"].remove_rule("$default")
    with pytest.raises(EntityNotFound):
        news["every"].remove_rule("$default")
    news.publish()
    assert held(news["every"]) == []


def test_a_disabled_topic_takes_nothing_and_a_disabled_subscription_misses_it() -> None:
    news = News(off=subscription(RED), every=SubscriptionDefinition())
    news.namespace.update_subscription("news", "off", replace(PLAIN, status=Status.DISABLED))
    news.publish(colour="red")
    assert [len(held(news[name])) for name in ("off", "every")] == [0, 1]
    news.namespace.update_topic("news", TopicOptions(status=Status.SEND_DISABLED))
    with pytest.raises(EntityDisabled):
        news.publish()


def test_a_deleted_topic_takes_its_subscriptions_along() -> None:
    news = News(every=SubscriptionDefinition())
    topic = news.namespace.topic("news")
    news.namespace.delete("news")
    with pytest.raises(EntityNotFound):
        news.namespace.find("news/Subscriptions/every")
    with pytest.raises(EntityNotFound):
        topic.send([message("late")])
