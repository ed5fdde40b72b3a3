"""What the Service Bus adapter promises beyond the port, with the real SDK against the local broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from local.broker.testing import LocalBus
from shared.bus.port import Outgoing
from shared.bus.servicebus import ServiceBus, ServiceBusAddress

WAIT = timedelta(seconds=5)


@pytest.fixture
async def broker() -> AsyncIterator[LocalBus]:
    async with LocalBus("work", "other") as running:
        yield running


@pytest.fixture
async def bus(broker: LocalBus) -> AsyncIterator[ServiceBus]:
    connected = ServiceBus(ServiceBusAddress(broker.connection_string))
    yield connected
    await connected.close()


async def test_ids_of_any_type_arrive_as_text(broker: LocalBus, bus: ServiceBus) -> None:
    mark = uuid.uuid4()
    message = ServiceBusMessage(b"{}")
    message.raw_amqp_message.properties.correlation_id = mark  # type: ignore[union-attr]  # AMQP allows it
    async with (
        ServiceBusClient.from_connection_string(broker.connection_string) as client,
        client.get_queue_sender("work") as sender,
    ):
        await sender.send_messages(message)
    delivery = await bus.inbox("work").receive(WAIT)
    assert delivery is not None
    assert delivery.message.correlation_id == str(mark)


async def test_a_send_that_was_cancelled_before_its_turn_is_not_sent(bus: ServiceBus) -> None:
    wanted = asyncio.create_task(bus.send(Outgoing("work", b"1", "x", message_id="wanted")))
    unwanted = asyncio.create_task(bus.send(Outgoing("work", b"2", "x", message_id="unwanted")))
    await asyncio.sleep(0)  # both are in the queue of the sender, which is still opening its link
    unwanted.cancel()
    await wanted
    await bus.send(Outgoing("work", b"3", "x", message_id="later"))
    assert [message.message_id for message in await bus.peek("work")] == ["wanted", "later"]


async def test_a_message_that_cannot_be_encoded_spares_those_beside_it(bus: ServiceBus) -> None:
    await bus.warm("work")
    endless = Outgoing("work", b"1", "x", message_id="endless", time_to_live=timedelta(days=100_000))
    good = [Outgoing("work", b"1", "x", message_id=f"good-{number}") for number in range(3)]
    results = await asyncio.gather(*(bus.send(message) for message in (endless, *good)), return_exceptions=True)
    assert isinstance(results[0], Exception)
    assert results[1:] == [None, None, None]
    assert {message.message_id for message in await bus.peek("work")} == {"good-0", "good-1", "good-2"}


async def test_warming_up_and_sending_at_once_do_not_get_in_each_others_way(bus: ServiceBus) -> None:
    await asyncio.gather(*(bus.warm("other") for _ in range(3)), bus.send(Outgoing("other", b"1", "x")))
    assert len(await bus.peek("other")) == 1
