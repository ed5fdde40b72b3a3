"""Locks are renewed in the background, by the SDK's `AutoLockRenewer`: of messages, of sessions, and in vain.

The renewer looks at real time: it renews when ten seconds or less are left. The clock of the bus is
set so that eleven are, and then stands still, so no lock ends by itself.
"""

from collections.abc import Iterator
from time import time

import pytest
from azure.servicebus import (
    AutoLockRenewer,
    ServiceBusMessage,
    ServiceBusReceivedMessage,
    ServiceBusReceiveMode,
    ServiceBusReceiver,
    ServiceBusSender,
    ServiceBusSession,
)
from azure.servicebus.exceptions import (
    AutoLockRenewFailed,
    AutoLockRenewTimeout,
    MessageLockLostError,
    ServiceBusError,
)

from servicebus_local.testing import LocalBus, ManualClock
from tests.protocol.counter import Counter, client_of, next_of
from tests.protocol.desk import topology

LOCK = 60.0
SHORTLY = 10.6  # seconds that are left of a lock; with fewer the renewer has another rule
OPENING = 0.6  # seconds that opening a receiver takes the SDK
Renewable = ServiceBusReceivedMessage | ServiceBusSession


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    clock = ManualClock(time() - LOCK)
    config = topology(orders={"LockDuration": "PT1M", "MaxDeliveryCount": 10}, talks={"RequiresSession": True})
    with LocalBus(config, clock=clock) as bus, client_of(bus) as client:
        counter = Counter(bus, client, clock)
        try:
            yield counter
        finally:
            counter.close()


@pytest.fixture(scope="module")
def senders(counter: Counter) -> dict[str, ServiceBusSender]:
    senders = {name: counter.client.get_queue_sender(name) for name in ("orders", "talks")}
    counter.open_all(*senders.values())
    return senders


@pytest.fixture(scope="module")
def receiver(counter: Counter) -> ServiceBusReceiver:
    return counter.open(counter.client.get_queue_receiver("orders"))


@pytest.fixture(scope="module")
def renewer() -> Iterator[AutoLockRenewer]:
    with AutoLockRenewer(max_workers=4) as renewer:
        yield renewer


class Failures:
    """What a renewer said had failed."""

    def __init__(self) -> None:
        self.told: list[tuple[Renewable, Exception | None]] = []

    def __call__(self, renewable: Renewable, error: Exception | None) -> None:
        """Take what failed, and why."""
        self.told.append((renewable, error))


def come_near(counter: Counter, until: float = 0.1) -> None:
    """Set the bus so that a lock taken in so many seconds ends shortly then, by real time."""
    counter.bus.advance(max(0.0, time() + until + SHORTLY - LOCK - counter.clock.now))


def locked(counter: Counter, senders: dict[str, ServiceBusSender], receiver: ServiceBusReceiver) -> Renewable:
    """Receive a message whose lock ends shortly."""
    senders["orders"].send_messages(ServiceBusMessage("long work"))
    come_near(counter)
    return next_of(receiver)


def is_renewed(counter: Counter, renewable: Renewable) -> None:
    """Wait until the lock ends later than it did."""
    before = renewable.locked_until_utc
    assert before is not None
    counter.bus.advance(0.1)
    counter.bus.wait_until(lambda: (renewable.locked_until_utc or before) > before)


def test_the_lock_of_a_message_is_renewed_until_it_is_settled(
    counter: Counter, senders: dict[str, ServiceBusSender], receiver: ServiceBusReceiver, renewer: AutoLockRenewer
) -> None:
    message = locked(counter, senders, receiver)
    assert isinstance(message, ServiceBusReceivedMessage)
    failures = Failures()
    renewer.register(receiver, message, on_lock_renew_failure=failures)
    is_renewed(counter, message)
    assert message.locked_until_utc == counter.moment(LOCK)
    receiver.complete_message(message)
    assert counter.bus.counts("orders").active == 0
    assert (failures.told, message.auto_renew_error) == ([], None)


