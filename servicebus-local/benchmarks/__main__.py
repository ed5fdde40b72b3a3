"""What the local broker costs on this machine: `python -m benchmarks`, or with the parts that matter now.

The broker is a process of its own, the unmodified SDK runs in this one, and CPU is that of the processes, so waiting
costs nothing and a busy machine changes ratios little. Prints a markdown table.
"""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Collection
from importlib.metadata import version
from statistics import median

from benchmarks import footprint, process, queueing, traffic
from benchmarks.figures import Figure, table

PARTS = ("send", "receive", "batch", "concurrent", "start", "memory", "depth", "latency", "restart")
_THROUGH = 100_000


def main() -> None:
    """Measure and print."""
    options = _options()
    if sys.platform != "linux":
        raise SystemExit("the CPU clock of another process is read as Linux numbers it")
    if options.uvloop:
        process.find_installed()
    noise = _loops()
    figures = asyncio.run(measure(options.parts or PARTS, options.rounds, 1_000_000 if options.million else _THROUGH))
    noise += _loops()
    on = f"uvloop {version('uvloop')}" if options.uvloop else "the standard library alone"
    with_what = f"SDK {version('azure-servicebus')}, Python {platform.python_version()}, {os.cpu_count()} CPUs"
    print(f"Broker on {on}, {with_what}.")
    print(f"Noise: the same loop of {median(noise):.1f} ms took {min(noise):.1f} to {max(noise):.1f} ms.\n")
    print(table(figures))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description="What the local broker costs on this machine.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--rounds", type=int, default=7, help="how often each figure is measured (%(default)s)")
    parser.add_argument("--uvloop", action="store_true", help="let the broker use uvloop, which is installed here")
    parser.add_argument("--million", action="store_true", help="memory after a million messages: takes minutes")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


async def measure(parts: Collection[str], rounds: int, messages: int) -> list[Figure]:
    """Figures for these parts, in the order of the table."""
    figures: list[Figure] = []
    if {"send", "receive", "batch"} & set(parts):
        figures += await traffic.measure(parts, rounds)
    if "concurrent" in parts:
        figures += await traffic.concurrent(rounds)
    if "start" in parts:
        figures += footprint.start()
    if "memory" in parts:
        figures += await footprint.memory(rounds, messages)
    if "depth" in parts:
        figures += await queueing.depth(rounds)
    if "latency" in parts:
        figures += await queueing.latency(rounds)
    if "restart" in parts:
        figures += await footprint.restart()
    return figures


def _loops() -> list[float]:
    """Milliseconds of work that is always the same; how they differ is the machine's noise."""
    taken = []
    for _ in range(21):
        began = time.perf_counter()
        sum(range(300_000))
        taken.append(1000 * (time.perf_counter() - began))
    return taken


if __name__ == "__main__":
    main()
