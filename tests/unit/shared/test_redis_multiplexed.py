"""One connection for all tasks: each gets the reply to its own command, also when others leave or it ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from shared.redis_multiplexed import Multiplexed

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def a_pool(url: str, **options: Any) -> ConnectionPool:
    return ConnectionPool.from_url(url, decode_responses=True, protocol=2, driver_info=None, **options)


@asynccontextmanager
async def connection_to(serve: Handler) -> AsyncIterator[Multiplexed]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        made = Multiplexed(a_pool(f"redis://127.0.0.1:{port}", socket_timeout=None))
        async with asyncio.timeout(300):
            yield made
        await made.close()


async def commands(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    """The argument of each `ECHO`, as redis-py writes it."""
    while line := await reader.readline():
        assert line == b"*2\r\n"
        await reader.readline()
        assert await reader.readline() == b"ECHO\r\n"
        await reader.readline()
        yield (await reader.readline()).decode().strip()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers in order; `-…` as an error."""
    async for said in commands(reader):
        writer.write(f"{said}\r\n".encode() if said.startswith("-") else f"+{said}\r\n".encode())
    writer.close()


async def test_each_task_gets_the_reply_to_its_own_command() -> None:
    async with connection_to(echo) as redis:
        said = [str(number) for number in range(200)]
        assert await asyncio.gather(*(redis.execute("ECHO", each) for each in said)) == said


async def test_an_error_is_for_the_task_that_made_it() -> None:
    async with connection_to(echo) as redis:
        got = await asyncio.gather(
            *(redis.execute("ECHO", each) for each in ("a", "-ERR no", "b")), return_exceptions=True
        )
        assert (got[0], got[2]) == ("a", "b")
        assert isinstance(got[1], ResponseError)


async def test_the_reply_to_a_task_that_left_reaches_no_other() -> None:
    go_on, received = asyncio.Event(), asyncio.Event()

    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async for said in commands(reader):
            received.set()
            await go_on.wait()
            writer.write(f"+{said}\r\n".encode())
        writer.close()

    async with connection_to(later) as redis:
        leaving = asyncio.create_task(redis.execute("ECHO", "left"))
        await received.wait()
        staying = asyncio.create_task(redis.execute("ECHO", "stays"))
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        go_on.set()
        assert await staying == "stays"
        assert leaving.cancelled()


async def test_a_task_that_leaves_while_it_sends_takes_nobody_along() -> None:
    go_on, large = asyncio.Event(), "x" * 12_000_000

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        rest = b""
        while block := await reader.read(1 << 20):
            rest = rest[-100:] + block
            if rest.endswith(b"stays\r\n"):
                writer.write(b"+left\r\n+stays\r\n")
        writer.close()

    async with connection_to(late) as redis:
        leaving = asyncio.create_task(redis.execute("ECHO", large))
        while not redis._sending:
            await asyncio.sleep(0)
        staying = asyncio.create_task(redis.execute("ECHO", "stays"))
        for _ in range(5):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        go_on.set()
        assert await staying == "stays"


async def test_all_who_wait_are_told_when_the_connection_ends_and_the_next_one_connects_anew() -> None:
    met = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met
        met += 1
        if met > 1:
            return await echo(reader, writer)
        received = commands(reader)
        await anext(received)
        await anext(received)
        writer.write(b"+one\r\n")  # and half of nothing
        writer.close()
        return None

    async with connection_to(serve) as redis:
        first, second = await asyncio.gather(
            *(redis.execute("ECHO", each) for each in ("one", "two")), return_exceptions=True
        )
        assert first == "one"
        assert isinstance(second, RedisConnectionError)
        assert await redis.execute("ECHO", "three") == "three"
        assert met == 2


async def test_a_reply_that_cannot_be_read_ends_the_wait_of_all() -> None:
    met = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met
        met += 1
        if met > 1:
            return await echo(reader, writer)
        received = commands(reader)
        await anext(received)
        await anext(received)
        writer.write(b"+\xff\r\n+two\r\n")
        await reader.read()
        return writer.close()

    async with connection_to(serve) as redis:
        got = await asyncio.gather(*(redis.execute("ECHO", each) for each in ("one", "two")), return_exceptions=True)
        assert [type(each) for each in got] == [RedisConnectionError, RedisConnectionError]
        assert await redis.execute("ECHO", "three") == "three"


async def test_closing_ends_the_wait() -> None:
    received = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await anext(commands(reader))
        received.set()
        await reader.read()
        writer.close()

    async with connection_to(silent) as redis:
        asking = asyncio.create_task(redis.execute("ECHO", "x"))
        await received.wait()
        await redis.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await asking


async def test_a_task_that_leaves_while_it_connects_leaves_no_trace() -> None:
    async with connection_to(echo) as redis:
        leaving = asyncio.create_task(redis.execute("ECHO", "left"))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert await redis.execute("ECHO", "next") == "next"


def test_commands_that_redis_py_sends_in_tasks_of_their_own_are_refused() -> None:
    for options in ({}, {"socket_timeout": 5}):
        with pytest.raises(ValueError, match="socket_timeout"):
            Multiplexed(a_pool("redis://127.0.0.1:1", **options))
