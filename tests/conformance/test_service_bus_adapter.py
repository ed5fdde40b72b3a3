"""What the Service Bus adapter promises beyond the port, with the real SDK against the local broker."""

import asyncio
import gc
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from servicebus_local.testing import LocalBus

from local.proxy import BlackHole, Proxy
from shared.bus.port import BusUnavailable, Delivery, Inbox, LockLost, Outgoing
from shared.bus.servicebus import Patience, ServiceBus, ServiceBusAddress
from tests.support.ports import wired

pytestmark = [
    # The SDK never closes the socket of a sender that was cut off, and the collector complains of it.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WAIT = timedelta(seconds=5)
# A condition that never comes true fails the test then; nothing waits for the whole of it.
PATIENCE = 300.0
# What a busy machine needs is no silence. Where silence is the subject, what comes before and after it is tried again.
LONG = Patience(attempt=20.0, send=60.0, settle=60.0)
SHORT = Patience(attempt=2.0, send=3.0, settle=3.0)


@pytest.fixture(autouse=True)
def _forget_the_sockets_of_the_sdk() -> Iterator[None]:
    """Collect what was cut off before the next test begins."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def broker() -> AsyncIterator[LocalBus]:
    async with LocalBus("work", "other", "third") as running:
        yield running


@pytest.fixture
async def bus(broker: LocalBus) -> AsyncIterator[ServiceBus]:
    connected = ServiceBus(ServiceBusAddress(broker.connection_string), patience=LONG)
    yield wired(connected)
    await connected.close()


@pytest.fixture
async def impatient(broker: LocalBus) -> AsyncIterator[ServiceBus]:
    """A bus that does not wait long for a broker that says nothing."""
    connected = ServiceBus(ServiceBusAddress(broker.connection_string), patience=SHORT)
    yield connected
    await connected.close()


async def send(bus: ServiceBus, count: int, body: bytes = b"1") -> None:
    """Send messages `m0`, `m1` … to `work`."""
    await asyncio.gather(*(bus.send(Outgoing("work", body, "x", message_id=f"m{n}")) for n in range(count)))


async def take(inbox: Inbox, prefetch: int = 0, *, retry: bool = True) -> Delivery:
    """The next delivery, however often the link has to be opened anew for it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if (delivery := await inbox.receive(WAIT, prefetch=prefetch)) is not None:
                    return delivery
            except BusUnavailable:
                if not retry:
                    raise
                await asyncio.sleep(0.05)


async def eventually(operation: Callable[[], Awaitable[None]]) -> None:
    """Do it again until the broker's answer comes in time."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await operation()
            except BusUnavailable:
                await asyncio.sleep(0.05)


async def finish_all(broker: LocalBus, inbox: Inbox) -> None:
    """Complete what is in `work`, however often; a message whose completion was not heard of comes back."""
    async with asyncio.timeout(PATIENCE):
        while broker.messages("work"):
            with suppress(BusUnavailable, LockLost):
                if (delivery := await inbox.receive(WAIT)) is not None:
                    await delivery.complete()


def states(broker: LocalBus) -> dict[str, tuple[str, int]]:
    """State and delivery count of each message in `work`."""
    return {str(each.message_id): (each.state, each.delivery_count) for each in broker.messages("work")}


async def test_ids_of_any_type_arrive_as_text(broker: LocalBus, bus: ServiceBus) -> None:
    mark = uuid.uuid4()
    message = ServiceBusMessage(b"{}")
    message.raw_amqp_message.properties.correlation_id = mark  # type: ignore[union-attr]  # AMQP allows it
    async with (
        ServiceBusClient.from_connection_string(broker.connection_string) as client,
        client.get_queue_sender("work") as sender,
    ):
        await sender.send_messages(message)
    delivery = await take(bus.inbox("work"))
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
    await bus.prewarm("work")
    endless = Outgoing("work", b"1", "x", message_id="endless", time_to_live=timedelta(days=100_000))
    good = [Outgoing("work", b"1", "x", message_id=f"good-{number}") for number in range(3)]
    results = await asyncio.gather(*(bus.send(message) for message in (endless, *good)), return_exceptions=True)
    assert isinstance(results[0], Exception)
    assert results[1:] == [None, None, None]
    assert {message.message_id for message in await bus.peek("work")} == {"good-0", "good-1", "good-2"}


async def test_warming_up_and_sending_at_once_do_not_get_in_each_others_way(bus: ServiceBus) -> None:
    await asyncio.gather(*(bus.prewarm("other") for _ in range(3)), bus.send(Outgoing("other", b"1", "x")))
    assert len(await bus.peek("other")) == 1


async def test_a_lost_lock_is_reported_and_other_deliveries_go_on(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 3)
    inbox = bus.inbox("work")
    lost, *others = [await take(inbox) for _ in range(3)]
    assert broker.faults.lose_lock("work", sequence=lost.message.sequence_number) == 1
    results = await asyncio.gather(*(each.complete() for each in (lost, *others)), return_exceptions=True)
    assert isinstance(results[0], LockLost)
    assert results[1:] == [None, None]
    again = await take(inbox)
    assert (again.message.message_id, again.message.delivery_count) == (lost.message.message_id, 1)
    await again.complete()
    assert broker.messages("work") == []


async def test_a_settlement_that_gets_no_answer_holds_up_no_other(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 9)
    inbox = bus.inbox("work")
    deliveries = [await take(inbox) for _ in range(9)]
    broker.faults.ignore("outcome")
    unheard = asyncio.create_task(deliveries[0].complete())
    await broker.wait_until(lambda: broker.faults.listed()[-1].over)
    await asyncio.gather(*(each.complete() for each in deliveries[1:]))
    assert [each.sequence for each in broker.messages("work")] == [deliveries[0].message.sequence_number]
    unheard.cancel()


async def test_a_receiver_that_was_met_with_silence_is_replaced(
    broker: LocalBus, bus: ServiceBus, impatient: ServiceBus
) -> None:
    await send(bus, 2)
    inbox = impatient.inbox("work")
    delivery = await take(inbox)
    with broker.faults.swallow("outcome"), pytest.raises(BusUnavailable):
        await delivery.complete()
    before = set(broker.connections.containers)
    await finish_all(broker, inbox)
    assert set(broker.connections.containers) - before, "the same connection is still in use"


async def test_a_silent_broker_fails_a_send(broker: LocalBus, impatient: ServiceBus) -> None:
    await eventually(lambda: impatient.prewarm("work"))
    with broker.faults.ignore("send", times=None), pytest.raises(BusUnavailable):
        await impatient.send(Outgoing("work", b"1", "x"))
    await eventually(lambda: impatient.send(Outgoing("work", b"2", "x")))
    assert {each.body for each in broker.messages("work")} == {b"2"}


async def test_receiving_goes_on_after_the_link_was_detached(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 4)
    inbox = bus.inbox("work")
    first = await take(inbox)
    assert broker.faults.detach("work", link="receiver") == 1
    second = await take(inbox)
    # Its lock outlives its link: it is settled by the lock's token.
    await asyncio.gather(first.complete(), second.complete())
    for _ in range(2):
        await (await take(inbox)).complete()
    assert broker.messages("work") == []


async def test_nothing_is_lost_or_done_twice_when_connections_break(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 60)
    inbox = bus.inbox("work")
    done: list[str] = []
    running: set[asyncio.Task[None]] = set()

    async def work(delivery: Delivery) -> None:
        await bus.send(Outgoing("other", delivery.message.body, "x", message_id=delivery.message.message_id))
        await delivery.complete()
        done.append(str(delivery.message.message_id))

    for cut in range(60):
        if cut % 20 == 10:
            broker.drop_connections()
        running.add(asyncio.create_task(work(await take(inbox))))
        if len(running) == 8:
            await asyncio.gather(*running, return_exceptions=True)
            running.clear()
    await asyncio.gather(*running, return_exceptions=True)
    # A worker cut off while settling left its message under lock: it is neither lost nor completed.
    left = {str(each.message_id) for each in broker.messages("work")}
    assert set(done) | left == {f"m{n}" for n in range(60)}
    assert len(done) == len(set(done))
    assert broker.record.check() == []


async def test_the_broker_may_restart(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 2)
    inbox = bus.inbox("work")
    held = await take(inbox)
    await broker.stop_listening()
    await broker.listen_again()
    await (await take(inbox)).complete()
    await held.complete()
    await send(bus, 1)
    await (await take(inbox)).complete()
    assert broker.messages("work") == []


async def test_a_lock_is_renewed_while_others_are_settled(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 10)
    inbox = bus.inbox("work")
    long, *short = [await take(inbox) for _ in range(10)]
    before = long.locked_until
    renewing = asyncio.create_task(long.renew())
    await asyncio.gather(*(each.complete() for each in short))
    assert before is not None
    assert await renewing > before
    await long.complete()
    assert broker.messages("work") == []


async def test_messages_of_many_frames_arrive_whole(bus: ServiceBus) -> None:
    body = bytes(range(256)) * 900  # 230 KB, several frames of whatever size
    await send(bus, 4, body)
    inbox = bus.inbox("work")
    deliveries = [await take(inbox) for _ in range(4)]
    assert [each.message.body for each in deliveries] == [body] * 4
    await asyncio.gather(*(each.complete() for each in deliveries))


async def test_nothing_is_locked_that_was_not_asked_for(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 4)
    inbox = bus.inbox("work")
    for asked in range(1, 5):
        await take(inbox)
        assert [state for state, _ in states(broker).values()].count("locked") == asked


async def test_no_more_is_prefetched_than_was_said(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 12)
    inbox = bus.inbox("work")
    for number in range(1, 9):
        await (await take(inbox, prefetch=3)).complete()
        # The SDK asks for four more when the last that it has was taken.
        assert [state for state, _ in states(broker).values()].count("locked") == -number % 4


async def test_what_was_prefetched_goes_back_as_it_was_and_the_rest_can_still_be_settled(
    broker: LocalBus, bus: ServiceBus
) -> None:
    """The worker stops, or its dependency is down, or one of them may be what its workers died of."""
    await send(bus, 6)
    inbox = bus.inbox("work")
    taken = [await take(inbox, prefetch=4) for _ in range(3)]
    await inbox.close()
    await broker.wait_until(lambda: [state for state, _ in states(broker).values()].count("locked") == 3)
    before = taken[0].locked_until
    assert await taken[0].renew() > before
    await taken[0].complete()
    await taken[1].dead_letter("SchemaInvalid", "no JSON")
    assert broker.faults.lose_lock("work", sequence=taken[2].message.sequence_number) == 1
    with pytest.raises(LockLost):
        await taken[2].complete()
    assert states(broker) == {"m2": ("active", 1)} | {f"m{n}": ("active", 0) for n in range(3, 6)}
    assert [message.dead_letter_reason for message in await bus.peek("work", dead=True)] == ["SchemaInvalid"]
    for _ in range(4):
        await (await take(inbox)).complete()
    assert broker.messages("work") == []


async def test_what_is_being_settled_while_the_receiver_closes_is_settled(broker: LocalBus, bus: ServiceBus) -> None:
    """The SDK opens a receiver again that is closed under a settlement, which then fails."""
    await send(bus, 16)
    inbox = bus.inbox("work")
    for prefetch in (8, 0):
        taken = [await take(inbox, prefetch=prefetch) for _ in range(8)]
        renewing = asyncio.create_task(taken[0].renew())
        settling = [asyncio.create_task(each.complete()) for each in taken[1:]]
        await asyncio.sleep(0)  # they have begun
        await inbox.close()
        await asyncio.gather(renewing, *settling)
        await taken[0].complete()  # through a connection that is closed afterwards
    assert broker.messages("work") == []
    await bus.close()
    await broker.wait_until(lambda: broker.connections.current == 0)


async def test_prefetching_begins_and_ends_without_a_loss(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 9)
    inbox = bus.inbox("work")
    held = [await take(inbox, prefetch=prefetch) for prefetch in (0, 0, 0, 4, 4, 4, 0, 0, 0)]
    await asyncio.gather(*(each.complete() for each in held))
    assert {each.message.message_id for each in held} == {f"m{n}" for n in range(9)}
    assert {each.message.delivery_count for each in held} == {0}
    assert broker.messages("work") == []


async def test_one_connection_for_each_queue_and_direction(broker: LocalBus, bus: ServiceBus) -> None:
    await send(bus, 40)
    inbox = bus.inbox("work")
    for _ in range(40):
        delivery = await take(inbox)
        await bus.send(Outgoing("other", b"1", "x"))
        await delivery.complete()
    assert broker.connections.peak == 3


async def nothing_comes(inbox: Inbox) -> None:
    assert await inbox.receive(timedelta(seconds=0.1)) is None


async def test_a_receiver_whose_connection_went_dead_without_a_word_gets_another(broker: LocalBus) -> None:
    """Bytes are lost, and nothing says so: the connection stays open on both ends, with nothing more to come."""
    host, _, port = broker.connection_string.partition("sb://")[2].partition(";")[0].rstrip("/").partition(":")
    async with Proxy(host, int(port)) as proxy:
        address = ServiceBusAddress(broker.connection_string.replace(f":{port}", f":{proxy.port}"))
        bus = ServiceBus(address, patience=replace(SHORT, quiet=0.5))
        try:
            inbox = bus.inbox("work")
            await eventually(lambda: nothing_comes(inbox))
            proxy.set(BlackHole())
            async with (
                ServiceBusClient.from_connection_string(broker.connection_string) as client,
                client.get_queue_sender("work") as sender,
            ):
                await sender.send_messages([ServiceBusMessage(b"1"), ServiceBusMessage(b"2")])
            with pytest.raises(BusUnavailable):
                await take(inbox, retry=False)
            proxy.set()
            broker.faults.lose_lock("work")  # of what was lost on its way
            await finish_all(broker, inbox)
        finally:
            await bus.close()
    assert broker.messages("work") == []


async def test_with_two_connections_one_in_use_stays_open_and_another_queue_gets_its_turn(
    broker: LocalBus,
) -> None:
    bus = ServiceBus(ServiceBusAddress(broker.connection_string + ";MaxConnections=2;"))
    try:
        await bus.send(Outgoing("work", b"1", "x"))
        working, other = bus.inbox("work"), bus.inbox("other")
        delivery = await take(working)
        await working.close()
        assert await other.receive(timedelta(seconds=0.1)) is None
        await delivery.renew()
        await delivery.complete()
        await working.close()
        await bus.send(Outgoing("other", b"1", "x"))
        await (await take(other)).complete()
    finally:
        await bus.close()
    assert broker.connections.peak <= 2
    assert broker.messages("work") == broker.messages("other") == []


async def test_with_two_connections_every_queue_has_its_turn(broker: LocalBus) -> None:
    """As the emulator's file has it: three queues are received from and two are sent to, on two connections."""
    bus = ServiceBus(ServiceBusAddress(broker.connection_string + ";MaxConnections=2;"))
    queues = ("work", "other", "third")
    sending = [Outgoing(queue, b"1", "x", message_id=f"{queue}-{n}") for queue in queues[:2] for n in range(3)]
    await asyncio.gather(*(bus.send(message) for message in sending))
    stopping = asyncio.Event()

    async def consume(queue: str) -> None:
        inbox = bus.inbox(queue)
        while not stopping.is_set():
            delivery = await inbox.receive(timedelta(seconds=0.2), prefetch=4)
            if delivery is not None:
                if queue != "third":
                    await bus.send(Outgoing("third", b"1", "x", message_id=delivery.message.message_id))
                await delivery.complete()
        await inbox.close()

    consuming = [asyncio.create_task(consume(queue)) for queue in queues]
    try:
        await broker.wait_until(lambda: not any(broker.messages(queue) for queue in queues), PATIENCE * 3)
    finally:
        stopping.set()
        await asyncio.gather(*consuming)
        await bus.close()
    assert broker.connections.peak <= 2
    assert broker.record.check() == []


@pytest.mark.parametrize("limit", [0, 2, 100])
async def test_a_limit_of_connections_is_part_of_the_address(broker: LocalBus, limit: int) -> None:
    bus = ServiceBus(ServiceBusAddress(f"maxconnections={limit};{broker.connection_string}"))
    await bus.send(Outgoing("work", b"1", "x"))
    await bus.close()
    assert len(broker.messages("work")) == 1


async def test_a_limit_of_one_connection_is_refused(broker: LocalBus) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ServiceBus(ServiceBusAddress(f"{broker.connection_string};MaxConnections=1"))
    for wrong in ("two", "", "-1", "2.5"):
        with pytest.raises(ValueError, match="MaxConnections must be a number"):
            ServiceBus(ServiceBusAddress(f"{broker.connection_string};MaxConnections={wrong}"))
