"""What users of the broker have in their tests: a bus in the loop or in a thread, fixtures, a process with faults."""

import asyncio
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import ServiceBusAuthorizationError

from servicebus_local.bus.errors import EntityNotFound
from servicebus_local.bus.topology import QueueOptions, SubscriptionDefinition, TopicDefinition, Topology
from servicebus_local.record import Event, check
from servicebus_local.testing import LocalBus, ManualClock, Right, ThreadedBus, connection_string
from tests.protocol.queue_client import SOON, topology

pytest_plugins = ["pytester"]


# --------------------------------------------------------------------------- entities, however they are given


def test_entities_are_given_in_any_way(tmp_path: Path) -> None:
    (tmp_path / "Config.json").write_text(json.dumps(topology(filed={})))
    bus = LocalBus(
        "named",
        "news/Subscriptions/first",
        "news/Subscriptions/second",
        topology(configured={"MaxDeliveryCount": 7}),
        tmp_path / "Config.json",
        Topology({"built": QueueOptions()}),
        {"optional": QueueOptions(lock_duration=5), "sport": TopicDefinition(subscriptions={"all": _PLAIN})},
    )
    for path in (
        *("named", "news", "news/Subscriptions/first", "news/Subscriptions/second", "configured"),
        *("filed", "built", "optional", "sport/Subscriptions/all"),
    ):
        assert bus.counts(path).active == 0
    with pytest.raises(EntityNotFound):
        bus.counts("forgotten")
    with pytest.raises(TypeError, match="the options of 'x' are neither"):
        LocalBus({"x": 5})


_PLAIN = SubscriptionDefinition()


def test_a_bus_that_does_not_run_can_be_prepared_and_looked_at() -> None:
    bus = LocalBus("orders")
    bus.create_queue("later", lock_duration=5)
    assert bus.messages("later") == []
    assert bus.record.check() == []


# --------------------------------------------------------------------------- in a thread


@pytest.fixture(scope="module")
def bus() -> Iterator[ThreadedBus]:
    with LocalBus("orders", clock=ManualClock()) as bus:
        yield bus
        assert bus.record.check() == []


@pytest.fixture(scope="module")
def client(bus: ThreadedBus) -> Iterator[ServiceBusClient]:
    with ServiceBusClient.from_connection_string(bus.connection_string, retry_total=0) as client:
        yield client


@pytest.fixture(scope="module")
def sender(client: ServiceBusClient) -> Iterator[ServiceBusSender]:
    with client.get_queue_sender("orders") as sender:
        yield sender


@pytest.fixture(scope="module")
def receiver(client: ServiceBusClient) -> Iterator[ServiceBusReceiver]:
    with client.get_queue_receiver("orders") as receiver:
        yield receiver


def next_of(receiver: ServiceBusReceiver) -> Any:
    [message] = receiver.receive_messages(1, max_wait_time=SOON)
    return message


def test_time_obeys_code_that_knows_no_event_loop(
    bus: ThreadedBus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    sender.send_messages(ServiceBusMessage("slow"))
    next_of(receiver)
    bus.advance(60)
    again = next_of(receiver)
    assert again.delivery_count == 1
    receiver.complete_message(again)
    assert bus.counts("orders").active == 0


def test_what_is_in_a_queue_can_be_looked_at(
    bus: ThreadedBus, sender: ServiceBusSender, receiver: ServiceBusReceiver
) -> None:
    sender.send_messages(
        [
            ServiceBusMessage("one", message_id="1", application_properties={"colour": "red"}),
            ServiceBusMessage("two", message_id="2", session_id="s"),
        ]
    )
    message = next_of(receiver)
    first, second = bus.messages("orders")
    assert (first.state, first.message_id, first.body, first.application_properties) == (
        *("locked", "1", b"one"),
        {"colour": "red"},
    )
    assert (second.state, second.session_id, second.delivery_count) == ("active", "s", 0)
    assert first.sequence == message.sequence_number
    receiver.dead_letter_message(message, reason="bad")
    [dead] = bus.messages("orders/$DeadLetterQueue")
    assert dead.application_properties["DeadLetterReason"] == "bad"
    assert bus.purge("orders") == 1
    assert bus.purge("orders/$DeadLetterQueue") == 1
    assert bus.messages("orders") == []


def test_entities_come_and_go_while_the_bus_runs(bus: ThreadedBus, client: ServiceBusClient) -> None:
    bus.create_queue("new", max_delivery_count=1)
    bus.create_topic("news")
    bus.create_subscription("news", "red", "colour = 'red'", lock_duration=5)
    bus.create_subscription("news", "all")
    with client.get_topic_sender("news") as sender:
        sender.send_messages(ServiceBusMessage("x", application_properties={"colour": "blue"}))
    assert (bus.counts("news/Subscriptions/red").active, bus.counts("news/Subscriptions/all").active) == (0, 1)
    bus.delete("news/Subscriptions/all")
    bus.delete("new")
    for path in ("news/Subscriptions/all", "new"):
        with pytest.raises(EntityNotFound):
            bus.counts(path)


def test_a_connection_string_can_be_limited_to_rights_and_an_entity(bus: ThreadedBus) -> None:
    string = bus.connection_string_with(Right.SEND, entity="orders")
    with (
        ServiceBusClient.from_connection_string(string, retry_total=0) as client,
        client.get_queue_sender("orders") as sender,
    ):
        sender.send_messages(ServiceBusMessage("x"))
        with pytest.raises(ServiceBusAuthorizationError, match="Listen"), client.get_queue_receiver("orders"):
            raise AssertionError("it was opened")
    assert bus.purge("orders") == 1


def test_a_bus_may_be_asked_from_many_threads_at_once(bus: ThreadedBus, sender: ServiceBusSender) -> None:
    def ask(_number: int) -> int:
        bus.messages("orders")
        bus.record.events("orders")
        with bus.faults.refuse("send", entity="elsewhere", times=None):
            bus.advance(0)
        return len(bus.connections.containers)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(200)))
    assert len(answers) == 200
    sender.send_messages(ServiceBusMessage("still there"))
    assert bus.purge("orders") == 1
    assert all(fault.over for fault in bus.faults.listed())


