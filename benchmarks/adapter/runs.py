"""One run of a lane: a broker, a proxy that delays, the lane behind it, and a caller that asks and counts."""

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver, ServiceBusSender
from servicebus_local.process import BrokerProcess

from benchmarks.adapter.stages import BODY, QUEUES, Load

# The first messages open links, fill caches of all kinds, and show our worker that its work is quick.
WARM_UP = 48
# Seconds without messages, to measure what an idle lane uses.
IDLE = 2.0
# No lane is so slow that the next answer takes longer.
PATIENCE = 20.0
# By then the last settlement has arrived, or never will.
SETTLED = 5.0
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to."""

    rate: float
    """Requests a second, over all stages."""
    cpu: float
    """Microseconds of the lane's process for each hop."""
    hop: float
    """Median seconds of a hop when there is one message at a time."""
    lost: int
    doubled: int
    """Answers that came twice, and messages that were passed on but not settled."""
    connections: int
    """The most that were open at once."""
    idle: float
    """The part of a core that the lane's process uses while nothing happens."""
    starved: float
    """The part of the time that the lane's process was ready to run and had no processor."""


async def run(lane: str, round_trip: float, load: Load, messages: int, alone: int) -> Outcome:
    """Run a lane: `alone` messages one at a time, then `messages` at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        BrokerProcess("--config", _config(Path(folder))) as broker,
        _proxy(broker.connection_string, round_trip) as proxy,
        _lane(lane, proxy.connection_string, load) as process,
    ):
        async with Caller.connected(broker.connection_string, load.path[0].source) as caller:
            await caller.ask(WARM_UP)
            # After the links that were opened meanwhile, and before the heartbeats of those that were not.
            await asyncio.sleep(1)
            before = _cpu(process.pid)
            await asyncio.sleep(IDLE)
            idle = (_cpu(process.pid) - before) / IDLE
            hops = [await caller.ask(1) / load.stages for _ in range(alone)]
            began, cpu, queued = time.perf_counter(), _cpu(process.pid), _queued(process.pid)
            await caller.ask(messages)
            seconds = time.perf_counter() - began
            queued = _queued(process.pid) - queued
            # What the last settlements cost is left out, of every lane alike.
            cpu = _cpu(process.pid) - cpu
            left = await caller.left()
        process.kill()
        lost, doubled = caller.tally()
        hop = median(hops) if hops else 0.0
        return Outcome(
            rate=messages / seconds,
            cpu=1e6 * cpu / (messages * load.stages),
            hop=hop,
            lost=lost,
            doubled=doubled + left,
            connections=proxy.peak(),
            idle=idle,
            starved=queued / seconds,
        )


def _config(folder: Path) -> str:
    """Write a Config.json whose locks and messages outlive any measurement; return where it is."""
    properties = {"LockDuration": "PT5M", "DefaultMessageTimeToLive": "PT1H"}
    queues = [{"Name": name, "Properties": properties} for name in QUEUES]
    namespace = {"Name": "sbemulatorns", "Queues": queues, "Topics": []}
    config = folder / "Config.json"
    config.write_text(json.dumps({"UserConfig": {"Namespaces": [namespace], "Logging": {"Type": "Console"}}}))
    return str(config)


class Caller:
    """Asks, and counts the answers; straight to the broker."""

    def __init__(self, client: ServiceBusClient, first: str) -> None:
        self._sender = client.get_queue_sender(first)
        # Prefetched, or asking for each answer would be slower than the lanes are.
        self._receiver = client.get_queue_receiver(
            "answers", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, prefetch_count=10 * _BATCH
        )
        self._watching = [client.get_queue_receiver(queue) for queue in QUEUES[:-1]]
        self._asked = 0
        self._answers: Counter[str] = Counter()

    @classmethod
    @asynccontextmanager
    async def connected(cls, connection_string: str, first: str) -> AsyncIterator[Self]:
        """Open all links at once, and close them so: each takes half a second."""
        async with ServiceBusClient.from_connection_string(connection_string) as client:
            caller = cls(client, first)
            links: tuple[ServiceBusSender | ServiceBusReceiver, ...] = (
                caller._sender,
                caller._receiver,
                *caller._watching,
            )
            await asyncio.gather(*(link.__aenter__() for link in links))
            try:
                yield caller
            finally:
                await asyncio.gather(*(link.close() for link in links))

    async def ask(self, count: int) -> float:
        """Ask, wait until every answer has come, and return the seconds that took."""
        began = time.perf_counter()
        for start in range(0, count, _BATCH):
            await self._sender.send_messages([self._note() for _ in range(min(_BATCH, count - start))])
        end = time.monotonic() + PATIENCE
        while len(self._answers) < self._asked and time.monotonic() < end:
            if await self._take(1):
                end = time.monotonic() + PATIENCE
        return time.perf_counter() - began

    async def left(self) -> int:
        """Wait for the last settlements, and for answers that should not come; return what is still in a queue."""
        end = time.monotonic() + SETTLED
        while left := sum([len(await receiver.peek_messages(_BATCH)) for receiver in self._watching]):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.05)
        while await self._take(0.1):
            pass
        return left

    def tally(self) -> tuple[int, int]:
        """How many answers never came, and how many came once more than they should."""
        return self._asked - len(self._answers), self._answers.total() - len(self._answers)

    def _note(self) -> ServiceBusMessage:
        self._asked += 1
        return ServiceBusMessage(
            BODY, message_id=f"note-{self._asked}", subject="note.v1", content_type="application/json"
        )

    async def _take(self, wait: float) -> int:
        # Single messages: more would be waited for, which is the time that is measured here.
        messages = await self._receiver.receive_messages(1, max_wait_time=wait)
        self._answers.update(str(message.message_id) for message in messages)
        return len(messages)


class _Delayed:
    """The way to the broker that takes time."""

    def __init__(self, connection_string: str, control: str) -> None:
        self.connection_string = connection_string
        self._control = control

    def peak(self) -> int:
        """How many connections there were at the same time, at most."""
        with urllib.request.urlopen(f"{self._control}/control/connections", timeout=PATIENCE) as answer:
            return int(json.load(answer)["peak"])


@contextmanager
def _proxy(connection_string: str, round_trip: float) -> Iterator[_Delayed]:
    address = connection_string.partition("//")[2].partition(";")[0]
    faults = json.dumps([{"fault": "latency", "seconds": round_trip / 2}])
    command = [sys.executable, "-m", "local.proxy", "--to", address, "--faults", faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = re.search(r"ready, (\S+) to \S+, control on (\S+)", process.stdout.readline())
            assert ready is not None
            yield _Delayed(connection_string.replace(address, ready[1]), ready[2])
        finally:
            process.kill()


@contextmanager
def _lane(name: str, connection_string: str, load: Load) -> "Iterator[subprocess.Popen[bytes]]":
    command = [sys.executable, "-m", "benchmarks.adapter.lane", name, connection_string]
    command += [f"--stages={load.stages}", f"--slots={load.slots}", f"--work={load.work}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def _cpu(pid: int) -> float:
    """CPU seconds of a process so far, as `servicebus-local/benchmarks/process.py` reads them."""
    return time.clock_gettime((~pid << 3) | 2)


def _queued(pid: int) -> float:
    """Seconds that a process has spent ready to run, but not running (Linux: /proc/<pid>/schedstat)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
