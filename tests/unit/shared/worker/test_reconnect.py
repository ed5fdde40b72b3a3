"""How long a worker lets pass between two attempts at a broker that is away: the same at the first and the last.

A broker that is back is noticed after one pause of the SDK (3.2 s at most) or of the worker (3 s at most), plus one
attempt.
"""

import asyncio
import itertools
import socket
from datetime import timedelta

import pytest

from shared.bus.port import BusUnavailable
from shared.bus.servicebus import ServiceBus, ServiceBusAddress
from shared.contracts.envelope import Envelope
from shared.contracts.request import Request
from tests.support.memory_bus import MemoryBus, MemoryDelivery, MemoryInbox
from tests.support.virtual_time import in_no_time
from tests.support.worker import a_worker

ATTEMPTS = 200


class Unreachable(MemoryBus):
    """A broker that is away, and the times of the attempts to receive from it."""

    def __init__(self) -> None:
        super().__init__("retrieve")
        self.attempts: list[float] = []
        self.enough = asyncio.Event()

    def inbox(self, queue: str) -> MemoryInbox:
        return _Refusing(self, queue)


class _Refusing(MemoryInbox):
    _bus: Unreachable

    async def receive(self, wait: timedelta, *, prefetch: int = 0) -> MemoryDelivery | None:
        self._bus.attempts.append(asyncio.get_running_loop().time())
        if len(self._bus.attempts) == ATTEMPTS:
            self._bus.enough.set()
        raise BusUnavailable("retrieve: connection refused")


async def _never(request: Request) -> list[Envelope]:
    raise AssertionError("nothing was delivered")


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0)])
def test_a_worker_tries_again_after_one_to_three_seconds_however_long_the_broker_is_away(
    chance: float, pause: float
) -> None:
    async def life() -> list[float]:
        bus = Unreachable()
        worker = a_worker(bus, _never)
        worker.chance = lambda: chance
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:  # if the worker ends by itself, so does the wait
            group.create_task(worker.run(stopping, timedelta(0)))
            await bus.enough.wait()
            stopping.set()
        return bus.attempts

    attempts = in_no_time(life())
    assert len(attempts) == ATTEMPTS
    assert {round(later - earlier, 6) for earlier, later in itertools.pairwise(attempts)} == {pause}


def test_one_attempt_at_a_broker_that_refuses_is_six_of_the_sdk_s_and_takes_six_seconds() -> None:
    """0.2 + 0.4 + 0.8 + 1.6 + 3.2 s. The real SDK and a real port on which nothing listens, in virtual time."""

    async def life(port: int) -> list[float]:
        key = "SharedAccessKeyName=k;SharedAccessKey=a2V5;UseDevelopmentEmulator=true"
        bus = ServiceBus(ServiceBusAddress(f"Endpoint=sb://127.0.0.1:{port};{key}"))
        inbox, loop, took = bus.inbox("retrieve"), asyncio.get_running_loop(), []
        # From the fourth on, the SDK's receiver is another one.
        for _ in range(4):
            begun = loop.time()
            with pytest.raises(BusUnavailable):
                await inbox.receive(timedelta(seconds=1))
            took.append(loop.time() - begun)
        await bus.close()
        return took

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        took = in_no_time(life(taken.getsockname()[1]))
    assert took == pytest.approx([6.2] * 4)
