"""The proxy over real sockets: what each fault does to both ends, and real clients through it."""

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from servicebus_local.testing import LocalBus

from local.proxy import (
    BlackHole,
    Direction,
    Fault,
    FaultError,
    HalfOpen,
    Latency,
    Proxy,
    Refuse,
    Reset,
    Truncate,
    read_faults,
)
from local.proxy.faults import written
from tests.protocol.proxy_pair import MUCH, SOON, Clock, End, Pair, pair, until


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


# -- no fault


async def test_without_faults_bytes_and_ends_are_carried_both_ways(two: Pair) -> None:
    client, target = await two.joined()
    there, back = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(2_000_000)
    got = asyncio.gather(target.rest(), client.hear(len(back)))
    await asyncio.gather(client.say(there), target.say(back))
    client.finish()
    assert list(await got) == [there, back]
    await target.say(b"bye")  # the client is finished, and still listens
    target.leave()
    assert await client.rest() == b"bye"
    await until(lambda: two.proxy.connected == 0)


async def test_an_end_that_does_not_read_blocks_the_other(two: Pair) -> None:
    client, _ = await two.joined()
    writing = asyncio.create_task(client.say(bytes(MUCH)))
    for _ in range(30):
        await two.still_carries()
    assert not writing.done()
    writing.cancel()


async def test_an_unreachable_target_is_a_reset() -> None:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        async with Proxy("127.0.0.1", unused.getsockname()[1]) as proxy:
            client = End(*await asyncio.open_connection("127.0.0.1", proxy.port))
            assert await client.is_reset()
            client.leave()
            proxy.set(BlackHole())  # which swallows the refusal too
            hidden = End(*await asyncio.open_connection("127.0.0.1", proxy.port))
            await hidden.say(bytes(MUCH))
            assert not hidden.has_heard
            hidden.leave()


# -- latency


async def test_latency_delays_every_byte_and_costs_no_throughput() -> None:
    clock = Clock()
    async with pair(clock=clock, sleep=clock.sleep) as two:
        client, target = await two.joined()
        two.proxy.set(Latency(5.0, direction=Direction.UP))
        for number in range(100):
            await client.say(b"%02d" % number)
        await target.say(b"down is quick")
        assert await client.hear(13) == b"down is quick"
        await until(lambda: clock.sleepers == 1)
        await clock.advance(4.9)
        await target.say(b"still")
        assert await client.hear(5) == b"still"
        assert not target.has_heard
        await clock.advance(0.2)  # a pipe: all of them are due five seconds after they were said, not 500
        assert await target.hear(200) == b"".join(b"%02d" % number for number in range(100))


async def test_jitter_changes_when_and_never_the_order() -> None:
    clock = Clock()
    async with pair(clock=clock, sleep=clock.sleep, chance=random.Random(7)) as two:
        client, target = await two.joined()
        two.proxy.set(Latency(1.0, jitter=1.0, direction=Direction.UP))
        heard = asyncio.create_task(target.hear(40))
        for number in range(10, 30):
            await client.say(b"%d" % number)
            await until(lambda: clock.sleepers)
            await clock.advance(0.1)
        while not heard.done():
            await clock.advance(0.1)
            await asyncio.sleep(0)
        assert await heard == b"".join(b"%d" % number for number in range(10, 30))


# -- ends


async def test_a_reset_ends_open_connections_and_new_ones_at_once(two: Pair) -> None:
    client, target = await two.joined()
    two.proxy.set(Reset())
    assert await client.is_reset()
    assert await target.is_reset()
    assert await (await two.client()).is_reset()
    two.proxy.set()
    await two.still_carries()


async def test_a_reset_comes_after_a_number_of_bytes_in_one_direction(two: Pair) -> None:
    client, target = await two.joined()
    await target.say(b"what has passed before does not count")
    assert await client.hear(37)
    two.proxy.set(Reset(after=10, direction=Direction.DOWN))
    await client.say(b"x" * 100)
    assert await target.hear(100) == b"x" * 100
    await target.say(b"123456789")
    assert await client.hear(9) == b"123456789"
    await target.say(b"0!")
    assert await client.is_reset()


