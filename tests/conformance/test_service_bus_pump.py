"""The SDK that is installed is one that the pump was written for; with any other the adapter goes without a pump."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import MessageSizeExceededError
from servicebus_local.testing import LocalBus

from shared.bus.port import Outgoing
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.bus.servicebus.pump import Pump, adder
from shared.bus.servicebus.translate import to_sdk


@pytest.fixture
async def broker() -> AsyncIterator[LocalBus]:
    async with LocalBus("work") as running:
        yield running


@pytest.fixture
async def receiver(broker: LocalBus) -> AsyncIterator[ServiceBusReceiver]:
    async with (
        ServiceBusClient.from_connection_string(broker.connection_string) as client,
        client.get_queue_receiver("work", socket_timeout=0.05) as opened,
    ):
        yield opened


async def test_the_pump_fits_the_sdk_that_is_installed(broker: LocalBus, receiver: ServiceBusReceiver) -> None:
    pump = Pump.on(receiver, lambda: 4, slots=4)
    assert pump is not None, "read pump.py next to the new SDK, run the conformance tests, then add it to TESTED"
    bus = ServiceBus(ServiceBusAddress(broker.connection_string))
    for number in range(4):
        await bus.send(Outgoing("work", b"1", "x", message_id=f"m{number}"))
    assert await pump.wait(5)
    [message] = await receiver.receive_messages(max_message_count=1, max_wait_time=5)
    await receiver.complete_message(message)
    assert len(broker.messages("work")) == 3
    # All that may be worked on was asked for at once; the public API asks for one after the other.
    await broker.wait_until(lambda: [each.state for each in broker.messages("work")] == ["locked"] * 3)
    await pump.stop()
    await bus.close()


async def test_the_sdk_goes_on_by_itself_where_the_pump_stopped(broker: LocalBus, receiver: ServiceBusReceiver) -> None:
    pump = Pump.on(receiver, lambda: 1, slots=1)
    assert pump is not None
    await pump.stop()
    assert not pump.runs
    bus = ServiceBus(ServiceBusAddress(broker.connection_string))
    await bus.send(Outgoing("work", b"1", "x"))
    [message] = await receiver.receive_messages(max_message_count=1, max_wait_time=5)
    await receiver.complete_message(message)
    assert broker.messages("work") == []
    await bus.close()


async def test_there_is_no_pump_for_another_version(receiver: ServiceBusReceiver) -> None:
    assert Pump.on(receiver, lambda: 1, slots=1, version="7.16.0") is None
    assert adder(version="7.16.0") is ServiceBusMessageBatch.add_message


def test_a_batch_is_the_same_whoever_adds_to_it() -> None:
    ours, theirs = ServiceBusMessageBatch(5_000), ServiceBusMessageBatch(5_000)
    add = adder()
    assert add is not ServiceBusMessageBatch.add_message
    for size in (1, 100, 300, 2_000):
        message = to_sdk(Outgoing("work", b"x" * size, "x", message_id=f"m{size}", properties={"a": "b"}))
        add(ours, message)
        theirs.add_message(message)
    assert (len(ours), ours.size_in_bytes) == (len(theirs), theirs.size_in_bytes)
    assert _content(ours) == _content(theirs)
    for batch, added in ((ours, add), (theirs, ServiceBusMessageBatch.add_message)):
        with pytest.raises(MessageSizeExceededError):
            added(batch, to_sdk(Outgoing("work", b"x" * 4_000, "x")))
    assert _content(ours) == _content(theirs)


def _content(batch: ServiceBusMessageBatch) -> Any:
    return getattr(batch, "_message")  # noqa: B009 - what is sent; mypy knows that it is private


async def test_there_is_no_pump_for_a_receiver_that_is_not_open(broker: LocalBus) -> None:
    async with ServiceBusClient.from_connection_string(broker.connection_string) as client:
        assert Pump.on(client.get_queue_receiver("work"), lambda: 1, slots=1) is None
