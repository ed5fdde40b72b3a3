"""azure-servicebus before 7.15 over the broker: it indexes the fields of a performative without counting them.

Runs where SERVICEBUS_LOCAL_OLDER_SDKS is set, as in CI; each version is installed once, beside the virtual environment.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from servicebus_local.testing import LocalBus

pytestmark = pytest.mark.skipif(
    not os.environ.get("SERVICEBUS_LOCAL_OLDER_SDKS"),
    reason="set SERVICEBUS_LOCAL_OLDER_SDKS=1 to install older versions of azure-servicebus and try them",
)
WALK = Path(__file__).parent / "older" / "walk.py"
VERSIONS = ["7.14.0", "7.14.3"]
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


def install(version: str) -> Path:
    """Return the folder with a version of the SDK; what it depends on is that of these tests."""
    folder = Path(sys.prefix) / "older" / f"azure-servicebus-{version}"
    if not (folder / "done").exists():
        wanted = ["--no-deps", "--target", str(folder), f"azure-servicebus=={version}"]
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--retries", "1", *wanted]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"pip could not install azure-servicebus {version} within 90 seconds")
        if said.returncode:
            pytest.skip(f"pip could not install azure-servicebus {version}: {said.stderr.strip()[-300:]}")
        (folder / "done").touch()
    return folder


@contextmanager
def walking(folder: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Walk one version of the SDK over a broker of its own."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with LocalBus(CONFIG) as bus:
        command = [sys.executable, str(WALK), kind, bus.connection_string]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, text=True, env=environment, stdout=pipe, stderr=pipe) as walk:
            try:
                yield walk
            finally:
                walk.kill()


@pytest.fixture(scope="module")
def walks() -> Iterator[dict[tuple[str, str], subprocess.Popen[str]]]:
    """All of them at the same time."""
    folders = {version: install(version) for version in VERSIONS}
    with ExitStack() as stack:
        yield {
            (version, kind): stack.enter_context(walking(folders[version], kind))
            for version, kind in product(VERSIONS, KINDS)
        }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_older_versions_of_the_sdk_do_what_the_newest_does(
    walks: dict[tuple[str, str], subprocess.Popen[str]], version: str, kind: str
) -> None:
    walk = walks[version, kind]
    output, errors = walk.communicate(timeout=100)
    steps = dict(json.loads(line) for line in output.splitlines())
    assert steps == {"version": version} | RESULTS, errors
    assert walk.returncode == 0, errors
