"""Live entities as entries: their options, and what is in them at the moment."""

from typing import Final

from servicebus_local.admin.access import write_access
from servicebus_local.admin.atom import NAMESPACE, Shown, View
from servicebus_local.admin.descriptions import MESSAGE_KILOBYTES, QUEUE, SUBSCRIPTION, TOPIC, write_options
from servicebus_local.admin.durations import write_moment
from servicebus_local.admin.rules import write_rule
from servicebus_local.admin.xml import COUNTS, boolean, tag, tags
from servicebus_local.bus.filters import Rule
from servicebus_local.bus.messaging_entity import MessagingEntity
from servicebus_local.bus.queue import Queue
from servicebus_local.bus.topics import SUBSCRIPTIONS, Subscription, Topic
from servicebus_local.bus.topology import Counts

_WITH_MESSAGE_SIZES: Final = "2021-05"  # the version that brought MaxMessageSizeInKilobytes
_WITH_FILTER_COUNTS: Final = "2024-05"  # the version that brought the counts of filters to topics

# The order is that of the Python SDK's models, which is the one Azure answers in.
_QUEUE_ORDER: Final = (
    "LockDuration MaxSizeInMegabytes RequiresDuplicateDetection RequiresSession DefaultMessageTimeToLive "
    "DeadLetteringOnMessageExpiration DuplicateDetectionHistoryTimeWindow MaxDeliveryCount EnableBatchedOperations "
    "SizeInBytes MessageCount IsAnonymousAccessible AuthorizationRules Status CreatedAt UpdatedAt AccessedAt "
    "SupportOrdering CountDetails AutoDeleteOnIdle EnablePartitioning EntityAvailabilityStatus EnableExpress "
    "ForwardTo UserMetadata ForwardDeadLetteredMessagesTo MaxMessageSizeInKilobytes"
).split()
_TOPIC_ORDER: Final = (
    "DefaultMessageTimeToLive MaxSizeInMegabytes RequiresDuplicateDetection DuplicateDetectionHistoryTimeWindow "
    "EnableBatchedOperations SizeInBytes FilteringMessagesBeforePublishing IsAnonymousAccessible AuthorizationRules "
    "Status CreatedAt UpdatedAt AccessedAt SupportOrdering CountDetails SubscriptionCount SqlFilterCount "
    "CorrelationFilterCount AutoDeleteOnIdle EnablePartitioning EntityAvailabilityStatus "
    "EnableSubscriptionPartitioning EnableExpress UserMetadata MaxMessageSizeInKilobytes"
).split()
_SUBSCRIPTION_ORDER: Final = (
    "LockDuration RequiresSession DefaultMessageTimeToLive DeadLetteringOnMessageExpiration "
    "DeadLetteringOnFilterEvaluationExceptions MessageCount MaxDeliveryCount EnableBatchedOperations Status ForwardTo "
    "CreatedAt UpdatedAt AccessedAt CountDetails ForwardDeadLetteredMessagesTo AutoDeleteOnIdle "
    "EntityAvailabilityStatus UserMetadata"
).split()


def show_queue(queue: Queue, view: View) -> Shown:
    """Describe a queue."""
    elements = (
        write_options(queue.options, QUEUE)
        | _facts(queue)
        | _targets(queue, view)
        | _sizes(view)
        | {"SupportOrdering": tag("SupportOrdering", boolean(not queue.options.partitioned))}
    )
    return _shown(queue, queue.name, "QueueDescription", _ordered(elements, _QUEUE_ORDER))


def show_topic(topic: Topic, view: View) -> Shown:
    """Describe a topic."""
    counted = {
        "SubscriptionCount": str(len(topic.subscriptions)),
        "EnableSubscriptionPartitioning": boolean(False),
        **_filter_counts(topic, view),
    }
    elements = write_options(topic.options, TOPIC) | _facts(topic) | _sizes(view) | _tagged(counted)
    return _shown(topic, topic.name, "TopicDescription", _ordered(elements, _TOPIC_ORDER))


