"""The law of the queue: whatever happens, every message is in exactly one place.

A model keeps, for each message ever sent, the place it must be in and what it must carry;
Hypothesis plays sender, receivers and clock against the engine, and the two are compared
after every step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from servicebus_local.bus.clock import ManualClock, Timers
from servicebus_local.bus.errors import MessageLockLost, MessageNotFound
from servicebus_local.bus.message import Message, State
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topology import QueueOptions
from tests.examples import examples

LOCK, MAX_DELIVERIES, DEFAULT_TTL = 10.0, 3, 60.0

ACTIONS: dict[str, Callable[[Queue, bytes], object]] = {
    "complete": Queue.complete,
    "abandon": Queue.abandon,
    "release": Queue.release,
    "defer": Queue.defer,
    "dead_letter": lambda queue, token: queue.dead_letter(token, "reason", None),
    "renew": Queue.renew,
}


@dataclass
class Known:
    """What the model says of one message."""

    place: str  # active, locked, deferred, scheduled, dead, gone
    expires_at: float = inf
    due: float = 0.0
    count: int = 0
    token: bytes | None = None
    locked_until: float = 0.0
    was_deferred: bool = False
    sequence: int = 0


class QueueReceiver:
    """A receiver that takes exactly one message when it asks."""

    name = "hand"
    container = "hand"
    sends = False

    def __init__(self, *, deletes: bool) -> None:
        self.deletes = deletes
        self.ready = False
        self.taken: list[tuple[str, bytes | None, float | None]] = []

    def deliver(self, message: Message, token: bytes | None, until: float | None) -> None:
        self.ready = False
        self.taken.append((message.message_id, token, until))

    def lost(self, error: Exception) -> None:
        raise AssertionError(error)


class QueueLaw(RuleBasedStateMachine):
    """Sender, receivers and clock against the engine."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(0)
        self.timers = Timers(self.clock)
        options = QueueOptions(
            lock_duration=LOCK,
            max_delivery_count=MAX_DELIVERIES,
            default_time_to_live=DEFAULT_TTL,
            dead_lettering_on_expiration=True,
        )
        self.queue = Queue("q", options, self.timers)
        self.hands = {deletes: QueueReceiver(deletes=deletes) for deletes in (False, True)}
        for hand in self.hands.values():
            self.queue.subscribe(hand)
        self.known: dict[str, Known] = {}
        self.given: list[tuple[str, bytes]] = []

    # ------------------------------------------------------------------ the sender

    @rule(ttl=st.sampled_from([inf, 4.0, 30.0]))
    def send(self, ttl: float) -> None:
        name, message = self.new_message(ttl)
        [sequence] = self.queue.send([message])
        expires_at = self.clock() + min(ttl, DEFAULT_TTL)
        self.known[name] = Known("active", expires_at=expires_at, sequence=sequence)

    @rule(wait=st.sampled_from([1.0, 15.0]), ttl=st.sampled_from([inf, 4.0]))
    def schedule(self, wait: float, ttl: float) -> None:
        name, message = self.new_message(ttl)
        message.scheduled_for = self.clock() + wait
        [sequence] = self.queue.send([message])
        self.known[name] = Known("scheduled", due=message.scheduled_for, expires_at=ttl, sequence=sequence)

    def new_message(self, ttl: float) -> tuple[str, Message]:
        message = Message(b"\x00\x53\x75\xa0\x01x")
        message.message_id = name = f"m{len(self.known)}"
        message.time_to_live = ttl
        return name, message

    @precondition(lambda self: self.has("scheduled"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        known = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        try:
            self.queue.cancel_scheduled([known.sequence])
        except MessageNotFound:
            assert known.place != "scheduled"
        else:
            assert known.place == "scheduled"
            known.place = "gone"

    # ------------------------------------------------------------------ the receivers

    @precondition(lambda self: self.has("active"))
    @rule()
    def receive(self) -> None:
        got = self.take(deletes=False)
        assert got is not None
        name, token, until = got
        assert token is not None
        assert until == self.clock() + LOCK
        self.now_locked(name, token, until)

    def now_locked(self, name: str, token: bytes, until: float) -> None:
        known = self.known[name]
        known.place, known.token, known.locked_until = "locked", token, until
        self.given.append((name, token))

    def has(self, place: str) -> bool:
        return any(known.place == place for known in self.known.values())

    @precondition(lambda self: self.has("active"))
    @rule()
    def receive_and_delete(self) -> None:
        got = self.take(deletes=True)
        assert got is not None
        self.known[got[0]].place = "gone"

    @precondition(lambda self: not self.has("active"))
    @rule(deletes=st.booleans())
    def find_nothing(self, deletes: bool) -> None:
        assert self.take(deletes=deletes) is None

    def take(self, *, deletes: bool) -> tuple[str, bytes | None, float | None] | None:
        """Ask for one message: it must be the active one with the lowest sequence number."""
        active = [known for known in self.known.values() if known.place == "active"]
        hand = self.hands[deletes]
        hand.ready = True
        self.queue.dispatch(self.queue._ready_queue)
        hand.ready = False
        if not active:
            assert not hand.taken
            return None
        got = hand.taken.pop()
        assert self.known[got[0]].sequence == min(known.sequence for known in active)
        return got

    @precondition(lambda self: self.has("locked"))
    @rule(data=st.data(), action=st.sampled_from(sorted(ACTIONS)))
    def settle(self, data: st.DataObject, action: str) -> None:
        held = [known for known in self.known.values() if known.place == "locked"]
        known = data.draw(st.sampled_from(held))
        assert known.token is not None
        ACTIONS[action](self.queue, known.token)
        match action:
            case "complete":
                known.place = "gone"
            case "abandon" | "release":
                self.comes_back(known, counted=action == "abandon")
            case "defer":
                known.was_deferred = True
                known.count += 1
                self.comes_back(known, counted=False)
            case "dead_letter":
                known.place = "dead"
            case "renew":
                known.locked_until = self.clock() + LOCK

    @precondition(lambda self: self.given)
    @rule(data=st.data(), action=st.sampled_from(sorted(ACTIONS)))
    def use_an_old_token(self, data: st.DataObject, action: str) -> None:
        name, token = data.draw(st.sampled_from(self.given))
        known = self.known[name]
        if known.place == "locked" and known.token == token:
            return
        with pytest.raises(MessageLockLost):
            ACTIONS[action](self.queue, token)

    @precondition(lambda self: self.has("deferred"))
    @rule(data=st.data())
    def receive_deferred(self, data: st.DataObject) -> None:
        names = [name for name, known in self.known.items() if known.place == "deferred"]
        name = data.draw(st.sampled_from(names))
        if self.known[name].expires_at <= self.clock():  # a deferred message expires when it is asked for
            with pytest.raises(MessageNotFound):
                self.queue.receive_deferred([self.known[name].sequence], deletes=False)
            self.known[name].place = "dead"
            return
        [(_, token, until)] = self.queue.receive_deferred([self.known[name].sequence], deletes=False)
        assert token is not None
        assert until is not None
        self.now_locked(name, token, until)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def ask_for_what_is_not_deferred(self, data: st.DataObject) -> None:
        known = self.known[data.draw(st.sampled_from(sorted(self.known)))]
        if known.place != "deferred":
            with pytest.raises(MessageNotFound):
                self.queue.receive_deferred([known.sequence], deletes=False)

    # ------------------------------------------------------------------ time

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 40.0]))
    def advance(self, seconds: float) -> None:
        end = self.clock() + seconds
        self.timers.advance(self.clock, seconds)
        while (moment := self.next_event(end)) is not None:
            self.happen(moment)

    def next_event(self, end: float) -> float | None:
        moments = [moment for known in self.known.values() for moment in self.events(known) if moment <= end]
        return min(moments, default=None)

    def events(self, known: Known) -> list[float]:
        match known.place:
            case "locked":
                return [known.locked_until]
            case "scheduled":
                return [known.due]
            case "active":
                return [known.expires_at]
            case _:
                return []

    def happen(self, moment: float) -> None:
        for known in sorted(self.known.values(), key=lambda known: known.due):
            if moment not in self.events(known):
                continue
            if known.place == "locked":
                self.comes_back(known, counted=True, now=moment)
            elif known.place == "scheduled":
                known.place = "active"
                known.expires_at = moment + min(known.expires_at, DEFAULT_TTL)
                known.sequence = 0  # a new one, read below
            else:
                known.place = "dead"
        self.read_new_numbers()

    def comes_back(self, known: Known, *, counted: bool, now: float | None = None) -> None:
        known.count += counted
        too_often = counted and known.count >= MAX_DELIVERIES
        expired = not known.was_deferred and known.expires_at <= (self.clock() if now is None else now)
        if too_often or expired:
            known.place = "dead"
        else:
            known.place = "deferred" if known.was_deferred else "active"

    def read_new_numbers(self) -> None:
        numbers = {message.message_id: message.sequence for message in self.everything()}
        for name, known in self.known.items():
            if known.sequence == 0 and known.place != "gone":
                known.sequence = numbers[name]

    # ------------------------------------------------------------------ the law

    def everything(self) -> list[Message]:
        return [*self.queue.messages.values(), *self.queue.dead_letters.messages.values()]

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        seen = [message.message_id for message in self.everything()]
        assert len(seen) == len(set(seen))
        assert set(seen) == {name for name, known in self.known.items() if known.place != "gone"}

    @invariant()
    def it_is_the_place_the_model_says(self) -> None:
        places = {State.ACTIVE: "active", State.LOCKED: "locked"}
        places |= {State.DEFERRED: "deferred", State.SCHEDULED: "scheduled"}
        for message in self.queue.messages.values():
            known = self.known[message.message_id]
            assert places[message.state] == known.place
            assert (message.delivery_count, message.sequence) == (known.count, known.sequence)
        for message in self.queue.dead_letters.messages.values():
            assert self.known[message.message_id].place == "dead"

    @invariant()
    def the_counts_agree(self) -> None:
        places = [known.place for known in self.known.values()]
        counts = self.queue.counts()
        assert counts.scheduled == places.count("scheduled")
        assert counts.dead_lettered == places.count("dead")
        assert counts.active == sum(places.count(place) for place in ("active", "locked", "deferred"))
        assert counts.size == sum(message.size for message in self.everything())


QueueLaw.TestCase.settings = examples(300)
TestQueueLaw = QueueLaw.TestCase
