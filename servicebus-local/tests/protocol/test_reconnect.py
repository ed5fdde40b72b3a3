"""Connections break; the SDK comes back, and nothing is lost but locks and time."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from azure.servicebus.exceptions import MessageLockLostError

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.queue_client import QueueClient, client_of, queue_client_at, topology

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # the SDK never closes a transport that was cut, and the collector complains of it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

QUEUES = topology(orders={"LockDuration": "PT1M", "MaxDeliveryCount": 10}, answers={"RequiresSession": True})


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orders(bus: LocalBus) -> AsyncIterator[QueueClient]:
    async with client_of(bus, retry_total=5, retry_backoff_factor=0.01) as client:
        queue_client = QueueClient(bus, client, "orders")
        await asyncio.gather(queue_client.open(queue_client.sender), queue_client.open(queue_client.receiver))
        yield queue_client
        await queue_client.close()


async def test_sending_and_receiving_go_on_after_the_connections_were_cut(orders: QueueClient) -> None:
    assert orders.bus.drop_connections() == 2
    await orders.send("after the cut")
    await orders.receiver.complete_message(await orders.next())


async def test_a_lock_outlives_its_connection(orders: QueueClient) -> None:
    await orders.send("in hand")
    message = await orders.next()
    orders.bus.drop_connections("SBReceiver")
    await orders.receiver.complete_message(message)
    assert orders.left == 0


async def test_a_message_in_hand_comes_back_when_its_lock_ends_elsewhere(orders: QueueClient) -> None:
    await orders.send("in hand")
    message = await orders.next()
    orders.bus.drop_connections("SBReceiver")
    await orders.bus.advance(60)
    again = await orders.next()
    assert (str(again), again.delivery_count) == ("in hand", 1)
    with pytest.raises(MessageLockLostError):
        await orders.receiver.complete_message(message)
    await orders.receiver.complete_message(again)


async def test_a_session_is_free_again_after_a_cut(orders: QueueClient) -> None:
    await orders.open(orders.client.get_queue_receiver("answers", session_id="s"))
    assert orders.bus.drop_connections("SBReceiver") == 2
    second = await orders.open(orders.client.get_queue_receiver("answers", session_id="s"))
    assert second.session.session_id == "s"


async def test_the_broker_may_stop_and_come_back(orders: QueueClient) -> None:
    await orders.send("kept")
    await orders.bus.stop_listening()
    await orders.bus.listen_again()
    got = await orders.next()
    assert str(got) == "kept"
    await orders.receiver.complete_message(got)


async def test_the_peak_of_connections_is_remembered_until_it_is_reset(bus: LocalBus) -> None:
    before = bus.connections.current
    async with queue_client_at(bus, "orders", dead_letters=True):
        assert bus.connections.current == before + 3
    assert bus.connections.peak >= before + 3
    bus.connections.reset_peak()
    assert bus.connections.peak == bus.connections.current
