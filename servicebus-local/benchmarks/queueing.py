"""How the cost of a message depends on how many wait, and how long one travels when none does."""

import gc
import tempfile
from pathlib import Path
from statistics import median, quantiles

from benchmarks.figures import Aim, Figure
from benchmarks.process import MeasuredBroker, Meter
from benchmarks.queue_client import QueueClient, queue_clients

DEPTHS = (1, 10, 100, 1000, 10_000, 100_000)
_MESSAGES = 100
_TURNS = 3  # in each round: short turns, so that noise falls on all depths alike
_JOURNEYS = 60
_SMALL = b"x" * 100
_FLAT = Aim(1.15)  # room for noise and for the cache that a hundred thousand messages do not fit in


async def depth(rounds: int) -> list[Figure]:
    """Broker CPU for sending, receiving and completing one message, with a number of others before it.

    One queue for each depth in one broker, so that the depths can take turns.
    """
    queues = [f"depth-{depth}" for depth in DEPTHS]
    with tempfile.TemporaryDirectory() as folder, MeasuredBroker(Path(folder), queues=queues) as broker:
        async with queue_clients(broker.connection_string, *queues) as opened:
            for queue_client, depth in zip(opened, DEPTHS, strict=True):
                await queue_client.send_batches(depth, _SMALL)
                await _cost(broker, queue_client)  # warms up
            turns = [[await _cost(broker, queue_client) for queue_client in opened] for _ in range(_TURNS * rounds)]
    return _by_depth([*zip(*turns, strict=True)])


async def _cost(broker: MeasuredBroker, queue_client: QueueClient) -> float:
    """Microseconds of broker CPU for a message on its whole way, which leaves the queue as deep as it was."""
    gc.collect()
    meter = Meter(broker)
    for _ in range(_MESSAGES):
        await queue_client.send(1, _SMALL)
        await queue_client.receive(1)
    return meter.cost(_MESSAGES).broker


def _by_depth(costs: list[tuple[float, ...]]) -> list[Figure]:
    shallow, deep = costs[0], costs[-1]
    each = ", ".join(f"{depth:,}: {median(of):.0f}" for depth, of in zip(DEPTHS, costs, strict=True))
    ratios = [after / before for before, after in zip(shallow, deep, strict=True)]
    return [
        Figure(f"a message behind {DEPTHS[-1]:,} others", ratios, "× behind 1", _FLAT, f"broker µs by depth: {each}")
    ]


async def latency(rounds: int) -> list[Figure]:
    """Milliseconds from sending to receiving, while the queue is empty and a receiver waits."""
    with tempfile.TemporaryDirectory() as folder, MeasuredBroker(Path(folder)) as broker:
        async with queue_clients(broker.connection_string, "bench") as [queue_client]:
            await queue_client.travel()
            meter = Meter(broker)
            series = [[1000 * await queue_client.travel() for _ in range(_JOURNEYS)] for _ in range(rounds)]
            cost = meter.cost(_JOURNEYS * rounds)
    note = f"{_JOURNEYS} messages each time; with its completion one uses {cost.broker:.0f} µs of CPU here, "
    note += f"{cost.sdk:.0f} µs in the SDK"
    return [
        Figure("send to receive on an idle queue, p50", [median(each) for each in series], "ms", Aim(2), note),
        Figure(
            "send to receive on an idle queue, p95", [quantiles(each, n=20)[-1] for each in series], "ms", None, note
        ),
    ]
