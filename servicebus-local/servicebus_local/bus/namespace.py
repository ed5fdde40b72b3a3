"""All entities, found by address, and the forwarding between them. Names are compared without case.

orders                        a queue, or a topic       orders/$DeadLetterQueue
news/Subscriptions/all        a subscription            orders/$Transfer/$DeadLetterQueue
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from servicebus_local.bus.clock import Timers
from servicebus_local.bus.errors import EntityExists, EntityNotFound, NotAllowed
from servicebus_local.bus.filters import Rule
from servicebus_local.bus.idle import IdleWatch
from servicebus_local.bus.message import Message
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.observer import Observer
from servicebus_local.bus.queue import DEAD_LETTER_QUEUE, TRANSFER_DEAD_LETTER_QUEUE, Queue
from servicebus_local.bus.store import Entity, MemoryStore, Store, StoreError
from servicebus_local.bus.topics import SUBSCRIPTIONS, Subscription, Topic
from servicebus_local.bus.topology import AccessRule, QueueOptions, SubscriptionDefinition, TopicOptions, Topology

Kind = TypeVar("Kind", bound=MessagingEntity)
Options = TypeVar("Options", QueueOptions, TopicOptions)
Validate = Callable[[str, QueueOptions | TopicOptions], None]
"""Looks at the path and the options of an entity before it is created or changed; may raise `BusError`."""


def _take_anything(_path: str, _options: QueueOptions | TopicOptions) -> None:
    """Have no limits of one's own."""


