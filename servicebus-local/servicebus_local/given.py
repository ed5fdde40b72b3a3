"""Entities, however a test gives them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servicebus_local import config as configuration
from servicebus_local.bus.topics import SUBSCRIPTIONS
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, Topology

Given = str | Path | Topology | Mapping[str, Any]
"""A name, a `Config.json` as a file or parsed, a topology, or options by name."""


def topology_of(*given: Given) -> Topology:
    """Put together entities that may be given in several ways."""
    queues: dict[str, QueueOptions] = {}
    topics: dict[str, TopicDefinition] = {}
    for part in map(_topology, given):
        queues.update(part.queues)
        for name, topic in part.topics.items():
            known = topics.get(name)
            more = {**known.subscriptions, **topic.subscriptions} if known is not None else topic.subscriptions
            topics[name] = TopicDefinition(topic.options, more)
    return Topology(queues, topics)


def _topology(given: Given) -> Topology:
    if isinstance(given, Topology):
        return given
    if isinstance(given, Path):
        return configuration.load(given)
    if isinstance(given, str):
        return _named(given)
    if "UserConfig" in given:
        return configuration.read(given)
    queues = {name: options for name, options in given.items() if isinstance(options, QueueOptions)}
    topics = {name: topic for name, topic in given.items() if isinstance(topic, TopicDefinition)}
    wrong = sorted(set(given) - set(queues) - set(topics))
    if wrong:
        raise TypeError(f"the options of {wrong[0]!r} are neither QueueOptions nor a TopicDefinition")
    return Topology(queues, topics)


def _named(path: str) -> Topology:
    topic, separator, name = path.partition(f"/{SUBSCRIPTIONS}/")
    if not separator:
        return Topology({path: configuration.EMULATOR_DEFAULTS})
    subscription = SubscriptionDefinition(configuration.EMULATOR_DEFAULTS)
    return Topology(topics={topic: TopicDefinition(configuration.EMULATOR_TOPIC_DEFAULTS, {name: subscription})})
