"""The broker as a process, judged by the synchronous SDK: start, serve, stop, complain."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusClient, ServiceBusMessage

from servicebus_local.testing import connection_string
from tests.protocol.queue_client import SOON, topology


def start(config: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "servicebus_local", "--config", str(config), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("broker") / "Config.json"
    path.write_text(json.dumps(topology(orders={}, answers={"RequiresSession": True})))
    return path


@pytest.fixture(scope="module")
def port(config: Path) -> Iterator[int]:
    process = start(config, "--port", "0", "--admin-port", "0")
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("servicebus-local: ready, AMQP on 127.0.0.1:")
    yield int(ready.split("127.0.0.1:")[1].split(",")[0])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    process.communicate()


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[ServiceBusClient]:
    string = connection_string("127.0.0.1", port)
    with ServiceBusClient.from_connection_string(string, retry_total=0) as client:
        yield client


def test_the_synchronous_client_sends_receives_and_settles(client: ServiceBusClient) -> None:
    with client.get_queue_sender("orders") as sender, client.get_queue_receiver("orders") as receiver:
        sender.send_messages([ServiceBusMessage("done"), ServiceBusMessage("bad")])
        [done] = receiver.receive_messages(1, max_wait_time=SOON)
        receiver.complete_message(done)
        [bad] = receiver.receive_messages(1, max_wait_time=SOON)
        assert receiver.renew_message_lock(bad) is not None
        receiver.dead_letter_message(bad, reason="r")
        assert receiver.peek_messages() == []


def test_the_synchronous_client_uses_sessions(client: ServiceBusClient) -> None:
    receiver = client.get_queue_receiver("answers", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=SOON)
    with client.get_queue_sender("answers") as sender:
        sender.send_messages(ServiceBusMessage("hello", session_id="s"))
        with receiver:
            [hello] = receiver.receive_messages(1, max_wait_time=SOON)
            receiver.session.set_state("half")
            assert (str(hello), receiver.session.session_id) == ("hello", "s")
            assert receiver.session.get_state() == b"half"
            receiver.complete_message(hello)


@pytest.mark.parametrize("flag", ["--port", "--admin-port"])
def test_a_port_in_use_is_reported_in_one_line(config: Path, flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        ports: dict[str, Any] = {"--port": 0, "--admin-port": 0} | {flag: number}
        process = start(config, *(str(part) for pair in ports.items() for part in pair))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert f"port {number} on 127.0.0.1 is taken" in errors
    assert flag in errors


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        (json.dumps(topology(a={"LockDuration": "a minute"})), "Queues[0].Properties.LockDuration"),
        (json.dumps(topology(a={"Colour": "red"})), "Properties.Colour: no such setting"),
    ],
)
def test_a_bad_configuration_is_reported_in_one_line(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "Config.json"
    path.write_text(content)
    process = start(path, "--port", "0", "--admin-port", "0")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert complaint in errors
