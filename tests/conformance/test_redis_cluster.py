"""A real Redis Cluster of two nodes: the client finds the node of a key, follows moving slots, and survives a node."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from services.gateway.expired_dead_letters import CURSOR
from shared.redis import COMMANDS, FailFastRedis, RedisUnavailable
from shared.worker.shared_breaker import Circuit, SharedBreaker
from tests.conftest import free_port
from tests.support.redis_cluster import Cluster, Node, running_cluster, until

# So long that only a real outage uses it up, on the busiest machine.
LONG = 60.0
# Keys on both nodes, of one slot each.
KEYS = [f"{{{number}}}" for number in range(40)]
# Reads one key and writes another of the same slot, as the workers' scripts do.
SCRIPT = "redis.call('SET', KEYS[2], ARGV[1]) return redis.call('GET', KEYS[1])"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(running: Cluster) -> Iterator[Cluster]:
    """An empty cluster."""
    running.empty()
    yield running
    running.until_whole()


@pytest.fixture
async def redis(cluster: Cluster) -> AsyncIterator[FailFastRedis]:
    """Our client, which is given the address of one node."""
    async with quick(cluster.nodes[1].url) as made:
        yield made


@asynccontextmanager
async def quick(url: str, pause: float = 0.01) -> AsyncIterator[FailFastRedis]:
    made = FailFastRedis(url, timeout=LONG, pause=pause, patience=LONG)
    try:
        yield made
    finally:
        await made.close()


async def write(redis: FailFastRedis, key: str, value: str = "1") -> None:
    await redis.run(lambda nodes: nodes.set(key, value))


async def read(redis: FailFastRedis, key: str) -> str:
    return str(await redis.run(lambda nodes: nodes.get(key)))


async def until_it_is_back(redis: FailFastRedis) -> None:
    async with asyncio.timeout(300):
        while redis.unavailable:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("told_of", [0, 1])
async def test_every_key_is_on_the_node_that_has_its_slot(cluster: Cluster, told_of: int) -> None:
    async with quick(cluster.nodes[told_of].url) as redis:
        await asyncio.gather(*(write(redis, key, key) for key in KEYS))
        assert await asyncio.gather(*(read(redis, key) for key in KEYS)) == KEYS
        assert await asyncio.gather(*(redis.script(SCRIPT, [key, f"{key}:b"], ["x"]) for key in KEYS)) == KEYS
    assert all(cluster.owner(key).has(key) for key in KEYS)
    assert {cluster.owner(key).port for key in KEYS} == {node.port for node in cluster.nodes}


async def test_replicas_share_a_breaker_and_a_cursor_wherever_their_slots_are(cluster: Cluster) -> None:
    async with quick(cluster.nodes[0].url) as one, quick(cluster.nodes[1].url) as other:
        for queue in ("retrieve", "generate", "blob-events"):
            breaker = SharedBreaker(one, queue)
            for _ in range(breaker.rules.threshold):
                await breaker.failed("down")
            assert await SharedBreaker(other, queue).ask() is Circuit.OPEN
        await write(one, CURSOR, "42")
        assert await read(other, CURSOR) == "42"


async def test_a_script_whose_keys_are_in_two_slots_is_a_bug_on_any_server(redis_url: str) -> None:
    async with quick(redis_url) as redis:
        with pytest.raises(ValueError, match="2 slots"):
            await redis.script(SCRIPT, ["{a}:1", "{b}:1"], ["x"])
        assert not redis.unavailable


async def test_a_slot_that_has_moved_is_found_again(cluster: Cluster, redis: FailFastRedis) -> None:
    await asyncio.gather(*(write(redis, key, key) for key in KEYS))
    before = {key: cluster.owner(key).port for key in KEYS[:6]}
    for key in before:
        cluster.move(key)
    with capture_logs() as said:
        assert await asyncio.gather(*(read(redis, key) for key in KEYS)) == KEYS
        await asyncio.gather(*(write(redis, key, "new") for key in KEYS))
    assert said == []
    for key, port in before.items():
        assert cluster.owner(key).port != port
        assert cluster.owner(key).has(key)
        cluster.move(key)


async def test_work_goes_on_while_a_slot_moves(cluster: Cluster, redis: FailFastRedis) -> None:
    """Many at once, so that ASKING and its command have to stay together."""
    await asyncio.gather(*(write(redis, key) for key in KEYS))
    source, target = cluster.begin_move("{x}")
    new = [f"{{x}}:{number}" for number in range(2 * COMMANDS)]
    await asyncio.gather(*(write(redis, key, key) for key in new), *(write(redis, key) for key in KEYS))
    assert await asyncio.gather(*(read(redis, key) for key in new)) == new
    assert await redis.script("return redis.call('INCR', KEYS[1])", ["{x}:counter"], []) == 1
    assert all(target.has(key) for key in new)
    end_move(source, target, "{x}")
    assert await asyncio.gather(*(read(redis, key) for key in new)) == new
    cluster.move("{x}")


async def test_only_keys_between_two_nodes_are_unavailable(cluster: Cluster, redis: FailFastRedis) -> None:
    await write(redis, "{y}:a", "a")
    source, target = cluster.begin_move("{y}")
    source.say("MIGRATE", "127.0.0.1", target.port, "{y}:a", 0, 5000)
    await write(redis, "{y}:b", "b")
    with pytest.raises(RedisUnavailable, match="Multiple keys request during rehashing"):
        await redis.script(SCRIPT, ["{y}:a", "{y}:not-there"], ["x"])
    assert not redis.unavailable
    await asyncio.gather(*(write(redis, key) for key in KEYS))
    end_move(source, target, "{y}")
    assert await redis.script(SCRIPT, ["{y}:a", "{y}:not-there"], ["x"]) == "a"
    cluster.move("{y}")


def end_move(source: Node, target: Node, key: str) -> None:
    slot = source.say("CLUSTER KEYSLOT", key)
    for node in (target, source):
        node.say("CLUSTER SETSLOT", slot, "NODE", target.id)


async def test_a_node_that_fails_under_load_costs_no_answer_and_is_used_again_when_it_is_back(
    cluster: Cluster, redis: FailFastRedis
) -> None:
    await asyncio.gather(*(write(redis, key) for key in KEYS))
    ended: list[bool] = []

    async def load() -> None:
        for turn in range(20):
            for key in KEYS:
                try:
                    await write(redis, key, str(turn))
                    ended.append(True)
                except RedisUnavailable:
                    ended.append(False)

    with capture_logs() as said:
        working = [asyncio.create_task(load()) for _ in range(4)]
        while len(ended) < len(KEYS):
            await asyncio.sleep(0)
        cluster.nodes[1].kill()
        await asyncio.gather(*working)
        assert ended.count(True) >= len(KEYS)
        assert ended.count(False) > 0
        assert redis.unavailable
        cluster.nodes[1].start()
        await until_it_is_back(redis)
    assert [line["event"] for line in said] == ["redis.unavailable", "redis.available"]
    await asyncio.gather(*(write(redis, key) for key in KEYS))


async def test_a_replica_that_takes_over_is_found_through_the_remaining_nodes(tmp_path: Path) -> None:
    replica = Node(tmp_path / "replica")
    with running_cluster(tmp_path) as cluster:
        first, second = cluster.nodes
        try:
            replica.start()
            second.say("CONFIG", "SET", "repl-diskless-sync-delay", 0)
            replica.say("CLUSTER MEET", "127.0.0.1", second.port, second.bus)
            until(lambda: replica.say("CLUSTER REPLICATE", second.id))
            until(lambda: len(first.say("CLUSTER SLOTS")[1]) == 4)  # the cluster knows it
            async with quick(second.url) as redis:
                await redis.check()
                await asyncio.gather(*(write(redis, key) for key in KEYS))
                second.kill()
                with pytest.raises(RedisUnavailable):
                    await asyncio.gather(*(write(redis, key) for key in KEYS))
                replica.say("CLUSTER FAILOVER", "TAKEOVER")
                await until_it_is_back(redis)
                await asyncio.gather(*(write(redis, key) for key in KEYS))
                assert replica.say("DBSIZE") > 0
        finally:
            replica.kill()


async def test_a_cluster_without_all_slots_is_unavailable_until_it_has_them(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    try:
        node.start()
        with capture_logs() as said:
            async with quick(node.url) as redis:
                await redis.check()
                assert redis.unavailable
                with pytest.raises(RedisUnavailable, match="Hash slot not served"):
                    await read(redis, "key")
                node.say("CLUSTER ADDSLOTSRANGE", 0, 16383)
                await until_it_is_back(redis)
                await write(redis, "key")
        assert [line["event"] for line in said] == ["redis.unavailable", "redis.available"]
    finally:
        node.kill()


# -- as Azure Managed Redis has it: TLS with a certificate for one name, nodes announced by address and port


async def test_nodes_announced_by_address_are_reached_by_the_name_in_their_certificate(
    tmp_path: Path,
) -> None:
    authority, context = a_certificate(tmp_path)
    ports = free_port(), free_port()
    with running_cluster(tmp_path, announced=ports) as cluster:
        for node in cluster.nodes:
            assert [each[2][0] for each in node.say("CLUSTER SLOTS")] == ["127.0.0.1", "127.0.0.1"]
        async with (
            tls(ports[0], cluster.nodes[0].port, context),
            tls(ports[1], cluster.nodes[1].port, context),
            quick(f"rediss://localhost:{ports[0]}/0?ssl_ca_certs={authority}") as redis,
        ):
            with capture_logs() as said:
                await redis.check()
                await asyncio.gather(*(write(redis, key, key) for key in KEYS))
                cluster.move(KEYS[0])  # MOVED names an address too
                assert await asyncio.gather(*(read(redis, key) for key in KEYS)) == KEYS
            assert said == []
            async with quick(f"rediss://127.0.0.1:{ports[0]}/0?ssl_ca_certs={authority}") as unnamed:
                with pytest.raises(RedisUnavailable, match="certificate"):
                    await read(unnamed, KEYS[0])


def a_certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """One for `localhost`, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, secret = folder / "authority.pem", folder / "key.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, secret)
    return authority, context


@asynccontextmanager
async def tls(port: int, behind: int, context: ssl.SSLContext) -> AsyncIterator[None]:
    """A server that takes TLS off and hands on; the wheel's Valkey has none."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(carry(reader, inner_writer), carry(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    try:
        yield
    finally:
        server.close()
