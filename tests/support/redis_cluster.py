"""A Redis Cluster of two nodes with half the slots each: real servers on this machine, formed by hand."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from local.stack.redis import command
from tests.conftest import free_port

HALF = REDIS_CLUSTER_HASH_SLOTS // 2


@dataclass
class Node:
    """One server with the cluster's protocol switched on, which has no slots at first."""

    folder: Path
    announced: int | None = None
    """The port that clients are told, if it is another one than the server's own."""
    port: int = field(default_factory=free_port)
    bus: int = field(default_factory=free_port)
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = {"cluster-enabled": "yes", "cluster-port": self.bus, "cluster-announce-bus-port": self.bus}
        if self.announced is not None:
            options |= {"cluster-announce-port": self.announced}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [*command(self.port, self.folder), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: self.say("PING"))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def say(self, *words: Any) -> Any:
        """The node's answer to a command."""
        with Redis(port=self.port, decode_responses=True, socket_timeout=60) as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        return str(self.say("CLUSTER MYID"))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def has(self, key: str) -> bool:
        return key in self.say("KEYS", "*")


class Cluster:
    """Two nodes, and what an operator does to them."""

    def __init__(self, folder: Path, announced: tuple[int | None, int | None] = (None, None)) -> None:
        self.nodes = tuple(Node(folder / str(number), port) for number, port in enumerate(announced))

    @property
    def url(self) -> str:
        """Of the first node, which has the lower half of the slots."""
        return self.nodes[0].url

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first, second = self.nodes
        first.say("CLUSTER ADDSLOTSRANGE", 0, HALF - 1)
        second.say("CLUSTER ADDSLOTSRANGE", HALF, REDIS_CLUSTER_HASH_SLOTS - 1)
        first.say("CLUSTER SET-CONFIG-EPOCH", 1)
        second.say("CLUSTER SET-CONFIG-EPOCH", 2)
        first.say("CLUSTER MEET", "127.0.0.1", second.port, second.bus)
        self.until_whole()

    def until_whole(self) -> None:
        """Wait until both nodes say that every slot is served."""
        for node in self.nodes:
            until(lambda node=node: _is_whole(node.say("CLUSTER INFO")))

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def empty(self) -> None:
        for node in self.nodes:
            node.say("FLUSHALL")

    def owner(self, key: str) -> Node:
        """The node that has the slot of `key` according to both."""
        node: Node = next(node for node in self.nodes if _slots_of(node, key_slot(key.encode())) == node.id)
        return node

    def other(self, node: Node) -> Node:
        return self.nodes[1 - self.nodes.index(node)]

    def begin_move(self, key: str) -> tuple[Node, Node]:
        """Open the slot of `key` at the node that has it and at the other one, as the first step of a migration."""
        slot, source = key_slot(key.encode()), self.owner(key)
        target = self.other(source)
        target.say("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.say("CLUSTER SETSLOT", slot, "MIGRATING", target.id)
        return source, target

    def move(self, key: str) -> None:
        """Move the slot of `key`, with all its keys, to the other node."""
        slot, (source, target) = key_slot(key.encode()), self.begin_move(key)
        for found in source.say("CLUSTER GETKEYSINSLOT", slot, 1000):
            source.say("MIGRATE", "127.0.0.1", target.port, found, 0, 5000)
        for node in (target, source):
            node.say("CLUSTER SETSLOT", slot, "NODE", target.id)


@contextmanager
def running_cluster(folder: Path, announced: tuple[int | None, int | None] = (None, None)) -> Iterator[Cluster]:
    """A cluster whose slots are all served."""
    cluster = Cluster(folder, announced)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def until(what: Any, patience: float = 300) -> None:
    """Ask again until it is true; a server that does not answer yet is asked again too."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if what():
                return
        except RedisError:
            pass
        assert time.monotonic() < deadline, "the cluster was not ready in time"
        time.sleep(0.02)


def _is_whole(info: dict[str, str]) -> bool:
    return info["cluster_state"] == "ok" and int(info["cluster_slots_ok"]) == REDIS_CLUSTER_HASH_SLOTS


def _slots_of(node: Node, slot: int) -> str | None:
    return next((each[2][2] for each in node.say("CLUSTER SLOTS") if each[0] <= slot <= each[1]), None)
