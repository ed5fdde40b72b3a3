"""`Config.json` of Microsoft's Service Bus emulator, from the topology inside the emulator's limits.

Source of form and limits: Azure/azure-service-bus-emulator-installer, ServiceBus-Emulator/Schema.
"""

import json
from collections.abc import Sequence
from typing import Any

from local.stack.broker_config import emulator_config
from ops.reference.text import Files
from shared.contracts.queues import Queue, within_emulator

CONFIG = "deploy/compose/Config.json"
MOST_QUEUES = 50


def files(queues: Sequence[Queue]) -> Files:
    """The configuration file."""
    return {CONFIG: json.dumps(config(queues), indent=2) + "\n"}


def config(queues: Sequence[Queue]) -> dict[str, Any]:
    """The configuration; raises `ValueError` for more queues than the emulator has room for."""
    if len(queues) > MOST_QUEUES:
        raise ValueError(f"{len(queues)} queues, but the emulator takes at most {MOST_QUEUES}: list fewer callers")
    # The target of forwarding comes first, in case entities are created in the order of the file.
    targets = {queue.forward_dead_letters_to for queue in queues}
    ordered = sorted(queues, key=lambda queue: queue.name not in targets)
    return emulator_config(within_emulator(queue) for queue in ordered)
