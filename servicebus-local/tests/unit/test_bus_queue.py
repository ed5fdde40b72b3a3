"""The queue engine, without a protocol: order, locks, counts, and what waits for what."""

from dataclasses import replace

import pytest

from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import (
    BusError,
    EntityNotFound,
    MessageLockLost,
    MessageNotFound,
    NotAllowed,
    QuotaExceeded,
    SessionCannotBeLocked,
    SessionLockLost,
)
from servicebus_local.bus.message import Message, read
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topology import QueueOptions, Topology


class FakeReceiver:
    """A receiver that takes what it is given, as far as it has credit."""

    sends = False
    container = "tests"

    def __init__(self, *, credit: int = 0, deletes: bool = False, name: str = "hand") -> None:
        self.name = name
        self.deletes = deletes
        self.credit = credit
        self.taken: list[tuple[str, bytes | None]] = []
        self.error: BusError | None = None

    @property
    def ready(self) -> bool:
        return self.credit > 0

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        self.credit -= 1
        self.taken.append((message.message_id, token))

    def lost(self, error: BusError) -> None:
        self.error = error

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.taken]

    def token(self, at: int = -1) -> bytes:
        token = self.taken[at][1]
        assert token is not None
        return token


class NamespaceFixture:
    """A namespace with a clock, and shorthands."""

    def __init__(self, **queues: QueueOptions) -> None:
        self.clock = ManualClock(1000)
        self.timers = Timers(self.clock)
        self.namespace = Namespace(Topology(queues), self.timers)

    def __getitem__(self, name: str) -> Queue:
        return self.namespace.queue(name)

    def advance(self, seconds: float) -> None:
        self.timers.advance(self.clock, seconds)


def message(name: str, session_id: str | None = None) -> Message:
    made = Message(b"")
    made.message_id, made.session_id = name, session_id
    return made


def ask(queue: Queue, hand: FakeReceiver, credit: int = 1) -> None:
    hand.credit = credit
    queue.dispatch(queue._ready_queue)


PLAIN = QueueOptions(lock_duration=60, max_delivery_count=10)


@pytest.fixture
def namespace() -> NamespaceFixture:
    return NamespaceFixture(q=PLAIN)


def test_receivers_take_turns(namespace: NamespaceFixture) -> None:
    first, second = FakeReceiver(credit=5), FakeReceiver(credit=5)
    for hand in (first, second):
        namespace["q"].subscribe(hand)
    namespace["q"].send(map(message, "abcd"))
    assert (first.names, second.names) == (["a", "c"], ["b", "d"])


def test_a_receiver_without_credit_is_passed_over(namespace: NamespaceFixture) -> None:
    busy, free = FakeReceiver(), FakeReceiver(credit=5)
    for hand in (busy, free):
        namespace["q"].subscribe(hand)
    namespace["q"].send(map(message, "ab"))
    assert (busy.names, free.names) == ([], ["a", "b"])


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    namespace = NamespaceFixture(s=replace(PLAIN, requires_session=True))
    with pytest.raises(NotAllowed):
        namespace["s"].send([message("a", "s"), message("b")])
    assert namespace["s"].counts().active == 0


def test_messages_that_come_back_take_their_old_place(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=3)
    queue.subscribe(hand)
    queue.send(map(message, "abcd"))
    for at in (2, 0, 1):
        queue.release(hand.token(at))
    ask(queue, hand, 4)
    assert hand.names[3:] == ["a", "b", "c", "d"]


def test_deferring_counts_and_never_counts_out() -> None:
    namespace = NamespaceFixture(q=replace(PLAIN, max_delivery_count=1))
    queue, hand = namespace["q"], FakeReceiver(credit=1)
    queue.subscribe(hand)
    queue.send([message("a")])
    queue.defer(hand.token())
    [(found, token, _)] = queue.receive_deferred([1], deletes=False)
    assert token is not None
    queue.defer(token)
    assert (found.delivery_count, queue.counts().dead_lettered) == (2, 0)
    [(_, token, _)] = queue.receive_deferred([1], deletes=False)
    assert token is not None
    queue.abandon(token)
    assert queue.counts().dead_lettered == 1


