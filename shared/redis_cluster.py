"""The servers behind one Redis address: a single server, or the nodes of a Redis Cluster.

A single server never answers MOVED, so a connection sends nothing before its first command. A cluster answers MOVED
when another node has the slot of a key; CLUSTER SLOTS then returns the node of every slot.

    command ──▶ the node that has the key's slot ──MOVED──▶ learn the slots ──▶ the node that has it now
                                                 ──ASK────▶ ASKING and the command, on one connection to the node
                                                            that is taking the slot over

Not redis-py's RedisCluster: docs/adr/0014-redis-cluster-through-a-router-of-our-own.md says why.
"""

import asyncio
import ipaddress
from typing import Any, Literal

from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands import AsyncCoreCommands
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError, ResponseError, TryAgainError

from shared.redis_multiplexed import Multiplexed

Address = tuple[str, int]

# While slots move, two nodes may redirect to each other; after this many redirections the slot counts as moving.
_REDIRECTIONS = 5
# Keys to try until every node has one of them. A node that has one slot in a thousand is found in nearly all cases.
_TRIED_KEYS = 8192


class RedisNodes(AsyncCoreCommands):
    """Runs each command on the node that has the slot of its key. All keys of one command must share a slot.

    Raises redis-py's errors; of a cluster's own `TryAgainError` while the slot is between two nodes.
    """

    _is_async_client: Literal[True] = True  # redis-py's own mark, by which type checkers choose its overloads

    def __init__(self, url: str) -> None:
        """`url`: of the server, or of any node of the cluster (Azure Managed Redis: its endpoint, port 10000)."""
        pool = ConnectionPool.from_url(
            url,
            decode_responses=True,
            # A connection that introduces itself needs three more round trips before its first command, and this
            # is the command's time.
            protocol=2,
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
        )
        # The caller keeps the time, whatever the URL says. Where redis-py keeps it, it sends with `wait_for`, which in
        # Python 3.11 can lose a cancellation (python/cpython#86296).
        pool.connection_kwargs |= {"socket_timeout": None, "socket_connect_timeout": None}
        self._connect = pool.connection_class
        self._options = dict(pool.connection_kwargs)
        self._entrance: Address = (str(self._options.get("host", "")), int(self._options.get("port", 0)))
        self._connections: dict[Address, Multiplexed] = {self._entrance: Multiplexed(pool)}
        self._readings = Redis.from_pool(pool).response_callbacks
        """How redis-py presents the reply to each command."""
        self._owners: list[Address] = []
        """The node of each slot; empty until a cluster is known."""
        self._by_name = False
        self._learned = 0
        self._asked = -1
        self._learning = asyncio.Lock()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The result of a command whose first argument is a key, of EVAL and EVALSHA, or of one without arguments."""
        slot = _slot_of(args)
        node, asking = self._owner(slot), False
        for _ in range(_REDIRECTIONS):
            learned = self._learned
            try:
                return await self._execute(node, args, options, asking=asking)
            except MovedError as moved:
                await self._learn_that(moved, node, learned)
                node, asking = self._owner(slot), False
            except AskError as ask:
                node, asking = self._reached(ask.host, ask.port, teller=node), True
        raise TryAgainError(f"slot {slot} is moving between nodes")

    async def learn(self) -> None:
        """Ask the nodes in turn which node has which slot, until one answers; a single server refuses the command.

        Raises the last `RedisError` or `OSError` when no node answers.
        """
        async with self._learning:
            known = list(self._connections)
            # Start with another node each time, because a silent one uses up the caller's time.
            self._asked = (self._asked + 1) % len(known)
            failure: Exception | None = None
            for address in known[self._asked :] + known[: self._asked]:
                try:
                    self._take(await self._slots_as_told_by(address), teller=address)
                    return
                except ResponseError:
                    self._owners = []
                    return
                except (RedisError, OSError) as error:
                    failure = error
            if failure is not None:
                raise failure

    def keys_on_every_node(self, prefix: str) -> list[str]:
        """Keys that begin with `prefix`, one on every node that has slots."""
        wanted = len(set(self._owners)) or 1
        found: dict[Address, str] = {}
        for number in range(_TRIED_KEYS):
            key = f"{prefix}:{number}"
            found.setdefault(self._owner(key_slot(key.encode())), key)
            if len(found) == wanted:
                break
        return list(found.values())

    @property
    def count(self) -> int:
        """The number of nodes that have slots; 1 for a single server."""
        return len(set(self._owners)) or 1

    async def forget_connections(self) -> None:
        """Close all connections; the next commands open new ones."""
        for connection in list(self._connections.values()):
            await connection.close()

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    # -- the node of a slot

    def _owner(self, slot: int) -> Address:
        return self._owners[slot] if self._owners else self._entrance

    async def _execute(
        self, address: Address, args: tuple[Any, ...], options: dict[str, Any], *, asking: bool = False
    ) -> Any:
        if address not in self._connections:
            host, port = address
            pool = ConnectionPool(connection_class=self._connect, **{**self._options, "host": host, "port": port})
            self._connections[address] = Multiplexed(pool)
        reply = await self._connections[address].execute(*args, asking=asking)
        options.pop("keys", None)  # for redis-py's own cache
        read = self._readings.get(args[0])
        return reply if read is None else read(reply, **options)

    async def _learn_that(self, moved: MovedError, teller: Address, learned: int) -> None:
        async with self._learning:
            if self._learned == learned:  # of many commands that are redirected at once, the first one asks
                self._take(await self._slots_as_told_by(teller), teller)
            # The node that answered may not know of the move yet.
            self._owners[moved.slot_id] = self._reached(moved.host, moved.port, teller)

    async def _slots_as_told_by(self, address: Address) -> list[Any]:
        slots: list[Any] = await self._execute(address, ("CLUSTER SLOTS",), {})
        return slots

    def _take(self, slots: list[Any], teller: Address) -> None:
        """`slots`: the answer to CLUSTER SLOTS, `[first, last, [host, port, …], …]` of each range."""
        told = {(str(node[0]), int(node[1])) for _, _, *nodes in slots for node in nodes}
        # Azure Managed Redis announces internal addresses, which no certificate names and which cannot be reached from
        # everywhere. Under the name of its endpoint, which its certificate is for, the port chooses the node.
        named = issubclass(self._connect, SSLConnection) and not _is_ip(self._entrance[0])
        self._by_name = named and len({port for _, port in told}) == len(told)
        owners = [self._entrance] * REDIS_CLUSTER_HASH_SLOTS  # it answers CLUSTERDOWN for a slot without a node
        for first, last, (host, port, *_), *_ in slots:
            owners[first : last + 1] = [self._reached(host, port, teller)] * (last + 1 - first)
        self._owners = owners
        self._learned += 1

    def _reached(self, host: str | None, port: int, teller: Address) -> Address:
        """The address of a node that `teller` announced as `host` and `port`; no host means the teller's."""
        if not host or host == "?":
            return teller[0], port
        if self._by_name and _is_ip(host):
            return self._entrance[0], port
        return host, port


def _slot_of(args: tuple[Any, ...]) -> int:
    """The hash slot of a command's keys; raises `ValueError` for keys in several slots, on a single server as well.

    A command without arguments may be answered by any node.
    """
    keys = args[3 : 3 + int(args[2])] if args[0] in ("EVAL", "EVALSHA") else args[1:2]
    slots = {key_slot(str(key).encode()) for key in keys} or {0}
    if len(slots) > 1:
        raise ValueError(f"keys in {len(slots)} slots of a Redis Cluster; put the common part into braces: {keys}")
    return slots.pop()


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
