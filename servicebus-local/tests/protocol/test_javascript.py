"""The JavaScript SDK over the broker: another AMQP library, another reading of the protocol.

Needs node, and what `make test-all` installs with npm.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from servicebus_local.testing import LocalBus

pytestmark = pytest.mark.slow

INSTALLED = Path(__file__).parents[2] / ".venv" / "javascript"
SCRIPT = Path(__file__).parent / "javascript" / "servicebus.mjs"
TOPOLOGY = {
    "UserConfig": {
        "Namespaces": [
            {
                "Name": "sbemulatorns",
                "Queues": [
                    {"Name": "orders", "Properties": {"MaxDeliveryCount": 10}},
                    {"Name": "talks", "Properties": {"RequiresSession": True}},
                ],
                "Topics": [{"Name": "news", "Properties": {}, "Subscriptions": [{"Name": "picky", "Properties": {}}]}],
            }
        ],
        "Logging": {"Type": "Console"},
    }
}


@pytest.fixture(scope="module")
def steps() -> dict[str, dict[str, Any]]:
    """What each step of the walk came to."""
    if shutil.which("node") is None:
        pytest.skip("node is not here: the JavaScript SDK was not tried")
    if not (INSTALLED / ".done").exists():
        pytest.skip("@azure/service-bus is not installed: `make test-all` does that where npm is")
    with LocalBus(TOPOLOGY) as bus:
        script = INSTALLED / SCRIPT.name
        shutil.copy(SCRIPT, script)
        command = ["node", str(script), bus.connection_string, bus.admin_connection_string]
        walk = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert walk.returncode == 0, walk.stderr
    lines = [json.loads(line) for line in walk.stdout.splitlines()]
    return {line.pop("step"): line for line in lines}


RESULTS: dict[str, Any] = {
    "send": None,
    "batch": 10,
    "peek": [{"n": 1}, *(f"b{number}" for number in range(10))],
    "receive": {
        "body": {"n": 1},
        "messageId": "m1",
        "subject": "s",
        "applicationProperties": {"x": 1},
        "deliveryCount": 0,
        "state": "active",
        "number": "1",
    },
    "renew": True,
    "complete": None,
    "abandon": None,
    "redelivered": ["b0", 1, "later"],
    "defer": None,
    "deferred": ["b1", "deferred"],
    "dead letter": ["b1", "r", "d"],
    "schedule and cancel": 0,
    "subscribe": [f"b{number}" for number in range(2, 10)],
    "receive and delete": [1, 2],
    "nothing there": 0,
    "session": {"id": "s1", "bodies": ["a", "b"], "state": "half way", "renewed": True},
    "rules": [
        {"name": "mine", "filter": {"correlationId": "me", "applicationProperties": {"large": True}}, "action": {}},
        {
            "name": "red",
            "filter": {"sqlExpression": "colour = 'red'"},
            "action": {"sqlExpression": "SET seen = 'yes'"},
        },
    ],
    "topic": [["red", "yes"], ["mine", None]],
    "create queue": ["made", "PT30S", 7, "Active"],
    "use it": 1,
    "create subscription": ["$Default", "r"],
    "delete queue": False,
    "close": None,
}
ERRORS = {
    "too large": "MessageSizeExceeded",
    "unknown queue": "MessagingEntityNotFound",
    "session is taken": "SessionCannotBeLocked",
    "create queue twice": "MessageEntityAlreadyExistsError",
}


@pytest.mark.parametrize("step", RESULTS)
def test_the_javascript_sdk(steps: dict[str, dict[str, Any]], step: str) -> None:
    assert steps[step] == {"result": RESULTS[step]}


@pytest.mark.parametrize("step", ERRORS)
def test_the_javascript_sdk_gets_the_error_codes_of_azure(steps: dict[str, dict[str, Any]], step: str) -> None:
    assert steps[step]["error"]["code"] == ERRORS[step]


SENTENCES = {  # the SDK reads them, and people
    "add a rule twice": "The messaging entity 'news/Subscriptions/picky/Rules/red' already exists.",
    "remove a rule that is not there": "The messaging entity 'news/Subscriptions/picky/Rules/blue' could not be found.",
}


@pytest.mark.parametrize("step", SENTENCES)
def test_the_javascript_sdk_gets_the_sentences_about_rules_that_it_reads(
    steps: dict[str, dict[str, Any]], step: str
) -> None:
    assert SENTENCES[step] in steps[step]["error"]["message"]


def test_a_topic_cannot_be_received_from(steps: dict[str, dict[str, Any]]) -> None:
    assert "error" in steps["receive from a topic"]
