"""The read side of Service Bus's ATOM API: queues as XML entries and feeds.

The order of the elements in a `QueueDescription` is that of Azure; some clients read them in turn.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import inf, isinf
from typing import Final

from local.broker.bus.queue import Counts, Queue, QueueOptions

_SERVICE_BUS: Final = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
_COUNTS: Final = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
_ATOM: Final = "http://www.w3.org/2005/Atom"
_NEVER: Final = "P10675199DT2H48M5.4775807S"
_MAX_SIZE_IN_MEGABYTES: Final = 1024


def queue_entry(queue: Queue, base: str, created: datetime) -> str:
    """Describe one queue, with what is in it now."""
    now, created_at = _time(datetime.now(UTC)), _time(created)
    return (
        f'<entry xmlns="{_ATOM}"><id>{_escape(base)}/{_escape(queue.name)}</id>'
        f'<title type="text">{_escape(queue.name)}</title>'
        f"<published>{created_at}</published><updated>{now}</updated>"
        "<author><name>local</name></author>"
        f'<link rel="self" href="{_escape(base)}/{_escape(queue.name)}"/>'
        f'<content type="application/xml">{_description(queue, created_at, now)}</content></entry>'
    )


def feed(title: str, self_link: str, entries: Iterable[str], next_link: str | None = None) -> str:
    """Gather entries; a link to the next page when there are more."""
    following = f'<link rel="next" href="{_escape(next_link)}"/>' if next_link is not None else ""
    return (
        f'<feed xmlns="{_ATOM}"><title type="text">{_escape(title)}</title><id>{_escape(self_link)}</id>'
        f"<updated>{_time(datetime.now(UTC))}</updated>"
        f'<link rel="self" href="{_escape(self_link)}"/>{following}{"".join(entries)}</feed>'
    )


def _description(queue: Queue, created: str, now: str) -> str:
    counts = queue.counts()
    elements = [
        *_settings(queue.options),
        ("SizeInBytes", str(counts.size)),
        ("MessageCount", str(counts.active + counts.scheduled + counts.dead_lettered)),
        ("IsAnonymousAccessible", "false"),
        ("AuthorizationRules", ""),
        ("Status", "Active"),
        *_optional("ForwardTo", queue.options.forward_to),
        ("CreatedAt", created),
        ("UpdatedAt", created),
        ("AccessedAt", now),
        ("SupportOrdering", "true"),
    ]
    return (
        f'<QueueDescription xmlns="{_SERVICE_BUS}">'
        f"{_xml(elements)}{_count_details(counts)}"
        f"{_xml(_closing(queue.options))}</QueueDescription>"
    )


def _settings(options: QueueOptions) -> list[tuple[str, str]]:
    return [
        ("LockDuration", iso_duration(options.lock_duration)),
        ("MaxSizeInMegabytes", str(_MAX_SIZE_IN_MEGABYTES)),
        ("RequiresDuplicateDetection", _boolean(options.duplicate_detection)),
        ("RequiresSession", _boolean(options.requires_session)),
        ("DefaultMessageTimeToLive", iso_duration(options.default_time_to_live)),
        ("DeadLetteringOnMessageExpiration", _boolean(options.dead_lettering_on_expiration)),
        ("DuplicateDetectionHistoryTimeWindow", iso_duration(options.duplicate_window)),
        ("MaxDeliveryCount", str(options.max_delivery_count)),
        ("EnableBatchedOperations", "true"),
    ]


def _closing(options: QueueOptions) -> list[tuple[str, str]]:
    return [
        ("AutoDeleteOnIdle", iso_duration(inf)),
        ("EnablePartitioning", "false"),
        ("EntityAvailabilityStatus", "Available"),
        ("EnableExpress", "false"),
        *_optional("ForwardDeadLetteredMessagesTo", options.forward_dead_letters_to),
        ("MaxMessageSizeInKilobytes", "256"),
    ]


def _count_details(counts: Counts) -> str:
    rows = [
        ("ActiveMessageCount", counts.active),
        ("DeadLetterMessageCount", counts.dead_lettered),
        ("ScheduledMessageCount", counts.scheduled),
        ("TransferDeadLetterMessageCount", 0),
        ("TransferMessageCount", 0),
    ]
    inner = "".join(f"<d2p1:{name}>{number}</d2p1:{name}>" for name, number in rows)
    return f'<CountDetails xmlns:d2p1="{_COUNTS}">{inner}</CountDetails>'


def iso_duration(seconds: float) -> str:
    """Write a duration as ISO 8601; for ever is .NET's longest one."""
    return _NEVER if isinf(seconds) else f"PT{seconds:.7f}".rstrip("0").rstrip(".") + "S"


def _xml(elements: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<{name}>{_escape(text)}</{name}>" if text else f"<{name}/>" for name, text in elements)


def _optional(name: str, text: str | None) -> list[tuple[str, str]]:
    return [] if text is None else [(name, text)]


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
