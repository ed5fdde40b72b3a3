"""What peers without a key cost the HTTP endpoint: `python -m benchmarks.http_endpoint [--plain] [--tree FOLDER]…`.

Starts the whole system, then for each attack a fresh gateway beside it, and prints the gateway's memory and CPU and
how long a caller with a key waits for a cached answer meanwhile: on a connection that it keeps, and on a new one each
time. `--tree` runs the gateway of another checkout, with its own .venv if it has one (before and after, in one run).
The peers are processes of this machine and take their share of its cores: with `--plain`, the same attacks on a
process that throws everything away show what that alone costs the caller. One JSON line at the end.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from local.stack import Stack
from local.stack.usage import cpu_seconds, resident

QUESTION = "What are the core hours for remote workers?"
KEY = {"Authorization": "Bearer laptop-key-welcome-app"}
CONNECTIONS = 4_000
BODY = 122 * 1024
# The caller's pause between two asks, and how long an attack is watched.
PAUSE = 0.01
SECONDS = 8.0

HALF_BODY = b"POST /v1/onboarding/ask HTTP/1.1\r\nHost: x\r\nContent-Length: 131000\r\n\r\n" + b"x" * BODY
MANY_HEADERS = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: bcde\r\n" * 5_500 + b"\r\n"
WRONG_KEY = b"GET /v1/requests/r1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n"


# -- the peers without a key


async def hold(port: int, first: bytes, later: bytes, *, again: bool) -> None:
    """Hold `CONNECTIONS` connections that sent `first`, and send `later` now and then; `again`: replace lost ones."""

    async def one() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(first)
                while not reader.at_eof():
                    writer.write(later)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(65_536), 2)
                writer.close()
            if not again:
                return
            await asyncio.sleep(5)

    tasks = []
    for number in range(CONNECTIONS):
        tasks.append(asyncio.create_task(one()))
        if number % 20 == 0:
            await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)
    await asyncio.Event().wait()


async def repeat(port: int, request: bytes, senders: int) -> None:
    """`senders` peers that send `request` again as soon as they have an answer."""

    async def one() -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                await reader.read(65_536)
                writer.close()

    await asyncio.gather(*(one() for _ in range(senders)))


ATTACKS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
    "half bodies": lambda port: hold(port, HALF_BODY, b"", again=False),
    "half bodies, again": lambda port: hold(port, HALF_BODY, b"", again=True),
    "slow headers": lambda port: hold(port, b"GET / HTTP/1.1\r\n", b"X: y\r\n", again=True),
    "nothing sent": lambda port: hold(port, b"", b"", again=True),
    "5,500 headers": lambda port: repeat(port, MANY_HEADERS, 8),
    "wrong keys": lambda port: repeat(port, WRONG_KEY, 64),
}


# -- the caller with a key


class Gateway:
    """A fresh gateway of a checkout."""

    def __init__(self, tree: Path, stack: Stack) -> None:
        self.port, health = _free(), _free()
        self._health = f"http://127.0.0.1:{health}/connected"
        own = {"RAGBUS_HTTP_PORT": str(self.port), "RAGBUS_HEALTH_PORT": str(health)}
        self._environment = {**os.environ, **stack.env("gateway"), **own, "RAGBUS_LOG_LEVEL": "error"}
        python = tree.resolve() / ".venv/bin/python"
        self._python = str(python) if python.exists() else sys.executable
        self._tree = tree

    async def __aenter__(self) -> "Gateway":
        self._process = await asyncio.create_subprocess_exec(
            self._python, "-m", "services.gateway", cwd=self._tree, env=self._environment
        )
        self.pid = self._process.pid
        async with httpx.AsyncClient() as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(self._health)).status_code == 200:
                        return self
                await asyncio.sleep(0.1)

    async def __aexit__(self, *_: object) -> None:
        self._process.kill()
        await self._process.wait()


async def asked(gateway: Gateway, client: httpx.AsyncClient) -> float:
    """Milliseconds until the cached answer."""
    began = time.perf_counter()
    url = f"http://127.0.0.1:{gateway.port}/v1/onboarding/ask"
    reply = await client.post(url, json={"question": QUESTION}, params={"wait": 30}, headers=KEY)
    if reply.status_code != 200:
        raise SystemExit(f"{reply.status_code}: {reply.text}")
    return (time.perf_counter() - began) * 1000


async def watch(gateway: Gateway) -> dict[str, float]:
    """What a caller and the gateway's process see for `SECONDS`."""
    kept: list[float] = []
    new: list[float] = []
    memory, cpu, began = 0.0, cpu_seconds([gateway.pid]), time.monotonic()
    async with httpx.AsyncClient(timeout=60) as client:
        while time.monotonic() < began + SECONDS:
            kept.append(await asked(gateway, client))
            async with httpx.AsyncClient(timeout=60) as another:
                new.append(await asked(gateway, another))
            memory = max(memory, resident([gateway.pid]) / 1e6)
            await asyncio.sleep(PAUSE)
    return {
        "kept_p50_ms": statistics.median(kept),
        "kept_p95_ms": statistics.quantiles(kept, n=20)[-1],
        "new_p50_ms": statistics.median(new),
        "new_p95_ms": statistics.quantiles(new, n=20)[-1],
        "asks": len(kept) + len(new),
        "memory_mb": memory,
        "cpu_percent": 100 * (cpu_seconds([gateway.pid]) - cpu) / (time.monotonic() - began),
    }


