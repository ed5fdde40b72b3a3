"""`Config.json` of Microsoft's Service Bus emulator, from the topology inside the emulator's limits.

Source of form and limits: Azure/azure-service-bus-emulator-installer, ServiceBus-Emulator/Schema.
"""

import json
from collections.abc import Sequence
from typing import Any

from ops.reference.text import Files, iso
from shared.contracts.queues import Queue, within_emulator

CONFIG = "deploy/compose/Config.json"
# The only name that the emulator takes.
NAMESPACE = "sbemulatorns"
MOST_QUEUES = 50


def files(queues: Sequence[Queue]) -> Files:
    """The configuration file."""
    return {CONFIG: json.dumps(config(queues), indent=2) + "\n"}


def config(queues: Sequence[Queue]) -> dict[str, Any]:
    """The configuration; raises `ValueError` for more queues than the emulator has room for."""
    if len(queues) > MOST_QUEUES:
        raise ValueError(f"{len(queues)} queues, but the emulator takes at most {MOST_QUEUES}: list fewer callers")
    # Whoever is forwarded to comes first, in case entities are created in the order of the file.
    targets = {queue.forward_dead_letters_to for queue in queues}
    ordered = sorted(queues, key=lambda queue: queue.name not in targets)
    return {
        "UserConfig": {
            "Namespaces": [
                {"Name": NAMESPACE, "Queues": [_queue(within_emulator(queue)) for queue in ordered], "Topics": []}
            ],
            "Logging": {"Type": "Console"},
        }
    }


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
