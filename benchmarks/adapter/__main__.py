"""How fast a worker is on Service Bus: `python -m benchmarks.adapter`, 15 minutes; `--quick`, one.

Every lane runs the same stage in a process of its own: receive, 5 or 20 ms of work in one of 16 slots, send, settle. It
reaches a broker in another process through a proxy that delays. The lanes take turns in every round, so that a busy
machine slows all of them; what counts are the ratios of each round. `--shapes` adds 1, 2, 4 and 8 receivers, with and
without messages fetched ahead. Prints a markdown table, then all figures as one line of JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from statistics import median

from benchmarks.adapter.runs import Outcome, run
from benchmarks.adapter.stages import Load
from benchmarks.figures import Aim, Figure, number, table

LANES = ("naive", "concurrent", "ideal", "worker")
SHAPES = tuple(f"receivers-{count}-{prefetch}" for prefetch in (0, 15) for count in (1, 2, 4, 8))
SLOTS = 16
# About so long each lane is busy; so much faster than the naive one it may be.
SECONDS = 3.0
FASTER = {"naive": 1, "concurrent": 3}
MOST_FASTER = 24
_OVERHEAD = 0.006
NAMES = {"naive": "naive loop", "concurrent": "32 concurrent", "ideal": "best loop by hand", "worker": "worker"}
Results = dict[tuple[str, float, float], list[Outcome]]
"""By lane, round trip and work, one for each round."""


def main() -> None:
    """Measure and print."""
    options = _options()
    if sys.platform != "linux":
        raise SystemExit("the CPU clock of another process is read as Linux numbers it")
    lanes = (*LANES, *SHAPES) if options.shapes else LANES
    began = time.monotonic()
    results = asyncio.run(measure(lanes, options.round_trips, options.work, options.rounds))
    print(
        f"SDK {version('azure-servicebus')}, Python {platform.python_version()}, {os.cpu_count()} CPUs, load average "
        f"{os.getloadavg()[0]:.1f}, {SLOTS} slots; {time.monotonic() - began:.0f} s.\n"
    )
    shown = [
        figure
        for round_trip in options.round_trips
        for work in options.work
        for figure in figures({lane: results[lane, round_trip, work] for lane in lanes}, round_trip, work)
    ]
    print(table(shown))
    rows = [
        {"lane": lane, "round_trip": round_trip, "work": work, "rounds": [asdict(each) for each in outcomes]}
        for (lane, round_trip, work), outcomes in results.items()
    ]
    print(json.dumps({"bench": "adapter", "load_average": os.getloadavg()[0], "runs": rows}))


async def measure(lanes: Sequence[str], round_trips: Sequence[float], works: Sequence[float], rounds: int) -> Results:
    """Run every lane at every round trip with work of each length; in every other round in the opposite order."""
    results: Results = {}
    for turn in range(rounds):
        for round_trip in round_trips:
            for work in works:
                for lane in lanes if turn % 2 == 0 else lanes[::-1]:
                    # As many as keep the lane busy for a while: the naive one takes three round trips for each.
                    rate = FASTER.get(lane, MOST_FASTER) / (3 * round_trip + work + _OVERHEAD)
                    messages = max(12, int(SECONDS * min(rate, SLOTS / work)))
                    outcome = await run(lane, round_trip, Load(1, SLOTS, work), messages, alone=8)
                    results.setdefault((lane, round_trip, work), []).append(outcome)
    return results


def figures(found: dict[str, list[Outcome]], round_trip: float, work: float) -> list[Figure]:
    """What was measured at one round trip with work of one length."""
    at = f"at {1000 * round_trip:.0f} ms, work {1000 * work:.0f} ms"
    shown = [_ratio(found, "worker", other, at) for other in found if other != "worker"]
    for lane, outcomes in found.items():
        hops = [1000 * (outcome.hop - round_trip - work) for outcome in outcomes]
        note = (
            f"{number(median(outcome.cpu for outcome in outcomes))} µs CPU a message, "
            f"{outcomes[-1].connections} connections, idle {100 * median(outcome.idle for outcome in outcomes):.1f} % "
            f"of a core, a hop alone {number(median(hops))} ms beyond round trip and work"
        )
        shown.append(Figure(f"{_name(lane)} {at}", [outcome.rate for outcome in outcomes], "/s", None, note))
    everything = [outcome for outcomes in found.values() for outcome in outcomes]
    lost = [outcome.lost + outcome.doubled for outcome in found["worker"]]
    starved = [100 * outcome.starved for outcome in everything]
    shown.append(Figure(f"lost or doubled by the worker {at}", lost, "", Aim(0)))
    shown.append(Figure(f"without a processor {at}", starved, "%", None, "taken by other programs"))
    return shown


def _ratio(found: dict[str, list[Outcome]], one: str, other: str, at: str) -> Figure:
    values = [mine.rate / theirs.rate for mine, theirs in zip(found[one], found[other], strict=True)]
    aim = Aim(0.95, at_least=True) if other == "ideal" else None
    return Figure(f"{_name(one)} ÷ {_name(other)} {at}", values, "×", aim)


def _name(lane: str) -> str:
    if lane in NAMES:
        return NAMES[lane]
    _, count, prefetch = lane.split("-")
    return f"{count} receivers, prefetch {prefetch}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.adapter", description="How fast a worker is on Service Bus.")
    parser.add_argument("--quick", action="store_true", help="one round at 20 ms: a minute, if nothing else runs")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured (%(default)s)")
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0.002, 0.02, 0.1], metavar="SECONDS")
    parser.add_argument("--work", type=float, nargs="+", default=[0.005, 0.02], metavar="SECONDS")
    parser.add_argument("--shapes", action="store_true", help="also 1, 2, 4 and 8 receivers, with and without prefetch")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.round_trips, options.work = 1, [0.02], [0.005]
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


if __name__ == "__main__":
    main()
