"""One connection to a Redis server for the commands of all tasks.

    task 1 ──GET a──┐                                     ┌──▶ task 1
    task 2 ──GET b──┼──▶ connection ──▶ replies in order ─┼──▶ task 2
    task 3 ──GET c──┘                                     └──▶ task 3

A command is sent without waiting for the replies to those before it
(https://redis.io/docs/latest/develop/using-commands/pipelining/). A connection for each costs three times the CPU
(docs/adr/0020-redis-commands-share-a-connection.md).
redis-py's `Connection` connects (TLS, password, database), packs and parses; what is ours is the order.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

# Bytes of a command that is sent without a task of its own: sixty-four of them at once (`shared/redis.py`) do not fill
# asyncio's buffer of 64 KiB, so sending them does not wait.
SMALL = 1000


class Multiplexed:
    """Connects with the first command, and again with the first one after the connection is lost."""

    def __init__(self, pool: ConnectionPool) -> None:
        """`pool`: makes connections, and keeps none of them; raises `ValueError` when they have a `socket_timeout`."""
        if pool.connection_kwargs.get("socket_timeout", 0) is not None:
            # redis-py would then send in a task of its own, and not in the order of the calls.
            raise ValueError("a multiplexed connection needs socket_timeout=None")
        self._pool = pool
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Future[None]] = set()

    async def execute(self, *args: Any, asking: bool = False) -> Any:
        """The reply to one command; raises redis-py's errors, an error reply among them, and `OSError`.

        `asking`: with ASKING before it, which applies to the next command of its connection only. A task that is
        cancelled leaves its reply to be thrown away. When the connection is lost, every task that waits for a reply
        gets the error: its command may have been carried out.
        """
        connection = self._connection if self._connection is not None else await self._connect()
        loop = asyncio.get_running_loop()
        packed, replies = connection.pack_command(*args), [loop.create_future()]
        if asking:
            packed = [*connection.pack_command("ASKING"), *packed]
            replies.insert(0, _unread(loop.create_future()))
        if self._sending or sum(map(len, packed)) > SMALL:
            # It may have to wait for Redis to read. redis-py closes the connection if the task is cancelled meanwhile.
            sending = asyncio.create_task(self._send(connection, packed, replies))
            self._sending.add(_unread(sending))

            def sent(task: asyncio.Future[None]) -> None:
                self._sending.discard(task)
                if task.cancelled() and not replies[-1].done():  # before it began
                    _unread(replies[-1]).set_exception(RedisConnectionError("the connection was closed"))

            sending.add_done_callback(sent)
        else:
            await self._send(connection, packed, replies)
        return await replies[-1]

    async def _send(self, connection: AbstractConnection, packed: list[bytes], replies: list[Any]) -> None:
        if connection is not self._connection:
            if not replies[-1].done():
                _unread(replies[-1]).set_exception(RedisConnectionError("the connection was closed"))
            return
        # Until the commands are written nothing is awaited, so the order of the replies is that of `_waiting`.
        self._waiting.extend(replies)
        try:
            await connection.send_packed_command(packed, check_health=False)
        except BaseException as error:
            await self._lose(connection, error if isinstance(error, RedisError | OSError) else None)
            raise

    async def close(self) -> None:
        """Close the connection; commands that wait for a reply fail."""
        if self._connection is not None:
            await self._lose(self._connection, None)
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _connect(self) -> AbstractConnection:
        async with self._connecting:  # of the tasks that find none, one connects
            if self._connection is None:
                connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
                try:
                    await connection.connect()  # type: ignore[no-untyped-call]
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._connection = connection
                self._reading = asyncio.create_task(self._read(connection), name="redis: replies")
            return self._connection

    async def _read(self, connection: AbstractConnection) -> None:
        try:
            while True:
                try:
                    reply = await connection.read_response(disconnect_on_error=False)
                except ResponseError as refused:
                    reply = refused
                waiting = self._waiting.popleft()
                if waiting.done():
                    continue
                if isinstance(reply, ResponseError):
                    waiting.set_exception(reply)
                else:
                    waiting.set_result(reply)
        except (RedisError, OSError) as error:
            await self._lose(connection, error)
        except (ValueError, IndexError) as error:
            # A text that is not UTF-8, or a reply to no command: what follows cannot be told apart either.
            await self._lose(connection, RedisConnectionError(f"Redis sent a reply that cannot be read: {error!r}"))

    async def _lose(self, connection: AbstractConnection, error: Exception | None) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        for reply in self._waiting:
            if not reply.done():
                _unread(reply).set_exception(error or RedisConnectionError("the connection was closed"))
        self._waiting.clear()
        for sending in self._sending - {asyncio.current_task()}:
            sending.cancel()
        if self._reading is not None and self._reading is not asyncio.current_task():
            self._reading.cancel()
        with suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)


def _unread(reply: "asyncio.Future[Any]") -> "asyncio.Future[Any]":
    """`reply`, of which asyncio will not complain that nobody has read its error."""
    reply.add_done_callback(lambda done: done.cancelled() or done.exception())
    return reply
