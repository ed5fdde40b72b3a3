"""What a namespace is after a restart: what it was, but for locks, and for what time has done meanwhile."""

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from servicebus_local.bus.errors import EntityNotFound
from servicebus_local.bus.filters import CorrelationFilter, Rule, SqlAction, SqlFilter
from servicebus_local.bus.message import Message, State, read_body
from servicebus_local.bus.store import StoreError
from servicebus_local.bus.topics import Subscription
from servicebus_local.bus.topology import (
    AccessRule,
    QueueOptions,
    Right,
    Status,
    SubscriptionDefinition,
    TopicDefinition,
    TopicOptions,
    Topology,
)
from tests.unit.stored_namespace import FakeReceiver, StoredNamespace, message

PLAIN = QueueOptions(lock_duration=60.0, max_delivery_count=3)
BURIES = replace(PLAIN, dead_lettering_on_expiration=True)
DEAD = "q/$DeadLetterQueue"


def stored_namespace(folder: Path, **queues: QueueOptions) -> StoredNamespace:
    return StoredNamespace(folder, Topology(queues))


def held(stored_namespace: StoredNamespace, path: str = "q") -> list[tuple[str, State, int]]:
    """What is in a queue: id, state, delivery count."""
    messages = sorted(stored_namespace[path].messages.values(), key=lambda message: message.sequence)
    return [(message.message_id, message.state, message.delivery_count) for message in messages]


def reason(found: Message) -> object:
    return read_body(found.bare)[1].get("DeadLetterReason")


# --------------------------------------------------------------------------- messages


