"""The synchronous SDK talks in sessions: taken by name or as they come, in order, with a memory and a lock."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.protocol.counter import MOMENT, SOON, Counter, counter_at, next_of, take, together
from tests.protocol.desk import topology


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    plain = topology(talks={"RequiresSession": True, "LockDuration": "PT1M", "MaxDeliveryCount": 10}, plain={})
    with counter_at(plain) as counter:
        counter.bus.create_topic("news")
        counter.bus.create_subscription("news", "all", requires_session=True)
        yield counter


@pytest.fixture(scope="module")
def sender(counter: Counter) -> ServiceBusSender:
    return counter.open(counter.client.get_queue_sender("talks"))


@pytest.fixture(scope="module")
def held(counter: Counter) -> dict[str, ServiceBusReceiver]:
    """A receiver on a session for each test that needs one; a session may be held before it has messages."""
    names = ("a", "", "ünïcode / $x", "told", "settled", "passed on", "slow", "lost to renew_lock", "lost to get_state")
    return dict(zip(names, accept_all(counter, *names), strict=True))


@pytest.fixture
def told(held: dict[str, ServiceBusReceiver]) -> ServiceBusReceiver:
    """A receiver on a session, for tests of its lock and its memory."""
    return held["told"]


def accept(counter: Counter, session_id: Any, **options: Any) -> ServiceBusReceiver:
    """Open a receiver on a session; it is closed with the counter."""
    return counter.open(counter.client.get_queue_receiver("talks", session_id=session_id, **options))


def accept_all(counter: Counter, *session_ids: Any, **options: Any) -> list[ServiceBusReceiver]:
    """Open receivers on several sessions at once."""
    receivers = [counter.client.get_queue_receiver("talks", session_id=each, **options) for each in session_ids]
    counter.open_all(*receivers)
    return receivers


def say(sender: ServiceBusSender, session_id: str, *bodies: str) -> None:
    sender.send_messages([ServiceBusMessage(body, session_id=session_id) for body in bodies])


# --------------------------------------------------------------------------- taking sessions


def test_each_session_delivers_its_own_messages_in_order(
    sender: ServiceBusSender, held: dict[str, ServiceBusReceiver]
) -> None:
    names = ("a", "", "ünïcode / $x")
    for number in range(3):
        for name in names:
            say(sender, name, f"{name} {number}")
    for name in names:
        assert held[name].session.session_id == name
        assert take(held[name], 3) == [f"{name} {number}" for number in range(3)]


def test_the_next_available_sessions_go_to_whoever_asks(counter: Counter, sender: ServiceBusSender) -> None:
    say(sender, "first", "1")
    say(sender, "second", "2")
    receivers = accept_all(counter, NEXT_AVAILABLE_SESSION, NEXT_AVAILABLE_SESSION, max_wait_time=SOON)
    assert {each.session.session_id: take(each, 1) for each in receivers} == {"first": ["1"], "second": ["2"]}


def test_a_session_may_be_waited_for(counter: Counter, sender: ServiceBusSender) -> None:
    def speak() -> None:
        counter.bus.wait_until(lambda: counter.bus.waiting_for_session("talks"))
        say(sender, "late", "here")

    receiver, _ = together(lambda: accept(counter, NEXT_AVAILABLE_SESSION, max_wait_time=SOON), speak)
    assert (receiver.session.session_id, take(receiver, 1)) == ("late", ["here"])


def test_whoever_comes_second_or_in_vain_or_to_the_wrong_queue_is_refused(
    counter: Counter, told: ServiceBusReceiver
) -> None:
    def pass_time() -> None:
        counter.bus.wait_until(lambda: counter.bus.waiting_for_session("talks"))
        counter.bus.advance(3)

    get = counter.client.get_queue_receiver
    second, in_vain, plain, in_session, _ = together(
        lambda: counter.refusal(get("talks", session_id=told.session.session_id)),
        lambda: counter.refusal(get("talks", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=3)),
        lambda: counter.refusal(get("talks")),
        lambda: counter.refusal(get("plain", session_id="s")),
        pass_time,
    )
    assert isinstance(second, SessionCannotBeLockedError)
    assert isinstance(in_vain, OperationTimeoutError)
    for error in (plain, in_session):
        assert isinstance(error, ServiceBusError)
        assert "session" in str(error).lower()


def test_a_message_without_a_session_is_refused(sender: ServiceBusSender) -> None:
    with pytest.raises(ServiceBusError, match=r"(?i)session"):
        sender.send_messages(ServiceBusMessage("lost"))


# --------------------------------------------------------------------------- settling within sessions


def test_messages_of_a_session_are_settled_in_every_way(
    counter: Counter, sender: ServiceBusSender, held: dict[str, ServiceBusReceiver]
) -> None:
    receiver = held["settled"]
    say(sender, "settled", "again", "later", "bad")
    receiver.abandon_message(next_of(receiver))
    again = next_of(receiver)
    assert (str(again), again.delivery_count) == ("again", 1)
    receiver.complete_message(again)
    later = next_of(receiver)
    receiver.defer_message(later)
    receiver.dead_letter_message(next_of(receiver), reason="r")
    [deferred] = receiver.receive_deferred_messages(later.sequence_number or 0)
    receiver.complete_message(deferred)
    assert counter.bus.counts("talks/$DeadLetterQueue").active == 1
    assert receiver.receive_messages(1, max_wait_time=MOMENT) == []
    with pytest.raises(TypeError, match="session lock"):
        receiver.renew_message_lock(deferred)


def test_a_closed_session_leaves_its_messages_uncounted_and_its_memory(
    counter: Counter, sender: ServiceBusSender, held: dict[str, ServiceBusReceiver]
) -> None:
    say(sender, "passed on", "x")
    assert next_of(held["passed on"]).delivery_count == 0
    held["passed on"].session.set_state(b"half way")
    held["passed on"].close()
    second = accept(counter, "passed on")
    assert second.session.get_state() == b"half way"
    message = next_of(second)
    assert message.delivery_count == 0
    second.complete_message(message)
    second.session.set_state(None)


# --------------------------------------------------------------------------- the lock


def test_a_session_whose_lock_has_ended_is_lost_with_its_messages(
    counter: Counter, sender: ServiceBusSender, held: dict[str, ServiceBusReceiver]
) -> None:
    receiver = held["slow"]
    say(sender, "slow", "x")
    message = next_of(receiver)
    counter.bus.faults.lose_lock("talks", session="slow")
    with pytest.raises(SessionLockLostError):
        receiver.complete_message(message)
    with pytest.raises(SessionLockLostError):
        receiver.receive_messages(1, max_wait_time=SOON)
    second = accept(counter, "slow")
    again = next_of(second)
    assert (str(again), again.delivery_count) == ("x", 1)
    second.complete_message(again)


def test_a_lost_session_answers_no_questions(counter: Counter, held: dict[str, ServiceBusReceiver]) -> None:
    def ask(question: str) -> None:
        counter.bus.faults.lose_lock("talks", session=f"lost to {question}")
        with pytest.raises(SessionLockLostError):
            getattr(held[f"lost to {question}"].session, question)()

    together(lambda: ask("renew_lock"), lambda: ask("get_state"))


def test_the_lock_of_a_session_is_renewed(counter: Counter, told: ServiceBusReceiver) -> None:
    told.session.renew_lock()
    for _ in range(3):
        counter.bus.advance(40)
        assert told.session.renew_lock(timeout=SOON) == counter.moment(60)
        assert told.session.locked_until_utc == counter.moment(60)


# --------------------------------------------------------------------------- the memory


@pytest.mark.parametrize(
    ("state", "kept"), [("text ü", "text ü".encode()), (b"\x00bytes", b"\x00bytes"), (bytearray(b"ab"), b"ab")]
)
def test_a_session_remembers_what_it_is_told(told: ServiceBusReceiver, state: Any, kept: bytes) -> None:
    told.session.set_state(state, timeout=SOON)
    assert told.session.get_state(timeout=SOON) == kept


def test_a_session_forgets_what_it_is_told_to_forget(told: ServiceBusReceiver) -> None:
    told.session.set_state(b"something")
    told.session.set_state(None)
    assert told.session.get_state() is None


def test_a_time_out_must_be_longer_than_nothing(told: ServiceBusReceiver) -> None:
    for ask in (told.session.get_state, told.session.renew_lock):
        with pytest.raises(ValueError, match="greater than 0"):
            ask(timeout=0)
    with pytest.raises(ValueError, match="greater than 0"):
        told.session.set_state(b"", timeout=0)


# --------------------------------------------------------------------------- listing


def test_sessions_are_listed_with_messages_or_memory_or_by_when_that_changed(
    counter: Counter, told: ServiceBusReceiver
) -> None:
    topic = counter.client.get_topic_sender("news")
    remembering = counter.client.get_subscription_receiver("news", "all", session_id="remembering")
    counter.open_all(topic, remembering)
    many = [f"s{number:03}" for number in range(150)]  # more than a page
    topic.send_messages([ServiceBusMessage("x", session_id=session) for session in many])
    remembering.session.set_state(b"x")
    counter.bus.advance(1)
    told.session.set_state(b"new")
    counter.bus.advance(1)
    ago, now = counter.moment() - timedelta(seconds=1.5), counter.moment()
    listed, changed, unchanged = together(
        lambda: list(counter.client.list_subscription_sessions("news", "all", timeout=SOON)),
        lambda: list(counter.client.list_queue_sessions("talks", state_updated_after=ago)),
        lambda: list(counter.client.list_queue_sessions("talks", state_updated_after=now)),
    )
    assert sorted(listed) == ["remembering", *many]
    assert (changed, unchanged) == (["told"], [])


def test_a_list_must_have_some_time(counter: Counter) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        counter.client.list_queue_sessions("talks", timeout=0)
    with pytest.raises(ValueError, match="greater than 0"):
        counter.client.list_subscription_sessions("news", "all", timeout=0)
