"""Many threads, each with a sender or receiver of its own: nothing is lost, and nothing comes twice."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import pytest
from azure.servicebus import (
    NEXT_AVAILABLE_SESSION,
    ServiceBusClient,
    ServiceBusMessage,
    ServiceBusReceiver,
    ServiceBusSender,
)

from servicebus_local.testing import LocalBus, ThreadedBus
from tests.protocol.queue_client import SOON, topology

THREADS, EACH = 4, 60


def together(*actions: Any) -> list[Any]:
    """Call functions in threads of their own; return what they return, in order."""
    with ThreadPoolExecutor(max(1, len(actions))) as threads:
        return [future.result() for future in [threads.submit(action) for action in actions]]


@pytest.fixture(scope="module")
def bus() -> Iterator[ThreadedBus]:
    generous = {"LockDuration": "PT5M", "MaxDeliveryCount": 10}
    with LocalBus(topology(orders=generous, talks=generous | {"RequiresSession": True})) as bus:
        yield bus


@pytest.fixture(scope="module")
def client(bus: ThreadedBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as client:
        yield client


class Taken:
    """What all threads took, put together."""

    def __init__(self, expected: int) -> None:
        self.bodies: list[str] = []
        self._lock = Lock()
        self._expected = expected

    def add(self, body: str) -> None:
        """Remember one more."""
        with self._lock:
            self.bodies.append(body)

    @property
    def complete(self) -> bool:
        """Whether there can be nothing more."""
        return len(self.bodies) >= self._expected


def test_every_message_of_every_thread_arrives_once(bus: ThreadedBus, client: ServiceBusClient) -> None:
    senders = [client.get_queue_sender("orders") for _ in range(THREADS)]
    receivers = [client.get_queue_receiver("orders") for _ in range(THREADS)]
    handlers: list[ServiceBusSender | ServiceBusReceiver] = [*senders, *receivers]
    together(*(handler.__enter__ for handler in handlers))
    taken = Taken(THREADS * EACH)

    def send(number: int, sender: ServiceBusSender) -> None:
        for count in range(EACH // 2):
            sender.send_messages(ServiceBusMessage(f"{number}/{count}"))
        sender.send_messages([ServiceBusMessage(f"{number}/{count}") for count in range(EACH // 2, EACH)])

    def receive(receiver: ServiceBusReceiver) -> None:
        while not taken.complete:
            for message in receiver.receive_messages(1, max_wait_time=0.1):
                receiver.complete_message(message)
                taken.add(str(message))

    together(
        *(lambda n=number, s=sender: send(n, s) for number, sender in enumerate(senders)),
        *(lambda r=receiver: receive(r) for receiver in receivers),
    )
    assert Counter(taken.bodies) == Counter(f"{number}/{count}" for number in range(THREADS) for count in range(EACH))
    together(*(handler.close for handler in handlers))
    assert bus.counts("orders").active == 0
    assert bus.record.check() == []


def test_every_thread_has_a_session_of_its_own_and_its_order(bus: ThreadedBus, client: ServiceBusClient) -> None:
    with client.get_queue_sender("talks") as sender:
        for count in range(20):
            sender.send_messages([ServiceBusMessage(str(count), session_id=f"s{number}") for number in range(THREADS)])

    def listen(_number: int) -> tuple[str, list[str]]:
        with client.get_queue_receiver("talks", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=SOON) as receiver:
            heard = []
            for _ in range(20):
                [message] = receiver.receive_messages(1, max_wait_time=SOON)
                receiver.complete_message(message)
                heard.append(str(message))
            return receiver.session.session_id, heard

    heard = dict(together(*(lambda n=number: listen(n) for number in range(THREADS))))
    assert heard == {f"s{number}": [str(count) for count in range(20)] for number in range(THREADS)}
