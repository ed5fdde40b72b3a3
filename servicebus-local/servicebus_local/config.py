"""Reads Microsoft's emulator `Config.json`: one topology for this broker and for theirs.

    UserConfig.Namespaces[n].Queues[n]                           Name · Properties
                            .Topics[n]                           Name · Properties · Subscriptions
                            .Topics[n].Subscriptions[n]          Name · Properties · Rules
                            .Topics[n].Subscriptions[n].Rules[n] Name · Properties: FilterType, SqlFilter,
                                                                 CorrelationFilter, Action

What is left out takes the emulator's default. What is not understood is an error, because a
setting that is silently ignored is found in production. Values beyond the emulator's limits
are taken: `servicebus_local.emulator` knows those.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, Final

from servicebus_local.bus.errors import InvalidArgument
from servicebus_local.bus.filters import CorrelationFilter, FalseFilter, Filter, Rule, SqlAction, SqlFilter, TrueFilter
from servicebus_local.bus.topology import (
    DEFAULT_RULE,
    QueueOptions,
    SubscriptionDefinition,
    TopicDefinition,
    TopicOptions,
    Topology,
)
from servicebus_local.emulator import ENTITY_SIZE, check_limits
from servicebus_local.fields import (
    ConfigError,
    Convert,
    boolean,
    choice,
    field,
    items,
    known,
    mapping,
    of_type,
    positive,
    read_json,
    text,
)

__all__ = ["EMULATOR_DEFAULTS", "EMULATOR_TOPIC_DEFAULTS", "ConfigError", "duration", "load", "read"]

EMULATOR_DEFAULTS: Final = QueueOptions(
    lock_duration=60.0, max_delivery_count=3, default_time_to_live=3600.0, duplicate_window=20.0
)
EMULATOR_TOPIC_DEFAULTS: Final = TopicOptions(default_time_to_live=3600.0, duplicate_window=20.0)
# .NET's TimeSpan.MaxValue, which Azure writes for "never"
_FOREVER: Final = 10675199 * 86400

_DURATION = re.compile(
    r"P(?=.)(?:(?P<Y>\d+)Y)?(?:(?P<M>\d+)M)?(?:(?P<D>\d+)D)?"
    r"(?:T(?=.)(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?"
)
_SECONDS = {"Y": 365 * 86400, "M": 30 * 86400, "D": 86400, "h": 3600, "m": 60, "s": 1}
_NAME = re.compile(r"[A-Za-z0-9]|[A-Za-z0-9][\w\-./]*[A-Za-z0-9]", re.ASCII)
_LONGEST_PATH: Final = 260  # of a queue or topic, as Azure's quotas have it
_LONGEST_NAME: Final = 50  # of a subscription; the same


def load(path: Path, *, strict: bool = False) -> Topology:
    """Read the entities from a file; `strict` complains of everything Microsoft's emulator would refuse."""
    config = read_json(path)
    try:
        return read(config, strict=strict)
    except ConfigError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def read(config: Any, *, strict: bool = False) -> Topology:
    """Read the entities from a configuration that was parsed already; raises `ConfigError`."""
    root = mapping(config, "the configuration")
    known(root, {"UserConfig", "$schema"}, "the configuration")
    user = field(root, "UserConfig", mapping, "")
    known(user, {"Namespaces", "Logging"}, "UserConfig")
    reader = _Reader()
    for number, namespace in enumerate(field(user, "Namespaces", items, "UserConfig")):
        reader.read_namespace(namespace, f"UserConfig.Namespaces[{number}]")
    topology = Topology(reader.queues, reader.topics)
    reader.check_targets()
    if strict:
        check_limits(user, topology)
        # Every queue and topic has the size it has in Microsoft's emulator, where it cannot be set.
        queues = {name: replace(options, max_size=ENTITY_SIZE) for name, options in topology.queues.items()}
        topics = {
            name: replace(topic, options=replace(topic.options, max_size=ENTITY_SIZE))
            for name, topic in topology.topics.items()
        }
        topology = Topology(queues, topics)
    return topology


def duration(value: str) -> float:
    """Turn an ISO 8601 duration into seconds; .NET's longest one means without end; raises `ConfigError`."""
    match = _DURATION.fullmatch(value)
    if match is None:
        raise ConfigError(f"expected an ISO 8601 duration such as PT1M, found {value!r}")
    seconds = sum(float(number) * _SECONDS[unit] for unit, number in match.groupdict().items() if number)
    return inf if seconds >= _FOREVER else seconds


# --------------------------------------------------------------------------- entities


