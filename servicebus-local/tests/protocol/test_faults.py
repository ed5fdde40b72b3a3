"""What goes wrong on purpose, as the unmodified SDK lives through it."""

import asyncio
import gc
import json
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import (
    MessageLockLostError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusQuotaExceededError,
    SessionLockLostError,
)

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import SOON, QueueClient, client_of, topology

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # the SDK never closes a transport that was cut, and the collector complains of it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

QUEUES = topology(
    orders={"LockDuration": "PT1M", "MaxDeliveryCount": 10},
    once={"RequiresDuplicateDetection": True},
    answers={"RequiresSession": True},
)


class Pair(NamedTuple):
    """What is open all the time."""

    orders: QueueClient
    once: ServiceBusSender


@pytest.fixture(scope="module", autouse=True)
def _forget_the_sockets_of_the_sdk() -> Iterator[None]:
    """Collect the transports that were cut before the next module begins."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus() -> AsyncIterator[LocalBus]:
    async with LocalBus(QUEUES, clock=ManualClock()) as bus:
        yield bus
        assert bus.record.check() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def patient(bus: LocalBus) -> AsyncIterator[Pair]:
    """A queue_client whose SDK tries again, quickly, and a sender to another queue."""
    async with client_of(bus, retry_total=3, retry_backoff_factor=0.01) as client:
        queue_client = QueueClient(bus, client, "orders")
        once = client.get_queue_sender("once")
        await asyncio.gather(
            queue_client.open(queue_client.sender), queue_client.open(queue_client.receiver), queue_client.open(once)
        )
        yield Pair(queue_client, once)
        await queue_client.close()


@pytest.fixture
def orders(patient: Pair) -> Iterator[QueueClient]:
    """The queue_client, with an empty queue and nothing wrong yet."""
    queue_client = patient.orders
    queue_client.bus.purge("orders")
    yield queue_client
    queue_client.bus.faults.clear()


@pytest.fixture
def once(patient: Pair) -> ServiceBusSender:
    """The sender to a queue that detects duplicates."""
    return patient.once


# --------------------------------------------------------------------------- sending


async def test_the_sdk_tries_again_when_the_server_is_busy(orders: QueueClient) -> None:
    busy = orders.bus.faults.server_busy("send", entity="orders", times=2)
    await orders.send("patience")
    assert (busy.struck, busy.over, orders.left) == (2, True, 1)


async def test_any_condition_can_be_the_reason(orders: QueueClient) -> None:
    orders.bus.faults.refuse("send", "amqp:resource-limit-exceeded", "full", times=5)
    with pytest.raises(ServiceBusQuotaExceededError, match="full"):
        await orders.send("no room")
    assert orders.left == 0


async def test_a_send_that_is_not_confirmed_may_have_arrived(orders: QueueClient) -> None:
    with orders.bus.faults.swallow("send", times=None) as unheard:
        with pytest.raises(OperationTimeoutError):
            await orders.sender.send_messages(ServiceBusMessage("in doubt"), timeout=0.2)
        assert unheard.struck >= 1
    assert orders.left == unheard.struck


async def test_a_send_that_is_cut_off_is_sent_twice_unless_duplicates_are_detected(
    orders: QueueClient, once: ServiceBusSender
) -> None:
    orders.bus.faults.drop("send", "within", entity="orders")
    await orders.send("again")
    assert [message.body for message in orders.bus.messages("orders")] == [b"again", b"again"]
    orders.bus.faults.drop("send", "before", entity="once")
    await once.send_messages(ServiceBusMessage("once", message_id="1"))
    assert [event.kind for event in orders.bus.record.events("once")] == ["sent", "duplicate"]


# --------------------------------------------------------------------------- receiving


async def test_a_delivery_that_is_torn_in_two_comes_again_when_its_lock_ends(orders: QueueClient) -> None:
    await orders.send("torn")
    orders.bus.faults.drop("delivery", "within")
    receiving = asyncio.create_task(orders.next())
    await orders.bus.wait_until(lambda: orders.bus.messages("orders")[0].state == "locked")
    await orders.bus.wait_until(lambda: orders.bus.waiting("orders") == 1)  # the SDK has come back
    await orders.bus.advance(60)
    message = await receiving
    assert (str(message), message.delivery_count) == ("torn", 1)
    await orders.receiver.complete_message(message)


async def test_a_delivery_may_come_late(orders: QueueClient) -> None:
    delay = orders.bus.faults.delay("delivery", 5)
    receiving = asyncio.create_task(orders.next())
    await orders.send("late")
    await orders.bus.wait_until(lambda: delay.struck)
    assert not receiving.done()
    await orders.bus.advance(5)
    await orders.receiver.complete_message(await receiving)
    assert orders.left == 0


async def test_a_lock_that_is_lost_cannot_be_settled_and_the_message_comes_again(orders: QueueClient) -> None:
    orders.bus.faults.lose_locks()
    await orders.send("lost")
    lost = await orders.next()
    with pytest.raises(MessageLockLostError):
        await orders.receiver.complete_message(lost)
    again = await orders.next()
    assert (again.delivery_count, again.sequence_number) == (1, lost.sequence_number)
    assert orders.bus.faults.lose_lock("orders", sequence=again.sequence_number) == 1
    with pytest.raises(MessageLockLostError):
        await orders.receiver.renew_message_lock(again)


async def test_a_receiver_learns_that_its_session_lock_is_lost(orders: QueueClient) -> None:
    receiver = await orders.open(orders.client.get_queue_receiver("answers", session_id="s"))
    assert orders.bus.faults.lose_lock("answers", session="s") == 1
    with pytest.raises(SessionLockLostError):
        await receiver.session.get_state()


# --------------------------------------------------------------------------- settling


async def test_an_unconfirmed_outcome_was_applied(orders: QueueClient) -> None:
    await orders.send("done")
    message = await orders.next()
    orders.bus.faults.swallow("outcome")
    settling = asyncio.create_task(orders.receiver.complete_message(message))
    await orders.bus.wait_until(lambda: orders.left == 0)
    assert not settling.done()
    orders.bus.drop_connections("SBReceiver")  # or it would wait a minute more
    with pytest.raises(MessageLockLostError):
        await settling


async def test_an_outcome_that_is_ignored_is_given_again(orders: QueueClient) -> None:
    await orders.send("ignored")
    message = await orders.next()
    ignored = orders.bus.faults.ignore("outcome")
    settling = asyncio.create_task(orders.receiver.complete_message(message))
    await orders.bus.wait_until(lambda: ignored.struck)
    assert orders.left == 1
    orders.bus.drop_connections("SBReceiver")
    await settling  # over $management, with the lock it still has
    assert orders.left == 0


async def test_an_outcome_may_be_applied_late(orders: QueueClient) -> None:
    await orders.send("slow")
    message = await orders.next()
    late = orders.bus.faults.delay("outcome", 5)
    settling = asyncio.create_task(orders.receiver.complete_message(message))
    await orders.bus.wait_until(lambda: late.struck)
    assert orders.left == 1
    await orders.bus.advance(5)
    await settling
    assert orders.left == 0


async def test_requests_are_refused_delayed_and_unanswered_by_their_operation(orders: QueueClient) -> None:
    faults = orders.bus.faults
    await orders.send("held")
    message = await orders.next()
    busy = faults.server_busy("request", operation="renew-lock")
    assert await orders.receiver.renew_message_lock(message) is not None
    assert busy.struck == 1
    late = faults.delay("request", 5, operation="renew-lock")
    renewing = asyncio.create_task(orders.receiver.renew_message_lock(message))
    await orders.bus.wait_until(lambda: late.struck)
    assert await orders.receiver.peek_messages(1, sequence_number=message.sequence_number or 0)  # others go on
    await orders.bus.advance(5)
    assert await renewing is not None
    with faults.swallow("request", times=None, operation="renew-lock"), pytest.raises(OperationTimeoutError):
        await orders.receiver.renew_message_lock(message, timeout=0.2)
    assert orders.bus.record.events("orders")[-1].kind == "lock-renewed"


# --------------------------------------------------------------------------- links, tokens, sockets


async def test_an_attach_may_be_refused_and_tried_again(orders: QueueClient) -> None:
    busy = orders.bus.faults.server_busy("attach", link="receiver")
    await orders.open(orders.client.get_queue_receiver("orders"))
    assert busy.struck == 1


async def test_no_token_is_good_enough_for_a_while(bus: LocalBus, orders: QueueClient) -> None:
    refused = bus.faults.reject_tokens(times=None, lasts=30)
    async with client_of(bus) as client:
        sender = client.get_queue_sender("orders")
        with pytest.raises(ServiceBusAuthenticationError):
            await sender.send_messages(ServiceBusMessage("x"))
        await bus.advance(30)
        await sender.send_messages(ServiceBusMessage("x"))
        await sender.close()
    assert refused.over
    assert orders.left == 1


async def test_links_that_are_detached_are_attached_again(orders: QueueClient) -> None:
    assert orders.bus.faults.detach("orders", "com.microsoft:server-busy", link="sender") == 1
    await orders.send("after all")
    assert orders.left == 1


async def test_connections_are_dropped_by_entity(bus: LocalBus, orders: QueueClient, once: ServiceBusSender) -> None:
    await once.send_messages(ServiceBusMessage("x", message_id="2"))
    senders = {name for name in bus.connections.containers if name.startswith("SBSender")}
    assert bus.faults.drop_connections("SBSender", entity="orders") == len(senders) - 1
    await bus.wait_until(lambda: len(senders.intersection(bus.connections.containers)) == 1)
    await orders.send("back")


@pytest.mark.parametrize("stop", ["stop_reading", "stop_writing"])
async def test_a_slow_broker_keeps_a_send_waiting(orders: QueueClient, stop: str) -> None:
    assert getattr(orders.bus.faults, stop)(5, container="SBSender") >= 1
    sending = asyncio.create_task(orders.send("slowly"))
    if stop == "stop_writing":
        await orders.bus.wait_until(lambda: orders.left == 1)
    done, _ = await asyncio.wait([sending], timeout=0.1)
    assert not done
    await orders.bus.advance(5)
    await asyncio.wait_for(sending, SOON)
    assert orders.left == 1


# --------------------------------------------------------------------------- over HTTP


async def ask(bus: LocalBus, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Ask the admin port, as a test of another language would; return the status and what was answered."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(bus.admin_url + path, data, method=method)

    def fetch() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request) as response:
                return int(response.status), response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    status, text = await asyncio.to_thread(fetch)
    return status, json.loads(text) if text.startswith(("{", "[")) and text.count("\n") == 1 else text


async def test_faults_are_set_over_http(orders: QueueClient) -> None:
    bus = orders.bus
    status, fault = await ask(bus, "POST", "/faults", {"at": "send", "do": "refuse", "entity": "orders", "times": 2})
    assert status == 200
    await orders.send("x")
    _, listed = await ask(bus, "GET", "/faults")
    assert [(each["id"], each["struck"], each["over"]) for each in listed] == [(fault["id"], 2, True)]
    assert (await ask(bus, "DELETE", "/faults")) == (200, [])
    assert await ask(bus, "POST", "/faults", {"at": "send", "do": "refuse", "entitty": "orders"}) == (
        400,
        "there is no field 'entitty': a fault has at, do, entity, container, link, operation, times, skip, lasts, "
        "seconds, condition, description, where, sequence, session\n",
    )


async def test_deliveries_are_read_over_http(orders: QueueClient) -> None:
    since = orders.bus.record.as_json()["last"]
    await orders.send("x")
    message = await orders.next()
    token = str(message.lock_token)
    await orders.receiver.complete_message(message)
    _, text = await ask(orders.bus, "GET", f"/deliveries?entity=orders&since={since}")
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["kind"] for event in events] == ["sent", "delivered", "completed"]
    assert events[1]["lock_token"] == token
    assert events[1]["container"].startswith("SBReceiver")
