"""Connections break and brokers die; the synchronous SDK comes back to whatever is still there."""

import gc
import json
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from azure.servicebus.exceptions import ServiceBusConnectionError, ServiceBusError, SessionLockLostError

from servicebus_local.testing import connection_string
from tests.protocol.counter import SOON, Counter, Desk, client_of, counter_at, next_of, take, together
from tests.protocol.desk import topology

pytestmark = [
    # the SDK never closes a transport that was cut, and the collector complains of it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUEUES = topology(orders={"LockDuration": "PT1M", "MaxDeliveryCount": 10}, talks={"RequiresSession": True})
PATIENT: dict[str, Any] = {
    "retry_total": 8,
    "retry_backoff_factor": 0.05,
    "retry_backoff_max": 0.5,
    "retry_mode": "fixed",
}


@pytest.fixture(scope="module", autouse=True)
def _forget_the_sockets_of_the_sdk() -> Iterator[None]:
    """Collect the transports that were cut before the next module begins."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# --------------------------------------------------------------------------- the connection


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with counter_at(QUEUES) as counter, client_of(counter.bus, **PATIENT) as client:
        patient = Counter(counter.bus, client, counter.clock)
        desk = Desk(patient, "orders")
        patient.open_all(desk.sender, desk.receiver)
        yield desk
        patient.close()


def test_sending_and_receiving_go_on_after_a_cut(desk: Desk) -> None:
    assert desk.bus.drop_connections() == 2
    _, taken = together(lambda: desk.send("after the cut"), lambda: take(desk.receiver, 1))
    assert taken == ["after the cut"]


def test_a_lock_outlives_its_connection(desk: Desk) -> None:
    message = desk.sent("in hand")
    desk.bus.drop_connections("SBReceiver")
    desk.receiver.complete_message(message)
    assert desk.left == 0


def test_the_broker_may_stop_and_come_back_with_what_it_had(desk: Desk) -> None:
    desk.send("kept")
    desk.bus.stop_listening()
    desk.bus.listen_again()
    assert take(desk.receiver, 1) == ["kept"]


def test_a_session_ends_with_its_connection_and_is_free_again(desk: Desk) -> None:
    first = desk.counter.open(desk.client.get_queue_receiver("talks", session_id="s"))
    desk.bus.drop_connections("SBReceiver")
    with pytest.raises(ServiceBusConnectionError):
        first.receive_messages(1, max_wait_time=SOON)
    with pytest.raises(SessionLockLostError):
        first.receive_messages(1, max_wait_time=SOON)
    assert desk.counter.open(desk.client.get_queue_receiver("talks", session_id="s")).session.session_id == "s"


# --------------------------------------------------------------------------- the process


class Life:
    """A broker as a process, that is killed and started again on the same ports."""

    def __init__(self, folder: Path, *options: str) -> None:
        config = folder / "Config.json"
        config.write_text(json.dumps(QUEUES))
        self._ports = free_ports()
        ports = ("--port", str(self._ports[0]), "--admin-port", str(self._ports[1]))
        self._command = [sys.executable, "-m", "servicebus_local", "--config", str(config), *ports, *options]
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("servicebus-local: ready")
        return process

    @property
    def connection_string(self) -> str:
        """How to reach it."""
        return connection_string("127.0.0.1", self._ports[0])

    def kill_and_restart(self) -> None:
        """End it as nothing else does, and start it again."""
        self._process.kill()
        self._process.communicate()
        self._process = self._start()

    def stop(self) -> int:
        """End it as people do; return the exit status."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate()
        return self._process.returncode


def free_ports() -> tuple[int, int]:
    """Two ports that were free a moment ago."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def test_senders_and_receivers_survive_the_broker_with_data_and_without(tmp_path: Path) -> None:
    in_memory = [("after", 0)]
    on_disk = [("locked", 1), ("waits", 0), *in_memory]
    lives = Life(tmp_path), Life(tmp_path, "--data", str(tmp_path / "data"))
    together(lambda: survive(lives[0], in_memory), lambda: survive(lives[1], on_disk))


def survive(life: Life, expected: list[tuple[str, int]]) -> None:
    """Lose the broker under a sender and a receiver, which then find what is expected."""
    with ServiceBusClient.from_connection_string(life.connection_string, socket_timeout=0.02, **PATIENT) as client:
        sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
        together(sender.__enter__, receiver.__enter__)
        sender.send_messages([ServiceBusMessage(body) for body in ("locked", "done", "waits")])
        locked = next_of(receiver)
        receiver.complete_message(next_of(receiver))
        life.kill_and_restart()
        _, first = together(lambda: sender.send_messages(ServiceBusMessage("after")), lambda: next_of(receiver))
        found = [first, *(next_of(receiver) for _ in expected[1:])]
        assert [(str(message), message.delivery_count) for message in found] == expected
        for message in found:
            receiver.complete_message(message)
        with pytest.raises(ServiceBusError):
            receiver.complete_message(locked)  # its lock died with the broker
        together(sender.close, receiver.close)
    assert life.stop() == 0
