"""What an unavailable Redis costs a command: it refuses, hangs, falls silent, is flushed, returns.

A real server behind a real proxy. Nothing here measures time: what is counted is who had to wait for an answer.
"""

import asyncio
import re
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from local.proxy import BlackHole, Direction, Fault, Latency, Proxy, Refuse, Reset
from shared.redis import COMMANDS, TIMEOUT, FailFastRedis, RedisUnavailable
from shared.redis_cluster import RedisNodes
from shared.settings.worker import WorkerSettings
from tests.conftest import running_redis

NEVER = 3600.0
# So long that only a real outage uses it up, on the busiest machine.
LONG = 60.0


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis for this test alone."""
    with running_redis(tmp_path) as url:
        yield url


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", int(redis_url.rpartition(":")[2].partition("/")[0])) as made:
        yield made


def quick(proxy: Proxy, *, timeout: float = TIMEOUT, pause: float = NEVER, patience: float = 1) -> FailFastRedis:
    return FailFastRedis(f"redis://127.0.0.1:{proxy.port}/0", timeout=timeout, pause=pause, patience=patience)


async def ask(redis: FailFastRedis) -> str | None:
    """Set and get; None when Redis is unavailable."""
    try:
        await redis.run(lambda connection: connection.set("key", "value"))
        return str(await redis.run(lambda connection: connection.get("key")))
    except RedisUnavailable:
        return None


async def test_the_time_outs_of_the_address_give_way_to_ours(redis_url: str) -> None:
    redis = FailFastRedis(f"{redis_url}?socket_timeout=5&socket_connect_timeout=5", timeout=LONG, patience=LONG)
    await redis.check()
    assert await ask(redis) == "value"
    await redis.close()


async def fail(redis: FailFastRedis) -> None:
    """Have Redis answer with an error."""
    await redis.run(lambda connection: connection.set("text", "x"))
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        await redis.run(lambda connection: connection.hget("text", "field"))


async def until_back(redis: FailFastRedis) -> None:
    async with asyncio.timeout(300):
        while await ask(redis) is None:
            await asyncio.sleep(0.01)


async def test_only_the_first_command_waits_for_a_hung_redis(proxy: Proxy) -> None:
    redis = quick(proxy)
    proxy.set(BlackHole())
    assert await ask(redis) is None
    met = proxy.accepted
    assert redis.unavailable
    for _ in range(200):
        assert await ask(redis) is None
    assert proxy.accepted == met == 1
    await redis.close()


async def test_concurrent_commands_wait_for_a_hung_redis_together(proxy: Proxy) -> None:
    redis = quick(proxy)
    proxy.set(BlackHole())
    assert await asyncio.gather(*(ask(redis) for _ in range(10 * COMMANDS))) == [None] * (10 * COMMANDS)
    # Those that share a connection; a busy machine may have cut off the first attempt.
    assert 1 <= proxy.accepted < COMMANDS
    await redis.close()


async def test_a_redis_that_refuses_connections_is_tried_once(proxy: Proxy) -> None:
    redis = quick(proxy, timeout=NEVER)  # it does not come to waiting
    proxy.set(Refuse())
    assert await ask(redis) is None
    proxy.set()
    assert await ask(redis) is None
    assert proxy.accepted == 0
    await redis.close()


async def test_no_request_waits_for_the_probe(proxy: Proxy) -> None:
    redis = quick(proxy, pause=0.01)
    proxy.set(BlackHole())
    assert await ask(redis) is None
    async with asyncio.timeout(300):
        while proxy.accepted < 3:  # it looks again and again by itself
            # Unavailable all the time, so that no request is used as the probe.
            assert redis.unavailable
            await asyncio.sleep(0)
    proxy.set()
    await until_back(redis)
    await redis.close()


@pytest.mark.parametrize("fault", [BlackHole(), BlackHole(direction=Direction.DOWN), Reset(), Refuse(), Latency(1.0)])
async def test_it_is_used_again_when_it_is_available(proxy: Proxy, fault: Fault) -> None:
    redis = quick(proxy, timeout=LONG, pause=0.01)
    assert await asyncio.gather(*(ask(redis) for _ in range(16))) == ["value"] * 16
    proxy.set(fault)
    slow = quick(proxy, timeout=0.05, pause=0.01)  # the other would be patient
    assert await ask(slow) is None
    proxy.set()
    await until_back(slow)
    await redis.close()
    await slow.close()


async def test_a_connection_on_which_a_command_failed_is_not_reused(proxy: Proxy) -> None:
    redis = quick(proxy, timeout=LONG)
    assert await ask(redis) == "value"
    assert proxy.connected == 1
    await fail(redis)
    async with asyncio.timeout(300):
        while proxy.connected:
            await asyncio.sleep(0.01)
    await redis.close()


async def test_it_returns_on_a_new_connection_when_the_old_one_stays_silent(redis_url: str) -> None:
    """A node that was lost behind a firewall: its connections never end and never answer."""
    silent: list[asyncio.StreamWriter] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        silent.append(writer)

    port = int(redis_url.rpartition(":")[2].partition("/")[0])
    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        listening = server.sockets[0].getsockname()[1]
        redis = FailFastRedis(f"redis://127.0.0.1:{listening}/0", timeout=0.05, pause=0.01, patience=0.05)
        assert await ask(redis) is None
        async with asyncio.timeout(300):
            while len(silent) < 3:  # each look opens one
                await asyncio.sleep(0.01)
        server.close()
    async with Proxy("127.0.0.1", port, port=listening):
        await until_back(redis)
    await redis.close()
    for writer in silent:
        writer.close()


async def test_a_new_connection_sends_nothing_before_the_first_command() -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read(100))
        writer.write(b"$5\r\nvalue\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        redis = FailFastRedis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0", timeout=LONG)
        assert await redis.run(lambda connection: connection.get("key")) == "value"
        assert heard.get_nowait() == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
        await redis.close()


async def test_a_busy_process_does_not_count_as_an_outage() -> None:
    timeout, loop = 2.0, asyncio.get_running_loop()

    async def get(nodes: RedisNodes) -> str:
        value = str(await nodes.get("key"))
        await asyncio.sleep(0)  # a reply can need more than one turn of the event loop, as behind TLS
        return value

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        redis = FailFastRedis(f"redis://127.0.0.1:{listening.getsockname()[1]}/0", timeout=timeout, pause=NEVER)
        asking = asyncio.create_task(redis.run(get))
        connection, _ = await loop.sock_accept(listening)
        with connection:
            assert await loop.sock_recv(connection, 100) == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
            connection.send(b"$5\r\nvalue\r\n")  # the answer is there, and the process does not look
            time.sleep(1.2 * timeout)  # noqa: ASYNC251
            assert await asking == "value"
    await redis.close()


@pytest.mark.parametrize(
    ("refuses", "heals", "says"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "read only replica"),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "OOM|used memory"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), ("CONFIG", "SET", "min-replicas-to-write", "0"), "replicas"),
        (("ACL", "SETUSER", "default", "-eval", "-evalsha"), ("ACL", "SETUSER", "default", "+@all"), "permission"),
        (("ACL", "SETUSER", "default", "resetkeys"), ("ACL", "SETUSER", "default", "~*"), "permission"),
    ],
    ids=["replica", "full", "too few replicas", "no scripts", "no keys"],
)
async def test_a_redis_that_refuses_writes_is_unavailable_and_does_not_flap(
    own_redis: str, refuses: tuple[str, ...], heals: tuple[str, ...], says: str
) -> None:
    heard: list[bool] = []
    operator = Redis.from_url(own_redis, decode_responses=True)
    redis = FailFastRedis(own_redis, timeout=LONG, pause=0.01, patience=LONG, changed=heard.append)
    await redis.check()
    assert heard == [True]
    with capture_logs() as said:
        await operator.execute_command(*refuses)  # type: ignore[no-untyped-call]
        with pytest.raises(RedisUnavailable, match=says):
            await redis.script("return redis.call('SET', KEYS[1], ARGV[1])", ["key"], ["value"])
        looks = await looked(operator)
        while await looked(operator) < looks + 5:  # it looks whether it is back
            assert redis.unavailable
            await asyncio.sleep(0.01)
        await operator.execute_command(*heals)  # type: ignore[no-untyped-call]
        await until_back(redis)
    assert [(line["log_level"], line["event"]) for line in said] == [
        ("warning", "redis.unavailable"),
        ("info", "redis.available"),
    ]
    assert re.search(says, said[0]["detail"])
    assert heard == [True, False, True]
    await redis.close()
    await operator.aclose()


async def looked(operator: Redis) -> int:
    """How often our connection has asked for the slots of a cluster, which it does at every look."""
    return int((await operator.info("commandstats")).get("cmdstat_cluster|slots", {}).get("calls", 0))


async def test_a_missing_password_is_found_at_the_start(own_redis: str) -> None:
    operator = Redis.from_url(own_redis, decode_responses=True)
    await operator.config_set("requirepass", "secret")
    redis = FailFastRedis(own_redis, timeout=LONG, pause=NEVER, patience=LONG)
    with capture_logs() as said:
        await redis.check()
    assert redis.unavailable
    assert [line["event"] for line in said] == ["redis.unavailable"]
    assert "Authentication required" in said[0]["detail"]
    await redis.close()
    await operator.aclose()


async def test_the_first_commands_find_open_connections(proxy: Proxy) -> None:
    """Opening one takes longer than a command may, where TLS is in between and cores are few."""
    redis = quick(proxy, timeout=LONG, patience=LONG)
    await redis.check()
    assert proxy.accepted == 1
    await asyncio.gather(*(ask(redis) for _ in range(16)))
    assert proxy.accepted == 1
    await redis.close()


async def test_a_redis_that_answers_with_errors_is_unavailable(redis_url: str) -> None:
    redis = FailFastRedis(redis_url, timeout=LONG, pause=0.01)
    await fail(redis)
    assert redis.unavailable
    await until_back(redis)
    await redis.close()


def test_three_workers_that_find_redis_hung_in_turn_cost_less_than_the_promised_0_3_s() -> None:
    assert WorkerSettings.model_fields["redis_timeout"].default == TIMEOUT
    assert 3 * TIMEOUT < 0.3