def test_the_broker_may_stop_and_come_back_in_its_thread() -> None:
    with LocalBus("orders") as bus:
        port = bus.port
        bus.stop_listening()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"{bus.admin_url}/health", timeout=SOON)
        bus.listen_again()
        assert bus.port == port
        with urllib.request.urlopen(f"{bus.admin_url}/health", timeout=SOON) as response:
            assert response.status == 200
        with pytest.raises(TimeoutError):
            bus.wait_until(lambda: False, within=0.01)
        with pytest.raises(TypeError, match="only a bus with a ManualClock"):
            bus.advance(1)


def test_a_port_in_use_raises_in_the_thread_that_starts_the_bus(bus: ThreadedBus) -> None:
    with pytest.raises(OSError, match="in use"), LocalBus("orders", port=bus.port):
        raise AssertionError("it started")
    assert [thread.name for thread in threading.enumerate()].count("local-broker") == 1


async def test_a_bus_in_the_loop_may_be_asked_from_a_thread() -> None:
    async with LocalBus("orders", clock=ManualClock()) as bus:

        def work() -> int:
            with ServiceBusClient.from_connection_string(bus.connection_string) as client:
                with client.get_queue_sender("orders") as sender:
                    sender.send_messages(ServiceBusMessage("from a thread"))
                return bus.counts("orders").active

        assert await asyncio.to_thread(work) == 1
        await bus.wait_until(lambda: bus.connections.current == 0)
    assert bus.counts("orders").active == 1  # when it has stopped, too


# --------------------------------------------------------------------------- fixtures


EXAMPLE = """
import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage
from servicebus_local.testing import ManualClock


@pytest.mark.servicebus("orders")
def test_an_order_is_kept(servicebus):
    with ServiceBusClient.from_connection_string(servicebus.connection_string) as client:
        with client.get_queue_sender("orders") as sender:
            sender.send_messages(ServiceBusMessage("one coffee"))
    assert [message.body for message in servicebus.messages("orders")] == [b"one coffee"]


def test_an_order_is_forgotten_in_time(make_servicebus):
    bus = make_servicebus("orders", clock=ManualClock())
    with ServiceBusClient.from_connection_string(bus.connection_string) as client:
        with client.get_queue_sender("orders") as sender:
            sender.send_messages(ServiceBusMessage("one coffee"))
    bus.advance(3600)
    assert bus.counts("orders").active == 0


def test_the_entities_of_the_project(servicebus):
    assert servicebus.counts("configured").active == 0


@pytest.mark.servicebus(record=0)
def test_options_alone(servicebus):
    assert servicebus.counts("configured").active == 0
    assert servicebus.record.as_json()["limit"] == 0
"""


def run_example(pytester: pytest.Pytester, example: str) -> pytest.RunResult:
    pytester.makepyfile(example)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio", "--strict-markers")


def test_the_fixtures_give_every_test_a_bus_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makefile(".json", Config=json.dumps(topology(configured={})))
    pytester.makeini("[pytest]\nservicebus_config = Config.json\n")
    run_example(pytester, EXAMPLE).assert_outcomes(passed=4)


def test_a_test_without_entities_gets_an_error_that_says_what_to_do(pytester: pytest.Pytester) -> None:
    result = run_example(pytester, "def test_it(servicebus):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*mark the test with @pytest.mark.servicebus('orders')*"])


# --------------------------------------------------------------------------- a process


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A broker as a process that records; its connection string and its admin URL."""
    config = tmp_path / "Config.json"
    config.write_text(json.dumps(topology(orders={})))
    options = ["--config", str(config), "--port", "0", "--admin-port", "0", "--record", "1000"]
    with subprocess.Popen(
        [sys.executable, "-m", "servicebus_local", *options], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        ready = re.search(r"127\.0\.0\.1:(\d+), admin on (http://127\.0\.0\.1:\d+)", running.stdout.readline())
        assert ready is not None
        yield connection_string("127.0.0.1", int(ready[1])), ready[2]
        running.terminate()


def call(url: str, method: str = "GET", body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=SOON) as response:
        return str(response.read().decode())


def test_a_process_is_spoilt_and_checked_from_outside(process: tuple[str, str]) -> None:
    string, admin = process
    call(f"{admin}/faults", "POST", {"at": "send", "do": "refuse", "entity": "orders", "times": 2})
    call(f"{admin}/faults", "POST", {"at": "delivery", "do": "lose-lock", "entity": "orders"})
    with (
        ServiceBusClient.from_connection_string(string, retry_backoff_factor=0.01) as client,
        client.get_queue_sender("orders") as sender,
        client.get_queue_receiver("orders") as receiver,
    ):
        sender.send_messages(ServiceBusMessage("x"))
        next_of(receiver)
        receiver.complete_message(next_of(receiver))
    assert [fault["struck"] for fault in json.loads(call(f"{admin}/faults"))] == [2, 1]
    events = [Event.from_json(json.loads(line)) for line in call(f"{admin}/deliveries").splitlines()]
    assert [event.kind for event in events] == ["sent", "delivered", "lock-lost", "delivered", "completed"]
    assert check(events, held={}) == []
