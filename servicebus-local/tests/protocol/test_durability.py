"""The broker as a process that is killed: what it had confirmed is there when it comes back.

`kill -9` cannot be caught, so whatever survives it was written before it was confirmed. The moments
are drawn by lot from a seed; the senders and receivers are the SDK's, and run while it happens.
"""

import asyncio
import gc
import json
import resource
import signal
import sqlite3
import sys
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode, ServiceBusSubQueue
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from azure.servicebus.exceptions import ServiceBusError

from servicebus_local.testing import LocalBus, connection_string
from tests.protocol.admin import client_at
from tests.protocol.queue_client import SOON

pytestmark = [
    # the SDK never closes a transport that was cut, and the collector complains of it
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUEUES = {
    "q": {"LockDuration": "PT5M", "MaxDeliveryCount": 10},
    "once": {"RequiresDuplicateDetection": True, "DuplicateDetectionHistoryTimeWindow": "PT5M"},
    "talk": {"RequiresSession": True},
}
TOPICS = [{"Name": "news", "Subscriptions": [{"Name": "all"}]}]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    listed = [{"Name": name, "Properties": properties} for name, properties in QUEUES.items()]
    namespace = {"Name": "sbemulatorns", "Queues": listed, "Topics": TOPICS}
    path = tmp_path / "Config.json"
    path.write_text(json.dumps({"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "Console"}}}))
    return path


@pytest.fixture(scope="module", autouse=True)
def _forget_the_sockets_of_the_sdk() -> Iterator[None]:
    """Collect the transports that were cut before the next module begins."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Life:
    """The broker as a process, from start to end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.port = self.admin_port = 0

    async def ready(self) -> None:
        """Wait until it accepts connections."""
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        assert line.startswith("servicebus-local: ready"), (line, await self.complaint())
        self.port = int(line.split("AMQP on 127.0.0.1:")[1].split(",")[0])
        self.admin_port = int(line.split("http://127.0.0.1:")[1].split(",")[0])

    @property
    def admin_connection_string(self) -> str:
        return connection_string("127.0.0.1", self.admin_port)

    def client(self) -> ServiceBusClient:
        string = connection_string("127.0.0.1", self.port)
        return ServiceBusClient.from_connection_string(string, socket_timeout=0.02, retry_total=0)

    async def kill(self) -> None:
        """End it as nothing else does."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.communicate()

    async def stop(self) -> int | None:
        """End it as people do; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        await self.process.communicate()
        return self.process.returncode

    async def complaint(self) -> str:
        """Wait for its end and return what it said."""
        _, errors = await asyncio.wait_for(self.process.communicate(), SOON)
        return errors.decode()


async def start(config: Path, data: Path, *options: str) -> Life:
    """Start a broker; it may not be ready yet, or may never be."""
    pipe = asyncio.subprocess.PIPE
    arguments = [
        "-m",
        "servicebus_local",
        "--config",
        str(config),
        "--data",
        str(data),
        "--port",
        "0",
        "--admin-port",
        "0",
    ]
    return Life(await asyncio.create_subprocess_exec(sys.executable, *arguments, *options, stdout=pipe, stderr=pipe))


@asynccontextmanager
async def life(config: Path, data: Path, *options: str) -> AsyncIterator[Life]:
    """A broker that accepts connections, and is killed at the end."""
    running = await start(config, data, *options)
    try:
        await running.ready()
        yield running
    finally:
        await running.kill()


@asynccontextmanager
async def opened(*handlers: ServiceBusSender | ServiceBusReceiver) -> AsyncIterator[None]:
    """Open and close all at once: each takes the SDK half a second."""
    try:
        await asyncio.gather(*(handler.__aenter__() for handler in handlers))
        yield
    finally:
        await asyncio.gather(*(handler.close() for handler in handlers))


# --------------------------------------------------------------------------- at random moments


class Ledger:
    """What was confirmed to senders and receivers, and when the plug is to be pulled."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.names = iter(range(1_000_000))
        self.sent: set[str] = set()
        self.tried: set[str] = set()
        self.completed: set[str] = set()
        self.plug = asyncio.Event()
        self.left = 0

    def begin(self) -> None:
        """Draw the moment: after so many confirmations."""
        self.plug.clear()
        self.left = self.random.randint(20, 200)

    def confirmed(self, names: set[str], name: str) -> None:
        names.add(name)
        self.left -= 1
        if self.left == 0:
            self.plug.set()


async def keep_sending(sender: ServiceBusSender, ledger: Ledger) -> None:
    while True:
        names = [f"m{next(ledger.names)}" for _ in range(ledger.random.choice([1, 1, 5]))]
        await sender.send_messages([ServiceBusMessage(name, message_id=name) for name in names])
        for name in names:
            ledger.confirmed(ledger.sent, name)


async def keep_completing(receiver: ServiceBusReceiver, ledger: Ledger) -> None:
    while True:
        for message in await receiver.receive_messages(1, max_wait_time=SOON):
            if ledger.random.random() < 0.2:
                await receiver.abandon_message(message)
                continue
            name = str(message)
            assert name not in ledger.completed
            ledger.tried.add(name)
            await receiver.complete_message(message)
            ledger.confirmed(ledger.completed, name)


async def until_it_is_killed(work: Any) -> None:
    """Work until the connection breaks."""
    with suppress(ServiceBusError):
        await work


async def live_and_die(config: Path, data: Path, ledger: Ledger) -> None:
    """Start, send and complete from several sides, and be killed in the middle of it."""
    async with life(config, data) as running, running.client() as client:
        senders = [client.get_queue_sender("q") for _ in range(2)]
        receivers = [client.get_queue_receiver("q") for _ in range(2)]
        async with opened(*senders, *receivers):
            ledger.begin()
            work = [until_it_is_killed(keep_sending(sender, ledger)) for sender in senders]
            work += [until_it_is_killed(keep_completing(receiver, ledger)) for receiver in receivers]
            working = asyncio.gather(*work)
            async with asyncio.timeout(60):
                await ledger.plug.wait()
            await running.kill()
            await working


async def everything_left(config: Path, data: Path) -> Counter[str]:
    """Start again and take out whatever is there, dead letters included."""
    found: Counter[str] = Counter()
    async with life(config, data) as running, running.client() as client:
        mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
        takers = [client.get_queue_receiver("q", receive_mode=mode, sub_queue=part) for part in (None, "deadletter")]
        async with opened(*takers):
            for taker in takers:
                while taken := await taker.receive_messages(100, max_wait_time=0.5):
                    found.update(map(str, taken))
        assert await running.stop() == 0
    return found


async def many_lives(config: Path, data: Path, seed: int) -> None:
    ledger = Ledger(seed)
    for _ in range(2):
        await live_and_die(config, data, ledger)
    left = await everything_left(config, data)
    assert set(left.values()) <= {1}, f"seed {seed}: there twice"
    assert not ledger.completed & set(left), f"seed {seed}: completed, and there again"
    assert ledger.sent - ledger.tried <= set(left), f"seed {seed}: confirmed, and lost"
    assert ledger.sent
    assert ledger.completed


async def test_what_was_confirmed_survives_a_kill_at_any_moment(config: Path, tmp_path: Path) -> None:
    await asyncio.gather(*(many_lives(config, tmp_path / f"data{seed}", seed) for seed in (1, 2, 3)))


# --------------------------------------------------------------------------- of each kind one


async def test_every_kind_of_state_survives_a_kill(config: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with life(config, data) as running, running.client() as client:
        later = await before_the_kill(running, client)
        await running.kill()
    async with life(config, data) as running, running.client() as client:
        await after_the_kill(running, client, later)


async def before_the_kill(running: Life, client: ServiceBusClient) -> int:
    q, once, talk, news = (client.get_queue_sender(name) for name in ("q", "once", "talk", "news"))
    receiver, session = client.get_queue_receiver("q"), client.get_queue_receiver("talk", session_id="s")
    async with opened(q, once, talk, news, receiver):
        await talk.send_messages(ServiceBusMessage("hello", session_id="s"))
        for name in ("locked", "deferred", "dead", "waiting"):
            await q.send_messages(ServiceBusMessage(name))
        await once.send_messages(ServiceBusMessage("one", message_id="same"))
        await news.send_messages(ServiceBusMessage("told"))
        [later] = await q.schedule_messages(ServiceBusMessage("later"), datetime.now(UTC) + timedelta(hours=1))
        _, deferred, dead = [(await receiver.receive_messages(1, max_wait_time=SOON))[0] for _ in range(3)]
        await receiver.defer_message(deferred)
        await receiver.dead_letter_message(dead, reason="Bad", error_description="very")
        async with session, client_at(running.admin_connection_string) as admin:
            await session.session.set_state("half")
            await admin.create_queue("made", max_delivery_count=7, requires_session=True)
        return later


async def after_the_kill(running: Life, client: ServiceBusClient, later: int) -> None:
    receivers = [client.get_queue_receiver(name) for name in ("q", "once")]
    subscriber = client.get_subscription_receiver("news", "all")
    dead_letters = client.get_queue_receiver("q", sub_queue=ServiceBusSubQueue.DEAD_LETTER)
    session = client.get_queue_receiver("talk", session_id="s")
    senders = [client.get_queue_sender(name) for name in ("q", "once")]
    (receiver, uniques), (q, once) = receivers, senders
    async with opened(*receivers, subscriber, dead_letters, session, *senders):
        peeked = [(str(m), m.sequence_number, m.delivery_count) for m in await receiver.peek_messages(10)]
        assert peeked == [("locked", 1, 1), ("deferred", 2, 1), ("waiting", 4, 0), ("later", later, 0)]
        [deferred] = await receiver.receive_deferred_messages(2)
        assert str(deferred) == "deferred"
        [locked] = await receiver.receive_messages(1, max_wait_time=SOON)
        assert (str(locked), locked.delivery_count) == ("locked", 1)
        await q.cancel_scheduled_messages(later)
        [dead] = await dead_letters.receive_messages(1, max_wait_time=SOON)
        assert (str(dead), dead.dead_letter_reason, dead.dead_letter_error_description) == ("dead", "Bad", "very")
        await once.send_messages(ServiceBusMessage("two", message_id="same"))
        assert [str(message) for message in await uniques.peek_messages(10)] == ["one"]
        assert [str(message) for message in await subscriber.peek_messages(10)] == ["told"]
        assert await session.session.get_state() == b"half"
        assert [str(message) for message in await session.receive_messages(1, max_wait_time=SOON)] == ["hello"]
        async with client_at(running.admin_connection_string) as admin:
            made = await admin.get_queue("made")
        assert (made.max_delivery_count, made.requires_session) == (7, True)


# --------------------------------------------------------------------------- what cannot go on, and what cannot begin


async def test_a_full_disk_ends_the_broker_and_loses_nothing_it_confirmed(config: Path, tmp_path: Path) -> None:
    data, confirmed = tmp_path / "data", set[str]()
    async with life(config, data) as running, running.client() as client:
        sender = client.get_queue_sender("q")
        async with opened(sender):
            resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
            with suppress(ServiceBusError):
                for number in range(100):
                    await sender.send_messages(ServiceBusMessage(f"{number}:" + "x" * 50_000))
                    confirmed.add(str(number))
            complaint = await running.complaint()
    assert running.process.returncode == 1
    assert complaint.count("\n") == 1
    assert f"{data / 'broker.sqlite3'} cannot be" in complaint
    assert 0 < len(confirmed) < 100
    left = await everything_left(config, data)
    assert confirmed <= {text.partition(":")[0] for text in left}


def foreign(path: Path) -> None:
    path.write_text("somebody's notes\n" * 100)


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xee" * 4096
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (foreign, "was not written by the local broker; move it away, or choose another place"),
        (newer, "was written by a newer local broker (format 99"),
        (damaged, "is damaged ("),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    config: Path, tmp_path: Path, harm: Any, sentence: str
) -> None:
    file = tmp_path / "data" / "broker.sqlite3"
    async with life(config, tmp_path / "data") as running:
        assert await running.stop() == 0
    harm(file)
    before = file.read_bytes()
    refused = await start(config, tmp_path / "data")
    complaint = await refused.complaint()
    assert refused.process.returncode == 1
    assert complaint.count("\n") == 1
    assert complaint.startswith(f"servicebus-local: {file} {sentence}")
    assert file.read_bytes() == before


async def test_a_second_broker_on_the_same_data_is_refused_and_the_first_goes_on(config: Path, tmp_path: Path) -> None:
    async with life(config, tmp_path) as running:
        second = await start(config, tmp_path)
        complaint = await second.complaint()
        assert second.process.returncode == 1
        assert complaint.count("\n") == 1
        assert "is in use by another process, probably another local broker; stop that one" in complaint
        assert await running.stop() == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "{config}/below"], "cannot be made (Not a directory); choose another place for the data"),
        (["--synchronous", "full"], "--synchronous says how --data is written: give both or none"),
    ],
)
async def test_contradictory_options_are_reported_in_one_line(config: Path, options: list[str], sentence: str) -> None:
    pipe = asyncio.subprocess.PIPE
    written = [option.format(config=config) for option in options]
    command = [sys.executable, "-m", "servicebus_local", "--config", str(config), *written]
    refused = Life(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe))
    complaint = await refused.complaint()
    assert (refused.process.returncode, complaint.count("\n")) == (1, 1)
    assert sentence in complaint


async def test_a_bus_in_a_test_may_keep_its_data_too(tmp_path: Path) -> None:
    async with LocalBus("orders", data=tmp_path) as bus:
        client = ServiceBusClient.from_connection_string(bus.connection_string)
        async with client, client.get_queue_sender("orders") as sender:
            await sender.send_messages(ServiceBusMessage("kept"))
    async with LocalBus(data=tmp_path / "broker.sqlite3") as bus:
        assert bus.counts("orders").active == 1


async def test_every_level_survives_a_kill(config: Path, tmp_path: Path) -> None:
    await asyncio.gather(*(survives(config, tmp_path / level, level) for level in ("off", "normal", "full")))


async def survives(config: Path, data: Path, level: str) -> None:
    async with life(config, data, "--synchronous", level) as running, running.client() as client:
        sender = client.get_queue_sender("q")
        async with opened(sender):
            await sender.send_messages([ServiceBusMessage(str(number)) for number in range(50)])
            await running.kill()
    assert await everything_left(config, data) == Counter(map(str, range(50)))
