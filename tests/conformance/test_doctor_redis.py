"""`ragbus doctor` on a real Redis: it writes to every node, as the workers do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from ops.checks.redis import redis
from ops.findings import Finding, Level
from ops.target import Target
from tests.conftest import running_redis
from tests.support.redis_cluster import Node, running_cluster


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[str]:
    """A Redis for this test alone."""
    with running_redis(tmp_path) as url:
        yield url


def doctor(url: str) -> Finding:
    [found] = redis(Target({"RAGBUS_REDIS_URL": url}, "this test"))
    return found


def test_a_redis_that_accepts_writes_passes(own_redis: str) -> None:
    found = doctor(own_redis)
    assert (found.level, found.fix) == (Level.OK, "")
    assert "alkey" in found.said or "Redis" in found.said


@pytest.mark.parametrize(
    ("refuses", "fix"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), "primary"),
        (("CONFIG", "SET", "maxmemory", "1"), "memory"),
        (("CONFIG", "SET", "requirepass", "secret"), "password"),
        (("ACL", "SETUSER", "default", "-@scripting"), "scripts"),
    ],
    ids=["replica", "full", "no password", "no scripts"],
)
def test_a_redis_that_refuses_writes_fails(own_redis: str, refuses: tuple[str, ...], fix: str) -> None:
    with Redis.from_url(own_redis) as operator:
        operator.execute_command(*refuses)
    found = doctor(own_redis)
    assert found.level is Level.FAIL
    assert fix in found.fix


def test_a_cluster_passes_when_every_node_accepts_writes(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        assert "a cluster of 2 nodes" in doctor(cluster.url).said
        cluster.nodes[1].kill()
        assert doctor(cluster.url).level is Level.FAIL


def test_a_cluster_without_all_slots_fails(tmp_path: Path) -> None:
    node = Node(tmp_path / "node")
    try:
        node.start()
        found = doctor(node.url)
        assert (found.level, found.fix) == (Level.FAIL, "assign every hash slot of the cluster to a node")
    finally:
        node.kill()