def test_messages_are_there_in_order_with_their_numbers_and_times(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    for name in "abc":
        stored["q"].send([message(name)])
        stored.advance(1)
    stored.restart(seconds=100)
    taken = [found for found, _ in FakeReceiver().take(stored["q"], 3)]
    assert [(m.message_id, m.sequence, m.enqueued_at) for m in taken] == [
        ("a", 1, 1000),
        ("b", 2, 1001),
        ("c", 3, 1002),
    ]
    assert [read_body(m.bare)[2] for m in taken] == [b"body of a", b"body of b", b"body of c"]


def test_numbers_go_on_where_they_were_even_when_everything_was_completed(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    assert stored["q"].send([message("a"), message("b")]) == [1, 2]
    for token in stored.lock("q", 2):
        stored["q"].complete(token)
    stored.restart()
    assert held(stored) == []
    assert stored["q"].send([message("c")]) == [3]


def test_a_locked_message_comes_back_one_delivery_older_and_others_as_they_were(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send(map(message, "abc"))
    first, _ = stored.lock("q", 2)
    stored["q"].release(first)
    stored.restart()
    assert held(stored) == [("a", State.ACTIVE, 0), ("b", State.ACTIVE, 1), ("c", State.ACTIVE, 0)]
    stored.restart()
    assert held(stored) == [("a", State.ACTIVE, 0), ("b", State.ACTIVE, 1), ("c", State.ACTIVE, 0)]


def test_a_message_that_was_locked_too_often_is_a_dead_letter(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send([message("a")])
    for _ in range(PLAIN.max_delivery_count):
        assert held(stored, DEAD) == []
        stored.lock("q")
        stored.restart()
    assert held(stored) == []
    [found] = stored[DEAD].messages.values()
    assert (reason(found), found.sequence, found.delivery_count) == ("MaxDeliveryCountExceeded", 1, 3)


def test_a_deferred_message_stays_deferred_also_when_it_was_locked(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send([message("a"), message("b")])
    for token in stored.lock("q", 2):
        stored["q"].defer(token, {"why": "later"})
    stored["q"].receive_deferred([2], deletes=False)
    stored.restart()
    assert held(stored) == [("a", State.DEFERRED, 1), ("b", State.DEFERRED, 2)]
    assert stored.lock("q") == []
    [(found, _, _)] = stored["q"].receive_deferred([2], deletes=True)
    assert read_body(found.bare)[1] == {"why": "later"}
    stored.restart()
    assert [name for name, _, _ in held(stored)] == ["a"]


def test_a_scheduled_message_stays_scheduled_and_appears_in_time_under_a_new_number(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send([message("a", scheduled_for=1100.0), message("b", scheduled_for=1200.0)])
    stored.restart(seconds=50)
    assert stored["q"].counts().scheduled == 2
    stored.advance(50)
    assert held(stored) == [("b", State.SCHEDULED, 0), ("a", State.ACTIVE, 0)]
    stored["q"].cancel_scheduled([2])
    stored.restart()
    assert held(stored) == [("a", State.ACTIVE, 0)]
    assert [found.sequence for found in stored["q"].messages.values()] == [3]


def test_what_became_due_meanwhile_appears_at_once_earliest_first(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send([message("late", scheduled_for=1200.0), message("early", scheduled_for=1100.0)])
    stored.restart(seconds=500)
    assert held(stored) == [("early", State.ACTIVE, 0), ("late", State.ACTIVE, 0)]
    assert [found.enqueued_at for found in stored["q"].messages.values()] == [1500, 1500]
    stored.kill()
    assert held(stored) == [("early", State.ACTIVE, 0), ("late", State.ACTIVE, 0)]


@pytest.mark.parametrize(("options", "dead_lettered"), [(PLAIN, []), (BURIES, ["short"])])
def test_what_expired_meanwhile_is_dealt_with(tmp_path: Path, options: QueueOptions, dead_lettered: list[str]) -> None:
    stored = stored_namespace(tmp_path, q=options)
    stored["q"].send([message("short", time_to_live=100.0), message("long", time_to_live=200.0), message("ever")])
    stored.restart(seconds=150)
    assert [name for name, _, _ in held(stored)] == ["long", "ever"]
    assert [name for name, _, _ in held(stored, DEAD)] == dead_lettered
    stored.advance(50)
    assert [name for name, _, _ in held(stored)] == ["ever"]


def test_a_dead_letter_keeps_its_reason_its_number_and_its_count(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send([message("a")])
    [token] = stored.lock("q")
    stored["q"].abandon(token)
    [token] = stored.lock("q")
    stored["q"].dead_letter(token, "Bad", "very")
    stored.restart(seconds=1e9)
    [found] = stored[DEAD].messages.values()
    assert (reason(found), found.sequence, found.delivery_count, found.expires_at) == ("Bad", 1, 1, inf)
    stored.lock(DEAD)
    stored.restart()
    assert held(stored, DEAD) == [("a", State.ACTIVE, 1)]


def test_a_maximum_that_is_lower_now_counts_for_what_was_locked_before(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN)
    stored["q"].send([message("a"), message("b")])
    stored.lock("q")
    stored.restart(Topology({"q": replace(PLAIN, max_delivery_count=1)}))
    assert held(stored) == [("b", State.ACTIVE, 0)]
    assert held(stored, DEAD) == [("a", State.ACTIVE, 1)]


# --------------------------------------------------------------------------- sessions, duplicates


def test_sessions_remember_and_their_messages_are_theirs(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=replace(PLAIN, requires_session=True))
    stored["q"].send([message("a", "s"), message("b", "s"), message("c", "t")])
    session = stored.hold("q", "s", credit=1)
    stored["q"].set_session_state(session, b"half")
    stored.restart()
    assert held(stored) == [("a", State.ACTIVE, 1), ("b", State.ACTIVE, 0), ("c", State.ACTIVE, 0)]
    assert sorted(stored["q"].sessions.listed()) == ["s", "t"]
    assert stored["q"].sessions.listed(updated_after=999.0) == ["s"]
    assert stored["q"].sessions.listed(updated_after=1000.0) == []
    session = stored.hold("q", "s", credit=5)
    assert (session.state, len(session.tokens)) == (b"half", 2)
    stored["q"].set_session_state(session, None)
    stored.restart()
    assert stored.hold("q", "s").state is None


def test_a_session_with_nothing_but_a_state_is_there(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=replace(PLAIN, requires_session=True))
    stored["q"].set_session_state(stored.hold("q", "s"), b"")
    stored.restart()
    assert stored["q"].sessions.listed() == ["s"]
    assert stored.hold("q", "s").state == b""


ONCE = replace(PLAIN, duplicate_detection=True, duplicate_window=100.0)


def test_duplicates_are_found_across_a_restart_until_the_window_ends(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=ONCE)
    assert stored["q"].send([message("a"), message("later", scheduled_for=5000.0)]) == [1, 2]
    [token] = stored.lock("q")
    stored["q"].complete(token)
    stored.restart(seconds=60)
    assert stored["q"].send([message("a"), message("later"), message("b")]) == [1, 2, 3]
    stored.restart(seconds=60)
    assert stored["q"].send([message("a"), message("b")]) == [4, 3]
    stored.restart(seconds=60)
    assert stored["q"].send([message("a"), message("b")]) == [4, 5]


def test_an_id_that_came_again_after_its_window_is_remembered_from_then_on(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=ONCE)
    stored["q"].send([message("a")])
    stored.advance(150)
    stored["q"].send([message("a")])
    stored.restart(seconds=50)
    assert stored["q"].send([message("a")]) == [2]
    stored.advance(60)
    assert stored["q"].send([message("a")]) == [3]


@pytest.mark.parametrize("first", [ONCE, PLAIN])
def test_duplicate_detection_may_be_switched(tmp_path: Path, first: QueueOptions) -> None:
    stored = stored_namespace(tmp_path, q=first)
    stored["q"].send([message("a")])
    other = PLAIN if first is ONCE else ONCE
    stored.restart(Topology({"q": other}))
    [once] = stored["q"].send([message("b")])
    [again] = stored["q"].send([message("b")])
    assert (once == again) is (other is ONCE)


# --------------------------------------------------------------------------- from one entity to another


def test_what_was_forwarded_is_where_it_went_and_knows_where_it_came_from(tmp_path: Path) -> None:
    queues = {
        "q": replace(PLAIN, forward_dead_letters_to="dead"),
        "door": replace(PLAIN, forward_to="room"),
        "room": PLAIN,
        "dead": PLAIN,
    }
    stored = stored_namespace(tmp_path, **queues)
    stored["door"].send([message("a")])
    stored["q"].send([message("b")])
    [token] = stored.lock("q")
    stored["q"].dead_letter(token, "Bad", None)
    stored.restart()
    assert [held(stored, path) for path in ("door", "q", DEAD)] == [[], [], []]
    [in_room], [in_dead] = stored["room"].messages.values(), stored["dead"].messages.values()
    assert (in_room.hops, in_room.enqueued_sequence) == (1, 1)
    assert (in_dead.hops, in_dead.dead_letter_source) == (1, "q")
    assert stored["door"].send([message("c")]) == [2]


def test_what_expired_meanwhile_is_forwarded_wherever_its_target_was_stored(tmp_path: Path) -> None:
    forwards = replace(BURIES, default_time_to_live=100.0)
    queues = {
        "a": replace(forwards, forward_dead_letters_to="m"),
        "m": replace(PLAIN, duplicate_detection=True),
        "z": replace(forwards, forward_dead_letters_to="m"),
    }
    stored = stored_namespace(tmp_path, **queues)
    stored["m"].send([message("known")])
    for path in ("a", "z"):
        stored[path].send([message(f"from {path}"), message("known")])
    stored.restart(seconds=200)
    assert [name for name, _, _ in held(stored, "m")] == ["known", "from a", "from z"]
    assert [held(stored, path) for path in ("a", "z")] == [[], []]
    stored.kill()
    assert [name for name, _, _ in held(stored, "m")] == ["known", "from a", "from z"]


def test_a_queue_that_forwards_from_now_on_forwards_what_it_held(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=PLAIN, room=PLAIN)
    stored["q"].send(map(message, "ab"))
    stored.lock("q")
    stored.restart(Topology({"q": replace(PLAIN, forward_to="room")}))
    assert held(stored) == []
    assert [name for name, _, _ in held(stored, "room")] == ["a", "b"]


NEWS = TopicDefinition(
    TopicOptions(duplicate_detection=True),
    {
        "all": SubscriptionDefinition(PLAIN),
        "some": SubscriptionDefinition(
            PLAIN,
            (Rule("label", CorrelationFilter(message_id="b")), Rule("act", SqlFilter("1=1"), SqlAction("SET x = 1"))),
        ),
    },
)


def test_topics_subscriptions_and_rules_are_there_and_work(tmp_path: Path) -> None:
    stored = StoredNamespace(tmp_path, Topology({}, {"news": NEWS}))
    stored.namespace.topic("news").send([message("a"), message("later", scheduled_for=1100.0)])
    stored.lock("news/Subscriptions/all")
    stored.restart()
    all_, some = "news/subscriptions/all", "news/subscriptions/some"
    assert held(stored, all_) == [("a", State.ACTIVE, 1)]
    assert [rule.name for rule in subscription(stored, "some").rules.values()] == ["label", "act"]
    stored.namespace.topic("news").send([message("a"), message("b")])  # the first is known
    stored.advance(100)
    assert [name for name, _, _ in held(stored, all_)] == ["a", "b", "later"]
    assert [name for name, _, _ in held(stored, some)] == ["a", "b", "b", "later"]
    numbers = [found.enqueued_sequence for found in stored[all_].messages.values()]
    assert numbers == [1, 3, 2]


def subscription(stored: StoredNamespace, name: str) -> Subscription:
    return stored.namespace.subscription("news", name)


# --------------------------------------------------------------------------- definitions


def test_created_updated_and_deleted_entities_survive_without_a_configuration(tmp_path: Path) -> None:
    stored = StoredNamespace(tmp_path, Topology())
    namespace = stored.namespace
    keys = (AccessRule("sender", ("one", "two"), frozenset({Right.SEND}), 5.0, 6.0),)
    namespace.create_queue("Orders", replace(PLAIN, metadata="m", access=keys, status=Status.RECEIVE_DISABLED))
    namespace.create_queue("gone", PLAIN)
    namespace.create_topic("news", TopicOptions(max_size=1e9))
    namespace.create_subscription("news", "all", SubscriptionDefinition(PLAIN))
    namespace.create_subscription("news", "gone", SubscriptionDefinition(PLAIN))
    stored.advance(5)
    namespace.update_subscription("news", "all", replace(PLAIN, max_delivery_count=9))
    namespace.change_rules(
        subscription(stored, "all"), lambda changed: changed.add_rule(Rule("more", SqlFilter("a = 1")))
    )
    namespace.delete("gone")
    namespace.delete_subscription("news", "gone")
    stored.restart(seconds=100)
    namespace = stored.namespace
    orders, every = namespace.queue("orders"), subscription(stored, "all")
    assert [queue.name for queue in namespace.queues()] == ["Orders"]
    assert (orders.options.metadata, orders.options.access, orders.options.status) == (
        "m",
        keys,
        Status.RECEIVE_DISABLED,
    )
    assert namespace.topic("news").options == TopicOptions(max_size=1e9)
    assert list(namespace.topic("news").subscriptions) == ["all"]
    assert (every.options.max_delivery_count, list(every.rules)) == (9, ["$default", "more"])
    assert (every.created_at, every.updated_at, orders.created_at) == (1000, 1005, 1000)


def test_a_queue_that_is_used_before_it_is_created_survives_too(tmp_path: Path) -> None:
    stored = StoredNamespace(tmp_path, Topology())
    stored.namespace.default_options = PLAIN
    stored["new"].send([message("a")])
    stored.restart()
    assert held(stored, "new") == [("a", State.ACTIVE, 0)]


def test_the_configuration_wins_and_entities_it_no_longer_has_are_kept(tmp_path: Path) -> None:
    access = (AccessRule("r", ("key",)),)
    stored = StoredNamespace(tmp_path, Topology({"q": PLAIN, "old": PLAIN}, {"news": NEWS}))
    stored.namespace.update_queue("q", replace(PLAIN, access=access))
    stored["old"].send([message("a")])
    news = TopicDefinition(TopicOptions(), {"all": SubscriptionDefinition(PLAIN, (Rule("only", SqlFilter("a = 1")),))})
    stored.restart(Topology({"Q": replace(PLAIN, max_delivery_count=7)}, {"news": news}), seconds=100)
    queue = stored["q"]
    assert (queue.name, queue.options.max_delivery_count, queue.options.access) == ("q", 7, access)
    assert (queue.created_at, queue.updated_at) == (1000, 1100)
    assert held(stored, "old") == [("a", State.ACTIVE, 0)]
    assert not stored.namespace.topic("news").options.duplicate_detection
    assert list(subscription(stored, "all").rules) == ["only"]
    assert list(subscription(stored, "some").rules) == ["label", "act"]
    stored.restart()
    assert (stored["q"].options.max_delivery_count, list(subscription(stored, "all").rules)) == (7, ["only"])


def test_a_configuration_that_is_the_same_changes_nothing(tmp_path: Path) -> None:
    topology = Topology({"q": PLAIN}, {"news": NEWS})
    stored = StoredNamespace(tmp_path, topology)
    stored.restart(topology, seconds=100)
    found = (stored["q"], stored.namespace.topic("news"), subscription(stored, "some"))
    assert [entity.updated_at for entity in found] == [1000] * 3


SESSIONS = replace(PLAIN, requires_session=True)


@pytest.mark.parametrize(
    ("before", "configured", "sentence"),
    [
        (
            Topology({"q": PLAIN}),
            Topology({"q": SESSIONS}),
            "'q' is stored without RequiresSession and configured with",
        ),
        (
            Topology({"q": SESSIONS}),
            Topology({"q": PLAIN}),
            "'q' is stored with RequiresSession and configured without",
        ),
        (
            Topology({"news": PLAIN}),
            Topology({}, {"News": NEWS}),
            "'news' is stored as a queue and configured as a topic",
        ),
        (
            Topology({}, {"news": NEWS}),
            Topology({"news": PLAIN}),
            "'news' is stored as a topic and configured as a queue",
        ),
        (
            Topology({}, {"news": NEWS}),
            Topology({}, {"news": TopicDefinition(NEWS.options, {"all": SubscriptionDefinition(SESSIONS)})}),
            "'news/Subscriptions/all' is stored without RequiresSession",
        ),
    ],
)
def test_a_configuration_that_changes_a_fixed_property_of_a_stored_entity_is_refused(
    tmp_path: Path, before: Topology, configured: Topology, sentence: str
) -> None:
    stored = StoredNamespace(tmp_path, before)
    stored.store.commit()
    with pytest.raises(StoreError) as refused:
        stored.kill(Topology({"new": PLAIN, **configured.queues}, configured.topics))
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)
    stored.kill()
    with pytest.raises(EntityNotFound):
        stored.namespace.find("new")


def test_an_entity_that_may_be_deleted_when_idle_is_watched_again(tmp_path: Path) -> None:
    stored = stored_namespace(tmp_path, q=replace(PLAIN, auto_delete_on_idle=300.0))
    stored.restart(seconds=1000)
    stored.advance(299)
    assert stored["q"].counts().active == 0
    stored.advance(1)
    stored.restart()
    assert not list(stored.namespace.queues())
