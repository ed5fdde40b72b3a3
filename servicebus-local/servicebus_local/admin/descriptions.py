"""What can be said of a queue, a topic or a subscription in XML, and how it becomes their options.

Every settable property is one row below. An element that is not there has Azure's default, in an
update too: an update replaces everything. The order of elements does not matter in requests; in
answers it is that of the Python SDK's models. What is read only is ignored in requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, TypeVar
from xml.etree.ElementTree import Element

from servicebus_local.admin.access import read_access
from servicebus_local.admin.values import (
    DEFAULT_MEGABYTES,
    MEGABYTE,
    MEGABYTES,
    TARGET,
    TRUTH,
    Kind,
    choice,
    duration,
    integer,
    text,
)
from servicebus_local.admin.xml import local, tag, text_of
from servicebus_local.bus.errors import InvalidArgument
from servicebus_local.bus.topology import QueueOptions, Status, TopicOptions

Options = TypeVar("Options", QueueOptions, TopicOptions)

MESSAGE_KILOBYTES: Final = 256
"""What a message may have in the Standard tier; more is Premium's."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One property: the element, the option, and the kind of value."""

    element: str
    option: str
    kind: Kind
    fixed: bool = False  # cannot be changed once the entity is there


# The bounds are Azure's: its quotas, and the documentation of the properties.
_LOCK = Setting("LockDuration", "lock_duration", duration(5, 300))
_TIME_TO_LIVE = Setting("DefaultMessageTimeToLive", "default_time_to_live", duration(1))
_DELIVERIES = Setting("MaxDeliveryCount", "max_delivery_count", integer(1, 2000))
_EXPIRY = Setting("DeadLetteringOnMessageExpiration", "dead_lettering_on_expiration", TRUTH)
_SESSIONS = Setting("RequiresSession", "requires_session", TRUTH, fixed=True)
_IDLE = Setting("AutoDeleteOnIdle", "auto_delete_on_idle", duration(300))
_STATUS = Setting("Status", "status", choice(Status))
_METADATA = Setting("UserMetadata", "metadata", text(1024))
_BATCHED = Setting("EnableBatchedOperations", "batched_operations", TRUTH)
_OF_ENTITIES: Final = (
    Setting("MaxSizeInMegabytes", "max_size", MEGABYTES),
    Setting("RequiresDuplicateDetection", "duplicate_detection", TRUTH, fixed=True),
    Setting("DuplicateDetectionHistoryTimeWindow", "duplicate_window", duration(20, 7 * 86_400)),
    Setting("EnablePartitioning", "partitioned", TRUTH, fixed=True),
    Setting("EnableExpress", "express", TRUTH),
)
_OF_ALL: Final = (_TIME_TO_LIVE, _IDLE, _STATUS, _METADATA, _BATCHED)
_OF_RECEIVERS: Final = (
    _LOCK,
    _DELIVERIES,
    _EXPIRY,
    _SESSIONS,
    Setting("ForwardTo", "forward_to", TARGET),
    Setting("ForwardDeadLetteredMessagesTo", "forward_dead_letters_to", TARGET),
)
QUEUE: Final = (*_OF_ALL, *_OF_ENTITIES, *_OF_RECEIVERS)
TOPIC: Final = (
    *_OF_ALL,
    *_OF_ENTITIES,
    Setting("SupportOrdering", "support_ordering", TRUTH),
    Setting("FilteringMessagesBeforePublishing", "filtering_before_publishing", TRUTH),
)
SUBSCRIPTION: Final = (
    *_OF_ALL,
    *_OF_RECEIVERS,
    Setting("DeadLetteringOnFilterEvaluationExceptions", "dead_lettering_on_filter_errors", TRUTH),
)

_SIZE: Final = float(DEFAULT_MEGABYTES * MEGABYTE)
QUEUE_DEFAULTS: Final = QueueOptions(max_size=_SIZE)
TOPIC_DEFAULTS: Final = TopicOptions(max_size=_SIZE)
SUBSCRIPTION_DEFAULTS: Final = QueueOptions()

# Elements that would silently have no effect here are refused: the element, its accepted values, the reason.
_REFUSED: Final = (
    ("MaxMessageSizeInKilobytes", (str(MESSAGE_KILOBYTES),), "larger messages are for Premium, which this is not"),
    ("IsAnonymousAccessible", ("false", "0"), "anonymous access is not there"),
    ("EnableSubscriptionPartitioning", ("false", "0"), "partitioned subscriptions are not there"),
    ("IsClientAffine", ("false", "0"), "JMS subscriptions are not there"),
)


# --------------------------------------------------------------------------- reading


def read_options(
    description: Element, settings: Sequence[Setting], defaults: Options, current: Options | None, now: float
) -> Options:
    """Read the options of an entity, which has `current` ones if it is there; raises `InvalidArgument`."""
    for element, accepted, reason in _REFUSED:
        refused = text_of(description, element)
        if refused is not None and refused.strip().lower() not in accepted:
            raise InvalidArgument(f"{element} must be {accepted[0]}, not {refused[:40]}: {reason}.")
    given = {
        setting: _read(setting, written, current)
        for setting in settings
        if (written := text_of(description, setting.element)) is not None
    }
    changes = {setting.option: value for setting, value in given.items()}
    if current is not None:
        changes |= _kept(description, settings, given, current)
    try:
        changes["access"] = read_access(description, current.access if current is not None else (), now)
    except ValueError as error:
        raise InvalidArgument(f"AuthorizationRules: {error}.") from error
    options = replace(defaults, **changes)
    if options.express and options.duplicate_detection:
        raise InvalidArgument("EnableExpress and RequiresDuplicateDetection cannot both be true.")
    return options


def _read(setting: Setting, written: str, current: QueueOptions | TopicOptions | None) -> Any:
    """Read the value of one element; raises `InvalidArgument`."""
    try:
        return setting.kind.read(written)
    except ValueError as error:
        value = getattr(current, setting.option, None)
        if current is not None and setting.kind.write(value) == written:
            return value  # a configuration may go beyond the bounds, and what was got may be given back
        raise InvalidArgument(f"{setting.element}: {error}.") from error


def _kept(
    description: Element,
    settings: Iterable[Setting],
    given: Mapping[Setting, Any],
    current: QueueOptions | TopicOptions,
) -> dict[str, Any]:
    """Return what an update leaves as it is; raises `InvalidArgument` when that is to be changed."""
    kept: dict[str, Any] = {}
    for setting in settings:
        value = getattr(current, setting.option)
        if setting.fixed:
            if given.get(setting, value) != value:
                raise InvalidArgument(f"{setting.element} cannot be changed: {local(description)} says otherwise.")
            kept[setting.option] = value
        elif value == inf and given.get(setting) == _SIZE and setting.kind is MEGABYTES:
            kept[setting.option] = inf  # no limit was set, and the default was shown instead
    return kept


# --------------------------------------------------------------------------- writing


def write_options(options: QueueOptions | TopicOptions, settings: Iterable[Setting]) -> dict[str, str]:
    """Write options as elements, by name; those without a value are left out."""
    texts = ((setting.element, setting.kind.write(getattr(options, setting.option))) for setting in settings)
    return {element: tag(element, written) for element, written in texts if written is not None}
