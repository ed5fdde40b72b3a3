"""The limits of Microsoft's emulator, for `--strict-emulator`: what it refuses is refused here too.

Numbers are those of its `Config-schema.json` and of the usage quotas in its documentation
(version 2.0; the 70 SQL filters of a topic are newer than the 20 of the first versions, and
locks of five seconds newer than those of a minute).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from servicebus_local.bus.errors import InvalidArgument, QuotaExceeded
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, SqlFilter, TrueFilter
from servicebus_local.bus.namespace import Namespace, entity_of
from servicebus_local.bus.topics import Topic
from servicebus_local.bus.topology import DEFAULT_RULE, QueueOptions, TopicDefinition, TopicOptions, Topology
from servicebus_local.fields import ConfigError

NAMESPACE: Final = "sbemulatorns"
CONNECTIONS: Final = 10
ENTITY_SIZE: Final = 100 * 1024 * 1024
_ENTITIES: Final = 50
_SUBSCRIPTIONS: Final = 50  # of a topic
_CORRELATION_FILTERS: Final = 1000  # of a topic, all subscriptions together
_SQL_FILTERS: Final = 70  # the same
_LOGGING: Final = ("File", "Console", "File,Console", "Console,File")
_BOUNDS: Final[dict[str, tuple[str, int, int]]] = {
    "lock_duration": ("LockDuration", 5, 300),
    "default_time_to_live": ("DefaultMessageTimeToLive", 300, 3600),
    "duplicate_window": ("DuplicateDetectionHistoryTimeWindow", 5, 300),
    "max_delivery_count": ("MaxDeliveryCount", 1, 10),
}


def validate(namespace: Namespace, path: str, options: QueueOptions | TopicOptions) -> None:
    """Refuse an entity that the emulator would not have, created or changed while the broker runs.

    Of the settings only the number of deliveries counts then: clients of its administration
    create entities whose messages never expire, and were not refused.
    """
    setting, lowest, highest = _BOUNDS["max_delivery_count"]
    if isinstance(options, QueueOptions) and not lowest <= options.max_delivery_count <= highest:
        raise InvalidArgument(
            f"The {setting} of '{path}': the emulator takes {lowest} to {highest}, not {options.max_delivery_count}."
        )
    entities = {entity.name.lower(): entity for entity in (*namespace.queues(), *namespace.topics())}
    entity = entities.get(entity_of(path))
    if entity is None and len(entities) >= _ENTITIES:
        raise QuotaExceeded(f"The emulator has at most {_ENTITIES} queues and topics.")
    if isinstance(entity, Topic) and path.lower() != entity.name.lower():
        siblings = {sibling.name.lower() for sibling in entity.subscriptions.values()}
        if path.lower() not in siblings and len(siblings) >= _SUBSCRIPTIONS:
            raise QuotaExceeded(f"A topic of the emulator has at most {_SUBSCRIPTIONS} subscriptions.")


def check_limits(user: Mapping[str, Any], topology: Topology) -> None:
    """Raise `ConfigError` with one line for everything in a configuration that the emulator refuses."""
    lines = [f"{where}: {complaint}" for where, complaint in _violations(user, topology)]
    if lines:
        raise ConfigError("\n".join(lines))


Complaint = tuple[str, str]
"""Where, and what."""


def _violations(user: Mapping[str, Any], topology: Topology) -> Iterator[Complaint]:
    logging = user.get("Logging")
    if (logging.get("Type") if isinstance(logging, dict) else None) not in _LOGGING:
        yield "UserConfig.Logging.Type", f"the emulator wants one of {' · '.join(_LOGGING)}"
    namespaces = user["Namespaces"]
    if len(namespaces) != 1:
        yield "UserConfig.Namespaces", f"the emulator has exactly one namespace, not {len(namespaces)}"
        return
    where = "UserConfig.Namespaces[0]"
    if namespaces[0].get("Name") != NAMESPACE:
        yield f"{where}.Name", f"the emulator's namespace is called {NAMESPACE}"
    for name in ("Queues", "Topics"):
        if name not in namespaces[0]:
            yield f"{where}.{name}", "the emulator wants this list, even if it is empty"
    if len(topology) > _ENTITIES:
        yield where, f"the emulator has at most {_ENTITIES} queues and topics, not {len(topology)}"
    for number, queue in enumerate(topology.queues.values()):
        yield from _options(queue, f"{where}.Queues[{number}]")
    for number, topic in enumerate(topology.topics.values()):
        yield from _topic(topic, f"{where}.Topics[{number}]")


def _topic(topic: TopicDefinition, where: str) -> Iterator[Complaint]:
    yield from _options(topic.options, where)
    subscriptions = list(topic.subscriptions.values())
    if not 1 <= len(subscriptions) <= _SUBSCRIPTIONS:
        yield f"{where}.Subscriptions", f"the emulator takes 1 to {_SUBSCRIPTIONS}, not {len(subscriptions)}"
    kinds = [type(rule.filter) for subscription in subscriptions for rule in subscription.rules]
    for kind, called, most in (
        (CorrelationFilter, "correlation", _CORRELATION_FILTERS),
        (SqlFilter, "SQL", _SQL_FILTERS),
    ):
        if kinds.count(kind) > most:
            yield where, f"the emulator takes at most {most} {called} filters for a topic, not {kinds.count(kind)}"
    for number, subscription in enumerate(subscriptions):
        place = f"{where}.Subscriptions[{number}]"
        yield from _options(subscription.options, place)
        for index, rule in enumerate(subscription.rules):
            if isinstance(rule.filter, TrueFilter | FalseFilter) and rule is not DEFAULT_RULE:
                where_ = f"{place}.Rules[{index}].Properties.FilterType"
                yield where_, "the emulator knows Sql and Correlation only, and ignores other rules silently"


def _options(options: QueueOptions | TopicOptions, where: str) -> Iterator[Complaint]:
    for option, (setting, lowest, highest) in _BOUNDS.items():
        value = getattr(options, option, lowest)
        unit = "" if option == "max_delivery_count" else " seconds"
        if not lowest <= value <= highest:
            yield f"{where}.Properties.{setting}", f"the emulator takes {lowest} to {highest}{unit}, not {value:g}"
        elif value != int(value):
            yield f"{where}.Properties.{setting}", f"the emulator takes whole seconds, not {value:g}"