async def test_truncate_cuts_in_the_middle_and_sends_a_fin(two: Pair) -> None:
    two.proxy.set(Truncate(after=7, direction=Direction.UP))
    client, target = await two.joined()
    await client.say(b"0123")
    assert await target.hear(4) == b"0123"
    await client.say(b"456789")
    assert await target.rest() == b"456"
    assert await client.rest() == b""


async def test_a_reset_by_one_end_reaches_the_other(two: Pair) -> None:
    client, target = await two.joined()
    client.break_off()
    assert await target.is_reset()


# -- silence


async def test_a_black_hole_loses_everything_without_an_error(two: Pair) -> None:
    client, target = await two.joined()
    two.proxy.set(BlackHole())
    await client.say(bytes(MUCH))  # would block half-way if the bytes were kept
    await target.say(bytes(MUCH))
    late, behind = await two.joined()  # connections are accepted
    await late.say(b"anybody?")
    await until(lambda: two.proxy.swallowed == {Direction.UP: MUCH + 8, Direction.DOWN: MUCH})
    client.leave()
    two.proxy.set()
    await two.still_carries()
    assert not any(end.has_heard for end in (target, late, behind))
    await target.say(b"x")
    await two.still_carries()
    assert not target.has_heard  # what lost bytes stays silent: there is no TCP with gaps


async def test_a_reply_that_the_client_never_reads_can_be_waited_for(two: Pair) -> None:
    client, target = await two.joined()
    two.proxy.set(BlackHole(direction=Direction.DOWN))
    await client.say(b"request")
    assert await target.hear(7) == b"request"
    assert two.proxy.swallowed == {Direction.UP: 0, Direction.DOWN: 0}
    await target.say(b"reply")
    await until(lambda: two.proxy.swallowed[Direction.DOWN] == 5)
    assert not client.has_heard


async def test_a_connection_that_said_nothing_in_the_black_hole_goes_on_after_it(two: Pair) -> None:
    client, target = await two.joined()
    two.proxy.set(BlackHole(direction=Direction.UP))
    await target.say(b"one way")
    assert await client.hear(7) == b"one way"
    two.proxy.set()
    await client.say(b"hello")
    assert await target.hear(5) == b"hello"


async def test_half_open_up_hides_from_the_target_that_its_client_closed(two: Pair) -> None:
    client, target = await two.joined()
    two.proxy.set(HalfOpen(direction=Direction.UP))
    await client.say(b"last")
    client.leave()
    assert await target.hear(4) == b"last"
    await target.say(bytes(MUCH))  # lost, and without an error
    two.proxy.set()
    await two.still_carries()
    assert not target.has_heard


async def test_half_open_down_hides_from_the_client_that_the_target_closed(two: Pair) -> None:
    client, target = await two.joined()
    two.proxy.set(HalfOpen(direction=Direction.DOWN))
    target.leave()
    await client.say(bytes(MUCH))
    assert not client.has_heard


async def test_a_refused_connection_finds_no_listener(two: Pair) -> None:
    client, target = await two.joined()
    port = two.proxy.port
    two.proxy.set(Refuse())
    with pytest.raises(ConnectionRefusedError):
        await two.client()
    await client.say(b"open ones go on")
    assert await target.hear(15) == b"open ones go on"
    two.proxy.set()
    assert two.proxy.port == port
    await two.still_carries()


# -- in JSON, and as a process

EVERY = [Latency(0.5, 0.1), Reset(3), Truncate(4, direction=Direction.UP), BlackHole(), HalfOpen(), Refuse()]


@pytest.mark.parametrize("fault", EVERY, ids=lambda fault: fault.name)
def test_every_fault_is_read_as_it_is_written(fault: Fault) -> None:
    assert read_faults(json.loads(json.dumps(written(fault)))) == (fault,)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("latency", "a list of objects"),
        ([3], "a fault is an object"),
        ({"fault": "lag"}, "unknown fault 'lag'; known: latency, reset"),
        ({"fault": "reset", "seconds": 1}, "reset has no 'seconds'; known: direction, after"),
        ({"fault": "reset", "after": 1.5}, "after of reset cannot be 1.5"),
        ({"fault": "latency", "seconds": -1}, "seconds of latency cannot be -1"),
        ({"fault": "latency", "seconds": True}, "seconds of latency cannot be True"),
        ({"fault": "latency", "seconds": float("nan")}, "seconds of latency cannot be nan"),
        ({"fault": "black-hole", "direction": "left"}, "direction is one of up, down, both"),
    ],
)
def test_a_malformed_fault_is_refused(wrong: object, said: str) -> None:
    with pytest.raises(FaultError, match=said):
        read_faults(wrong)


