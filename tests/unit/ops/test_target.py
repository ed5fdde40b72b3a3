import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient

from local.stack.folder import Folder
from ops.errors import CommandError
from ops.target import Target, find

LOCAL = "Endpoint=sb://127.0.0.1:25672;SharedAccessKeyName=n;SharedAccessKey=very=secret;UseDevelopmentEmulator=true"
AZURE = "Endpoint=sb://shop.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=very=secret"


def stack_file(folder: Path, pid: int, **more: str) -> None:
    environment = {"RAGBUS_SERVICEBUS_CONNECTION_STRING": LOCAL, **more}
    told = {"pid": pid, "environment": environment, "gateway_url": "http://here:1"}
    (folder / "stack.json").write_text(json.dumps(told))


def target(connection_string: str, **more: str) -> Target:
    return Target({"RAGBUS_SERVICEBUS_CONNECTION_STRING": connection_string, **more}, "a test")


def test_the_environment_wins_over_a_running_stack(tmp_path: Path) -> None:
    stack_file(tmp_path, os.getpid())
    found = find({"RAGBUS_SERVICEBUS_CONNECTION_STRING": AZURE}, tmp_path)
    assert (found.host, found.source) == ("shop.servicebus.windows.net", "the environment")


def test_a_connection_string_without_a_host_is_refused_by_its_variables_name(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^RAGBUS_SERVICEBUS_CONNECTION_STRING is not a connection string"):
        find({"RAGBUS_SERVICEBUS_CONNECTION_STRING": "very=secret"}, tmp_path)


def test_the_host_is_that_which_the_sdk_reads(tmp_path: Path) -> None:
    lower = AZURE.replace("Endpoint", "endpoint")
    assert ServiceBusClient.from_connection_string(lower).fully_qualified_namespace == "shop.servicebus.windows.net"
    assert find({"RAGBUS_SERVICEBUS_CONNECTION_STRING": lower}, tmp_path).host == "shop.servicebus.windows.net"


@pytest.mark.parametrize("name", ["RAGBUS_ADMIN_URL", "RAGBUS_GATEWAY_URL", "RAGBUS_QDRANT_URL", "RAGBUS_REDIS_URL"])
def test_a_variable_that_is_not_an_address_is_named_without_its_value(name: str) -> None:
    (wrong,) = target(LOCAL, **{name: "secret@host:1"}).wrong_addresses()
    assert wrong.startswith(f"{name} must begin with ")
    assert "secret" not in wrong
    assert (
        target(LOCAL, RAGBUS_REDIS_URL="rediss://:key@host", RAGBUS_QDRANT_URL="https://host").wrong_addresses() == []
    )


def test_a_running_stack_is_found(tmp_path: Path) -> None:
    stack_file(tmp_path, os.getpid())
    found = find({}, tmp_path)
    assert (found.host, found.gateway) == ("127.0.0.1:25672", "http://here:1")


def test_a_variable_of_the_terminal_overrides_the_stack_and_is_listed(tmp_path: Path) -> None:
    stack_file(tmp_path, os.getpid(), RAGBUS_CONFIG="/stack", RAGBUS_REDIS_URL="redis://stack", RAGBUS_QDRANT_URL="q")
    given = {"RAGBUS_CONFIG": "/mine", "RAGBUS_REDIS_URL": "redis://:key@mine", "RAGBUS_QDRANT_URL": "q"}
    found = find(given, tmp_path)
    assert (found.host, found.config, found.redis_url) == ("127.0.0.1:25672", Path("/mine"), "redis://:key@mine")
    assert found.differences() == [
        "configuration: /mine; the running stack uses /stack",
        "RAGBUS_REDIS_URL comes from this terminal, not from the running stack",
    ]
    assert find({}, tmp_path).differences() == []


def test_the_option_wins_over_everything(tmp_path: Path) -> None:
    stack_file(tmp_path, os.getpid(), RAGBUS_CONFIG="/stack")
    assert find({"RAGBUS_CONFIG": "/mine"}, tmp_path, Path("/named")).config == Path("/named")
    assert find({"RAGBUS_SERVICEBUS_NAMESPACE": "shop"}, tmp_path, Path("/named")).config == Path("/named")


def test_a_stack_that_was_killed_is_not_taken_for_running(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stack_file(tmp_path, gone.pid)
    with pytest.raises(CommandError, match="no stack runs in"):
        find({}, tmp_path)


def test_a_stack_that_is_starting_is_said_to_be(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.take()
    with pytest.raises(CommandError, match="is still starting"):
        find({}, tmp_path)
    folder.release()
    folder.lock.touch()  # left behind by one that was killed
    with pytest.raises(CommandError, match="no stack runs in"):
        find({}, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x"}', '{"pid": 1, "environment": 5}'])
def test_a_damaged_stack_file_is_like_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(CommandError, match="ragbus up"):
        find({}, tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("127.0.0.1:5672", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("[::1]:5672", True),
        ("10.0.0.1", False),
        ("shop.servicebus.windows.net", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_only_loopback_is_this_machine(endpoint: str, local: bool) -> None:
    assert target(f"Endpoint=sb://{endpoint};SharedAccessKey=x").is_local is local


@pytest.mark.parametrize("connection_string", [LOCAL, AZURE])
def test_a_target_never_shows_its_key(connection_string: str) -> None:
    assert "secret" not in str(target(connection_string))
    assert "secret" not in target(connection_string).host


def test_an_emulator_is_administered_on_its_own_port() -> None:
    assert target(LOCAL).admin_url == "http://127.0.0.1:5300"
    assert target(LOCAL, RAGBUS_ADMIN_URL="http://127.0.0.1:9").admin_url == "http://127.0.0.1:9"