def show_subscription(subscription: Subscription, view: View) -> Shown:
    """Describe a subscription."""
    elements = write_options(subscription.options, SUBSCRIPTION) | _facts(subscription) | _targets(subscription, view)
    return _shown(
        subscription, subscription.short_name, "SubscriptionDescription", _ordered(elements, _SUBSCRIPTION_ORDER)
    )


def show_rule(subscription: Subscription, rule: Rule) -> Shown:
    """Describe a rule."""
    path = f"{rules_path(subscription)}/{rule.name}"
    content = write_rule(rule, write_moment(rule.created_at))
    return Shown(path, rule.name, "RuleDescription", content, rule.created_at, rule.created_at)


def show_namespace(created_at: float) -> Shown:
    """Describe the namespace."""
    facts = {
        "CreatedTime": write_moment(created_at),
        "MessagingSKU": "Standard",
        "ModifiedTime": write_moment(created_at),
        "Name": NAMESPACE,
        "NamespaceType": "Messaging",
    }
    return Shown("$namespaceinfo", NAMESPACE, "NamespaceInfo", tags(facts.items()), created_at, created_at)


def rules_path(subscription: Subscription) -> str:
    """Return where the rules of a subscription are; the JavaScript SDK finds names by these words, in this case."""
    return f"{subscription.topic.name}/{SUBSCRIPTIONS}/{subscription.short_name}/Rules"


def _shown(entity: MessagingEntity, title: str, element: str, content: str) -> Shown:
    return Shown(entity.name, title, element, content, entity.created_at, entity.updated_at)


def _facts(entity: MessagingEntity) -> dict[str, str]:
    counts = entity.counts()
    facts = {
        "SizeInBytes": str(entity.total_size),
        "MessageCount": str(_all(counts)),
        "IsAnonymousAccessible": boolean(False),
        "CreatedAt": write_moment(entity.created_at),
        "UpdatedAt": write_moment(entity.updated_at),
        "AccessedAt": write_moment(entity.accessed_at),
        "EntityAvailabilityStatus": "Available",
    }
    return _tagged(facts) | {
        "AuthorizationRules": write_access(entity.options.access),
        "CountDetails": _count_details(counts),
    }


def _targets(queue: Queue, view: View) -> dict[str, str]:
    named = {
        "ForwardTo": queue.options.forward_to,
        "ForwardDeadLetteredMessagesTo": queue.options.forward_dead_letters_to,
    }
    return {element: tag(element, view.target(name)) for element, name in named.items() if name is not None}


def _sizes(view: View) -> dict[str, str]:
    known = view.api_version >= _WITH_MESSAGE_SIZES
    return _tagged({"MaxMessageSizeInKilobytes": str(MESSAGE_KILOBYTES)}) if known else {}


def _filter_counts(topic: Topic, view: View) -> dict[str, str]:
    if view.api_version < _WITH_FILTER_COUNTS:
        return {}
    sql, correlation = topic.filter_counts()
    return {"SqlFilterCount": str(sql), "CorrelationFilterCount": str(correlation)}


def _all(counts: Counts) -> int:
    return counts.active + counts.scheduled + counts.dead_lettered + counts.transfer_dead_lettered


def _count_details(counts: Counts) -> str:
    rows = [
        ("ActiveMessageCount", counts.active),
        ("DeadLetterMessageCount", counts.dead_lettered),
        ("ScheduledMessageCount", counts.scheduled),
        ("TransferMessageCount", 0),  # forwarding happens at once: nothing ever waits for it
        ("TransferDeadLetterMessageCount", counts.transfer_dead_lettered),
    ]
    inner = "".join(f"<d2p1:{name}>{number}</d2p1:{name}>" for name, number in rows)
    return f'<CountDetails xmlns:d2p1="{COUNTS}">{inner}</CountDetails>'


def _tagged(texts: dict[str, str]) -> dict[str, str]:
    return {element: tag(element, text) for element, text in texts.items()}


def _ordered(elements: dict[str, str], order: list[str]) -> str:
    return "".join(elements[name] for name in order if name in elements)