def test_receivers_register_what_they_receive_and_the_session_they_hold(
    counter: Counter, senders: dict[str, ServiceBusSender], renewer: AutoLockRenewer
) -> None:
    receiver = counter.client.get_queue_receiver("orders", auto_lock_renewer=renewer)
    session = counter.client.get_queue_receiver("talks", session_id="mine", auto_lock_renewer=renewer)
    come_near(counter, OPENING)
    counter.open_all(receiver, session)
    message = locked(counter, senders, receiver)
    assert isinstance(message, ServiceBusReceivedMessage)
    is_renewed(counter, session.session)
    is_renewed(counter, message)
    receiver.complete_message(message)
    senders["talks"].send_messages(ServiceBusMessage("in time", session_id="mine"))
    session.complete_message(next_of(session))


def test_renewal_ends_when_its_time_is_over(
    counter: Counter, senders: dict[str, ServiceBusSender], receiver: ServiceBusReceiver, renewer: AutoLockRenewer
) -> None:
    message = locked(counter, senders, receiver)
    assert isinstance(message, ServiceBusReceivedMessage)
    renewer.register(receiver, message, max_lock_renewal_duration=0.001)
    counter.bus.wait_until(lambda: message.auto_renew_error)
    assert isinstance(message.auto_renew_error, AutoLockRenewTimeout)
    receiver.complete_message(message)  # the lock itself has not ended


def test_a_lock_that_was_lost_meanwhile_is_a_failure(
    counter: Counter, senders: dict[str, ServiceBusSender], receiver: ServiceBusReceiver, renewer: AutoLockRenewer
) -> None:
    message = locked(counter, senders, receiver)
    assert isinstance(message, ServiceBusReceivedMessage)
    counter.bus.faults.lose_lock("orders")
    failures = Failures()
    renewer.register(receiver, message, on_lock_renew_failure=failures)
    counter.bus.wait_until(lambda: failures.told)
    [(renewable, error)] = failures.told
    assert renewable is message
    assert isinstance(error, AutoLockRenewFailed)
    assert message.auto_renew_error is error
    with pytest.raises(MessageLockLostError):
        receiver.complete_message(message)
    receiver.complete_message(next_of(receiver))


def test_a_session_that_was_lost_meanwhile_is_a_failure(
    counter: Counter, senders: dict[str, ServiceBusSender], renewer: AutoLockRenewer
) -> None:
    come_near(counter, OPENING)
    receiver = counter.open(counter.client.get_queue_receiver("talks", session_id="lost"))
    counter.bus.faults.lose_lock("talks", session="lost")
    failures = Failures()
    renewer.register(receiver, receiver.session, on_lock_renew_failure=failures)
    counter.bus.wait_until(lambda: failures.told)
    [(renewable, error)] = failures.told
    assert renewable is receiver.session
    assert isinstance(error, AutoLockRenewFailed)
    assert receiver.session.auto_renew_error is error


def test_what_has_no_lock_cannot_be_registered(
    counter: Counter, senders: dict[str, ServiceBusSender], receiver: ServiceBusReceiver, renewer: AutoLockRenewer
) -> None:
    senders["orders"].send_messages(ServiceBusMessage("x"))
    [peeked] = receiver.peek_messages(sequence_number=1)
    with pytest.raises(ValueError, match="PEEK_LOCK"):
        renewer.register(receiver, peeked)
    with pytest.raises(TypeError, match="only supports"):
        renewer.register(receiver, "a message")  # type: ignore[arg-type]
    mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
    with pytest.raises(ValueError, match="invalid"):
        counter.client.get_queue_receiver("orders", receive_mode=mode, auto_lock_renewer=renewer)
    receiver.complete_message(next_of(receiver))


def test_a_closed_renewer_takes_nothing_more(
    counter: Counter, senders: dict[str, ServiceBusSender], receiver: ServiceBusReceiver
) -> None:
    message = locked(counter, senders, receiver)
    assert isinstance(message, ServiceBusReceivedMessage)
    renewer = AutoLockRenewer()
    renewer.close(wait=True)
    with pytest.raises(ServiceBusError, match="shutdown"):
        renewer.register(receiver, message)
    receiver.complete_message(message)
