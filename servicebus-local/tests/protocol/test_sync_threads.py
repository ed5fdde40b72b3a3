"""Many threads, each with a sender or receiver of its own: nothing is lost, and nothing comes twice."""

from collections import Counter as Tally
from collections.abc import Iterator
from threading import Lock

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceiver, ServiceBusSender

from tests.protocol.counter import SOON, Counter, counter_at, next_of, together
from tests.protocol.desk import topology

THREADS, EACH = 4, 60


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    generous = {"LockDuration": "PT5M", "MaxDeliveryCount": 10}
    with counter_at(topology(orders=generous, talks=generous | {"RequiresSession": True})) as counter:
        yield counter


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


def test_every_message_of_every_thread_arrives_once(counter: Counter) -> None:
    senders = [counter.client.get_queue_sender("orders") for _ in range(THREADS)]
    receivers = [counter.client.get_queue_receiver("orders") for _ in range(THREADS)]
    counter.open_all(*senders, *receivers)
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
    assert Tally(taken.bodies) == Tally(f"{number}/{count}" for number in range(THREADS) for count in range(EACH))
    assert counter.bus.counts("orders").active == 0
    assert counter.bus.record.check() == []


def test_every_thread_has_a_session_of_its_own_and_its_order(counter: Counter) -> None:
    sender = counter.open(counter.client.get_queue_sender("talks"))
    for count in range(20):
        sender.send_messages([ServiceBusMessage(str(count), session_id=f"s{number}") for number in range(THREADS)])

    def listen(_number: int) -> tuple[str, list[str]]:
        receiver = counter.client.get_queue_receiver("talks", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=SOON)
        counter.open(receiver)
        heard = []
        for _ in range(20):
            message = next_of(receiver)
            receiver.complete_message(message)
            heard.append(str(message))
        return receiver.session.session_id, heard

    heard = dict(together(*(lambda n=number: listen(n) for number in range(THREADS))))
    assert heard == {f"s{number}": [str(count) for count in range(20)] for number in range(THREADS)}
