"""The rules every queue keeps, as a check of what was recorded.

`check` looks at events alone: from `Record` in the same process, or from `GET /deliveries` of
another one.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from math import inf
from typing import Any, Final, NamedTuple


class Event(NamedTuple):
    """One thing that happened; fields that do not apply are None."""

    number: int  # from 1, without gaps
    time: float  # seconds since the Unix epoch, by the broker's clock
    kind: str  # one of `Kind`
    entity: str  # its path: orders, orders/$DeadLetterQueue, news/Subscriptions/all
    sequence: int | None = None
    message_id: Any = None
    session_id: str | None = None
    delivery_count: int | None = None  # failed deliveries before this moment
    container: str | None = None  # of the receiver that has the message, or the session
    link: str | None = None
    lock_token: str | None = None  # as the SDKs show it
    reason: str | None = None  # of a dead letter
    target: str | None = None  # where the message went
    first_sequence: int | None = None  # the number it had while scheduled, or in its topic

    def as_json(self) -> dict[str, Any]:
        """Return the fields that are known."""
        known = {name: value for name, value in self._asdict().items() if value is not None}
        message_id = known.get("message_id")
        return known | {"message_id": str(message_id)} if message_id is not None else known

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Event":
        """Return the event that was written so."""
        return cls(**fields)


def check(
    events: Iterable[Event], *, held: Mapping[str, Collection[int]] | None = None, partial: bool = False
) -> list[str]:
    """Return what breaks the rules of a queue, each as a sentence; nothing is what should come back.

    No message is delivered while it is locked, settled twice, or settled under another lock than
    its own; delivery counts are those of the failures before; a session has one holder at a time.
    With `held`, the sequence numbers of what each entity holds now, nothing may be lost either: `{}`
    says that all are empty. `partial` says that the beginning is missing, so that messages may turn
    up of which nothing was heard.
    """
    checker = _Checker(partial=partial)
    for event in events:
        checker.see(event)
    checker.end(held)
    return checker.violations


class _Life:
    """What is known of one message in one entity."""

    def __init__(self, state: str, count: int) -> None:
        self.state = state
        self.count = count
        self.token: str | None = None
        self.holder: str | None = None
        self.deferred = False


class _Rule(NamedTuple):
    """In which states something may happen to a message, and what state that leads to."""

    states: frozenset[str]
    leads_to: str
    counts: bool = False  # whether it counts as a delivery, which nothing does among dead letters


def _from(*states: str, to: str, counts: bool = False) -> _Rule:
    return _Rule(frozenset(states), to, counts)


_DEAD_LETTERS: Final = "/$deadletterqueue"
_ARRIVALS: Final = {"sent": "active", "scheduled": "scheduled", "dead-letter-arrived": "active"}
_BACK: Final = "active or deferred"
_RULES: Final = {
    "delivered": _from("active", "deferred", to="locked"),
    "lock-renewed": _from("locked", to="locked"),
    "completed": _from("locked", to="ended"),
    "abandoned": _from("locked", to=_BACK, counts=True),
    "lock-lost": _from("locked", to=_BACK, counts=True),
    "released": _from("locked", to=_BACK),
    "deferred": _from("locked", to="deferred", counts=True),
    "dead-lettered": _from("active", "deferred", "locked", to="ended"),
    "forwarded": _from("active", to="ended"),
    "expired": _from("active", "deferred", to="ended"),
    "published": _from("active", to="ended"),
    "activated": _from("scheduled", to="ended"),
    "cancelled": _from("scheduled", to="ended"),
    "purged": _from("active", "deferred", "locked", "scheduled", to="ended"),
}


class _Checker:
    """Follows every message and session."""

    def __init__(self, *, partial: bool) -> None:
        self.violations: list[str] = []
        self._partial = partial
        self._lives: dict[tuple[str, int], _Life] = {}
        self._sessions: dict[tuple[str, str], str | None] = {}
        self._dead_letters_missing: Counter[str] = Counter()  # by dead-letter queue
        self._time = -inf

    def see(self, event: Event) -> None:
        """Take one event in."""
        if event.time < self._time:
            self._complain(event, "its time is before that of the previous event")
        self._time = event.time
        if event.kind in _SESSION_KINDS:
            self._see_session(event)
        elif event.kind in _ARRIVALS:
            self._see_arrival(event)
        elif event.kind in _RULES:
            self._see_change(event, _RULES[event.kind])

    def _complain(self, event: Event, what: str) -> None:
        subject = f"session {event.session_id!r}" if event.sequence is None else f"message {event.sequence}"
        self.violations.append(f"event {event.number}: {subject} of {event.entity}: {event.kind}: {what}")

    # ------------------------------------------------------------------ messages

    def _see_arrival(self, event: Event) -> None:
        key = _key(event)
        before = self._lives.get(key)
        if before is not None and (before.state != "ended" or event.kind != "dead-letter-arrived"):
            self._complain(event, f"its number was given before, to a message that is {before.state}")
        self._lives[key] = _Life(_ARRIVALS[event.kind], event.delivery_count or 0)
        if event.kind == "dead-letter-arrived":
            self._dead_letters_missing[key[0]] -= 1

    def _see_change(self, event: Event, rule: _Rule) -> None:
        life = self._lives.get(_key(event))
        if life is None:
            if not self._partial and event.kind != "dead-lettered":  # a topic's copy may be dead-lettered at once
                self._complain(event, "there is no event of its arrival")
            life = self._lives[_key(event)] = _Life("unknown", event.delivery_count or 0)
        elif life.state not in rule.states:
            self._complain(event, f"it is {life.state}" + (f" by {life.holder}" if life.holder else ""))
        else:
            self._compare(event, life)
        self._apply(event, rule, life)

    def _compare(self, event: Event, life: _Life) -> None:
        if life.state == "locked" and event.lock_token != life.token and event.kind != "purged":
            self._complain(event, f"the lock is {life.token}, not {event.lock_token}")
        if event.delivery_count != life.count:
            self._complain(event, f"its delivery count is {event.delivery_count}, and {life.count} deliveries counted")
        if event.kind != "delivered":
            return
        if life.state == "deferred" and event.link is not None:
            self._complain(event, "it is deferred, and was not asked for by its number")
        holder = self._sessions.get((event.entity.lower(), event.session_id or ""), event.link)
        if event.link is not None and holder != event.link:
            self._complain(event, f"its session is held by {holder}, not by {event.link}")

    def _apply(self, event: Event, rule: _Rule, life: _Life) -> None:
        life.count += rule.counts and not event.entity.lower().endswith(_DEAD_LETTERS)
        life.deferred = life.deferred or event.kind == "deferred"
        life.state = rule.leads_to
        if event.kind == "delivered" and event.lock_token is None:
            life.state = "ended"  # received and deleted
        if life.state == _BACK:
            life.state = "deferred" if life.deferred else "active"
        locked = life.state == "locked"
        life.token, life.holder = (event.lock_token, event.link) if locked else (None, None)
        if event.kind == "dead-lettered" and event.target is not None:
            self._dead_letters_missing[event.target.lower()] += 1

    # ------------------------------------------------------------------ sessions

    def _see_session(self, event: Event) -> None:
        key = (event.entity.lower(), event.session_id or "")
        holder = self._sessions.get(key)
        if event.kind == "session-accepted":
            if holder is not None:
                self._complain(event, f"it is held by {holder}")
            self._sessions[key] = event.link
            return
        if holder is None and not self._partial:
            self._complain(event, "no receiver held it")
        self._sessions[key] = None

    # ------------------------------------------------------------------ at the end

    def end(self, held: Mapping[str, Collection[int]] | None) -> None:
        """Compare with what is there now."""
        if not self._partial:
            for queue, missing in self._dead_letters_missing.items():
                if missing > 0 and queue.endswith(_DEAD_LETTERS):
                    self.violations.append(f"{missing} messages that were dead-lettered never arrived in {queue}")
        if held is None:
            return
        there = {(entity.lower(), sequence) for entity, sequences in held.items() for sequence in sequences}
        for (entity, sequence), life in self._lives.items():
            if life.state != "ended" and (entity, sequence) not in there:
                self.violations.append(f"message {sequence} of {entity} was {life.state} and is lost")
            if life.state == "ended" and (entity, sequence) in there:
                self.violations.append(f"message {sequence} of {entity} had ended and is still there")
        if not self._partial:
            unknown = sorted(there - set(self._lives))
            self.violations += [
                f"message {number} of {entity} is there without an event of its arrival" for entity, number in unknown
            ]


_SESSION_KINDS: Final = {"session-accepted", "session-released", "session-lost"}


def _key(event: Event) -> tuple[str, int]:
    return event.entity.lower(), event.sequence or 0
