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
    """ISO 8601, in the largest unit that needs no fraction."""
    seconds = int(duration.total_seconds())
    for size, form in ((86_400, "P{}D"), (3_600, "PT{}H"), (60, "PT{}M")):
        if seconds and seconds % size == 0:
            return form.format(seconds // size)
    return f"PT{seconds}S"
