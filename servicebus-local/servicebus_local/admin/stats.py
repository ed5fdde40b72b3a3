"""What is in an entity at the moment, as JSON for scalers, tests and people: more than Azure counts.

    GET /stats            every queue, topic and subscription
    GET /stats/{path}     one of them, or dead letters: `orders`, `news/Subscriptions/all`, `orders/$DeadLetterQueue`

Looking at an entity takes a walk over its messages: some tenths of a second for a million of them.
"""

from typing import Any

from servicebus_local.admin.durations import write_moment
from servicebus_local.bus.message import State
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.namespace import Namespace
from servicebus_local.bus.queue import Queue


def stats_of_all(namespace: Namespace) -> dict[str, Any]:
    """Look at everything, by path."""
    now = namespace.timers.clock()
    found = {queue.name: stats_of(queue, now) for queue in namespace.queues()}
    for topic in namespace.topics():
        found[topic.name] = stats_of(topic, now)
        for _, subscription in sorted(topic.subscriptions.items()):
            found[subscription.name] = stats_of(subscription, now)
    return found


def stats_of(entity: MessagingEntity, now: float) -> dict[str, Any]:
    """Look at one entity; `active` are those that could be received now."""
    states = [message.state for message in entity.messages.values()]
    oldest = min((m.enqueued_at for m in entity.messages.values() if m.state is State.ACTIVE), default=None)
    senders = sum(user.sends for user in entity.users)
    of_queue: dict[str, Any] = {}
    if isinstance(entity, Queue):
        counts = entity.counts()
        of_queue = {
            "dead_lettered": counts.dead_lettered,
            "transfer_dead_lettered": counts.transfer_dead_lettered,
            "receivers_waiting": entity.waiting + entity.sessions.waiting,
            "sessions": len(entity.sessions.listed()),
        }
    return {
        "kind": type(entity).__name__.lower(),
        "active": states.count(State.ACTIVE),
        "locked": states.count(State.LOCKED),
        "deferred": states.count(State.DEFERRED),
        "scheduled": states.count(State.SCHEDULED),
        **of_queue,
        "size_in_bytes": entity.total_size,
        "oldest_enqueued_at": None if oldest is None else write_moment(oldest),
        "oldest_age_seconds": None if oldest is None else round(max(0.0, now - oldest), 3),
        "senders": senders,
        "receivers": len(entity.users) - senders,
        "accessed_at": write_moment(entity.accessed_at),
    }
