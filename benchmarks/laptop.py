"""What the whole system costs on this machine: `python -m benchmarks.laptop`.

Starts it on free ports with an empty index, and prints seconds to the first cited answer, memory, idle CPU, and
how long an answer takes with and without the cache. One JSON line at the end.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from azure.servicebus.aio import ServiceBusClient

from local.stack import Stack
from local.stack.usage import cpu_seconds, resident
from ops.upstream import Upstream

QUESTION = "What are the core hours for remote workers?"
# Different words for each, so that none is answered from the cache.
TIMES = 20
IDLE = 20.0


async def measure() -> dict[str, float]:
    """All figures; seconds, megabytes, and percent of one core."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        async with Stack(Path(folder), ports="free") as stack:
            figures = {"ready_s": time.monotonic() - began}
            pids = [child.pid for child in stack.children.values()]
            async with (
                ServiceBusClient.from_connection_string(stack.connection_string) as bus,
                Upstream(bus) as app,
            ):
                await first_answer(app)
                figures["first_cited_answer_s"] = time.monotonic() - began
                figures["startup_cpu_s"] = cpu_seconds(pids)
                figures["answer_p50_ms"] = await p50(app, "miss")
                figures["cached_p50_ms"] = await p50(app, "hit")
            figures["memory_mb"] = resident(pids) / 1e6
            figures["idle_cpu_percent"] = await idle(pids)
    return figures


async def first_answer(app: Upstream) -> None:
    """Ask until the document is indexed; the cache is not read, or it would remember that it was not."""
    while not (await app.ask(QUESTION, cache="refresh")).get("citations"):
        await asyncio.sleep(0.05)


async def p50(app: Upstream, cache: str) -> float:
    """Median milliseconds from sending to receiving, one question after the other."""
    if cache == "hit":
        await app.ask(QUESTION)
    taken = []
    for number in range(TIMES):
        asked = time.perf_counter()
        answer = await app.ask(f"{QUESTION} ({number})" if cache == "miss" else QUESTION)
        taken.append(time.perf_counter() - asked)
        if answer["cache"] != cache:
            raise SystemExit(f"expected a cache {cache}, got {answer['cache']}")
    return statistics.median(taken) * 1000


async def idle(pids: list[int]) -> float:
    """CPU of all processes while nothing is asked, in percent of one core."""
    await asyncio.sleep(5)
    before, began = cpu_seconds(pids), time.monotonic()
    await asyncio.sleep(IDLE)
    return 100 * (cpu_seconds(pids) - before) / (time.monotonic() - began)


def main() -> None:
    """Measure and print."""
    figures = asyncio.run(measure())
    for name, value in figures.items():
        print(f"{name:24}{value:10.1f}")
    about = {"python": sys.version.split()[0], "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"name": "laptop", **{name: round(value, 2) for name, value in figures.items()}, **about}))


if __name__ == "__main__":
    main()