class _Reader:
    """Collects entities, and remembers what must be checked when all are known."""

    def __init__(self) -> None:
        self.queues: dict[str, QueueOptions] = {}
        self.topics: dict[str, TopicDefinition] = {}
        self._names: dict[str, str] = {}  # lower case, and where it was
        self._targets: list[tuple[str, str, str]] = []  # where, who forwards, to whom

    def read_namespace(self, namespace: Any, where: str) -> None:
        """Read the queues and topics of one namespace."""
        fields = mapping(namespace, where)
        known(fields, {"Name", "Queues", "Topics"}, where)
        if "Name" in fields:
            text(fields["Name"], f"{where}.Name")
        for place, queue in _each(fields, "Queues", where):
            settings = mapping(queue, place)
            known(settings, {"Name", "Properties"}, place)
            name = self._new_name(settings, place)
            self.queues[name] = self._read_options(name, settings, _QUEUE_PROPERTIES, place)
        for place, topic in _each(fields, "Topics", where):
            self._read_topic(topic, place)

    def _read_topic(self, topic: Any, where: str) -> None:
        fields = mapping(topic, where)
        known(fields, {"Name", "Properties", "Subscriptions"}, where)
        name = self._new_name(fields, where)
        place = f"{where}.Properties"
        changes = choice(mapping(fields.get("Properties", {}), place), _TOPIC_PROPERTIES, place)
        subscriptions: dict[str, SubscriptionDefinition] = {}
        for spot, subscription in _each(fields, "Subscriptions", where):
            self._read_subscription(name, subscriptions, subscription, spot)
        self.topics[name] = TopicDefinition(replace(EMULATOR_TOPIC_DEFAULTS, **changes), subscriptions)

    def _read_subscription(
        self, topic: str, siblings: dict[str, SubscriptionDefinition], subscription: Any, where: str
    ) -> None:
        fields = mapping(subscription, where)
        known(fields, {"Name", "Properties", "Rules"}, where)
        name = field(fields, "Name", _short_name, where)
        if any(name.lower() == other.lower() for other in siblings):
            raise ConfigError(f"{where}.Name: the topic has two subscriptions called {name!r}")
        path = f"{topic}/Subscriptions/{name}"
        options = self._read_options(path, fields, _SUBSCRIPTION_PROPERTIES, where)
        rules = [_read_rule(rule, place) for place, rule in _each(fields, "Rules", where)]
        names = [rule.name.lower() for rule in rules]
        for number, rule in enumerate(rules):
            if rule.name.lower() in names[:number]:
                raise ConfigError(f"{where}.Rules[{number}].Name: there are two rules called {rule.name!r}")
        siblings[name] = SubscriptionDefinition(options, tuple(rules) or (DEFAULT_RULE,))

    def _read_options(
        self, name: str, fields: Mapping[str, Any], table: Mapping[str, tuple[str, Convert]], where: str
    ) -> QueueOptions:
        place = f"{where}.Properties"
        options = replace(EMULATOR_DEFAULTS, **choice(mapping(fields.get("Properties", {}), place), table, place))
        for setting, target in (
            ("ForwardTo", options.forward_to),
            ("ForwardDeadLetteredMessagesTo", options.forward_dead_letters_to),
        ):
            if target is not None:
                self._targets.append((f"{place}.{setting}", name, target))
        return options

    def _new_name(self, fields: Mapping[str, Any], where: str) -> str:
        name: str = field(fields, "Name", _path, where)
        before = self._names.setdefault(name.lower(), where)
        if before != where:
            raise ConfigError(f"{where}.Name: there is another entity called {name!r}, {before}")
        return name

    # ------------------------------------------------------------------ forwarding

    def check_targets(self) -> None:
        """Raise `ConfigError` where an entity forwards to one that is not there, to itself, or in a circle."""
        for where, name, target in self._targets:
            if target.lower() == name.lower():
                raise ConfigError(f"{where}: {name!r} cannot forward to itself")
            if target.lower() not in self._names:
                raise ConfigError(f"{where}: there is no queue or topic called {target!r}")
        targets = {queue.lower(): options.forward_to for queue, options in self.queues.items()}
        for where, name, _ in self._targets:
            if not where.endswith(".ForwardTo"):
                continue
            way = [name]
            while (next_one := targets.get(way[-1].lower())) is not None:
                if next_one.lower() in map(str.lower, way):
                    raise ConfigError(f"{where}: messages would go in a circle: {' → '.join((*way, next_one))}")
                way.append(next_one)


def _each(fields: Mapping[str, Any], name: str, where: str) -> Iterator[tuple[str, Any]]:
    """Walk a list that may be missing; yield where each item is, and the item."""
    place = f"{where}.{name}"
    return ((f"{place}[{number}]", item) for number, item in enumerate(items(fields.get(name, []), place)))


# --------------------------------------------------------------------------- rules


def _read_rule(rule: Any, where: str) -> Rule:
    fields = mapping(rule, where)
    known(fields, {"Name", "Properties"}, where)
    name = field(fields, "Name", _rule_name, where)
    place = f"{where}.Properties"
    properties = field(fields, "Properties", mapping, where)
    known(properties, {"FilterType", "SqlFilter", "CorrelationFilter", "Action"}, place)
    kind = field(properties, "FilterType", text, place)
    if kind not in _FILTERS:
        raise ConfigError(f"{place}.FilterType: expected one of {', '.join(_FILTERS)}, found {kind!r}")
    action = properties.get("Action")
    return Rule(
        name,
        _FILTERS[kind](properties, place),
        None if action is None else _expression(action, f"{place}.Action", SqlAction),
    )


