"""A topic: messages come in once and are copied to every subscription whose rules choose them.

    topic ──▶ subscription: any rule matches? ──▶ one copy, however many plain rules match,
                                                  and one more for each rule with an action
                            a rule cannot be evaluated ──▶ its dead letters, or nothing

A subscription is a `Queue` with rules; its messages have sequence numbers of their own, and
the topic's as `x-opt-enqueue-sequence-number` (learn.microsoft.com/azure/service-bus-messaging/topic-filters
and message-sequencing).
"""

from dataclasses import replace
from typing import Any

from servicebus_local.amqp.types import Timestamp
from servicebus_local.bus.clock import Timers
from servicebus_local.bus.errors import EntityExists, EntityNotFound, FilterError, NotAllowed, QuotaExceeded
from servicebus_local.bus.filters import CorrelationFilter, Rule
from servicebus_local.bus.message import Message, with_application_properties
from servicebus_local.bus.messaging_entity import Forward, MessagingEntity
from servicebus_local.bus.observer import Kind, Observer
from servicebus_local.bus.properties import Properties
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.store import Store
from servicebus_local.bus.topology import QueueOptions, TopicOptions

SUBSCRIPTIONS = "Subscriptions"
# filters of a topic, as Azure's quotas have it
SQL_FILTER_LIMIT = 2000
CORRELATION_FILTER_LIMIT = 100_000


class Subscription(Queue):
    """A queue that is filled by a topic, by rules."""

    def __init__(
        self, topic: "Topic", name: str, options: QueueOptions, timers: Timers, store: Store | None, forward: Forward
    ) -> None:
        super().__init__(f"{topic.name}/{SUBSCRIPTIONS}/{name}", options, timers, store=store, forward=forward)
        self.topic = topic
        self.short_name = name
        self.rules: dict[str, Rule] = {}

    def check(self, message: Message) -> None:
        """Refuse: a subscription is filled by its topic alone."""
        raise NotAllowed(f"A subscription cannot be sent to: send to the topic '{self.topic.name}'.")

    def add_rule(self, rule: Rule) -> None:
        """Choose by one more rule from now on; raises `EntityExists`."""
        if rule.name.lower() in self.rules:
            raise EntityExists(f"The messaging entity '{self.name}/Rules/{rule.name}' already exists.")
        self.topic.check_room(rule)
        self.rules[rule.name.lower()] = replace(rule, created_at=self._timers.clock())

    def replace_rule(self, rule: Rule) -> None:
        """Choose by this rule instead of the one of the same name."""
        created_at = self.rule(rule.name).created_at
        self.rules[rule.name.lower()] = replace(rule, created_at=created_at)

    def remove_rule(self, name: str) -> None:
        """Choose by a rule less from now on."""
        self.rule(name)
        del self.rules[name.lower()]

    def rule(self, name: str) -> Rule:
        """Return the rule of this name; raises `EntityNotFound`."""
        try:
            return self.rules[name.lower()]
        except KeyError:
            raise EntityNotFound(f"The messaging entity '{self.name}/Rules/{name}' could not be found.") from None

    def rules_by_name(self) -> list[Rule]:
        """Return the rules in the order they are listed in."""
        return [rule for _, rule in sorted(self.rules.items())]

    def offer(self, message: Message, properties: Properties) -> None:
        """Take a copy, or several, or none, as the rules say."""
        if not self.options.status.sends:
            return
        try:
            for copy in self._chosen(message, properties):
                self.take_copy(copy)
        except FilterError as error:
            if self.options.dead_lettering_on_filter_errors:
                copy = message.copy()
                self._number(copy)
                copy.enqueued_at = message.enqueued_at
                self._pass_to_dead_letters(copy, error.reason, error.description)

    def _chosen(self, message: Message, properties: Properties) -> list[Message]:
        """Return one copy for all plain rules that match, then one for each that has an action.

        A copy that an action has changed has the name of its rule in the property `RuleName`. Raises `FilterError`.
        """
        matching = [rule for rule in self.rules.values() if rule.filter.matches(properties)]
        copies: list[Message] = []
        if any(rule.action is None for rule in matching):
            copies.append(message.copy())
        for rule in matching:
            if rule.action is not None:
                changed = rule.action.apply(message.bare, _broker_properties(message))
                copy = message.copy()
                copy.rewrite(with_application_properties(changed, {"RuleName": rule.name}))
                copies.append(copy)
        return copies


class Topic(MessagingEntity):
    """Where messages are published."""

    options: TopicOptions

    def __init__(self, name: str, options: TopicOptions, timers: Timers, store: Store | None = None) -> None:
        super().__init__(name, options, timers, store)
        self.subscriptions: dict[str, Subscription] = {}

    def update(self, options: TopicOptions) -> None:
        """Change how the topic behaves, from now on."""
        self.options, self.updated_at = options, self._timers.clock()
        self._set_duplicate_window(options.duplicate_window)
        self._apply_status()

    def observe(self, observer: Observer | None) -> None:
        """Report to this observer, or to none, what happens here and in the subscriptions."""
        super().observe(observer)
        for subscription in self.subscriptions.values():
            subscription.observe(observer)

    def end(self) -> None:
        """Be deleted, with all subscriptions."""
        for subscription in self.subscriptions.values():
            subscription.end()
        self.subscriptions.clear()
        super().end()

    def filter_counts(self) -> tuple[int, int]:
        """Count the rules of all subscriptions: those with a SQL filter, true and false included, and the others."""
        rules = [rule for subscription in self.subscriptions.values() for rule in subscription.rules.values()]
        correlation = sum(isinstance(rule.filter, CorrelationFilter) for rule in rules)
        return len(rules) - correlation, correlation

    def check_room(self, rule: Rule) -> None:
        """Refuse a rule that is one too many."""
        sql, correlation = self.filter_counts()
        correlates = isinstance(rule.filter, CorrelationFilter)
        count, limit = (correlation, CORRELATION_FILTER_LIMIT) if correlates else (sql, SQL_FILTER_LIMIT)
        if count >= limit:
            raise QuotaExceeded(
                f"The topic '{self.name}' has {limit} filters of this kind, which is the most it may have."
            )

    @property
    def total_size(self) -> int:
        """The bytes that count against the maximum size: those of the subscriptions do."""
        return self.size + sum(subscription.total_size for subscription in self.subscriptions.values())

    def _place(self, message: Message) -> None:
        properties = Properties.of(message.bare, _broker_properties(message))
        for subscription in list(self.subscriptions.values()):
            subscription.offer(message, properties)
        self._tell(Kind.PUBLISHED, message)

    def _take_up(self, message: Message, *, locked: bool) -> None:
        """Publish a message that was stored and not published, which happens only if the file was edited."""
        self._drop(message)
        self._place(message)


def _broker_properties(message: Message) -> dict[str, Any]:
    """Say what rules may ask of a message that is not in its bytes."""
    return {
        "EnqueuedTimeUtc": Timestamp(message.enqueued_at * 1000),
        "EnqueuedSequenceNumber": message.enqueued_sequence,
        "SequenceNumber": message.sequence,
        "DeliveryCount": message.delivery_count,
    }