@pytest.fixture
def process() -> Iterator[tuple[int, str]]:
    """A proxy of its own: its port, and the URL of its control."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        to = f"127.0.0.1:{target.getsockname()[1]}"
        command = [sys.executable, "-m", "local.proxy", "--to", to, "--faults", '{"fault": "refuse"}']
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        words = running.stdout.readline().replace(",", "").split()
        yield int(words[2].rpartition(":")[2]), words[-1]
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=SOON)
        assert running.returncode == 0


def test_a_running_proxy_is_changed_over_http(process: tuple[int, str]) -> None:
    port, url = process
    with httpx.Client(base_url=url, timeout=SOON) as control:
        assert [fault["fault"] for fault in control.get("/control/faults").json()] == ["refuse"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), SOON).close()
        rule = {"fault": "latency", "seconds": 0.25}
        assert control.post("/control/faults", json=[rule]).json() == [{**rule, "jitter": 0.0, "direction": "both"}]
        socket.create_connection(("127.0.0.1", port), SOON).close()
        counts = control.get("/control/connections").json()
        assert (counts["accepted"], counts["peak"], counts["swallowed"]) == (1, 1, {"up": 0, "down": 0})
        wrong = control.post("/control/faults", json=[{"fault": "lag"}])
        assert (wrong.status_code, wrong.json()["error"][:19]) == (400, "unknown fault 'lag'")
        assert control.delete("/control/faults").json() == []
        assert control.get("/control/nothing").status_code == 404


def test_a_port_that_is_taken_is_one_line(process: tuple[int, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local.proxy", "--to", "127.0.0.1:1", "--port", process[1].rpartition(":")[2]]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "cannot listen" in refused.stderr


# -- real clients


@asynccontextmanager
async def through(url: str) -> AsyncIterator[Proxy]:
    """A proxy to the host and port of a URL."""
    at = httpx.URL(url)
    async with Proxy(at.host, at.port or 0) as proxy:
        yield proxy


async def test_redis_through_it(redis_url: str) -> None:
    async with through(redis_url) as proxy, Redis(port=proxy.port, socket_timeout=SOON) as redis:
        proxy.set(Latency(0.002, 0.001))
        await redis.set("key", b"x" * 300_000)
        assert await redis.get("key") == b"x" * 300_000
        proxy.set(Reset())
        with pytest.raises(RedisConnectionError):
            await redis.get("key")
        proxy.set()
        assert await redis.get("key") == b"x" * 300_000


async def test_http_and_service_bus_through_it() -> None:
    async with LocalBus("orders") as bus:
        async with through(bus.admin_url) as proxy, httpx.AsyncClient(timeout=SOON) as http:
            url = f"http://127.0.0.1:{proxy.port}/health"
            assert (await http.get(url)).status_code == 200
            proxy.set(Truncate(after=20, direction=Direction.DOWN))
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(url)
            proxy.set()
            assert (await http.get(url)).status_code == 200
        at = next(part for part in bus.connection_string.split(";") if part.startswith("Endpoint=")).partition("=")[2]
        async with through(at) as proxy:
            proxy.set(Latency(0.005))
            there = bus.connection_string.replace(f":{httpx.URL(at).port}", f":{proxy.port}")
            async with (
                ServiceBusClient.from_connection_string(there) as client,
                client.get_queue_sender("orders") as sender,
                client.get_queue_receiver("orders") as receiver,
            ):
                await sender.send_messages([ServiceBusMessage(str(number)) for number in range(20)])
                got: list[str] = []
                while len(got) < 20:
                    for message in await receiver.receive_messages(20, max_wait_time=SOON):
                        await receiver.complete_message(message)
                        got.append(str(message))
            assert got == [str(number) for number in range(20)]
            assert proxy.accepted >= 2
        assert bus.messages("orders") == []
