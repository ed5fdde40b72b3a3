"""Every version of azure-servicebus, asynchronous and synchronous, does the same over the broker.

The one that is installed here always runs. 7.14 has an environment of its own, which `make test-all` installs: its
pyAMQP indexes the fields of a performative without counting them.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import azure.servicebus
import pytest

from servicebus_local.testing import LocalBus

WALK = Path(__file__).parent / "sdk_walk.py"
ENVIRONMENTS = Path(__file__).parents[2] / ".venv"
INSTALLED = azure.servicebus.__version__
OLDER = ["7.14.3", "7.14.0"]
KINDS = ["async", "sync"]
CONFIG = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "sbemulatorns",
                "Queues": [
                    {"Name": "orders", "Properties": {"MaxDeliveryCount": 10, "LockDuration": "PT5M"}},
                    {"Name": "talks", "Properties": {"RequiresSession": True, "LockDuration": "PT5M"}},
                    {"Name": "brief", "Properties": {"LockDuration": "PT1S"}},
                ],
                "Topics": [{"Name": "news", "Properties": {}, "Subscriptions": [{"Name": "all", "Properties": {}}]}],
            }
        ],
        "Logging": {"Type": "Console"},
    }
}
RESULTS: dict[str, Any] = {
    "peek": ["first", "b0", "b1", "b2"],
    "receive": ["first", "m1", 1, 1],
    "renew": True,
    "abandon": ["b0", 1],
    "defer": "b1",
    "dead letter": ["b2", "r", "d"],
    "large": 150_000,
    "nothing there": [],
    "schedule": [["b", "SCHEDULED"]],
    "session": ["s1", ["a", "b"], "half way"],
    "topic": "news",
    "refused": "MessageSizeExceededError",
    "lock lost": "MessageLockLostError",
    "close": None,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", [INSTALLED, *(pytest.param(older, marks=pytest.mark.slow) for older in OLDER)])
def test_every_version_of_the_sdk_does_the_same(version: str, kind: str) -> None:
    python = sys.executable if version == INSTALLED else str(ENVIRONMENTS / f"sdk-{version}" / "bin" / "python")
    if not Path(python).exists():
        pytest.skip(f"azure-servicebus {version} is not installed: `make test-all` does that")
    with LocalBus(CONFIG) as bus:
        command = [python, str(WALK), kind, bus.connection_string]
        walk = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    steps = dict(json.loads(line) for line in walk.stdout.splitlines())
    assert steps == {"version": version} | RESULTS, walk.stderr
    assert walk.returncode == 0, walk.stderr