def test_among_dead_letters_nothing_is_counted_and_nothing_dies_again(namespace: NamespaceFixture) -> None:
    queue, hand, digger = namespace["q"], FakeReceiver(credit=1), FakeReceiver(credit=9)
    queue.subscribe(hand)
    queue.dead_letters.subscribe(digger)
    queue.send([message("a")])
    queue.dead_letter(hand.token(), "why", None)
    queue.dead_letters.abandon(digger.token())
    with pytest.raises(NotAllowed):
        queue.dead_letters.dead_letter(digger.token(), "again", None)
    namespace.advance(60)
    [dead] = queue.dead_letters.messages.values()
    assert (dead.delivery_count, digger.names) == (0, ["a", "a", "a"])


def test_a_forwarded_message_knows_the_number_it_had_first() -> None:
    namespace = NamespaceFixture(
        door=replace(PLAIN, forward_to="hall"), hall=replace(PLAIN, forward_to="room"), room=PLAIN
    )
    namespace["room"].send([message("own")])
    namespace["door"].send(map(message, "ab"))
    assert [(m.sequence, m.enqueued_sequence) for m in namespace["room"].messages.values()] == [(1, 0), (2, 1), (3, 2)]


def test_locks_end_in_the_order_they_were_taken_even_when_messages_are_redelivered(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver()
    queue.subscribe(hand)
    queue.send(map(message, "ab"))
    ask(queue, hand)
    namespace.advance(30)
    ask(queue, hand)
    hand.credit = 2
    namespace.advance(30)
    assert hand.names == ["a", "b", "a"]
    namespace.advance(30)
    assert hand.names == ["a", "b", "a", "b"]


def test_a_renewed_lock_ends_after_the_others(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=2)
    queue.subscribe(hand)
    queue.send(map(message, "ab"))
    namespace.advance(59)
    assert queue.renew(hand.token(0)) == namespace.clock() + 60
    namespace.advance(1)
    with pytest.raises(MessageLockLost):
        queue.renew(hand.token(1))
    queue.complete(hand.token(0))
    assert queue.counts().active == 1


def test_a_token_settles_once(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=1)
    queue.subscribe(hand)
    queue.send([message("a")])
    queue.complete(hand.token())
    for settle in (queue.complete, queue.abandon, queue.release, queue.defer, queue.renew):
        with pytest.raises(MessageLockLost):
            settle(hand.token())


def test_a_receiver_that_leaves_keeps_its_locks(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=1)
    queue.subscribe(hand)
    queue.send([message("a")])
    queue.unsubscribe(hand)
    queue.complete(hand.token())
    assert queue.counts().active == 0


def test_deferred_messages_are_received_all_or_none(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=2)
    queue.subscribe(hand)
    numbers = queue.send(map(message, "ab"))
    queue.defer(hand.token(0))
    with pytest.raises(MessageNotFound):
        queue.receive_deferred(numbers, deletes=False)
    queue.defer(hand.token(1))
    received = queue.receive_deferred(numbers, deletes=False)
    assert [found.message_id for found, _, _ in received] == ["a", "b"]
    for _, token, until in received:
        assert until == namespace.clock() + 60
        queue.complete(token or b"")
    assert queue.counts().active == 0


def test_deferred_messages_may_be_taken_out_at_once(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=1)
    queue.subscribe(hand)
    numbers = queue.send([message("a")])
    queue.defer(hand.token())
    assert [token for _, token, _ in queue.receive_deferred(numbers, deletes=True)] == [None]
    assert queue.counts().active == 0


def test_sequence_numbers_are_shared_with_the_dead_letters(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=1)
    queue.subscribe(hand)
    [number] = queue.send([message("a")])
    queue.dead_letter(hand.token(), "r", None)
    [later] = queue.send([message("b")])
    [dead] = namespace["q/$DeadLetterQueue"].peek(0, 10)
    assert (dead.sequence, later > number) == (number, True)


def test_completed_messages_leave_nothing_behind() -> None:
    namespace = NamespaceFixture(q=replace(PLAIN, default_time_to_live=3600))
    queue, hand = namespace["q"], FakeReceiver(deletes=False)
    queue.subscribe(hand)
    for number in range(5000):
        hand.credit = 1
        queue.send([message(str(number))])
        queue.complete(hand.token())
        hand.taken.clear()
    assert (len(queue.messages), queue.size, len(queue._locks)) == (0, 0, 0)
    assert len(queue._expiries) <= 1024


def test_sizes_add_up(namespace: NamespaceFixture) -> None:
    queue, hand = namespace["q"], FakeReceiver(credit=2)
    queue.subscribe(hand)
    heavy = [Message(b"\x00\x53\x75\xa0\x02xx") for _ in range(2)]
    for each in heavy:
        each.message_id = "given"
    queue.send(heavy)
    assert queue.counts().size == 14
    queue.complete(hand.token(0))
    queue.dead_letter(hand.token(1), "r", None)
    assert queue.size == 0
    assert queue.counts().size == len(heavy[1].bare) > 7


# --------------------------------------------------------------------------- forwarding


def test_a_chain_of_forwarding_ends_after_four_hops() -> None:
    chain = {f"q{n}": replace(PLAIN, forward_to=f"q{n + 1}") for n in range(5)}
    namespace = NamespaceFixture(**chain, q5=PLAIN)
    namespace["q0"].send([message("a")])
    assert namespace["q5"].counts().active == 0
    assert namespace["q4"].counts().transfer_dead_lettered == 1
    [kept] = namespace["q4"].transfer_dead_letters.messages.values()
    assert b"MaxTransferHopCountExceeded" in kept.bare


def test_what_cannot_be_forwarded_is_kept_in_the_transfer_dead_letter_queue() -> None:
    namespace = NamespaceFixture(
        q=replace(PLAIN, forward_dead_letters_to="s"),
        door=replace(PLAIN, forward_to="s"),
        s=replace(PLAIN, requires_session=True),
    )
    hand = FakeReceiver(credit=1)
    namespace["q"].subscribe(hand)
    namespace["q"].send([message("a")])
    namespace["q"].dead_letter(hand.token(), "r", None)
    assert namespace["q"].counts().transfer_dead_lettered == 1
    namespace["door"].send([message("b")])
    assert namespace["door"].counts().transfer_dead_lettered == 1
    assert namespace["door"].counts().dead_lettered == 0


def test_the_targets_duplicate_detection_applies_to_what_is_forwarded() -> None:
    namespace = NamespaceFixture(
        q=replace(PLAIN, forward_dead_letters_to="dead"), dead=replace(PLAIN, duplicate_detection=True)
    )
    hand = FakeReceiver(credit=2)
    namespace["q"].subscribe(hand)
    namespace["q"].send([message("same"), message("same")])
    for at in range(2):
        namespace["q"].dead_letter(hand.token(at), "r", None)
    assert namespace["dead"].counts().active == 1


def test_paths_find_queues_and_their_dead_letters(namespace: NamespaceFixture) -> None:
    assert namespace["Q"] is namespace["q"]
    assert namespace["q/$deadletterqueue"] is namespace["q"].dead_letters
    for path in ("nowhere", "q/$other", "q/more", ""):
        with pytest.raises(EntityNotFound):
            namespace[path]


# --------------------------------------------------------------------------- sessions


@pytest.fixture
def sessions() -> Queue:
    return NamespaceFixture(s=replace(PLAIN, requires_session=True))["s"]


def test_a_session_is_served_to_its_holder_only(sessions: Queue) -> None:
    one, two = FakeReceiver(credit=9), FakeReceiver(credit=9)
    sessions.accept_session(one, "a")
    sessions.accept_session(two, "b")
    sessions.send([message("a1", "a"), message("b1", "b"), message("a2", "a")])
    assert (one.names, two.names) == (["a1", "a2"], ["b1"])
    with pytest.raises(SessionCannotBeLocked):
        sessions.accept_session(FakeReceiver(), "a")


def test_waiting_receivers_are_served_in_line(sessions: Queue) -> None:
    got: list[tuple[str, str]] = []
    sessions.accept_next_session(FakeReceiver(), 60, lambda session: got.append(("first", session.id)))
    sessions.accept_next_session(FakeReceiver(), 60, lambda session: got.append(("second", session.id)))
    sessions.send([message("1", "x"), message("2", "x"), message("3", "y")])
    assert got == [("first", "x"), ("second", "y")]


def test_messages_given_back_are_all_there_before_the_next_receiver_sees_any(sessions: Queue) -> None:
    first, second = FakeReceiver(credit=3), FakeReceiver(credit=3)
    sessions.accept_session(first, "a")
    sessions.send([message(str(n), "a") for n in range(3)])
    sessions.accept_next_session(second, 60, lambda s: sessions.dispatch(s))
    sessions.unsubscribe(first)
    assert second.names == ["0", "1", "2"]


def test_a_session_with_nothing_to_remember_is_forgotten(sessions: Queue) -> None:
    hand = FakeReceiver(credit=1)
    session = sessions.accept_session(hand, "a")
    sessions.send([message("1", "a")])
    sessions.complete(hand.token())
    sessions.set_session_state(session, b"s")
    sessions.unsubscribe(hand)
    assert sessions.sessions.listed() == ["a"]
    again = sessions.accept_session(hand, "a")
    sessions.set_session_state(again, None)
    sessions.unsubscribe(hand)
    assert sessions.sessions.find("a") is None


def test_the_lock_of_a_session_is_checked_against_the_link(sessions: Queue) -> None:
    sessions.accept_session(FakeReceiver(name="mine"), "a")
    assert sessions.sessions.held("a", "mine").id == "a"
    for session_id, link in (("a", "other"), ("b", None)):
        with pytest.raises(SessionLockLost):
            sessions.sessions.held(session_id, link)


def test_a_message_lock_inside_a_session_cannot_be_renewed(sessions: Queue) -> None:
    hand = FakeReceiver(credit=1)
    sessions.accept_session(hand, "a")
    sessions.send([message("1", "a")])
    with pytest.raises(NotAllowed):
        sessions.renew(hand.token())


def test_sessions_are_listed_by_when_their_state_changed() -> None:
    namespace = NamespaceFixture(s=replace(PLAIN, requires_session=True))
    queue = namespace["s"]
    for name in ("old", "new"):
        queue.set_session_state(queue.accept_session(FakeReceiver(name=name), name), b"s")
        namespace.advance(10)
    assert queue.sessions.listed() == ["old", "new"]
    assert queue.sessions.listed(updated_after=1005) == ["new"]


def test_a_full_queue_takes_nothing_more() -> None:
    namespace = NamespaceFixture(q=replace(PLAIN, max_size=1000))
    first, second = (read(b"\x00\x53\x75\xb0" + size.to_bytes(4, "big") + bytes(size)) for size in (900, 200))
    namespace["q"].send([first])
    with pytest.raises(QuotaExceeded, match="maximum entity size of 'q'"):
        namespace["q"].send([second])
    namespace["q"].purge()
    namespace["q"].send([second])
    assert namespace["q"].counts().active == 1


@pytest.mark.parametrize("renewed", [False, True])
def test_locks_taken_before_and_after_a_change_of_their_duration_end_in_their_own_time(renewed: bool) -> None:
    namespace = NamespaceFixture(q=PLAIN)
    queue, old, new = namespace["q"], FakeReceiver(credit=1), FakeReceiver(credit=1)
    queue.send([message("old")])
    queue.dispatch(queue.subscribe(old))
    namespace.namespace.update_queue("q", replace(PLAIN, lock_duration=5))
    queue.send([message("new")])
    queue.dispatch(queue.subscribe(new))
    if renewed:
        assert queue.renew(old.token()) == namespace.clock.now + 5
    namespace.advance(6)
    with pytest.raises(MessageLockLost):
        queue.complete(new.token())
    if renewed:
        with pytest.raises(MessageLockLost):
            queue.complete(old.token())
    else:
        queue.complete(old.token())
