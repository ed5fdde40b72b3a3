"""What can be said of entities before there are any: their options, their rights, their names.

Durations are in seconds, `inf` without end. The defaults are Azure's own, as its documentation of
the entities' properties gives them; the emulator's are in `servicebus_local.config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from servicebus_local.bus.filters import Rule, TrueFilter


class Status(Enum):
    """Whether an entity may be used; the words are those of the administration API."""

    ACTIVE = "Active"
    DISABLED = "Disabled"
    SEND_DISABLED = "SendDisabled"
    RECEIVE_DISABLED = "ReceiveDisabled"

    @property
    def sends(self) -> bool:
        """Whether messages may come in."""
        return self in (Status.ACTIVE, Status.RECEIVE_DISABLED)

    @property
    def receives(self) -> bool:
        """Whether messages may be taken out."""
        return self in (Status.ACTIVE, Status.SEND_DISABLED)


class Right(Enum):
    """What a shared access key may be used for."""

    SEND = "Send"
    LISTEN = "Listen"
    MANAGE = "Manage"


@dataclass(frozen=True, slots=True)
class AccessRule:
    """A shared access policy: a named pair of keys, and what they allow."""

    name: str
    keys: tuple[str, ...]
    rights: frozenset[Right] = frozenset(Right)
    created_at: float = 0.0  # seconds since the Unix epoch, as is the next
    modified_at: float = 0.0


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How one queue, or one subscription, behaves."""

    lock_duration: float = 60.0
    max_delivery_count: int = 10
    default_time_to_live: float = inf
    dead_lettering_on_expiration: bool = False
    requires_session: bool = False
    duplicate_detection: bool = False
    duplicate_window: float = 600.0
    forward_to: str | None = None
    forward_dead_letters_to: str | None = None
    status: Status = Status.ACTIVE
    max_size: float = inf  # bytes, dead letters included
    auto_delete_on_idle: float = inf
    dead_lettering_on_filter_errors: bool = True  # of a subscription only
    metadata: str | None = None
    access: tuple[AccessRule, ...] = ()
    partitioned: bool = False  # this and what follows is kept and shown, and changes nothing here
    express: bool = False
    batched_operations: bool = True


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """How one topic behaves."""

    default_time_to_live: float = inf
    duplicate_detection: bool = False
    duplicate_window: float = 600.0
    status: Status = Status.ACTIVE
    max_size: float = inf
    auto_delete_on_idle: float = inf
    metadata: str | None = None
    access: tuple[AccessRule, ...] = ()
    partitioned: bool = False  # as above
    express: bool = False
    batched_operations: bool = True
    support_ordering: bool = True
    filtering_before_publishing: bool = False


DEFAULT_RULE = Rule("$Default", TrueFilter(), None)
"""The rule of a subscription that is created without rules: it chooses every message."""


@dataclass(frozen=True, slots=True)
class SubscriptionDefinition:
    """A subscription and the rules by which it chooses."""

    options: QueueOptions = field(default_factory=QueueOptions)
    rules: tuple[Rule, ...] = (DEFAULT_RULE,)


@dataclass(frozen=True, slots=True)
class TopicDefinition:
    """A topic and its subscriptions, by name."""

    options: TopicOptions = field(default_factory=TopicOptions)
    subscriptions: Mapping[str, SubscriptionDefinition] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topology:
    """All entities of a namespace, by name."""

    queues: Mapping[str, QueueOptions] = field(default_factory=dict)
    topics: Mapping[str, TopicDefinition] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queues) + len(self.topics)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages an entity holds, by where they are."""

    active: int = 0
    scheduled: int = 0
    dead_lettered: int = 0
    transfer_dead_lettered: int = 0
    size: int = 0  # bytes
