"""CPU per message: the broker's next to the SDK's, for every way to send, receive and settle."""

import gc
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.figures import Aim, Figure
from benchmarks.process import Cost, MeasuredBroker, Meter
from benchmarks.queue_client import QueueClient, queue_clients

ONE_BY_ONE = 500
IN_BATCHES = 2000
KEEPINGS: dict[str, tuple[str, ...]] = {
    "memory": (),
    "stored, normal": ("--synchronous", "normal"),
    "stored, full": ("--synchronous", "full"),
}
_BATCHES = Aim(0.15)
_STORED = Aim(0.5)  # whatever the traffic


class Step(NamedTuple):
    """One kind of traffic, how many messages of it, and what it may cost with messages in memory."""

    part: str
    name: str
    messages: int
    work: Callable[[QueueClient, int], Awaitable[object]]
    aim: Aim | None = None


# In this order: each step that receives finds what the one before it sent.
SEND = Step("send", "send one by one", ONE_BY_ONE, QueueClient.send, Aim(0.4))
RECEIVE = Step("receive", "receive and complete one by one", ONE_BY_ONE, QueueClient.receive, Aim(0.4))
SEND_BATCHES = Step("batch", "send batches of 100", IN_BATCHES, QueueClient.send_batches)
TAKE_BATCHES = Step("batch", "receive batches of 100 and delete", IN_BATCHES, QueueClient.take_batches)
COMPLETE_BATCHES = Step("batch", "receive batches of 100, complete in turn", IN_BATCHES, QueueClient.complete_in_turn)
_ONE_BY_ONE = (SEND, RECEIVE)
_IN_BATCHES = (SEND_BATCHES, TAKE_BATCHES, SEND_BATCHES._replace(name="not shown"), COMPLETE_BATCHES)


class Variant(NamedTuple):
    """A broker that keeps its messages in one way, the SDK at its queue, and what they do."""

    keeping: str
    broker: MeasuredBroker
    queue_client: QueueClient
    steps: tuple[Step, ...]


Costs = dict[tuple[str, str], list[Cost]]
"""What was measured, by keeping and step."""


async def measure(parts: Collection[str], rounds: int) -> list[Figure]:
    """Figures for these parts of `send`, `receive` and `batch`; all variants take turns in every round."""
    async with AsyncExitStack() as stack:
        variants = [
            await stack.enter_async_context(_variant(keeping, steps))
            for keeping in KEEPINGS
            for steps in _chosen(parts)
        ]
        await _round(variants, {})  # warms both sides up
        costs: Costs = {}
        for _ in range(rounds):
            await _round(variants, costs)
    return [figure for keeping in KEEPINGS for figure in _figures(keeping, costs, parts)]


def _chosen(parts: Collection[str]) -> list[tuple[Step, ...]]:
    """Choose the steps, one broker for each kind: what batches leave in its memory makes single messages cheaper."""
    return [steps for steps in (_ONE_BY_ONE, _IN_BATCHES) if any(step.part in parts for step in steps)]


@asynccontextmanager
async def _variant(keeping: str, steps: tuple[Step, ...]) -> AsyncIterator[Variant]:
    with tempfile.TemporaryDirectory() as folder:
        stored = ("--data", folder) if KEEPINGS[keeping] else ()
        with MeasuredBroker(Path(folder), *stored, *KEEPINGS[keeping]) as broker:
            async with queue_clients(broker.connection_string, "bench") as [queue_client]:
                yield Variant(keeping, broker, queue_client, steps)


async def _round(variants: list[Variant], costs: Costs) -> None:
    for keeping, broker, queue_client, steps in variants:
        for step in steps:
            gc.collect()  # the garbage of the step before is not this one's
            meter = Meter(broker)
            await step.work(queue_client, step.messages)
            costs.setdefault((keeping, step.name), []).append(meter.cost(step.messages))


# --------------------------------------------------------------------------- figures


def _figures(keeping: str, costs: Costs, parts: Collection[str]) -> list[Figure]:
    shown = [step for step in (*_ONE_BY_ONE, SEND_BATCHES, TAKE_BATCHES, COMPLETE_BATCHES) if step.part in parts]
    found = [_figure(keeping, step.name, step.aim, costs[keeping, step.name]) for step in shown]
    if "batch" in parts:
        pairs = zip(costs[keeping, SEND_BATCHES.name], costs[keeping, TAKE_BATCHES.name], strict=True)
        name = "batches of 100, sent, received and deleted"
        found.append(_figure(keeping, name, _BATCHES, [_sum(*pair) for pair in pairs]))
    return found


def _figure(keeping: str, name: str, aim: Aim | None, costs: list[Cost]) -> Figure:
    broker, sdk, rate = (median(part) for part in zip(*costs, strict=True))
    note = f"broker {broker:.0f} µs, SDK {sdk:.0f} µs, {rate:,.0f} messages/s"
    ratios = [cost.ratio for cost in costs]
    return Figure(f"{name} ({keeping})", ratios, "× SDK", _STORED if KEEPINGS[keeping] else aim, note)


def _sum(sent: Cost, received: Cost) -> Cost:
    seconds = 1 / sent.rate + 1 / received.rate
    return Cost(sent.broker + received.broker, sent.sdk + received.sdk, 1 / seconds)


async def concurrent(rounds: int) -> list[Figure]:
    """Completing a hundred messages at once, against one after the other, in messages per second."""
    async with _variant("memory", ()) as variant:
        await _completed(variant.queue_client, variant.queue_client.complete_at_once)
        pairs = [
            (
                await _completed(variant.queue_client, variant.queue_client.complete_at_once),
                await _completed(variant.queue_client, variant.queue_client.complete_in_turn),
            )
            for _ in range(rounds)
        ]
    at_once, in_turn = (median(rates) for rates in zip(*pairs, strict=True))
    ratios = [quick / slow for quick, slow in pairs]
    note = f"{at_once:,.0f} against {in_turn:,.0f} messages/s, without receiving them"
    return [Figure("100 concurrent completes", ratios, "× in turn", Aim(1.3, at_least=True), note)]


async def _completed(queue_client: QueueClient, work: Callable[[int], Awaitable[float]]) -> float:
    """Messages completed each second."""
    await queue_client.send_batches(IN_BATCHES)
    gc.collect()
    return IN_BATCHES / await work(IN_BATCHES)
