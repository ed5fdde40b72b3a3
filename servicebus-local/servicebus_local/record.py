"""A record of every delivery, to prove that nothing was lost and nothing settled twice.

    with LocalBus("orders") as bus:
        ...                                   # the application does its work
        assert bus.record.check() == []       # it was served by the rules
        done = [event for event in bus.record.events("orders") if event.kind == "completed"]

The record is a ring: when it is full the oldest events go, and are counted. `check` looks at events
alone, from here or from `GET /deliveries` of a broker in another process.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID

from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.observer import Kind, MessageEvent
from servicebus_local.checker import Event, check

__all__ = ["Event", "Kind", "Record", "check"]

LIMIT: Final = 100_000

_Raw = tuple[Any, ...]
"""The fields of an event as they are kept: the kind as a `Kind`, the lock token as bytes."""


class Record:
    """What happened in a namespace, while it is switched on."""

    def __init__(self, namespace: Namespace) -> None:
        self.run: Callable[[Callable[[], Any]], Any] = lambda function: function()
        """Calls a function in the broker's thread."""
        self.limit = 0
        self.dropped = 0
        self._namespace = namespace
        self._clock = namespace.timers.clock
        self._events: deque[_Raw] = deque()
        self._last = 0
        self._whole = False  # whether nothing had happened before the first event
        self._holders: dict[tuple[str, Any], _Raw] = {}

    # ------------------------------------------------------------------ on and off

    def start(self, limit: int = LIMIT) -> None:
        """Record from now on, the last `limit` events: anew, or if it is on already, with another limit.

        Raises `ValueError` for a limit below 1.
        """
        if limit < 1:
            raise ValueError(f"a record has room for at least one event, not for {limit}")

        def start() -> None:
            if not self.limit:
                self._clear()
                self._whole = not any(entity.messages or entity.users for entity in entities(self._namespace))
                self._namespace.observe(self._on_message_event)
            self.dropped += max(0, len(self._events) - limit)
            self._events = deque(self._events, limit)
            self.limit = limit

        self.run(start)

    def stop(self) -> None:
        """Record no more; what was recorded stays readable."""

        def stop() -> None:
            self._namespace.observe(None)
            self._holders.clear()
            self.limit = 0

        self.run(stop)

    def clear(self) -> None:
        """Forget what was recorded; numbers go on, and `check` knows that the beginning is missing."""
        self.run(self._clear)

    def _clear(self) -> None:
        self._events.clear()
        self.dropped, self._whole = 0, False

    # ------------------------------------------------------------------ reading

    def events(self, entity: str | None = None, since: int = 0) -> list[Event]:
        """Return what happened, to one entity or to all, with numbers above `since`."""
        found: list[_Raw] = self.run(lambda: list(self._events))
        wanted = None if entity is None else entity.lower()
        return [_event(raw) for raw in found if raw[0] > since and wanted in (None, raw[3].lower())]

    def check(self) -> list[str]:
        """Return what broke the rules so far, each as a sentence; while it is on, nothing may be lost either."""

        def snapshot() -> tuple[list[_Raw], dict[str, set[int]] | None, bool]:
            held = {entity.name: set(entity.messages) for entity in entities(self._namespace)}
            partial = bool(self.dropped) or not self._whole
            return list(self._events), held if self.limit else None, partial

        events, held, partial = self.run(snapshot)
        return check(map(_event, events), held=held, partial=partial)

    def as_json(self) -> dict[str, int]:
        """Return how far the record goes."""
        status: dict[str, int] = self.run(
            lambda: {"limit": self.limit, "kept": len(self._events), "dropped": self.dropped, "last": self._last}
        )
        return status

    # ------------------------------------------------------------------ writing

    def _on_message_event(self, happening: MessageEvent) -> None:
        """Keep what happened, as cheaply as can be: most of it is never looked at."""
        kind, entity, message, _, _, session_id, reason, target = happening
        self._last += 1
        if len(self._events) == self.limit:
            self.dropped += 1
        if message is None:
            holder = self._holder((entity, session_id), happening)
            known: _Raw = (None, None, session_id, None)
            first = None
        else:
            holder = self._holder((entity, message.sequence), happening)
            known = (message.sequence, message.message_id, message.session_id, message.delivery_count)
            first = message.enqueued_sequence or None
        self._events.append((self._last, self._clock(), kind, entity, *known, *holder, reason, target, first))

    def _holder(self, key: tuple[str, Any], happening: MessageEvent) -> _Raw:
        """Return who has, or has had, what this is about: the container, the link, and the token of the lock."""
        kind, token, consumer = happening.kind, happening.token, happening.consumer
        if kind is Kind.DELIVERED or kind is Kind.SESSION_ACCEPTED:
            holder = (None, None, token) if consumer is None else (consumer.container, consumer.name, token)
            if token is not None or happening.message is None:
                self._holders[key] = holder
            return holder
        known = self._holders.get(key) if kind is Kind.LOCK_RENEWED else self._holders.pop(key, None)
        container, link, was = known or _NOBODY
        return container, link, was if token is None else token


_NOBODY: Final[_Raw] = (None, None, None)


def _event(raw: _Raw) -> Event:
    kind, token = raw[2], raw[10]
    shown = None if token is None else str(UUID(bytes=token))
    return Event._make((*raw[:2], kind.value, *raw[3:10], shown, *raw[11:]))


def entities(namespace: Namespace) -> Iterator[MessagingEntity]:
    """Return everything that can hold messages: topics, queues, subscriptions, and dead letters of these."""
    for topic in namespace.topics():
        yield topic
        for subscription in topic.subscriptions.values():
            yield from (subscription, subscription.dead_letters, subscription.transfer_dead_letters)
    for queue in namespace.queues():
        yield from (queue, queue.dead_letters, queue.transfer_dead_letters)