async def under(attack: str, port: int, gateway: Gateway) -> dict[str, float]:
    """The same while `attack` goes on against `port`."""
    attacker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.http_endpoint", "--attack", attack, "--port", str(port)
    )
    try:
        return await watch(gateway)
    finally:
        attacker.kill()
        await attacker.wait()


async def elsewhere(attack: str, gateway: Gateway) -> dict[str, float]:
    """The same while `attack` goes on against a process that reads, throws away and closes."""
    port = _free()
    sink = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.http_endpoint", "--sink", "--port", str(port)
    )
    try:
        return await under(attack, port, gateway)
    finally:
        sink.kill()
        await sink.wait()


async def throw_away(port: int) -> None:
    """A server that knows nothing of HTTP."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                while await reader.read(65_536):
                    pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def measure(trees: list[Path], attacks: list[str], plain: bool) -> list[dict[str, Any]]:
    """Every attack on the gateway of every tree."""
    rows: list[dict[str, Any]] = []

    def show(tree: Path, attack: str, figures: dict[str, float]) -> None:
        rows.append({"tree": str(tree), "attack": attack, **{name: round(value, 1) for name, value in figures.items()}})
        print(f"{tree!s:28} {attack:30}" + "".join(f"{value:13.1f}" for value in figures.values()), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder), ports="free") as stack, httpx.AsyncClient(timeout=60) as client:
            url = f"{stack.gateway_url}/v1/onboarding/ask"
            body = {"question": QUESTION, "cache": "refresh"}
            while not (await client.post(url, json=body, params={"wait": 30}, headers=KEY)).json().get("citations"):
                await asyncio.sleep(0.2)
            titles = ("kept p50 ms", "kept p95 ms", "new p50 ms", "new p95 ms", "asks", "memory MB", "CPU %")
            print(f"{'gateway of':28} {'attack':30}" + "".join(f"{title:>13}" for title in titles))
            for tree in trees:
                async with Gateway(tree, stack) as gateway:
                    await watch(gateway)  # warm up
                    show(tree, "none", await watch(gateway))
                    for attack in attacks if plain else ():
                        show(tree, f"{attack}, elsewhere", await elsewhere(attack, gateway))
                for attack in attacks:
                    async with Gateway(tree, stack) as gateway:
                        await asked(gateway, client)
                        show(tree, attack, await under(attack, gateway.port, gateway))
    return rows


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Measure and print, or be the attacker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout whose gateway is measured; default: .")
    parser.add_argument("--only", action="append", choices=ATTACKS, help="this attack; default: all")
    parser.add_argument("--plain", action="store_true", help="the same attacks elsewhere, too")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--attack", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * CONNECTIONS)), hard))
    if options.attack:
        asyncio.run(ATTACKS[options.attack](options.port))
        return
    if options.sink:
        asyncio.run(throw_away(options.port))
        return
    trees = options.tree or [Path()]
    rows = asyncio.run(measure(trees, options.only or list(ATTACKS), options.plain))
    about = {"python": sys.version.split()[0], "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"name": "http_endpoint", "rows": rows, **about}))


if __name__ == "__main__":
    main()
