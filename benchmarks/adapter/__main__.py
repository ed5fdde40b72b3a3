"""How fast the Service Bus adapter is: `python -m benchmarks.adapter`, eight minutes; `--quick`, one.

Every lane runs the same three stages in one process, and reaches a broker in another through a proxy that delays. The
lanes take turns in every round, so that a busy machine slows all of them; what is shown are the ratios of each round.
Prints a markdown table, then all figures as one line of JSON.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from statistics import median

from benchmarks.adapter.runs import Outcome, run
from benchmarks.adapter.stages import QUEUES, Load
from benchmarks.figures import Aim, Figure, number, table

LANES = ("naive", "concurrent", "ideal", "adapter", "ours")
PIPELINE = Load(stages=len(QUEUES) - 1, slots=64, work=0.0)
# 16 slots of 50 ms are 320 messages a second, whatever the machine; one stage, or that would be its CPU.
SHAPE = Load(stages=1, slots=16, work=0.05)
SHAPE_MESSAGES = 480
# About so long each lane is busy; how much faster than the naive one it may be.
SECONDS = 2.0
FASTER = {"naive": 1, "concurrent": 2, "ideal": 3, "adapter": 100, "ours": 100, "public": 2}
MOST = 1500
_OVERHEAD = 0.006
NAMES = {
    "naive": "naive",
    "concurrent": "32 concurrent",
    "ideal": "ideal",
    "adapter": "adapter",
    "ours": "adapter and worker",
    "public": "them without the pump",
}

Results = dict[tuple[str, float], list[Outcome]]
"""By lane and round trip, one for each round."""


def main() -> None:
    """Measure and print."""
    options = _options()
    if sys.platform != "linux":
        raise SystemExit("the CPU clock of another process is read as Linux numbers it")
    lanes = (*LANES, "public") if options.public else LANES
    load = Load(PIPELINE.stages, options.slots, PIPELINE.work)
    began = time.monotonic()
    results, shapes = asyncio.run(measure(lanes, options.round_trips, options.rounds, load))
    print(
        f"SDK {version('azure-servicebus')}, Python {platform.python_version()}, {os.cpu_count()} CPUs, load average "
        f"{os.getloadavg()[0]:.1f}, {load.slots} slots; {time.monotonic() - began:.0f} s.\n"
    )
    print(table([*figures(results, options.round_trips, lanes), *shape_figures(shapes)]))
    print(json.dumps(_as_json(results, shapes)))


async def measure(
    lanes: tuple[str, ...], round_trips: list[float], rounds: int, load: Load
) -> tuple[Results, dict[str, list[Outcome]]]:
    """Run every lane at every round trip, and the shape; in every other round in the opposite order."""
    results: Results = {}
    shapes: dict[str, list[Outcome]] = {}
    for turn in range(rounds):
        order = lanes if turn % 2 == 0 else lanes[::-1]
        for round_trip in round_trips:
            for lane in order:
                outcome = await run(lane, round_trip, load, _messages(lane, round_trip), alone=8)
                results.setdefault((lane, round_trip), []).append(outcome)
        for lane in ("ideal", "ours"):
            shapes.setdefault(lane, []).append(await run(lane, 0.0, SHAPE, SHAPE_MESSAGES, alone=0))
    return results, shapes


def _messages(lane: str, round_trip: float) -> int:
    """As many as keep the lane busy for a while: the naive one takes three round trips for each."""
    naive = SECONDS / (3 * round_trip + _OVERHEAD)
    return min(MOST, max(12, int(naive * FASTER[lane])))


# --------------------------------------------------------------------------- figures


def figures(results: Results, round_trips: list[float], lanes: tuple[str, ...]) -> list[Figure]:
    """All ratios, by round trip; the goals are those of 20 ms."""
    return [figure for round_trip in round_trips for figure in _at(results, round_trip, lanes)]


def _at(results: Results, round_trip: float, lanes: tuple[str, ...]) -> list[Figure]:
    at = f"at {1000 * round_trip:.0f} ms"
    goal = round_trip == 0.02
    found = {lane: results[lane, round_trip] for lane in lanes}

    def ratio(of: tuple[str, str], measure: Callable[[Outcome], float], unit: str, aim: Aim | None = None) -> Figure:
        pairs = list(zip(found[of[0]], found[of[1]], strict=True))
        mine, other = (median(measure(pair[side]) for pair in pairs) for side in (0, 1))
        name = f"{NAMES[of[0]]} ÷ {NAMES[of[1]]} {at}" + (", CPU" if measure is _cpu else "")
        values = [measure(one) / measure(two) for one, two in pairs]
        return Figure(name, values, "×", aim if goal else None, f"{number(mine)} against {number(other)} {unit}")

    def hop(lane: str) -> list[float]:
        return [1000 * (outcome.hop - round_trip) for outcome in found[lane]]

    both = [*found["adapter"], *found["ours"]]
    starved = [100 * outcome.starved for outcome in both]
    shown = [
        ratio(("adapter", "naive"), _rate, "requests/s", Aim(25, at_least=True)),
        ratio(("adapter", "concurrent"), _rate, "requests/s", Aim(10, at_least=True)),
        ratio(("adapter", "ideal"), _rate, "requests/s"),
        ratio(("ours", "naive"), _rate, "requests/s"),
        ratio(("ours", "concurrent"), _rate, "requests/s"),
        ratio(("adapter", "naive"), _cpu, "µs a hop", Aim(0.6)),
        ratio(("ours", "naive"), _cpu, "µs a hop"),
        Figure(f"hop alone {at}, less it", hop("adapter"), "ms", Aim(2), f"naive {number(median(hop('naive')))} ms"),
        Figure(f"lost or doubled {at}", [outcome.lost + outcome.doubled for outcome in both], "", Aim(0)),
        Figure(
            f"connections {at}",
            [outcome.connections for outcome in both],
            "",
            Aim(6),
            "one for each of three queues and three senders",
        ),
        Figure(f"without a processor {at}", starved, "%", None, "taken by other programs; rates count if it is low"),
    ]
    if "public" in found:
        shown.insert(5, ratio(("ours", "public"), _rate, "requests/s"))
    return shown


def shape_figures(shapes: dict[str, list[Outcome]]) -> list[Figure]:
    """The worker against what is written by hand, and against arithmetic, with 50 ms of work in 16 slots."""
    ideal, ours = shapes["ideal"], shapes["ours"]
    most = SHAPE.slots / SHAPE.work
    by_hand = [mine.rate / his.rate for mine, his in zip(ours, ideal, strict=True)]
    note = f"{number(median(map(_rate, ours)))} against {number(median(map(_rate, ideal)))} messages/s"
    of_most = [mine.rate / most for mine in ours]
    return [
        Figure("worker ÷ ideal, 16 slots of 50 ms", by_hand, "×", Aim(0.95, at_least=True), note),
        Figure("worker ÷ 320 messages/s, 16 slots of 50 ms", of_most, "×", None, "the bound of arithmetic"),
    ]


def _rate(outcome: Outcome) -> float:
    return outcome.rate


def _cpu(outcome: Outcome) -> float:
    return outcome.cpu


def _as_json(results: Results, shapes: dict[str, list[Outcome]]) -> dict[str, object]:
    runs = [
        {"lane": lane, "round_trip": round_trip, "rounds": [asdict(outcome) for outcome in outcomes]}
        for (lane, round_trip), outcomes in results.items()
    ]
    shape = {lane: [asdict(outcome) for outcome in outcomes] for lane, outcomes in shapes.items()}
    return {"bench": "adapter", "load_average": os.getloadavg()[0], "runs": runs, "shape": shape}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.adapter", description="How fast the Service Bus adapter is.")
    parser.add_argument("--quick", action="store_true", help="one round at 20 ms: a minute, if nothing else runs")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured (%(default)s)")
    parser.add_argument("--round-trips", type=float, nargs="+", default=[0.0, 0.02, 0.1], metavar="SECONDS")
    parser.add_argument("--slots", type=int, default=PIPELINE.slots, help="deliveries at once a stage (%(default)s)")
    parser.add_argument("--public", action="store_true", help="also ours as it is without the pump")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.round_trips = 1, [0.02]
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


if __name__ == "__main__":
    main()
