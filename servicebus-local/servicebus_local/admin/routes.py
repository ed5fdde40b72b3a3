"""What a path of the administration API names.

    /$namespaceinfo                               NAMESPACE
    /$Resources/queues, /$Resources/topics        QUEUES, TOPICS
    /{queue or topic}                             ENTITY; its name may have slashes
    /{topic}/subscriptions[/{name}]               SUBSCRIPTIONS, SUBSCRIPTION
    /{topic}/subscriptions/{name}/rules[/{rule}]  RULES, RULE

The words are compared without case.
"""

from enum import Enum, auto
from typing import NamedTuple

from servicebus_local.bus.topics import SUBSCRIPTIONS


class Resource(Enum):
    """The kinds of thing a path can name."""

    NAMESPACE = auto()
    QUEUES = auto()
    TOPICS = auto()
    ENTITY = auto()
    SUBSCRIPTIONS = auto()
    SUBSCRIPTION = auto()
    RULES = auto()
    RULE = auto()


class Route(NamedTuple):
    """A resource and the names in its path."""

    resource: Resource
    entity: str = ""
    subscription: str = ""
    rule: str = ""

    @property
    def path(self) -> str:
        """The path whose rights count; that of the namespace is empty."""
        return f"{self.entity}/{SUBSCRIPTIONS}/{self.subscription}" if self.subscription else self.entity


_FIXED = {
    "$namespaceinfo": Route(Resource.NAMESPACE),
    "$resources/queues": Route(Resource.QUEUES),
    "$resources/topics": Route(Resource.TOPICS),
}


def route(path: str) -> Route:
    """Read a path that was decoded already; every path names something, if only an entity that cannot be."""
    path = path.removeprefix("/").removesuffix("/")
    fixed = _FIXED.get(path.lower())
    if fixed is not None:
        return fixed
    parts = path.split("/")
    match [part.lower() for part in parts]:
        case [_, *_, "subscriptions", _, "rules", _]:
            return Route(Resource.RULE, "/".join(parts[:-4]), parts[-3], parts[-1])
        case [_, *_, "subscriptions", _, "rules"]:
            return Route(Resource.RULES, "/".join(parts[:-3]), parts[-2])
        case [_, *_, "subscriptions", _]:
            return Route(Resource.SUBSCRIPTION, "/".join(parts[:-2]), parts[-1])
        case [_, *_, "subscriptions"]:
            return Route(Resource.SUBSCRIPTIONS, "/".join(parts[:-1]))
        case _:
            return Route(Resource.ENTITY, path)
