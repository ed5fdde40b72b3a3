"""A call is stopped once its request is cancelled."""

import asyncio

import pytest

from services.generator.first_completed import first_completed
from services.generator.reply import Cancelled
from tests.support.virtual_time import in_no_time


async def _after(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_cancelled_work_is_stopped_at_once() -> None:
    stopped = 0.0

    async def work() -> None:
        nonlocal stopped
        try:
            await asyncio.sleep(100)
        finally:
            stopped = asyncio.get_running_loop().time()

    with pytest.raises(Cancelled):
        in_no_time(first_completed(_after(2), work()))
    assert stopped == 2


def test_finished_work_wins_over_its_cancellation() -> None:
    async def work() -> str:
        await asyncio.sleep(1)
        return "done"

    assert in_no_time(first_completed(_after(2), work())) == "done"
