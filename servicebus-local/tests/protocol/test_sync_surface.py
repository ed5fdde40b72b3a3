"""Nothing of the synchronous SDK is left out: each public method is called in one of these modules."""

import ast
from pathlib import Path

import pytest
from azure.servicebus import (
    AutoLockRenewer,
    ServiceBusClient,
    ServiceBusMessageBatch,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSession,
)
from azure.servicebus.management import ServiceBusAdministrationClient

MODULES = [*Path(__file__).parent.glob("test_broker_sync_*.py"), Path(__file__).parent / "broker_counter.py"]


def named(module: Path) -> set[str]:
    """Return every attribute a module asks for."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.fixture(scope="module")
def used() -> set[str]:
    return set().union(*map(named, MODULES))


@pytest.mark.parametrize(
    "kind",
    [
        AutoLockRenewer,
        ServiceBusAdministrationClient,
        ServiceBusClient,
        ServiceBusMessageBatch,
        ServiceBusReceiver,
        ServiceBusSender,
        ServiceBusSession,
    ],
)
def test_every_public_method_is_used(used: set[str], kind: type) -> None:
    public = {name for name in dir(kind) if not name.startswith("_")}
    assert sorted(public - used - {"message"}) == []  # `message` of a batch is an old name, and warns
