"""Deletes entities that are not used: `AutoDeleteOnIdle`.

What counts as use is what Azure's page on message expiration says under "Idleness": sending,
receiving, peeking, scheduled messages, changes of the entity and of its rules. Forwarding is as
good as a receiver. A topic is used when one of its subscriptions is, but a message that a topic
copies to a subscription is no use of the subscription.

There is one alarm per entity, and it is not touched by use: when it rings, it looks when the
entity was used last, and goes off or waits for the rest.
"""

from collections.abc import Callable, Iterator
from functools import partial
from math import inf

from servicebus_local.bus.clock import Alarm, Timers
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topics import Topic


class IdleWatch:
    """Which entities may be deleted when they are idle."""

    def __init__(self, timers: Timers, delete: Callable[[MessagingEntity], None]) -> None:
        self._timers = timers
        self._delete = delete
        self._alarms: dict[MessagingEntity, Alarm] = {}

    def watch(self, entity: MessagingEntity) -> None:
        """Begin to watch an entity, or do so by its new options; either is a use of it."""
        self.forget(entity)
        entity.used_at = self._timers.clock()
        if entity.options.auto_delete_on_idle != inf:
            self._look_again(entity, entity.used_at)

    def forget(self, entity: MessagingEntity) -> None:
        """Stop watching an entity."""
        alarm = self._alarms.pop(entity, None)
        if alarm is not None:
            alarm.cancel()

    def _look_again(self, entity: MessagingEntity, since: float) -> None:
        due = since + entity.options.auto_delete_on_idle
        self._alarms[entity] = self._timers.at(due, partial(self._look, entity))

    def _look(self, entity: MessagingEntity) -> None:
        del self._alarms[entity]
        if entity.deleted:
            return
        now = self._timers.clock()
        since = now if _in_use(entity) else max(part.used_at for part in _parts(entity))
        if since + entity.options.auto_delete_on_idle <= now:
            self._delete(entity)
        else:
            self._look_again(entity, since)


def _in_use(entity: MessagingEntity) -> bool:
    """Tell whether an entity is being used now: by a link, by scheduled messages, or because it forwards."""
    return any(
        part.users or part.counts().scheduled or (isinstance(part, Queue) and part.options.forward_to is not None)
        for part in _parts(entity)
    )


def _parts(entity: MessagingEntity) -> Iterator[MessagingEntity]:
    """Return the entity, its dead letters, and the subscriptions of a topic with theirs."""
    yield entity
    if isinstance(entity, Queue) and not entity.is_dead_letter_queue:
        yield from (entity.dead_letters, entity.transfer_dead_letters)
    if isinstance(entity, Topic):
        for subscription in entity.subscriptions.values():
            yield from _parts(subscription)