class Namespace:
    """The entities of one broker."""

    def __init__(self, topology: Topology, timers: Timers, store: Store | None = None) -> None:
        self.timers = timers
        self.store: Store = store or MemoryStore()
        self.created_at = timers.clock()
        self.default_options: QueueOptions | None = None  # set, an unknown queue is created when it is used
        self.validate: Validate = _take_anything  # of what is created or changed from now on
        self._entities: dict[str, Queue | Topic] = {}
        self._observer: Observer | None = None
        self._idle = IdleWatch(timers, self._delete_idle)
        restored = self._restore_entities()
        self._apply(topology)
        # Messages may be overdue and may be forwarded, so every entity must be ready for them.
        for entity in restored:
            entity.recall()
        with _uncollected():
            for entity in restored:
                entity.restore()
                self._idle.watch(entity)
        self.timers.fire()
        self.store.commit()

    # ------------------------------------------------------------------ at the start

    def _restore_entities(self) -> list[MessagingEntity]:
        """Take up the entities the store has kept, empty as yet."""
        restored: list[MessagingEntity] = []
        for stored in self.store.entities():
            entity: MessagingEntity
            topic_name, separator, name = stored.path.partition(f"/{SUBSCRIPTIONS}/")
            if isinstance(stored.options, TopicOptions):
                entity = self._new_topic(stored.path, stored.options)
            elif not separator:
                entity = self._new_queue(stored.path, stored.options)
            else:
                definition = SubscriptionDefinition(stored.options, stored.rules)
                entity = self._new_subscription(self.topic(topic_name), name, definition)
            entity.created_at, entity.updated_at = stored.created_at, stored.updated_at
            restored.append(entity)
        return restored

    def _apply(self, topology: Topology) -> None:
        """Create or update the configured entities; other stored entities stay as they are.

        Raises `StoreError` when something is stored that cannot become what is configured.
        """
        for name, options in topology.queues.items():
            existing = self._entities.get(name.lower())
            if existing is None:
                self.create_queue(name, options)
            elif (merged := _merged(existing, options)) != existing.options:
                self.update_queue(name, merged)
        for name, topic in topology.topics.items():
            existing = self._entities.get(name.lower())
            if existing is None:
                self.create_topic(name, topic.options)
            elif (changed := _merged(existing, topic.options)) != existing.options:
                self.update_topic(name, changed)
            for short_name, definition in topic.subscriptions.items():
                self._apply_subscription(name, short_name, definition)

    def _apply_subscription(self, topic: str, name: str, definition: SubscriptionDefinition) -> None:
        existing = self.topic(topic).subscriptions.get(name.lower())
        if existing is None:
            self.create_subscription(topic, name, definition)
            return
        merged, rules = _merged(existing, definition.options), tuple(existing.rules.values())
        if (merged, definition.rules) != (existing.options, rules):
            existing.rules = {rule.name.lower(): self._dated(rule) for rule in definition.rules}
            self.update_subscription(topic, name, merged)

    # ------------------------------------------------------------------ who watches

    def observe(self, observer: Observer | None) -> None:
        """Report to this observer, or to none, what happens to the messages of all entities."""
        self._observer = observer
        for entity in self._entities.values():
            entity.observe(observer)

    # ------------------------------------------------------------------ what there is

    def queues(self) -> Iterator[Queue]:
        """Return the queues, by name."""
        return (entity for _, entity in sorted(self._entities.items()) if isinstance(entity, Queue))

    def topics(self) -> Iterator[Topic]:
        """Return the topics, by name."""
        return (entity for _, entity in sorted(self._entities.items()) if isinstance(entity, Topic))

    def find(self, path: str) -> MessagingEntity:
        """Return what is at a path: a queue, a topic, a subscription, or dead letters of one.

        Raises `EntityNotFound`.
        """
        name, subscription, sub_queue = _split(path)
        entity: MessagingEntity | None = self._entities.get(name)
        if entity is None and subscription is None and name and self.default_options is not None:
            entity = self.create_queue(path.strip("/").partition("/$")[0], self.default_options)
        if subscription is not None:
            entity = entity.subscriptions.get(subscription) if isinstance(entity, Topic) else None
        if sub_queue is not None and isinstance(entity, Queue):
            known = {DEAD_LETTER_QUEUE: entity.dead_letters, TRANSFER_DEAD_LETTER_QUEUE: entity.transfer_dead_letters}
            entity = next((queue for name, queue in known.items() if name.lower() == sub_queue), None)
        elif sub_queue is not None:
            entity = None
        if entity is None:
            raise EntityNotFound(f"The messaging entity '{path}' could not be found.")
        return entity

    def policies(self, name: str) -> tuple[AccessRule, ...]:
        """Return the shared access policies of a queue or topic; none when there is no such entity."""
        entity = self._entities.get(name.lower())
        return entity.options.access if entity is not None else ()

    @property
    def size(self) -> int:
        """How many queues and topics there are."""
        return len(self._entities)

    def get(self, name: str) -> Queue | Topic | None:
        """Return the queue or topic of this name, if there is one; nothing is created."""
        return self._entities.get(name.lower())

    def queue(self, path: str) -> Queue:
        """Return what can be received from at a path: not a topic.

        Raises `EntityNotFound`, and `NotAllowed` for a topic.
        """
        entity = self.find(path)
        if not isinstance(entity, Queue):
            raise NotAllowed(f"'{path}' is a topic: receive from one of its subscriptions.")
        return entity

    def topic(self, name: str) -> Topic:
        """Return the topic of this name; raises `EntityNotFound`."""
        return self._named(name, Topic)

    def subscription(self, topic: str, name: str) -> Subscription:
        """Return a subscription of a topic; raises `EntityNotFound`."""
        subscription = self.topic(topic).subscriptions.get(name.lower())
        if subscription is None:
            raise EntityNotFound(f"The messaging entity '{topic}/{SUBSCRIPTIONS}/{name}' could not be found.")
        return subscription

    def _named(self, name: str, kind: type[Kind]) -> Kind:
        entity = self._entities.get(name.lower())
        if not isinstance(entity, kind):
            raise EntityNotFound(f"The messaging entity '{name}' could not be found.")
        return entity

    # ------------------------------------------------------------------ create

    def create_queue(self, name: str, options: QueueOptions) -> Queue:
        """Create a queue; raises `EntityExists`."""
        self._check_new(name)
        self.validate(name, options)
        return self._saved(self._new_queue(name, options))

    def create_topic(self, name: str, options: TopicOptions) -> Topic:
        """Create a topic without subscriptions; raises `EntityExists`."""
        self._check_new(name)
        self.validate(name, options)
        return self._saved(self._new_topic(name, options))

    def create_subscription(self, topic: str, name: str, definition: SubscriptionDefinition) -> Subscription:
        """Create a subscription of a topic; it gets what is published from now on.

        Raises `EntityNotFound` and `EntityExists`.
        """
        parent = self.topic(topic)
        if name.lower() in parent.subscriptions:
            raise EntityExists(f"The messaging entity '{topic}/{SUBSCRIPTIONS}/{name}' already exists.")
        self.validate(f"{parent.name}/{SUBSCRIPTIONS}/{name}", definition.options)
        return self._saved(self._new_subscription(parent, name, definition))

    def _check_new(self, name: str) -> None:
        if name.lower() in self._entities:
            raise EntityExists(f"The messaging entity '{name}' already exists.")

    def _new_queue(self, name: str, options: QueueOptions) -> Queue:
        queue = self._entities[name.lower()] = Queue(
            name, options, self.timers, store=self.store, forward=self._forward
        )
        return queue

    def _new_topic(self, name: str, options: TopicOptions) -> Topic:
        topic = self._entities[name.lower()] = Topic(name, options, self.timers, self.store)
        return topic

    def _new_subscription(self, topic: Topic, name: str, definition: SubscriptionDefinition) -> Subscription:
        subscription = Subscription(topic, name, definition.options, self.timers, self.store, self._forward)
        subscription.rules = {rule.name.lower(): self._dated(rule) for rule in definition.rules}
        topic.subscriptions[name.lower()] = subscription
        return subscription

    def _dated(self, rule: Rule) -> Rule:
        return replace(rule, created_at=rule.created_at or self.timers.clock())

    def save(self, entity: Queue | Topic) -> None:
        """Keep an entity's definition as it is now."""
        rules = tuple(entity.rules.values()) if isinstance(entity, Subscription) else ()
        self.store.save(Entity(entity.name, entity.options, rules, entity.created_at, entity.updated_at))

    def _saved(self, entity: Kind) -> Kind:
        assert isinstance(entity, Queue | Topic)
        entity.observe(self._observer)
        self.save(entity)
        self._idle.watch(entity)
        return entity

    # ------------------------------------------------------------------ update and delete

    def update_queue(self, name: str, options: QueueOptions) -> Queue:
        """Change how a queue behaves."""
        queue = self._named(name, Queue)
        self.validate(queue.name, options)
        queue.update(options)
        return self._saved(queue)

    def update_topic(self, name: str, options: TopicOptions) -> Topic:
        """Change how a topic behaves."""
        topic = self.topic(name)
        self.validate(topic.name, options)
        topic.update(options)
        return self._saved(topic)

    def update_subscription(self, topic: str, name: str, options: QueueOptions) -> Subscription:
        """Change how a subscription behaves; its rules stay."""
        subscription = self.subscription(topic, name)
        self.validate(subscription.name, options)
        subscription.update(options)
        return self._saved(subscription)

    def change_rules(self, subscription: Subscription, change: Callable[[Subscription], None]) -> None:
        """Add, replace or remove a rule, and keep the result."""
        change(subscription)
        self._saved(subscription)

    def delete(self, name: str) -> None:
        """Delete a queue, or a topic with its subscriptions; messages and dead letters go with it."""
        entity = self._named(name, MessagingEntity)
        del self._entities[name.lower()]
        self._idle.forget(entity)
        entity.end()
        self.store.delete(entity.name)

    def delete_subscription(self, topic: str, name: str) -> None:
        """Delete a subscription with its messages."""
        subscription = self.subscription(topic, name)
        del subscription.topic.subscriptions[name.lower()]
        self._idle.forget(subscription)
        subscription.end()
        self.store.delete(subscription.name)

    def _delete_idle(self, entity: MessagingEntity) -> None:
        if isinstance(entity, Subscription):
            self.delete_subscription(entity.topic.name, entity.short_name)
        else:
            self.delete(entity.name)

    # ------------------------------------------------------------------ forwarding

    def _forward(self, target: str, message: Message) -> None:
        self.find(target).send([message])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects that stay without the garbage collector looking at them all again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _merged(stored: MessagingEntity, configured: Options) -> Options:
    """Return the options of a stored entity that is configured: those, with the policies that were created since."""
    for named in (_kind_of, _sessions_of):
        if (was := named(stored.options)) != (wanted := named(configured)):
            raise StoreError(
                f"'{stored.name}' is stored {was} and configured {wanted}, which cannot change: "
                "configure it as it was, delete it first, or use another place for the data"
            )
    return replace(configured, access=configured.access or stored.options.access)


def _kind_of(options: QueueOptions | TopicOptions) -> str:
    return "as a topic" if isinstance(options, TopicOptions) else "as a queue"


def _sessions_of(options: QueueOptions | TopicOptions) -> str:
    return f"with{'' if isinstance(options, QueueOptions) and options.requires_session else 'out'} RequiresSession"


def entity_of(path: str) -> str:
    """Return the name of the queue or topic that a path lies in, in lower case."""
    return _split(path)[0]


def _split(path: str) -> tuple[str, str | None, str | None]:
    """Split a path into the entity's name, the subscription's, and the sub-queue's that starts with `$`."""
    parts = path.strip("/").lower().split("/")
    at = next((i for i, part in enumerate(parts) if part.startswith("$")), len(parts))
    entity, sub_queue = parts[:at], "/".join(parts[at:]) or None
    if len(entity) >= 3 and entity[-2] == SUBSCRIPTIONS.lower():
        return "/".join(entity[:-2]), entity[-1], sub_queue
    return "/".join(entity), None, sub_queue
