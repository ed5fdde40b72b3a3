"""Whether an emulator's few connections are enough for the workers."""

import json
from collections.abc import Iterator

from ops.checks.http import get
from ops.findings import Finding, Level
from ops.target import Target

EMULATOR_CONNECTIONS = 10


def connections(at: Target) -> Iterator[Finding]:
    """Whether an emulator's few connections are enough for the workers."""
    if not at.is_emulator:
        return
    try:
        page = get(f"{at.admin_url}/connections", {})
        now = json.loads(page.body)["current"]
    except (OSError, ValueError, KeyError, TypeError):
        yield _limited(at)
    else:
        yield Finding(Level.OK, "connections", f"{now} open; our own broker has no limit")


def _limited(at: Target) -> Finding:
    if at.connections:
        return Finding(Level.OK, "connections", f"{at.connections} for each process")
    return Finding(
        Level.WARN,
        "connections",
        f"Microsoft's emulator takes {EMULATOR_CONNECTIONS} in all, and the workers want more",
        "set RAGBUS_BUS_CONNECTIONS for each worker, as docker-compose.yml does",
    )