def _read_correlation_filter(properties: Mapping[str, Any], where: str) -> Filter:
    place = f"{where}.CorrelationFilter"
    fields = field(properties, "CorrelationFilter", mapping, where)
    values = choice(_without_preprocessing(fields, place), _CORRELATION_PROPERTIES, place)
    if not any(values.values()):
        raise ConfigError(f"{place}: a correlation filter must name at least one property")
    return CorrelationFilter(**values)


def _expression(value: Any, where: str, kind: Callable[[str], Any]) -> Any:
    fields = _without_preprocessing(mapping(value, where), where)
    known(fields, {"SqlExpression"}, where)
    expression = field(fields, "SqlExpression", text, where)
    try:
        return kind(expression)
    except InvalidArgument as error:
        raise ConfigError(f"{where}.SqlExpression: {error}") from error


def _without_preprocessing(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Leave a setting out that resource templates have for every filter and that changes nothing here."""
    if "RequiresPreprocessing" in fields:
        boolean(fields["RequiresPreprocessing"], f"{where}.RequiresPreprocessing")
    return {name: value for name, value in fields.items() if name != "RequiresPreprocessing"}


# --------------------------------------------------------------------------- the kinds of value


def _path(value: Any, where: str) -> str:
    return _name(value, where, _LONGEST_PATH)


def _short_name(value: Any, where: str) -> str:
    return _name(value, where, _LONGEST_NAME)


def _rule_name(value: Any, where: str) -> str:
    return DEFAULT_RULE.name if value == DEFAULT_RULE.name else _short_name(value, where)


def _name(value: Any, where: str, longest: int) -> str:
    name = str(of_type(value, str, "a name", where))
    if not _NAME.fullmatch(name) or "subscriptions" in name.lower().split("/"):
        raise ConfigError(f"{where}: {name!r} cannot be the name of an entity")
    if len(name) > longest:
        raise ConfigError(f"{where}: a name of {len(name)} characters; {longest} is the most")
    return name


def _target(value: Any, where: str) -> str | None:
    return _path(value, where) if value != "" else None


def _duration(value: Any, where: str) -> float:
    try:
        seconds = duration(of_type(value, str, "an ISO 8601 duration such as PT1M", where))
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from None
    if seconds <= 0:
        raise ConfigError(f"{where}: a duration must be longer than nothing")
    return seconds


def _properties(value: Any, where: str) -> dict[str, Any]:
    """Return the application properties a filter compares with; a null asks for nothing."""
    fields = mapping(value, where)
    for name, wanted in fields.items():
        if not isinstance(wanted, str | bool | int | float):
            raise ConfigError(f"{where}.{name}: expected text, a number, true or false")
    return fields


_QUEUE_PROPERTIES: Final[dict[str, tuple[str, Convert]]] = {
    "DeadLetteringOnMessageExpiration": ("dead_lettering_on_expiration", boolean),
    "DefaultMessageTimeToLive": ("default_time_to_live", _duration),
    "DuplicateDetectionHistoryTimeWindow": ("duplicate_window", _duration),
    "ForwardDeadLetteredMessagesTo": ("forward_dead_letters_to", _target),
    "ForwardTo": ("forward_to", _target),
    "LockDuration": ("lock_duration", _duration),
    "MaxDeliveryCount": ("max_delivery_count", positive),
    "RequiresDuplicateDetection": ("duplicate_detection", boolean),
    "RequiresSession": ("requires_session", boolean),
}
_SUBSCRIPTION_PROPERTIES: Final = {
    name: option
    for name, option in _QUEUE_PROPERTIES.items()
    if name not in ("DuplicateDetectionHistoryTimeWindow", "RequiresDuplicateDetection")
}
_TOPIC_PROPERTIES: Final = {
    name: _QUEUE_PROPERTIES[name]
    for name in ("DefaultMessageTimeToLive", "DuplicateDetectionHistoryTimeWindow", "RequiresDuplicateDetection")
}
_CORRELATION_PROPERTIES: Final[dict[str, tuple[str, Convert]]] = {
    "ContentType": ("content_type", text),
    "CorrelationId": ("correlation_id", text),
    "Label": ("label", text),
    "MessageId": ("message_id", text),
    "Properties": ("properties", _properties),
    "ReplyTo": ("reply_to", text),
    "ReplyToSessionId": ("reply_to_session_id", text),
    "SessionId": ("session_id", text),
    "To": ("to", text),
}
_FILTERS: Final[dict[str, Callable[[Mapping[str, Any], str], Filter]]] = {
    "Sql": lambda properties, where: _expression(
        field(properties, "SqlFilter", mapping, where), f"{where}.SqlFilter", SqlFilter
    ),
    "Correlation": _read_correlation_filter,
    "True": lambda _properties, _where: TrueFilter(),
    "False": lambda _properties, _where: FalseFilter(),
}
