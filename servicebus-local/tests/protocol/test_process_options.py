"""The options of the process: where the entities come from, who may use them, how strict it is."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import create_connection
from typing import Any
from urllib.request import urlopen

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusAuthorizationError, ServiceBusError

from servicebus_local.testing import LocalBus, connection_string
from tests.protocol.peer import Socket
from tests.protocol.queue_client import SOON, client_of, topology


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "servicebus_local", "--port", "0", "--admin-port", "0", *options]


@contextmanager
def running(*options: str) -> Iterator[int]:
    """Run a broker; yield its AMQP port."""
    with subprocess.Popen(command(*options), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            yield int(ready.split("127.0.0.1:")[1].split(",")[0])
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0


def complaints(*options: str) -> list[str]:
    """Run a broker that must not start; return what it says."""
    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (1, 2)
    return done.stderr.splitlines()


def written(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_unknown_queues_can_be_created_when_they_are_used() -> None:
    with (
        running("--auto-create") as port,
        ServiceBusClient.from_connection_string(connection_string("127.0.0.1", port), retry_total=0) as client,
        client.get_queue_sender("fresh") as sender,
    ):
        sender.send_messages(ServiceBusMessage("x"))
        with client.get_queue_receiver("fresh", max_wait_time=SOON) as receiver:
            [message] = receiver.receive_messages(1)
            receiver.complete_message(message)


def test_policies_come_from_a_file_of_their_own(tmp_path: Path) -> None:
    config = written(tmp_path / "Config.json", topology(orders={}))
    keys = written(tmp_path / "keys.json", {"app": {"Keys": ["secret"], "Rights": ["Send"], "Entity": "orders"}})
    with running("--config", config, "--keys", keys) as port:
        credential = AzureNamedKeyCredential("app", "secret")
        plain: dict[str, Any] = {"use_tls": False, "retry_total": 0}
        with ServiceBusClient(f"127.0.0.1:{port}", credential, **plain) as client:
            with client.get_queue_sender("orders") as sender:
                sender.send_messages(ServiceBusMessage("x"))
            with pytest.raises(ServiceBusAuthorizationError, match="'Listen' claim"):
                client.get_queue_receiver("orders").__enter__()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "there are no entities: "),
        (("--config", "{config}", "--keys", "{absent}"), "absent.json: No such file"),
        (("--config", "{config}", "--keys", "{strange}"), "app.Entity: there is no queue or topic called 'other'"),
        (("--config", "{loose}", "--strict-emulator"), "MaxDeliveryCount: the emulator takes 1 to 10, not 20"),
        (("--config", "{deep}"), "deep.json: not JSON: nested too deeply"),
        (("--auto-create", "--host", "203.0.113.1"), "203.0.113.1 is no address of this machine"),
        (("--auto-create", "--host", "nowhere.invalid"), "nowhere.invalid is no address"),
        (("--auto-create", "--port", "5999", "--admin-port", "5999"), "--port and --admin-port are both 5999"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    places = {
        "config": written(tmp_path / "Config.json", topology(orders={})),
        "loose": written(tmp_path / "Loose.json", topology(orders={"MaxDeliveryCount": 20})),
        "strange": written(tmp_path / "keys.json", {"app": {"Keys": "k", "Entity": "other"}}),
        "absent": str(tmp_path / "absent.json"),
        "deep": str(tmp_path / "deep.json"),
    }
    (tmp_path / "deep.json").write_text("[" * 100_000)
    [line] = complaints(*(option.format(**places) for option in options))
    assert line.startswith("servicebus-local: ")
    assert words in line


def test_strictness_tells_everything_a_line_each(tmp_path: Path) -> None:
    given = topology(orders={"MaxDeliveryCount": 20, "LockDuration": "PT10M"})
    lines = complaints("--strict-emulator", "--config", written(tmp_path / "Config.json", given))
    assert [line.split("Properties.")[1].split(":")[0] for line in lines] == ["LockDuration", "MaxDeliveryCount"]


@pytest.mark.parametrize("port", ["65536", "-1", "amqp"])
def test_a_port_must_be_one(port: str) -> None:
    assert f"argument --port: '{port}' is not a port" in complaints("--auto-create", f"--port={port}")[-1]


def test_there_may_be_more_connections_than_the_shell_allows_files() -> None:
    few = ["sh", "-c", 'ulimit -Sn 64 && exec "$0" "$@"', *command("--auto-create")]
    with subprocess.Popen(few, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, admin_port = (int(part.split(",")[0]) for part in process.stdout.readline().split("127.0.0.1:")[1:])
        with ExitStack() as connections:
            for _ in range(100):
                connections.enter_context(create_connection(("127.0.0.1", port), timeout=SOON))
            with urlopen(f"http://127.0.0.1:{admin_port}/connections", timeout=SOON) as answer:
                assert json.load(answer)["peak"] == 100
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=SOON) == 0


def test_strictness_and_unknown_queues_do_not_go_together() -> None:
    assert "not allowed with argument" in complaints("--strict-emulator", "--auto-create")[-1]


async def test_the_eleventh_connection_is_refused_as_the_emulator_does() -> None:
    async with LocalBus(topology(orders={}), strict_emulator=True) as bus:
        sockets = [await Socket.connect(bus.port, name=f"c{number}") for number in range(11)]
        for socket in sockets:
            await socket.until(lambda: bus.connections.current == len(sockets))
        *_, last = sockets
        await last.until(lambda: last.peer.closed)
        assert last.peer.closed is not None
        assert last.peer.closed.condition == "amqp:resource-limit-exceeded"
        assert "ConnectionsQuotaExceeded" in (last.peer.closed.description or "")
        async with client_of(bus) as client:
            with pytest.raises(ServiceBusError):
                await client.get_queue_sender("orders").__aenter__()
            await sockets[0].close()
            await last.close()
            async with client.get_queue_sender("orders") as sender:
                await sender.send_messages(ServiceBusMessage("there is room again"))
        for socket in sockets[1:-1]:
            await socket.close()
