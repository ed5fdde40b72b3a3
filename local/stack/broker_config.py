"""The broker's configuration in the format of Microsoft's emulator, made from the topology. Pure."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from shared.contracts.queues import Queue

# The only name that Microsoft's emulator takes.
NAMESPACE = "sbemulatorns"


def emulator_config(queues: Iterable[Queue]) -> dict[str, Any]:
    """The `Config.json` that has exactly these queues."""
    namespace = {"Name": NAMESPACE, "Queues": [_queue(queue) for queue in queues], "Topics": []}
    return {"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "Console"}}}


def _queue(queue: Queue) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "DeadLetteringOnMessageExpiration": queue.dead_letter_on_expiry,
        "DefaultMessageTimeToLive": iso(queue.time_to_live),
        "LockDuration": iso(queue.lock),
        "MaxDeliveryCount": queue.max_delivery_count,
        "RequiresDuplicateDetection": queue.duplicate_window is not None,
        "RequiresSession": queue.sessions,
    }
    if queue.duplicate_window is not None:
        properties["DuplicateDetectionHistoryTimeWindow"] = iso(queue.duplicate_window)
    if queue.forward_dead_letters_to is not None:
        properties["ForwardDeadLetteredMessagesTo"] = queue.forward_dead_letters_to
    return {"Name": queue.name, "Properties": properties}


def iso(duration: timedelta) -> str:
    """An ISO 8601 duration, as the broker's own tools write it: PT1M, PT1H, P14D."""
    seconds = int(duration.total_seconds())
    if seconds and seconds % 86_400 == 0:
        return f"P{seconds // 86_400}D"
    parts = ((seconds // 3600, "H"), (seconds % 3600 // 60, "M"), (seconds % 60, "S"))
    return "PT" + ("".join(f"{count}{unit}" for count, unit in parts if count) or "0S")
