"""The SDK's AutoLockRenewer keeps locks in real time: its own clock is the only one it looks at."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage, ServiceBusReceiveMode
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import (
    AutoLockRenewFailed,
    AutoLockRenewTimeout,
    MessageLockLostError,
    ServiceBusError,
    SessionLockLostError,
)

from servicebus_local.testing import LocalBus
from tests.protocol.queue_client import SOON, client_of, topology

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOCK = 4.0  # seconds: the renewer looks once a second, and renews when half of such a lock is over
BRIEF: dict[str, Any] = {"LockDuration": "PT4S", "MaxDeliveryCount": 10}
NAMES = ("kept", "watched", "expiring", "failing", "odd")
TOPOLOGY = topology(**dict.fromkeys(NAMES, BRIEF), talk=BRIEF | {"RequiresSession": True})


class RenewerFixture:
    """A bus in real time; a message waits in every queue, and two in sessions."""

    def __init__(self, bus: LocalBus, client: ServiceBusClient) -> None:
        self.bus = bus
        self.client = client

    async def fill(self) -> None:
        senders = {name: self.client.get_queue_sender(name) for name in (*NAMES, "talk")}
        await asyncio.gather(*(sender.__aenter__() for sender in senders.values()))
        for name in NAMES:
            await senders[name].send_messages([ServiceBusMessage("x"), ServiceBusMessage("y")])
        await senders["talk"].send_messages([ServiceBusMessage(name, session_id=name) for name in ("long", "short")])
        await asyncio.gather(*(sender.close() for sender in senders.values()))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fixture() -> AsyncIterator[RenewerFixture]:
    async with LocalBus(TOPOLOGY) as bus, client_of(bus) as client:
        fixture = RenewerFixture(bus, client)
        await fixture.fill()
        yield fixture


async def one(receiver: ServiceBusReceiver) -> ServiceBusReceivedMessage:
    [message] = await receiver.receive_messages(1, max_wait_time=SOON)
    return message


async def past(until: datetime | None) -> None:
    """Sleep until a lock that was told has ended, or would have."""
    assert until is not None
    await asyncio.sleep((until - datetime.now(UTC)).total_seconds() + 0.3)


async def keep_a_message(fixture: RenewerFixture) -> None:
    """A message that is registered by hand keeps its lock."""
    async with fixture.client.get_queue_receiver("kept") as receiver, AutoLockRenewer() as renewer:
        message = await one(receiver)
        first = message.locked_until_utc
        renewer.register(receiver, message, max_lock_renewal_duration=60)
        await past(first)
        assert message.locked_until_utc is not None
        assert first is not None
        assert message.locked_until_utc > first
        await receiver.complete_message(message)
    assert (message.auto_renew_error, fixture.bus.counts("kept").active) == (None, 1)


async def keep_what_is_received(fixture: RenewerFixture) -> None:
    """A receiver with a renewer registers every message itself."""
    async with (
        AutoLockRenewer(max_lock_renewal_duration=60) as renewer,
        fixture.client.get_queue_receiver("watched", auto_lock_renewer=renewer) as receiver,
    ):
        messages = [await one(receiver), await one(receiver)]
        await past(messages[1].locked_until_utc)
        for message in messages:
            await receiver.complete_message(message)
    assert fixture.bus.counts("watched").active == 0


async def keep_a_session(fixture: RenewerFixture) -> None:
    """A session receiver with a renewer keeps the session."""
    async with (
        AutoLockRenewer(max_lock_renewal_duration=60) as renewer,
        fixture.client.get_queue_receiver("talk", session_id="long", auto_lock_renewer=renewer) as receiver,
    ):
        message = await one(receiver)
        await past(receiver.session.locked_until_utc)
        await receiver.complete_message(message)
        assert receiver.session.auto_renew_error is None


async def stop_keeping(fixture: RenewerFixture) -> None:
    """When the time for renewing is over, the lock ends, and the error says why."""
    failures: list[Any] = []

    async def note(_renewable: Any, error: Exception | None) -> None:
        failures.append(error)

    async with fixture.client.get_queue_receiver("expiring") as receiver, AutoLockRenewer(1, note) as renewer:
        message = await one(receiver)
        renewer.register(receiver, message)
        await past(message.locked_until_utc)
        with pytest.raises(MessageLockLostError) as caught:
            await receiver.complete_message(message)
        assert isinstance(message.auto_renew_error, AutoLockRenewTimeout)
        assert caught.value.inner_exception is message.auto_renew_error
        again = await one(receiver)
        assert (str(again), again.delivery_count, failures) == ("x", 1, [])
        await receiver.complete_message(again)


async def stop_keeping_a_session(fixture: RenewerFixture) -> None:
    """The same for a session."""
    async with (
        AutoLockRenewer(max_lock_renewal_duration=1) as renewer,
        fixture.client.get_queue_receiver("talk", session_id="short") as receiver,
    ):
        renewer.register(receiver, receiver.session)
        message = await one(receiver)
        await past(receiver.session.locked_until_utc)
        with pytest.raises(SessionLockLostError) as caught:
            await receiver.complete_message(message)
        assert isinstance(receiver.session.auto_renew_error, AutoLockRenewTimeout)
        assert caught.value.inner_exception is receiver.session.auto_renew_error


async def fail_to_keep(fixture: RenewerFixture) -> None:
    """A lock that the broker has ended cannot be renewed, and somebody is told."""
    failures: list[tuple[Any, Exception | None]] = []

    async def note(renewable: Any, error: Exception | None) -> None:
        failures.append((renewable, error))

    async with fixture.client.get_queue_receiver("failing") as receiver, AutoLockRenewer() as renewer:
        message = await one(receiver)
        renewer.register(receiver, message, on_lock_renew_failure=note)
        assert fixture.bus.faults.lose_lock("failing") == 1
        await fixture.bus.wait_until(lambda: failures, within=LOCK + 2)
        [(renewable, error)] = failures
        assert renewable is message
        assert isinstance(error, AutoLockRenewFailed)
        assert isinstance(error.inner_exception, MessageLockLostError)
        assert message.auto_renew_error is error


async def register_what_is_not_locked(fixture: RenewerFixture) -> None:
    """What has no lock is refused, and so is everything after the renewer was closed."""
    deleting = fixture.client.get_queue_receiver("odd", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE)
    receiver = fixture.client.get_queue_receiver("odd")
    async with AutoLockRenewer() as renewer:
        await deleting.__aenter__()
        taken = await one(deleting)
        [seen] = await receiver.peek_messages()
        for message in (taken, seen):
            with pytest.raises(ValueError, match="PEEK_LOCK receive mode"):
                renewer.register(receiver, message)
        with pytest.raises(TypeError):
            renewer.register(receiver, ServiceBusMessage("x"))  # type: ignore[arg-type]
    with pytest.raises(ServiceBusError, match="already been shutdown"):
        renewer.register(receiver, taken)
    with pytest.raises(ServiceBusError, match="already been shutdown"):
        await renewer.__aenter__()
    await asyncio.gather(deleting.close(), receiver.close())


async def test_locks_are_kept_and_lost_as_the_renewer_promises(fixture: RenewerFixture) -> None:
    """All at once, since each has to wait until a lock has ended."""
    started = datetime.now(UTC)
    await asyncio.gather(
        keep_a_message(fixture),
        keep_what_is_received(fixture),
        keep_a_session(fixture),
        stop_keeping(fixture),
        stop_keeping_a_session(fixture),
        fail_to_keep(fixture),
        register_what_is_not_locked(fixture),
    )
    assert datetime.now(UTC) - started > timedelta(seconds=LOCK)
